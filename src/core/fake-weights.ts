/**
 * The fake's weights and all that `WeightOp` does to them, as the equations say: float64 arithmetic, float32 storage.
 * Dense weights are a 2 × 3 matrix W; with adapters the policy computes with W + Σ_k g_k·s_k·B_k A_k.
 */
import { Rng } from "../base/rng.ts";
import { EngineError } from "./errors.ts";
import { COLUMNS, ROWS } from "./fake-softmax.ts";
import type { OptimizerOptions, OptimizerReport, VectorName, WeightOp } from "./policy.ts";

interface Adapter {
  readonly name: string;
  readonly rank: number;
  readonly scale: number;
  /** rank × 3, row by row. */
  a: number[];
  /** 2 × rank, row by row. */
  b: number[];
  /** One for every earlier adapter; null: all 1. */
  gates: number[] | null;
}

interface State {
  /** Optimizer steps. */
  version: number;
  steps: number;
  dense: number[];
  adapters: Adapter[];
  /** Index of the newest adapter that computes; -1 without adapters. */
  column: number;
  first_moment: number[];
  second_moment: number[];
  vectors: Record<VectorName, number[]>;
}

const START = [0.3, -0.2, 0.1, 0.4, -0.1, 0.25];
const LIVE = ["weights", "gradient", "effective"];

export class FakeWeights {
  #state: State = {
    version: 0,
    steps: 0,
    dense: f32(START),
    adapters: [],
    column: -1,
    first_moment: zeros(START.length),
    second_moment: zeros(START.length),
    vectors: {},
  };
  #gradient: number[] = zeros(START.length);

  get version(): number {
    return this.#state.version;
  }

  /** What `saveState` writes; numbers survive JSON. */
  get state(): Readonly<State> {
    return this.#state;
  }

  set state(state: Readonly<State>) {
    this.#state = structuredClone(state) as State;
    this.#gradient = zeros(this.trained().length);
  }

  /** W + Σ_k g_k·s_k·B_k A_k of the active column. */
  effective(): number[] {
    const { dense, adapters, column } = this.#state;
    const active = adapters[column];
    const total = [...dense];
    for (const [k, adapter] of adapters.slice(0, column + 1).entries()) {
      const gate = k < column ? (active?.gates?.[k] ?? 1) : 1;
      for (const [at, value] of productOf(adapter).entries()) total[at] = (total[at] as number) + gate * value;
    }
    return f32(total);
  }

  /** θ: the dense weights, or the newest adapter's A, B and gates. */
  trained(): number[] {
    const newest = this.#state.adapters.at(-1);
    return newest === undefined ? [...this.#state.dense] : [...newest.a, ...newest.b, ...(newest.gates ?? [])];
  }

  /** dL/dW of what the model computes with → the trained parameters' share of it. */
  addGradient(gradient_D: ArrayLike<number>): void {
    const share = this.toTrained(gradient_D);
    this.#gradient = f32(this.#gradient.map((value, i) => value + (share[i] as number)));
  }

  /** The chain rule of one dL/dW. */
  toTrained(gradient_D: ArrayLike<number>): number[] {
    const { adapters, column } = this.#state;
    const newest = adapters.at(-1);
    if (newest === undefined) return Array.from(gradient_D);
    if (column !== adapters.length - 1)
      throw new EngineError("BadArgument", "the trained adapter is not the active column");
    const { rank, scale, a, b, gates } = newest;
    const at = (matrix: ArrayLike<number>, row: number, width: number, col: number) =>
      matrix[row * width + col] as number;
    const da = matrix(
      rank,
      COLUMNS,
      (r, j) => scale * sumOf(ROWS, (i) => at(b, i, rank, r) * at(gradient_D, i, COLUMNS, j)),
    );
    const db = matrix(
      ROWS,
      rank,
      (i, r) => scale * sumOf(COLUMNS, (j) => at(gradient_D, i, COLUMNS, j) * at(a, r, COLUMNS, j)),
    );
    const dg = (gates ?? []).map((_, k) => dot(productOf(adapters[k] as Adapter), Array.from(gradient_D)));
    return [...da, ...db, ...dg];
  }

  optimizerStep({ learning_rate, beta1, beta2, eps, weight_decay, max_grad_norm }: OptimizerOptions): OptimizerReport {
    const norm = Math.sqrt(dot(this.#gradient, this.#gradient));
    const gradient = this.#gradient.map((g) =>
      max_grad_norm > 0 && norm > max_grad_norm ? (g * max_grad_norm) / norm : g,
    );
    this.#gradient = zeros(gradient.length);
    if (!Number.isFinite(norm)) return { grad_norm: norm, skipped: true };
    const state = this.#state;
    const steps = ++state.steps;
    state.version += 1;
    state.first_moment = f32(state.first_moment.map((m, i) => beta1 * m + (1 - beta1) * (gradient[i] as number)));
    state.second_moment = f32(
      state.second_moment.map((v, i) => beta2 * v + (1 - beta2) * (gradient[i] as number) ** 2),
    );
    const moved = this.trained().map((weight, i) => {
      const m = (state.first_moment[i] as number) / (1 - beta1 ** steps);
      const v = (state.second_moment[i] as number) / (1 - beta2 ** steps);
      return weight * (1 - learning_rate * weight_decay) - (learning_rate * m) / (Math.sqrt(v) + eps);
    });
    this.#setTrained(moved);
    return { grad_norm: norm, skipped: false };
  }

  /** Any operation but those on frozen models. */
  apply(op: Exclude<WeightOp, { readonly op: "snapshot" | "drop" }>): number {
    switch (op.op) {
      case "reset_optimizer":
        this.#restartOptimizer();
        return 0;
      case "combine":
        this.#write(op.into, this.#combined(op.terms, op.into));
        return 0;
      case "add_product": {
        const [a, b] = [this.read(op.a), this.read(op.b)];
        this.#write(
          op.into,
          added(
            this.#readOrZero(op.into, a.length),
            a.map((x, i) => op.factor * x * (b[i] as number)),
          ),
        );
        return 0;
      }
      case "dot":
        return dot(this.read(op.a), this.read(op.b));
      case "consolidate":
        return this.consolidate({ ...op, added: this.read(op.add) });
      case "add_quadratic_penalty":
        return this.#addQuadraticPenalty(op);
      case "project_gradient":
        return this.#project(this.read(op.reference));
      case "add_path_importance": {
        const [path, start, now] = [this.read(op.path), this.read(op.start), this.trained()];
        const gained = path.map(
          (p, i) => Math.max(0, p) / (((now[i] as number) - (start[i] as number)) ** 2 + op.damping),
        );
        this.#write(op.into, added(this.#readOrZero(op.into, path.length), gained));
        return 0;
      }
      case "merge_ties":
        this.#write(
          op.into,
          ties(
            op.vectors.map((name) => this.read(name)),
            op.density,
          ),
        );
        return 0;
      case "merge_dare":
        this.#write(
          op.into,
          dare(
            op.vectors.map((name) => this.read(name)),
            op.drop_rate,
            Rng.from(BigInt(op.seed)),
          ),
        );
        return 0;
      case "merge_fisher":
        this.#write(
          op.into,
          fisherMean(
            op.vectors.map((name) => this.read(name)),
            op.importances.map((name) => this.read(name)),
          ),
        );
        return 0;
      case "add_adapter":
        this.#addAdapter(op);
        return 0;
      case "load_adapter":
        throw new EngineError("BadArgument", "load_adapter: the fake reads no files");
      case "activate_adapter":
        this.#state.column = this.#adapterNamed(op.column);
        return 0;
      case "add_orthogonal_penalty":
        return this.#addOrthogonalPenalty(op.strength);
      case "merge_adapters":
        Object.assign(this.#state, { dense: this.effective(), adapters: [], column: -1 });
        this.#restartOptimizer();
        return 0;
    }
  }

  read(name: VectorName): number[] {
    if (name === "weights") return this.trained();
    if (name === "gradient") return [...this.#gradient];
    if (name === "effective") return this.effective();
    const vector = this.#state.vectors[name];
    if (vector === undefined) throw new EngineError("BadArgument", `no vector is named ${name}`);
    return [...vector];
  }

  /** False when there is none of that name. */
  dropVector(name: VectorName): boolean {
    const known = name in this.#state.vectors;
    delete this.#state.vectors[name];
    return known;
  }

  /** into ← into + values. */
  addTo(into: VectorName, values: readonly number[]): void {
    this.#write(into, added(this.#readOrZero(into, values.length), values));
  }

  #write(name: VectorName, values: readonly number[]): void {
    if (name === "weights") this.#setTrained(values);
    else if (name === "gradient") this.#gradient = sameLength(f32(values), this.trained().length, name);
    else if (name === "effective") this.#setEffective(values);
    else this.#state.vectors[name] = f32(values);
  }

  #readOrZero(name: VectorName, length: number): number[] {
    return LIVE.includes(name) || name in this.#state.vectors ? this.read(name) : zeros(length);
  }

  #setTrained(values: readonly number[]): void {
    const rounded = sameLength(f32(values), this.trained().length, "weights");
    const newest = this.#state.adapters.at(-1);
    if (newest === undefined) {
      this.#state.dense = rounded;
      return;
    }
    const [atB, atGates] = [newest.a.length, newest.a.length + newest.b.length];
    newest.a = rounded.slice(0, atB);
    newest.b = rounded.slice(atB, atGates);
    if (newest.gates !== null) newest.gates = rounded.slice(atGates);
  }

  #setEffective(values: readonly number[]): void {
    const { dense } = this.#state;
    const now = this.effective();
    this.#state.dense = f32(values.map((value, i) => value - ((now[i] as number) - (dense[i] as number))));
  }

  #combined(terms: readonly { readonly vector: VectorName; readonly factor: number }[], into: VectorName): number[] {
    const vectors = terms.map(({ vector, factor }) => this.read(vector).map((value) => factor * value));
    const length = vectors[0]?.length ?? this.#readOrZero(into, this.trained().length).length;
    return vectors.reduce((sum, vector) => added(sum, sameLength(vector, length, into)), zeros(length));
  }

  consolidate(
    op: { readonly importance: VectorName; readonly anchor: VectorName } & { readonly added: readonly number[] },
  ): number {
    const F = op.added;
    const [H, m, theta] = [
      this.#readOrZero(op.importance, F.length),
      this.#readOrZero(op.anchor, F.length),
      this.trained(),
    ];
    const both = added(H, F);
    const pulled = both.map((sum, i) => {
      const [h, f, anchor, now] = [H[i], F[i], m[i], theta[i]] as [number, number, number, number];
      return sum === 0
        ? { anchor: now, constant: 0 }
        : { anchor: (h * anchor + f * now) / sum, constant: ((h * f) / sum) * (anchor - now) ** 2 };
    });
    this.#write(op.importance, both);
    this.#write(
      op.anchor,
      pulled.map(({ anchor }) => anchor),
    );
    return pulled.reduce((sum, { constant }) => sum + constant, 0);
  }

  #addQuadraticPenalty({
    importance,
    anchor,
    strength,
  }: Extract<WeightOp, { readonly op: "add_quadratic_penalty" }>): number {
    const [H, m, theta] = [this.read(importance), this.read(anchor), this.trained()];
    const apart = theta.map((value, i) => value - (m[i] as number));
    this.#write(
      "gradient",
      added(
        this.#gradient,
        apart.map((d, i) => strength * (H[i] as number) * d),
      ),
    );
    return (strength / 2) * apart.reduce((sum, d, i) => sum + (H[i] as number) * d * d, 0);
  }

  #project(reference: readonly number[]): number {
    const along = dot(this.#gradient, reference);
    if (along < 0) {
      const factor = along / dot(reference, reference);
      this.#gradient = f32(this.#gradient.map((g, i) => g - factor * (reference[i] as number)));
    }
    return along;
  }

  #addAdapter({ name, rank, alpha, gates, seed }: Extract<WeightOp, { readonly op: "add_adapter" }>): void {
    const { adapters } = this.#state;
    if (adapters.some((adapter) => adapter.name === name))
      throw new EngineError("BadArgument", `an adapter is named ${name} already`);
    const rng = Rng.from(BigInt(seed));
    const bound = 1 / Math.sqrt(COLUMNS);
    const a = f32(Array.from({ length: rank * COLUMNS }, () => (2 * rng.uniform() - 1) * bound));
    adapters.push({
      name,
      rank,
      scale: alpha / rank,
      a,
      b: zeros(ROWS * rank),
      gates: gates ? zeros(adapters.length) : null,
    });
    this.#state.column = adapters.length - 1;
    this.#restartOptimizer();
  }

  #adapterNamed(name: string): number {
    const index = this.#state.adapters.findIndex((adapter) => adapter.name === name);
    if (index === -1) throw new EngineError("BadArgument", `no adapter is named ${name}`);
    return index;
  }

  /** Σ_k ‖A_k Aᵀ‖², whose gradient for A is 2 Σ_k (A A_kᵀ) A_k. */
  #addOrthogonalPenalty(strength: number): number {
    const { adapters } = this.#state;
    const newest = adapters.at(-1);
    if (newest === undefined) throw new EngineError("BadArgument", "add_orthogonal_penalty: there is no adapter");
    const gradient = this.#gradient;
    let penalty = 0;
    for (const earlier of adapters.slice(0, -1)) {
      for (let r = 0; r < newest.rank; r++)
        for (let s = 0; s < earlier.rank; s++) {
          const row = (values: readonly number[], index: number) =>
            values.slice(index * COLUMNS, (index + 1) * COLUMNS);
          const overlap = dot(row(newest.a, r), row(earlier.a, s));
          penalty += overlap * overlap;
          for (let j = 0; j < COLUMNS; j++) {
            const at = r * COLUMNS + j;
            gradient[at] = (gradient[at] as number) + 2 * strength * overlap * (earlier.a[s * COLUMNS + j] as number);
          }
        }
    }
    this.#gradient = f32(gradient);
    return penalty;
  }

  #restartOptimizer(): void {
    const length = this.trained().length;
    this.#gradient = zeros(length);
    Object.assign(this.#state, { first_moment: zeros(length), second_moment: zeros(length), steps: 0 });
  }
}

/** s·B A, 2 × 3. */
const productOf = ({ rank, scale, a, b }: Adapter): number[] =>
  matrix(
    ROWS,
    COLUMNS,
    (i, j) => scale * sumOf(rank, (r) => (b[i * rank + r] as number) * (a[r * COLUMNS + j] as number)),
  );

/** Top `density` of each vector by size (at a tie all stay), the sign with the larger sum, the mean of the entries that have it. */
function ties(vectors: readonly (readonly number[])[], density: number): number[] {
  const trimmed = vectors.map((vector) => {
    const kept = Math.max(1, Math.floor(density * vector.length));
    const threshold = vector.map(Math.abs).sort((a, b) => b - a)[kept - 1] as number;
    return vector.map((value) => (Math.abs(value) >= threshold ? value : 0));
  });
  return (vectors[0] ?? []).map((_, i) => {
    const entries = trimmed.map((vector) => vector[i] as number);
    const sign = Math.sign(entries.reduce((sum, value) => sum + value, 0));
    const agreeing = entries.filter((value) => value !== 0 && Math.sign(value) === sign);
    return agreeing.length === 0 ? 0 : agreeing.reduce((sum, value) => sum + value, 0) / agreeing.length;
  });
}

function dare(vectors: readonly (readonly number[])[], drop_rate: number, rng: Rng): number[] {
  const kept = vectors.map((vector) =>
    vector.map((value) => (rng.uniform() < drop_rate ? 0 : value / (1 - drop_rate))),
  );
  return kept.reduce(added).map((sum) => sum / vectors.length);
}

function fisherMean(vectors: readonly (readonly number[])[], importances: readonly (readonly number[])[]): number[] {
  return (vectors[0] ?? []).map((_, i) => {
    const total = importances.reduce((sum, F) => sum + (F[i] as number), 0);
    const share = (k: number) => (total > 0 ? (importances[k]?.[i] as number) / total : 1 / vectors.length);
    return vectors.reduce((sum, vector, k) => sum + share(k) * (vector[i] as number), 0);
  });
}

function zeros(length: number): number[] {
  return new Array<number>(length).fill(0);
}

function f32(values: readonly number[]): number[] {
  return values.map(Math.fround);
}

const dot = (a: readonly number[], b: readonly number[]): number =>
  a.reduce((sum, x, i) => sum + x * (b[i] as number), 0);

const added = (a: readonly number[], b: readonly number[]): number[] => a.map((x, i) => x + (b[i] as number));

const sumOf = (count: number, term: (index: number) => number): number =>
  Array.from({ length: count }, (_, index) => term(index)).reduce((sum, value) => sum + value, 0);

const matrix = (rows: number, columns: number, cell: (row: number, column: number) => number): number[] =>
  Array.from({ length: rows * columns }, (_, at) => cell(Math.floor(at / columns), at % columns));

function sameLength(values: number[], length: number, name: VectorName): number[] {
  if (values.length === length) return values;
  throw new EngineError("BadArgument", `${name}: ${values.length} values, but ${length} are needed`);
}

/**
 * A full `Policy` without the Rust core: the loop, the methods and the checkpoint run in milliseconds. What it says comes
 * from a script; its tokens are bytes, its template is plain ChatML. How likely it finds a token, every gradient and every
 * weight operation are exact, of a softmax with six weights (fake-softmax.ts, fake-weights.ts).
 */
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { EngineError } from "./errors.ts";
import { addLoss, likeliest, noLoss, Softmax } from "./fake-softmax.ts";
import { FakeWeights } from "./fake-weights.ts";
import {
  type ChatMessage,
  CORE_PHASES,
  type CoreTimings,
  type GradientReport,
  type ImportanceOptions,
  type LossOptions,
  type ModelInfo,
  type ModelName,
  type OptimizerOptions,
  type OptimizerReport,
  type Policy,
  type RenderOptions,
  type Sampled,
  type SampleRequest,
  type SamplingOptions,
  type SaveOptions,
  type SequenceId,
  type StoredDistributions,
  type TokenBatch,
  type TrainingBatch,
  type VectorName,
  type WeightOp,
  type WeightOpReport,
} from "./policy.ts";

/** Bytes are 0..255; these come after them. */
export const FAKE_IM_START = 256;
export const FAKE_IM_END = 257;
const FAKE_VOCAB_SIZE = 258;
const SOFTMAXES_MAX = 64;
const SPECIAL: Readonly<Record<string, number>> = { "<|im_start|>": FAKE_IM_START, "<|im_end|>": FAKE_IM_END };

export interface ScriptContext {
  readonly request: SampleRequest;
  /** `tokens` as text, special tokens included. */
  readonly text: string;
  /** Optimizer steps that the sampled model has seen (0 for a frozen one made before any). */
  readonly weightsVersion: number;
  /** The six numbers that the sampled model computes with. */
  readonly weights: readonly number[];
}

/** What the model says after `tokens` (the whole sequence). Text gets its `<|im_end|>`; tokens are taken as they are. */
export type FakeScript = (tokens: Uint32Array, context: ScriptContext) => string | ArrayLike<number>;

export interface FakePolicy extends Policy {
  /** Calls by method name. */
  readonly calls: Readonly<Record<string, number>>;
  readonly samples: readonly SampleRequest[];
  readonly batches: readonly { readonly batch: TrainingBatch; readonly loss: LossOptions }[];
  readonly optimizerSteps: readonly OptimizerOptions[];
  readonly weightOps: readonly WeightOp[];
  /** Names of the frozen models alive now. */
  readonly models: readonly ModelName[];
  readonly liveSequences: number;
  /** What the policy computes with now. */
  readonly weights: readonly number[];
  /** A copy of a vector. */
  vector(name: VectorName): readonly number[];
  setVector(name: VectorName, values: readonly number[]): void;
}

export interface FakeOptions {
  readonly context_tokens_max?: number;
  readonly has_chat_template?: boolean;
  /** Reported by forwardBackward instead of numbers derived from the batch. */
  readonly gradientReport?: Partial<GradientReport>;
  readonly optimizerReport?: Partial<OptimizerReport>;
}

/** A model that does not learn. */
interface Frozen {
  readonly version: number;
  readonly weights: readonly number[];
}

interface Sequence {
  readonly model: ModelName;
  tokens: number[];
  running: boolean;
}

export function fakePolicy(script: FakeScript, options: FakeOptions = {}): FakePolicy {
  return new ScriptedPolicy(script, options);
}

class ScriptedPolicy implements FakePolicy {
  readonly info: ModelInfo;
  readonly calls: Record<string, number> = {};
  readonly samples: SampleRequest[] = [];
  readonly batches: { batch: TrainingBatch; loss: LossOptions }[] = [];
  readonly optimizerSteps: OptimizerOptions[] = [];
  readonly weightOps: WeightOp[] = [];
  readonly #script: FakeScript;
  readonly #options: FakeOptions;
  readonly #weights = new FakeWeights();
  readonly #frozen = new Map<ModelName, Frozen>();
  readonly #softmaxes = new Map<string, Softmax>();
  readonly #sequences = new Map<SequenceId, Sequence>();
  #sequencesOpened = 0;
  #closed = false;

  constructor(script: FakeScript, options: FakeOptions) {
    this.#script = script;
    this.#options = options;
    this.info = {
      architecture: "qwen2",
      parameters: this.#weights.effective().length,
      vocab_size: FAKE_VOCAB_SIZE,
      context_tokens_max: options.context_tokens_max ?? 1_000_000,
      eos_token_ids: [FAKE_IM_END],
      has_chat_template: options.has_chat_template ?? true,
      dtype: "float32",
      device: "fake",
    };
  }

  get models(): ModelName[] {
    return [...this.#frozen.keys()];
  }
  get liveSequences(): number {
    return this.#sequences.size;
  }
  get weights(): number[] {
    return this.#weights.effective();
  }
  vector(name: VectorName): number[] {
    return this.#weights.read(name);
  }
  setVector(name: VectorName, values: readonly number[]): void {
    this.#weights.dropVector(name);
    this.#weights.addTo(name, values);
  }

  async loadModel(name: ModelName, _directory: string): Promise<ModelInfo> {
    this.#count("loadModel");
    if (name === "policy") throw new EngineError("BadArgument", "load_model: the name policy is taken by the policy");
    this.#frozen.set(name, { version: 0, weights: new FakeWeights().effective() });
    return this.info;
  }

  async render(model: ModelName, messages: readonly ChatMessage[], options: RenderOptions): Promise<string> {
    this.#count("render");
    this.#model(model);
    return fakeRender(messages, options);
  }

  async tokenize(model: ModelName, text: string): Promise<Uint32Array> {
    this.#count("tokenize");
    this.#model(model);
    return fakeTokenize(text);
  }

  async decode(model: ModelName, tokens: Uint32Array, options: { skip_special: boolean }): Promise<string> {
    this.#count("decode");
    this.#model(model);
    return fakeDecode(tokens, options);
  }

  async sample(request: SampleRequest): Promise<Sampled> {
    this.#count("sample");
    this.samples.push(request);
    const { version, weights } = this.#model(request.model);
    const id = request.sequence ?? ++this.#sequencesOpened;
    const sequence = this.#openOrExtend(id, request);
    const before = Uint32Array.from(sequence.tokens);
    const text = fakeDecode(before, { skip_special: false });
    const context = { request, text, weightsVersion: version, weights };
    const answer = this.#script(before, context);
    await new Promise(setImmediate);
    if (request.signal?.aborted) this.#sequences.delete(id);
    if (this.#sequences.get(id) !== sequence) throw new EngineError("Cancelled", "sample: cancelled");
    const { tokens, stop } = cut(typeof answer === "string" ? fakeTokenize(`${answer}<|im_end|>`) : answer, {
      ...request,
      room: request.context_tokens_max - before.length,
    });
    const softmax = this.#softmax(weights, request.temperature);
    const logprobs = tokens.map((token, i) => softmax.logprob(i === 0 ? before.at(-1) : tokens[i - 1], token));
    sequence.tokens.push(...tokens);
    sequence.running = false;
    return { sequence: id, tokens: Uint32Array.from(tokens), logprobs: Float32Array.from(logprobs), stop };
  }

  release(_model: ModelName, sequence: SequenceId): void {
    this.#count("release");
    this.#sequences.delete(sequence);
  }

  async forwardBackward(batch: TrainingBatch, loss: LossOptions): Promise<GradientReport> {
    this.#count("forwardBackward");
    assertTrainingBatch(batch);
    this.batches.push({ batch, loss });
    const sums = noLoss();
    addLoss(sums, batch, this.#models(loss));
    this.#weights.addGradient(sums.gradient_D);
    const mean = (value: number) => (sums.loss_tokens === 0 ? 0 : value / sums.loss_tokens);
    return {
      loss: sums.loss,
      loss_tokens: sums.loss_tokens,
      kl_mean: mean(sums.kl),
      entropy_mean: mean(sums.entropy),
      clip_low_fraction: mean(sums.clipped_low),
      clip_high_fraction: mean(sums.clipped_high),
      dual_clip_fraction: mean(sums.clipped_dual),
      logprob_diff_max: sums.logprob_diff_max,
      computed_tokens: batch.tokens_N.length,
      ...this.#options.gradientReport,
    };
  }

  async optimizerStep(options: OptimizerOptions): Promise<OptimizerReport> {
    this.#count("optimizerStep");
    this.optimizerSteps.push(options);
    const forced = this.#options.optimizerReport;
    if (forced?.skipped) this.#weights.apply({ op: "combine", into: "gradient", terms: [] });
    const report = forced?.skipped ? { grad_norm: 0, skipped: true } : this.#weights.optimizerStep(options);
    this.#staleSequences("policy");
    return { ...report, ...forced };
  }

  async logprobs(
    model: ModelName,
    batch: TokenBatch,
    { temperature }: { readonly temperature: number },
  ): Promise<Float32Array> {
    this.#count("logprobs");
    assertTokenBatch(batch);
    const softmax = this.#softmax(this.#model(model).weights, temperature);
    const starts = new Set(batch.offsets);
    return Float32Array.from(batch.tokens_N, (token, n) =>
      starts.has(n) ? 0 : softmax.logprob(batch.tokens_N[n - 1], token),
    );
  }

  async addImportance(
    batch: TrainingBatch,
    loss: LossOptions,
    { into, of, anchor }: ImportanceOptions,
  ): Promise<WeightOpReport> {
    this.#count("addImportance");
    assertTrainingBatch(batch);
    const models = this.#models(loss);
    let value = 0;
    for (let s = 0; s + 1 < batch.offsets.length; s++) {
      const sums = noLoss();
      addLoss(sums, batch, models, [s, s + 1]);
      const size = this.#weights.toTrained(sums.gradient_D).map(of === "square" ? (g) => g * g : Math.abs);
      if (anchor === undefined) this.#weights.addTo(into, size);
      else value += this.#weights.consolidate({ importance: into, anchor, added: size });
    }
    return { value };
  }

  async topLogprobs(
    model: ModelName,
    batch: TokenBatch | TrainingBatch,
    { temperature, k }: { readonly temperature: number; readonly k: number },
  ): Promise<StoredDistributions> {
    this.#count("topLogprobs");
    assertTokenBatch(batch);
    return likeliest(this.#softmax(this.#model(model).weights, temperature), batch, k);
  }

  async timings(): Promise<CoreTimings> {
    this.#count("timings");
    return Object.fromEntries(CORE_PHASES.map((phase) => [phase, 0])) as CoreTimings;
  }

  async digest(): Promise<string> {
    this.#count("digest");
    return new Bun.CryptoHasher("sha256").update(JSON.stringify(this.#weights.state)).digest("hex");
  }

  async weightOp(op: WeightOp): Promise<WeightOpReport> {
    this.#count("weightOp");
    this.weightOps.push(op);
    if (op.op === "snapshot") {
      this.#frozen.set(op.name, { version: this.#weights.version, weights: this.weights });
      return { value: 0 };
    }
    if (op.op === "drop") {
      this.#drop(op.name);
      return { value: 0 };
    }
    const before = this.weights.join();
    const value = this.#weights.apply(op);
    if (this.weights.join() !== before) this.#staleSequences("policy");
    return { value };
  }

  async save(directory: string, { adapter_of }: SaveOptions = {}): Promise<void> {
    if (adapter_of !== undefined) return; // its adapters have no files
    this.#count("save");
    await mkdir(directory, { recursive: true });
    await writeFile(join(directory, "fake-model.json"), JSON.stringify(this.weights));
  }

  async saveState(file: string, { models }: { readonly models: readonly ModelName[] } = { models: [] }): Promise<void> {
    this.#count("saveState");
    await mkdir(dirname(file), { recursive: true });
    const frozen = models.map((name) => [name, this.#model(name)]);
    await writeFile(file, JSON.stringify({ weights: this.#weights.state, frozen }));
  }

  async loadState(file: string): Promise<void> {
    this.#count("loadState");
    const { weights, frozen } = JSON.parse(await readFile(file, "utf8"));
    this.#weights.state = weights;
    for (const [name, model] of frozen) this.#frozen.set(name, model);
    this.#staleSequences("policy");
  }

  [Symbol.dispose](): void {
    this.#closed = true;
    this.#sequences.clear();
  }

  #count(method: string): void {
    if (this.#closed) throw new EngineError("BadHandle", `${method}: the engine is closed`);
    this.calls[method] = (this.calls[method] ?? 0) + 1;
  }

  #model(name: ModelName): Frozen {
    const model =
      name === "policy" ? { version: this.#weights.version, weights: this.weights } : this.#frozen.get(name);
    if (model === undefined) throw new EngineError("BadArgument", `no model is named ${name}`);
    return model;
  }

  #models(options: LossOptions) {
    const temperature = "temperature" in options ? options.temperature : 1;
    const anchor = "anchor" in options ? options.anchor : null;
    return {
      policy: this.#softmax(this.weights, temperature),
      anchor: anchor === null ? null : this.#softmax(this.#model(anchor).weights, temperature),
      options,
    };
  }

  /** Kept while its numbers stay: a softmax remembers its distributions. */
  #softmax(weights: readonly number[], temperature: number): Softmax {
    const key = `${temperature} ${weights.join()}`;
    const softmax = this.#softmaxes.get(key) ?? new Softmax(weights, { vocab_size: FAKE_VOCAB_SIZE, temperature });
    if (this.#softmaxes.size > SOFTMAXES_MAX) this.#softmaxes.clear();
    this.#softmaxes.set(key, softmax);
    return softmax;
  }

  #openOrExtend(id: SequenceId, request: SampleRequest): Sequence {
    if (request.sequence === null) this.#sequences.set(id, { model: request.model, tokens: [], running: false });
    const sequence = this.#sequences.get(id);
    if (sequence?.model !== request.model) throw new EngineError("BadHandle", `sequence ${id} is not live`);
    if (sequence.running) throw new EngineError("BadArgument", `sequence ${id} is being sampled already`);
    if (request.sequence === null && request.tokens.length === 0) {
      throw new EngineError("BadArgument", "sample: a new sequence needs at least one token");
    }
    for (const token of request.tokens) sequence.tokens.push(token);
    sequence.running = true;
    return sequence;
  }

  #drop(name: ModelName | VectorName): void {
    if (this.#weights.dropVector(name)) return;
    this.#model(name);
    this.#frozen.delete(name);
    this.#staleSequences(name);
  }

  #staleSequences(model: ModelName): void {
    for (const [id, sequence] of this.#sequences) if (sequence.model === model) this.#sequences.delete(id);
  }
}

/** Plain ChatML; tool schemas come at the end of the system message, one a line. */
export function fakeRender(messages: readonly ChatMessage[], options: RenderOptions): string {
  const [first] = messages;
  const system = first?.role === "system" ? (first.content ?? "") : null;
  const rest = system === null ? messages : messages.slice(1);
  const tools = options.tools_json === null ? [] : (JSON.parse(options.tools_json) as unknown[]);
  const head = [...(system === null ? [] : [system]), ...tools.map((tool) => JSON.stringify(tool))];
  const turns = [...(head.length === 0 ? [] : [turn("system", head.join("\n"))]), ...rest.map(renderedMessage)];
  return turns.join("") + (options.add_generation_prompt ? "<|im_start|>assistant\n" : "");
}

const turn = (role: string, body: string) => `<|im_start|>${role}\n${body}<|im_end|>\n`;

function renderedMessage({ role, content, tool_calls = [] }: ChatMessage): string {
  const calls = tool_calls.map(
    ({ function: { name, arguments_json } }) =>
      `<tool_call>\n{"name": ${JSON.stringify(name)}, "arguments": ${arguments_json}}\n</tool_call>`,
  );
  return turn(role, [...(content ? [content] : []), ...calls].join("\n"));
}

export function fakeTokenize(text: string): Uint32Array {
  const parts = text.split(/(<\|im_start\|>|<\|im_end\|>)/);
  return Uint32Array.from(parts.flatMap((part) => SPECIAL[part] ?? [...new TextEncoder().encode(part)]));
}

export function fakeDecode(tokens: ArrayLike<number>, { skip_special }: { readonly skip_special: boolean }): string {
  const bytes = Array.from(tokens).flatMap((token) => {
    if (token < 256) return [token];
    return skip_special ? [] : [...new TextEncoder().encode(token === FAKE_IM_START ? "<|im_start|>" : "<|im_end|>")];
  });
  return new TextDecoder().decode(Uint8Array.from(bytes));
}

/** The scripted answer under the stop rules of the engine. */
function cut(
  answer: ArrayLike<number>,
  limits: SamplingOptions & { readonly room: number },
): { readonly tokens: number[]; readonly stop: Sampled["stop"] } {
  const tokens = Array.from(answer);
  const stopAt = tokens.findIndex((token) => limits.stop_token_ids.includes(token));
  const wanted = stopAt === -1 ? tokens.length : stopAt + 1;
  const allowed = Math.max(0, Math.min(limits.max_new_tokens, limits.room));
  if (stopAt !== -1 && wanted <= allowed) return { tokens: tokens.slice(0, wanted), stop: "stop_token" };
  const stop =
    limits.room < limits.max_new_tokens && wanted >= limits.room ? "context_window_exceeded" : "max_new_tokens";
  return { tokens: tokens.slice(0, Math.min(wanted, allowed)), stop };
}

function assertTokenBatch({ tokens_N, offsets }: TokenBatch): void {
  const ascending = offsets.every((offset, s) => s === 0 || offset > (offsets[s - 1] ?? 0));
  if (offsets[0] !== 0 || offsets.at(-1) !== tokens_N.length || !ascending) {
    throw new EngineError("BadArgument", "offsets must start at 0, ascend and end at the number of tokens");
  }
}

function assertTrainingBatch(batch: TrainingBatch): void {
  assertTokenBatch(batch);
  const { tokens_N, weights_N, advantages_N, old_logprobs_N } = batch;
  for (const values of [weights_N, advantages_N, old_logprobs_N]) {
    if (values.length !== tokens_N.length) throw new EngineError("BadArgument", "every *_N needs one value per token");
  }
  for (const start of batch.offsets.subarray(0, -1)) {
    if (weights_N[start] !== 0) throw new EngineError("BadArgument", "a sequence's first token cannot be in the loss");
  }
}

/** The fake as an oracle: its gradients against finite differences, its weight operations against numbers made by hand. */
import { describe, expect, test } from "bun:test";
import { type FakePolicy, fakePolicy } from "../../src/core/fake.ts";
import { feature } from "../../src/core/fake-softmax.ts";
import type { LossOptions, StoredDistributions, TrainingBatch, WeightOp } from "../../src/core/policy.ts";
import { grpoLoss } from "../support/loss.ts";
import { ADAMW } from "./opened.ts";

const VOCAB = 258;
const policyOf = () => fakePolicy(() => "");

/** Two sequences; their first tokens are not in the loss. */
const batch = (fields: Partial<TrainingBatch> = {}): TrainingBatch => ({
  tokens_N: Uint32Array.of(65, 66, 67, 70, 71, 72, 73),
  offsets: Uint32Array.of(0, 3, 7),
  weights_N: Float32Array.of(0, 0.5, 0.25, 0, 1, 0.5, 0.125),
  advantages_N: Float32Array.of(0, 1, 1, 0, -0.5, -0.5, -0.5),
  old_logprobs_N: Float32Array.of(0, -5.5, -5.6, 0, -5.4, -5.5, -5.6),
  ...fields,
});

const gradientOf = async (policy: FakePolicy, loss: LossOptions, one = batch()) => {
  await policy.weightOp({ op: "combine", into: "gradient", terms: [] });
  const { loss: value } = await policy.forwardBackward(one, loss);
  return { value, gradient: policy.vector("gradient") };
};

describe("gradients are those of the loss (central differences)", () => {
  const targets = async (policy: FakePolicy): Promise<StoredDistributions> => {
    const other = fakePolicy(() => "");
    await other.forwardBackward(batch(), { kind: "nll", temperature: 1 });
    await other.optimizerStep({ ...ADAMW, learning_rate: 0.3 });
    expect(other.weights).not.toEqual(policy.weights);
    return other.topLogprobs("policy", batch(), { temperature: 0.7, k: 5 });
  };
  const grpo = grpoLoss({ clip_high: 0.3, entropy_coef: 0.05, temperature: 0.7 });
  const losses: readonly LossOptions[] = [
    grpo,
    { ...grpo, kl_ratio_correction: true },
    { ...grpo, kl_estimator: "k1", kl_ratio_correction: true },
    { ...grpo, kl_estimator: "k2", delta: 1.5 },
    { ...grpo, importance_sampling_level: "sequence", kl_ratio_correction: true },
    { kind: "nll", temperature: 0.7 },
    { kind: "distill", anchor: "base", temperature: 0.7 },
    { kind: "distill_stored", temperature: 0.7 },
    { kind: "output_norm" },
  ];

  test.each(losses.flatMap((loss) => [0, 2].map((rank) => ({ loss, rank }))))(
    "$loss.kind, LoRA rank $rank",
    async ({ loss, rank }) => {
      const policy = policyOf();
      await policy.weightOp({ op: "snapshot", name: "base" });
      if (rank > 0) {
        const adapter = { op: "add_adapter", rank, alpha: 4, target_modules: ["q_proj"], seed: "7" } as const;
        await policy.weightOp({ ...adapter, name: "first", gates: false });
        await policy.forwardBackward(batch(), { kind: "nll", temperature: 1 });
        await policy.optimizerStep({ ...ADAMW, learning_rate: 0.2 });
        await policy.weightOp({ ...adapter, name: "second", gates: true });
      }
      await policy.forwardBackward(batch(), { kind: "nll", temperature: 1 });
      await policy.optimizerStep({ ...ADAMW, learning_rate: 0.2 });
      const one = batch({ targets: await targets(policy) });
      const { gradient } = await gradientOf(policy, loss, one);
      const theta = policy.vector("weights");
      const step = 2 ** -8;
      for (const [i, slope] of gradient.entries()) {
        const at = async (sign: number) => {
          await nudge(policy, i, sign * step);
          const { value } = await gradientOf(policy, loss, one);
          await nudge(policy, i, -sign * step);
          return value;
        };
        const slopeMeasured = ((await at(1)) - (await at(-1))) / (2 * step);
        expect(Math.abs(slopeMeasured - slope)).toBeLessThan(2e-3 * Math.max(1, ...gradient.map(Math.abs)));
      }
      expect(policy.vector("weights").map((value, i) => Math.abs(value - (theta[i] as number)) < 1e-6)).not.toContain(
        false,
      );
    },
  );

  async function nudge(policy: FakePolicy, i: number, by: number): Promise<void> {
    const weights = policy.vector("weights");
    policy.setVector(
      "nudged",
      weights.map((value, j) => (j === i ? value + by : value)),
    );
    await policy.weightOp({ op: "combine", into: "weights", terms: [{ vector: "nudged", factor: 1 }] });
  }
});

test("the diagonal Fisher from every outcome in proportion is the analytic one", async () => {
  const policy = policyOf();
  const previous = 65;
  const logprobs = await policy.topLogprobs(
    "policy",
    { tokens_N: Uint32Array.of(previous, 0), offsets: Uint32Array.of(0, 2) },
    { temperature: 1, k: VOCAB },
  );
  const prob_V = new Float64Array(VOCAB);
  for (let i = VOCAB; i < 2 * VOCAB; i++)
    prob_V[logprobs.ids_NK[i] as number] = Math.exp(logprobs.logprobs_NK[i] as number);
  // F = Var(φ): the softmax's score is φ(v) − E φ.
  const analytic = Array.from({ length: 6 }, (_, d) => {
    const mean = prob_V.reduce((sum, p, v) => sum + p * feature(previous, v, d), 0);
    return prob_V.reduce((sum, p, v) => sum + p * (feature(previous, v, d) - mean) ** 2, 0);
  });
  for (let v = 0; v < VOCAB; v++) {
    const one = { tokens_N: Uint32Array.of(previous, v), offsets: Uint32Array.of(0, 2) };
    // (√p · g)² = p · g².
    const weights_N = Float32Array.of(0, Math.sqrt(prob_V[v] as number));
    const zeros = new Float32Array(2);
    await policy.addImportance(
      { ...one, weights_N, advantages_N: zeros, old_logprobs_N: zeros },
      { kind: "nll", temperature: 1 },
      { into: "F", of: "square" },
    );
  }
  for (const [d, value] of policy.vector("F").entries())
    expect(Math.abs(value / (analytic[d] as number) - 1)).toBeLessThan(1e-4);
});

describe("weight operations", () => {
  const vectors = {
    a: [1, -2, 3, 0, 0.5, -1],
    b: [2, 1, -1, 0, 0.25, -3],
    F: [1, 0, 2, 0, 4, 1],
  } as const;
  const withVectors = () => {
    const policy = policyOf();
    for (const [name, values] of Object.entries(vectors)) policy.setVector(name, values);
    return policy;
  };
  const after = async (op: WeightOp, name: string) => {
    const policy = withVectors();
    await policy.weightOp(op);
    return policy.vector(name);
  };

  test.each([
    {
      op: {
        op: "combine",
        into: "x",
        terms: [
          { vector: "a", factor: 2 },
          { vector: "b", factor: -1 },
        ],
      },
      x: [0, -5, 7, 0, 0.75, 1],
    },
    { op: { op: "combine", into: "x", terms: [] }, x: [0, 0, 0, 0, 0, 0] },
    { op: { op: "add_product", into: "x", a: "a", b: "b", factor: -1 }, x: [-2, 2, 3, -0, -0.125, -3] },
    // Top half of each (at a tie all): a → 1 -2 3 -1, b → 2 1 -1 -3; signs by sum; mean of those that agree.
    { op: { op: "merge_ties", into: "x", vectors: ["a", "b"], density: 0.5 }, x: [1.5, -2, 3, 0, 0, -2] },
    { op: { op: "merge_ties", into: "x", vectors: ["a", "a"], density: 1 }, x: vectors.a },
    {
      op: { op: "merge_dare", into: "x", vectors: ["a", "b"], drop_rate: 0, seed: "1" },
      x: [1.5, -0.5, 1, 0, 0.375, -2],
    },
    {
      op: { op: "merge_fisher", into: "x", vectors: ["a", "b"], importances: ["F", "F"] },
      x: [1.5, -0.5, 1, 0, 0.375, -2],
    },
  ] as const)("$op.op", async ({ op, x }) => {
    const value = await after(op as WeightOp, "x");
    expect(value.map((one) => one + 0)).toEqual(x.map((one) => one + 0));
  });

  test("dot", async () => {
    expect(await withVectors().weightOp({ op: "dot", a: "a", b: "b" })).toEqual({ value: 0.125 });
  });

  test("A-GEM: the projection is the closed form's, and never points against the reference", async () => {
    const policy = withVectors();
    policy.setVector(
      "against",
      vectors.a.map((value) => -value),
    );
    await policy.weightOp({ op: "combine", into: "gradient", terms: [{ vector: "b", factor: 1 }] });
    const { value } = await policy.weightOp({ op: "project_gradient", reference: "against" });
    expect(value).toBe(-0.125);
    const norm2 = 15.25;
    const closed = vectors.b.map((g, i) => Math.fround(g - (-0.125 / norm2) * -(vectors.a[i] as number)));
    expect(policy.vector("gradient")).toEqual(closed);
    expect((await policy.weightOp({ op: "dot", a: "gradient", b: "against" })).value).toBeGreaterThanOrEqual(-1e-7);
    await policy.weightOp({ op: "combine", into: "gradient", terms: [{ vector: "b", factor: 1 }] });
    await policy.weightOp({ op: "project_gradient", reference: "a" });
    expect(policy.vector("gradient")).toEqual([...vectors.b]);
  });

  test("EWC: one quadratic and a constant are the sum over anchors, penalty and gradient", async () => {
    const policy = withVectors();
    const anchors: number[][] = [];
    let constant = 0;
    const fishers = [vectors.F, [0, 3, 1, 0, 2, 5]];
    for (const [k, F] of fishers.entries()) {
      policy.setVector(
        "theta",
        vectors.a.map((value) => value * (k + 1)),
      );
      await policy.weightOp({ op: "combine", into: "weights", terms: [{ vector: "theta", factor: 1 }] });
      anchors.push([...policy.vector("weights")]);
      policy.setVector("fisher", F);
      constant += (await policy.weightOp({ op: "consolidate", importance: "H", anchor: "m", add: "fisher" })).value;
    }
    await policy.weightOp({ op: "combine", into: "weights", terms: [{ vector: "b", factor: 1 }] });
    const lambda = 3;
    const { value } = await policy.weightOp({
      op: "add_quadratic_penalty",
      importance: "H",
      anchor: "m",
      strength: lambda,
    });
    const sum = (term: (f: number, distance: number) => number) =>
      fishers.flatMap((F, k) => F.map((f, i) => term(f, vectors.b[i]! - anchors[k]![i]!))).reduce((a, b) => a + b, 0);
    expect(value + (lambda / 2) * constant).toBeCloseTo((lambda / 2) * sum((f, d) => f * d * d), 4);
    const gradient = vectors.b.map(
      (theta, i) => lambda * fishers.reduce((total, F, k) => total + F[i]! * (theta - anchors[k]![i]!), 0),
    );
    for (const [i, g] of policy.vector("gradient").entries()) expect(g).toBeCloseTo(gradient[i]!, 4);
  });

  test("synaptic intelligence: max(0, path) over squared way and damping", async () => {
    const policy = withVectors();
    await policy.weightOp({ op: "combine", into: "start", terms: [{ vector: "weights", factor: 1 }] });
    await policy.weightOp({
      op: "combine",
      into: "weights",
      terms: [
        { vector: "weights", factor: 1 },
        { vector: "F", factor: 0.5 },
      ],
    });
    await policy.weightOp({ op: "add_path_importance", into: "omega", path: "a", start: "start", damping: 0.5 });
    const expected = vectors.a.map((path, i) => Math.max(0, path) / ((0.5 * vectors.F[i]!) ** 2 + 0.5));
    for (const [i, value] of policy.vector("omega").entries()) expect(value).toBeCloseTo(expected[i]!, 5);
  });

  test("folding adapters changes nothing that is computed, and a new one begins at nothing", async () => {
    const policy = policyOf();
    const adapter = {
      op: "add_adapter",
      rank: 2,
      alpha: 4,
      target_modules: ["q_proj"],
      gates: true,
      seed: "3",
    } as const;
    const before = policy.weights;
    await policy.weightOp({ ...adapter, name: "first" });
    expect(policy.weights).toEqual(before);
    await policy.forwardBackward(batch(), { kind: "nll", temperature: 1 });
    await policy.optimizerStep({ ...ADAMW, learning_rate: 0.1 });
    const first = policy.weights;
    await policy.weightOp({ ...adapter, name: "second" });
    // Gates start at 0: the new column begins at the base model, the old one is as it was.
    expect(policy.weights).toEqual(before);
    await policy.forwardBackward(batch(), { kind: "nll", temperature: 1 });
    await policy.optimizerStep({ ...ADAMW, learning_rate: 0.1 });
    await policy.weightOp({ op: "activate_adapter", column: "first" });
    expect(policy.weights).toEqual(first);
    await policy.weightOp({ op: "activate_adapter", column: "second" });
    const second = policy.weights;
    await policy.weightOp({ op: "merge_adapters" });
    expect(policy.weights).toEqual(second);
    expect(policy.vector("weights")).toEqual(second);
  });
});

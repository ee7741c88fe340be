/** Forward, backward, clipping and AdamW on a language-model loss over all positions of random tokens. */
import { Rng } from "../../src/base/rng.ts";
import type { OptimizerOptions, TrainingBatch } from "../../src/core/policy.ts";
import { parameters } from "../../src/run/memory-plan.ts";
import { type Bench, type Figure, type Figures, type Part, rate, repeated, type Target, timed } from "./measure.ts";
import { openPolicy, randomTokens, shapeAt } from "./model.ts";
import { middle, peerLines } from "./peers.ts";

export const TOKENS = 512;
/** Sequences; 4 of a model of more than 10⁸ parameters take minutes. */
export const batchesOf = (model: string): number[] => (parameters(shapeAt(model)) > 1e8 ? [2] : [2, 4]);
export const workOf = (sequences: unknown) => `forward + backward + AdamW, ${sequences} x ${TOKENS}`;

/** PyTorch's AdamW as the peers call it. */
export const OPTIMIZER: OptimizerOptions = {
  learning_rate: 1e-6,
  beta1: 0.9,
  beta2: 0.999,
  eps: 1e-8,
  weight_decay: 0.01,
  max_grad_norm: 1,
};

/** By the model, of 2 sequences. */
const TARGETS: Readonly<Record<string, Target>> = {
  small: { bar: 1, goal: 1.2 },
  "qwen05b-shape": { bar: 1, goal: 1.15 },
};

export const train: Part = {
  unit: "tokens",
  peerName: "PyTorch and transformers",
  target: (work, model) => (work === workOf(2) ? (TARGETS[model] ?? null) : null),
  ours,
  peer,
};

export async function ours(bench: Bench): Promise<Figures> {
  using policy = await openPolicy(bench);
  const rng = Rng.from(0);
  const figures = new Map<string, Figure[]>();
  for (const sequences of batchesOf(bench.model)) {
    const step = async () => {
      await policy.forwardBackward(meanOverPositions(rng, sequences), { kind: "nll", temperature: 1 });
      await policy.optimizerStep(OPTIMIZER);
    };
    await step();
    figures.set(
      workOf(sequences),
      await repeated(bench.reps, async () => rate(sequences * TOKENS, await timed(step), bench.threads)),
    );
  }
  return figures;
}

function meanOverPositions(rng: Rng, sequences: number): TrainingBatch {
  const total = sequences * TOKENS;
  const weight = 1 / (sequences * (TOKENS - 1));
  return {
    tokens_N: randomTokens(rng, total),
    offsets: Uint32Array.from({ length: sequences + 1 }, (_, s) => s * TOKENS),
    weights_N: Float32Array.from({ length: total }, (_, t) => (t % TOKENS === 0 ? 0 : weight)),
    advantages_N: new Float32Array(total),
    old_logprobs_N: new Float32Array(total),
  };
}

async function peer({ model, threads, reps }: Bench): Promise<Figures | null> {
  const figures = new Map<string, Figure[]>();
  for (const sequences of batchesOf(model)) {
    const lines = await peerLines("venv", "bench_train.py", [
      model,
      "--threads",
      threads,
      "--reps",
      reps,
      "--batch",
      sequences,
      "--seq",
      TOKENS,
    ]);
    if (lines === null) return null;
    figures.set(
      workOf(sequences),
      lines.map((line) => ({ wall: middle(line.tok_s_max_med_min), cpu: middle(line.tok_per_cpu_s_x_threads) })),
    );
  }
  return figures;
}

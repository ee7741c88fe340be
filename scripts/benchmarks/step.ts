/**
 * A whole GRPO step: sampling, log-probabilities of the base policy, gradient, AdamW; random prompts and rewards. TRL computes
 * a group's prompt once for each completion, we compute each shared prefix once: that is part of the figure.
 */
import { Rng } from "../../src/base/rng.ts";
import type { LossOptions, Policy, Sampled, TrainingBatch } from "../../src/core/policy.ts";
import { type Bench, type Figures, type Part, rate, repeated, type Target, timed } from "./measure.ts";
import { openPolicy, randomTokens, sampleAll } from "./model.ts";
import { middle, peerLines } from "./peers.ts";
import { OPTIMIZER } from "./train.ts";

const [PROMPTS, SAMPLES] = [8, 4];

interface Sizes {
  /** Tokens that all prompts begin with. */
  readonly shared: number;
  /** Tokens of a prompt, shared ones included. */
  readonly prompt: number;
  readonly completion: number;
  /** Sequences of TRL's micro-batch; null = all. */
  readonly micro: number | null;
}

export const PLAIN: Sizes = { shared: 0, prompt: 256, completion: 128, micro: null };
/** What tau2's policies and tool schemas look like: a long beginning that all tasks share. */
const SHARED: Sizes = { shared: 2048, prompt: 2112, completion: 64, micro: 4 };

const workOf = ({ shared, prompt, completion }: Sizes) =>
  `GRPO step, ${PROMPTS} prompts x ${SAMPLES} samples, ${prompt} + ${completion} tokens${shared === 0 ? "" : `, ${shared} shared`}`;
const TEMPERATURE = 1;
/** As bench_trl.py's: beta 0.04, TRL's clipping; its KL has the ratio correction. */
const LOSS: LossOptions = {
  kind: "grpo",
  surrogate: "clip",
  importance_sampling_level: "token",
  clip_low: 0.2,
  clip_high: 0.2,
  delta: null,
  kl_coef: 0.04,
  kl_estimator: "k3",
  kl_ratio_correction: true,
  anchor: "base",
  entropy_coef: 0,
  temperature: TEMPERATURE,
};

const part = (sizes: Sizes, targets: Readonly<Record<string, Target>>): Part => ({
  unit: "steps",
  peerName: "TRL GRPOTrainer",
  target: (_work, model) => targets[model] ?? null,
  ours: (bench) => ours(bench, sizes),
  peer: (bench) => peer(bench, sizes),
});

export const step = part(PLAIN, { "tiny-qwen2": { bar: 3, goal: 6 }, small: { bar: 1.8, goal: 2.7 } });
export const shared = part(SHARED, { small: { bar: 5, goal: 10 } });

async function ours(bench: Bench, sizes: Sizes): Promise<Figures> {
  using policy = await openPolicy(bench);
  await policy.weightOp({ op: "snapshot", name: "base" });
  const rng = Rng.from(0);
  await grpoStep(policy, rng, sizes);
  const figures = await repeated(bench.reps, async () =>
    rate(1, await timed(() => grpoStep(policy, rng, sizes)), bench.threads),
  );
  return new Map([[workOf(sizes), figures]]);
}

export async function grpoStep(policy: Policy, rng: Rng, sizes: Sizes = PLAIN): Promise<void> {
  const beginning = randomTokens(rng, sizes.shared);
  const prompts = Array.from({ length: PROMPTS }, () =>
    Uint32Array.of(...beginning, ...randomTokens(rng, sizes.prompt - sizes.shared)),
  ).flatMap((prompt) => Array<Uint32Array>(SAMPLES).fill(prompt));
  const sampled = await sampleAll(policy, {
    prompts,
    newTokens: sizes.completion,
    temperature: TEMPERATURE,
    seed: rng.uint64() >> 1n,
  });
  await policy.forwardBackward(batchOf(prompts, sampled, rng, sizes), LOSS);
  await policy.optimizerStep(OPTIMIZER);
}

/** Each completion's tokens weigh the same; its advantage is random, as its reward would be. */
function batchOf(prompts: readonly Uint32Array[], sampled: readonly Sampled[], rng: Rng, sizes: Sizes): TrainingBatch {
  const length = sizes.prompt + sizes.completion;
  const total = length * prompts.length;
  const batch = {
    tokens_N: new Uint32Array(total),
    offsets: Uint32Array.from({ length: prompts.length + 1 }, (_, s) => s * length),
    weights_N: new Float32Array(total),
    advantages_N: new Float32Array(total),
    old_logprobs_N: new Float32Array(total),
  };
  sampled.forEach(({ tokens, logprobs }, s) => {
    const start = s * length;
    const completion = start + sizes.prompt;
    batch.tokens_N.set(prompts[s] as Uint32Array, start);
    batch.tokens_N.set(tokens, completion);
    batch.old_logprobs_N.set(logprobs, completion);
    batch.weights_N.fill(1 / (sizes.completion * prompts.length), completion, completion + sizes.completion);
    batch.advantages_N.fill(rng.int(2001) / 1000 - 1, completion, completion + sizes.completion);
  });
  return batch;
}

async function peer({ threads, reps, ...bench }: Bench, sizes: Sizes): Promise<Figures | null> {
  const lines = await trlLines({ ...bench, threads, reps }, sizes, reps + 1);
  if (lines === null) return null;
  const figures = lines.map((line) => ({
    wall: 1 / middle(line.step_s_min_med_max),
    cpu: threads / middle(line.step_cpu_s_min_med_max),
  }));
  return new Map([[workOf(sizes), figures]]);
}

export function trlLines({ model, threads }: Bench, sizes: Sizes, steps: number) {
  const { shared, prompt, completion, micro } = sizes;
  return peerLines("venv", "bench_trl.py", [
    ...[model, "--threads", threads, "--steps", steps, "--prompts", PROMPTS, "--samples", SAMPLES],
    ...["--prompt-len", prompt, "--completion-len", completion, "--shared", shared],
    ...(micro === null ? [] : ["--micro", micro]),
  ]);
}

/**
 * A whole GRPO step: 8 prompts of 256 random tokens, 4 completions of 128 each, random rewards, KL to the base policy,
 * clipping, AdamW. TRL computes a group's prompt once for each completion, we once for all: that is part of the figure.
 */
import { Rng } from "../../src/base/rng.ts";
import type { LossOptions, Policy, Sampled, TrainingBatch } from "../../src/core/policy.ts";
import { type Bench, type Figures, type Part, rate, repeated, timed } from "./measure.ts";
import { openPolicy, randomTokens, sampleAll } from "./model.ts";
import { middle, peerLines } from "./peers.ts";
import { OPTIMIZER } from "./train.ts";

const [PROMPTS, SAMPLES, PROMPT, NEW] = [8, 4, 256, 128];
const WORK = `GRPO step, ${PROMPTS} prompts x ${SAMPLES} samples, ${PROMPT} + ${NEW} tokens`;
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

export const step: Part = { unit: "steps", peerName: "TRL GRPOTrainer", ours, peer };

async function ours(bench: Bench): Promise<Figures> {
  using policy = await openPolicy(bench);
  await policy.weightOp({ op: "snapshot", name: "base" });
  const rng = Rng.from(0);
  await grpoStep(policy, rng);
  const figures = await repeated(bench.reps, async () =>
    rate(1, await timed(() => grpoStep(policy, rng)), bench.threads),
  );
  return new Map([[WORK, figures]]);
}

async function grpoStep(policy: Policy, rng: Rng): Promise<void> {
  const prompts = Array.from({ length: PROMPTS }, () => randomTokens(rng, PROMPT)).flatMap((prompt) =>
    Array<Uint32Array>(SAMPLES).fill(prompt),
  );
  const sampled = await sampleAll(policy, {
    prompts,
    newTokens: NEW,
    temperature: TEMPERATURE,
    seed: rng.uint64() >> 1n,
  });
  await policy.forwardBackward(batchOf(prompts, sampled, rng), LOSS);
  await policy.optimizerStep(OPTIMIZER);
}

/** Each completion's tokens weigh the same; its advantage is random, as its reward would be. */
function batchOf(prompts: readonly Uint32Array[], sampled: readonly Sampled[], rng: Rng): TrainingBatch {
  const length = PROMPT + NEW;
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
    const completion = start + PROMPT;
    batch.tokens_N.set(prompts[s] as Uint32Array, start);
    batch.tokens_N.set(tokens, completion);
    batch.old_logprobs_N.set(logprobs, completion);
    batch.weights_N.fill(1 / (NEW * prompts.length), completion, completion + NEW);
    batch.advantages_N.fill(rng.int(2001) / 1000 - 1, completion, completion + NEW);
  });
  return batch;
}

async function peer({ model, threads, reps }: Bench): Promise<Figures | null> {
  const lines = await peerLines("venv", "bench_trl.py", [
    ...[model, "--threads", threads, "--steps", reps + 1, "--prompts", PROMPTS, "--samples", SAMPLES],
    ...["--prompt-len", PROMPT, "--completion-len", NEW],
  ]);
  if (lines === null) return null;
  return new Map([
    [
      WORK,
      lines.map((line) => ({
        wall: 1 / middle(line.step_s_min_med_max),
        cpu: threads / middle(line.step_cpu_s_min_med_max),
      })),
    ],
  ]);
}

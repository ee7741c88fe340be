import { expect, test } from "bun:test";
import { fakePolicy } from "../../src/core/fake.ts";
import type { TrainingBatch } from "../../src/core/policy.ts";
import { gradientStep, learningRate } from "../../src/run/update.ts";
import { lampConfig } from "../support/lamp-run.ts";

const BATCH: TrainingBatch = {
  tokens_N: Uint32Array.of(1, 2, 3),
  offsets: Uint32Array.of(0, 3),
  weights_N: Float32Array.of(0, 0.5, 0.5),
  advantages_N: Float32Array.of(0, 1, 1),
  old_logprobs_N: Float32Array.of(0, -1, -1),
};

const options = {
  config: lampConfig("unused", { clip_range: 0.2, clip_range_high: 0.3, adam_beta2: 0.95 }),
  learning_rate: 0.1,
  anchor: "base",
  beforeUpdate: async () => null,
  signal: new AbortController().signal,
} as const;

test("one gradient, one update", async () => {
  const policy = fakePolicy(() => "");
  await policy.weightOp({ op: "snapshot", name: "base" });
  const report = { loss: 1, loss_tokens: 2, kl_mean: 0.3, entropy_mean: 0.5, logprob_diff_max: 0.1 };
  const { forwardBackward } = policy;
  policy.forwardBackward = async (...args) => ({ ...(await forwardBackward.apply(policy, args)), ...report });
  const update = await gradientStep(policy, BATCH, options);
  const { kl_mean: kl, entropy_mean: entropy, ...rest } = report;
  expect(update).toMatchObject({ ...rest, kl, entropy, learning_rate: 0.1, outcome: "updated" });
  expect(policy.batches).toHaveLength(1);
  expect(policy.batches[0]?.loss).toMatchObject({ clip_low: 0.2, clip_high: 0.3, anchor: "base" });
  expect(policy.optimizerSteps).toMatchObject([{ learning_rate: 0.1, beta2: 0.95 }]);
});

test.each([
  { warmup_steps: 0, rates: [1, 1, 1] },
  { warmup_steps: 1, rates: [1, 1, 1] },
  { warmup_steps: 4, rates: [0.25, 0.5, 0.75, 1, 1] },
])("warm-up over $warmup_steps steps is linear, and its first step moves", ({ warmup_steps, rates }) => {
  const measured: readonly number[] = rates.map((_, step) => learningRate(step, { learning_rate: 1, warmup_steps }));
  expect(measured).toEqual([...rates]);
});

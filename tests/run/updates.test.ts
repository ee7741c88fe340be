import { expect, test } from "bun:test";
import type { RunConfigInput } from "../../src/config/schema.ts";
import { type FakeOptions, fakePolicy } from "../../src/core/fake.ts";
import type { GradientReport, TrainingBatch } from "../../src/core/policy.ts";
import { updateOnStep } from "../../src/run/updates.ts";
import { lampConfig } from "../support/lamp-run.ts";

const batch = (advantage: number): TrainingBatch => ({
  tokens_N: Uint32Array.of(1, 2, 3),
  offsets: Uint32Array.of(0, 3),
  weights_N: Float32Array.of(0, 0.5, 0.5),
  advantages_N: Float32Array.of(0, advantage, advantage),
  old_logprobs_N: Float32Array.of(0, -1, -1),
});

async function step(mini_batches: TrainingBatch[], fields: Partial<RunConfigInput> = {}, fake: FakeOptions = {}) {
  const policy = fakePolicy(() => "", fake);
  await policy.weightOp({ op: "snapshot", name: "base" });
  const options = {
    learning_rate: 0.1,
    anchor: "base",
    beforeUpdate: async () => null,
    signal: new AbortController().signal,
  };
  const reports: Partial<GradientReport>[] = [
    { loss: 1, loss_tokens: 1, kl_mean: 0.3, logprob_diff_max: 0.1 },
    { loss: 0.5, loss_tokens: 3, kl_mean: 0.7, logprob_diff_max: 0.2 },
  ];
  const { forwardBackward } = policy;
  policy.forwardBackward = async (...args) => ({ ...(await forwardBackward.apply(policy, args)), ...reports.shift() });
  const update = await updateOnStep(policy, mini_batches, { ...options, config: lampConfig("unused", fields) });
  return { policy, update };
}

test("every pass takes every mini-batch, with the log-probabilities that were recorded", async () => {
  const [a, b, c] = [batch(1), batch(2), batch(3)];
  const { policy, update } = await step([a, b, c], { num_iterations: 2 });
  expect(policy.batches.map(({ batch }) => batch)).toEqual([a, b, c, a, b, c]);
  expect(policy.optimizerSteps).toHaveLength(6);
  expect(update).toMatchObject({ updates: 6, outcome: "updated" });
});

test("losses are means over updates, the rest over tokens; only the first update tells how well sampling was recomputed", async () => {
  const { update } = await step([batch(1), batch(1)]);
  expect(update).toMatchObject({ loss: 0.75, loss_tokens: 4, logprob_diff_max: 0.1, updates: 2 });
  expect(update.kl).toBeCloseTo((0.3 + 3 * 0.7) / 4, 12);
});

test("a gradient that is not finite ends the step", async () => {
  const fake = { optimizerReport: { skipped: true, grad_norm: Number.NaN } };
  const { policy, update } = await step([batch(1), batch(1)], { num_iterations: 3 }, fake);
  expect(policy.optimizerSteps).toHaveLength(1);
  expect(update).toMatchObject({ updates: 0, outcome: "nonfinite_gradient" });
});

test("without anything to learn there is no update", async () => {
  const { policy, update } = await step([], { num_iterations: 2 });
  expect(policy.optimizerSteps).toEqual([]);
  expect(update).toMatchObject({ updates: 0, outcome: "nothing_to_learn", loss: 0 });
});

const GRPO = { surrogate: "clip", importance_sampling_level: "token", kl_coef: 0.1, kl_estimator: "k3", delta: null };
test.each([
  [{}, GRPO],
  [{ loss_type: "gspo" }, { ...GRPO, importance_sampling_level: "sequence" }],
  [
    { loss_type: "dapo", importance_sampling_level: "sequence", delta: 2 },
    { importance_sampling_level: "sequence", delta: 2 },
  ],
  [
    { loss_type: "cispo", clip_range_high: 4 },
    { ...GRPO, surrogate: "cispo", clip_high: 4 },
  ],
  [
    { kl_estimator: "k1", kl_in_reward: true },
    { ...GRPO, kl_estimator: "k1", kl_coef: 0, anchor: null },
  ],
] as [Partial<RunConfigInput>, object][])("%j is the core's loss %j", async (fields, expected) => {
  const { policy } = await step([batch(1)], fields);
  expect(policy.batches[0]?.loss).toMatchObject(expected);
});

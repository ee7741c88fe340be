import { expect, test } from "bun:test";
import { fakePolicy } from "../../src/core/fake.ts";
import { type KlEstimator, meanKl, tokenKl } from "../../src/grpo/kl.ts";
import { isTruncated, overlongPenalty, returnFrom, shapedReward, turnsOf } from "../../src/grpo/reward.ts";
import type { Rollout } from "../../src/rollout/types.ts";
import { groupOf, PLAIN_STEP, rolloutOf } from "../support/rollouts.ts";

/** trl.rewards.get_soft_overlong_punishment(max_completion_len=10, soft_punish_cache=4) of TRL 1.16, for 4 to 12 tokens. */
const TRL_OVERLONG = [0, 0, 0, -0.25, -0.5, -0.75, -1, -1, -1];

test("the overlong penalty is DAPO's, as TRL computes it", () => {
  for (const [i, punishment] of TRL_OVERLONG.entries()) {
    const penalty = overlongPenalty(4 + i, { max_completion_len: 10, soft_punish_cache: 4 });
    expect(penalty).toBe(punishment === 0 ? 0 : -punishment);
  }
  expect(overlongPenalty(1000, { max_completion_len: null, soft_punish_cache: null })).toBe(0);
});

test.each([
  { mask: [0, 0], turns: [] },
  { mask: [0, 1], turns: [[1, 2]] },
  {
    mask: [0, 1, 1, 0, 0, 1, 0],
    turns: [
      [1, 3],
      [5, 6],
    ],
  },
] as { mask: number[]; turns: number[][] }[])("turns of $mask", ({ mask, turns }) => {
  expect(turnsOf(Uint8Array.from(mask)) as number[][]).toEqual(turns);
});

test("a reward less what lengths, malformed calls and KL cost, turn by turn", () => {
  const rollout = rolloutOf({
    reward: 1,
    tokens: Uint32Array.of(9, 1, 2, 9, 4),
    sampled_mask: Uint8Array.of(0, 1, 1, 0, 1),
    malformed_turns: [1],
  });
  const config = { malformed_call_penalty: 0.25, max_completion_len: 4, soft_punish_cache: 2, kl_coef: 0.5 };
  const shaped = shapedReward(rollout, config, Float32Array.of(0, 0.5, 0.25, 0, -0.5));
  expect(shaped).toEqual({ outcome: 0.5, turns_K: [-0.375, 0] });
  expect([0, 1, 2, 9].map((k) => returnFrom(shaped, k))).toEqual([0.125, 0.5, 0.5, 0.5]);
  expect(shapedReward(rollout, PLAIN_STEP)).toEqual({ outcome: 1, turns_K: [0, 0] });
});

test.each([
  [{}, false],
  [{ truncated_turns: 2 }, true],
  [{ termination: "max_steps" }, true],
  [{ termination: "context_window_exceeded" }, true],
  [{ termination: "too_many_errors" }, false],
] as [Partial<Rollout>, boolean][])("%j: cut by a limit %p", (fields, expected) => {
  expect(isTruncated(rolloutOf(fields))).toBe(expected);
});

/** torch: old = [-1.3, -0.7, -2.4, -0.5], ref = [-1.0, -0.6, -2.0, -1.1]; k1 is TRL's RLOOTrainer, old - ref. */
test.each([
  { kl_estimator: "k1", values: [-0.3, -0.1, -0.4, 0.6] },
  { kl_estimator: "k2", values: [0.045, 0.005, 0.08, 0.18] },
  { kl_estimator: "k3", values: [0.0498588, 0.0051709, 0.0918247, 0.1488116] },
] as { kl_estimator: KlEstimator; values: number[] }[])("$kl_estimator of tokens", async ({ kl_estimator, values }) => {
  const policy = fakePolicy(() => "");
  policy.logprobs = async (model, { tokens_N }, { temperature }) => {
    expect([model, temperature]).toEqual(["base", 0.7]);
    return Float32Array.from(tokens_N, (token) => [0, -1, -0.6, -2, -1.1][token] ?? 0);
  };
  const long = rolloutOf({
    tokens: Uint32Array.of(0, 1, 2, 3),
    sampled_mask: Uint8Array.of(0, 1, 1, 1),
    logprobs: Float32Array.of(0, -1.3, -0.7, -2.4),
  });
  const short = rolloutOf({
    tokens: Uint32Array.of(0, 4, 1),
    sampled_mask: Uint8Array.of(0, 1, 0),
    logprobs: Float32Array.of(0, -0.5, 0),
  });
  const silent = rolloutOf({ tokens: new Uint32Array(), sampled_mask: new Uint8Array(), logprobs: new Float32Array() });
  const failed = rolloutOf({ termination: "infrastructure_error" });
  const options = { anchor: "base", kl_estimator, temperature: 0.7 };
  const kl = await tokenKl(policy, [groupOf([long, silent]), groupOf([failed, short])], options);
  expect(kl.size).toBe(2);
  const got = [...(kl.get(long) ?? []).slice(1), kl.get(short)?.[1] ?? Number.NaN];
  for (const [i, value] of values.entries()) expect(got[i]).toBeCloseTo(value, 6);
  expect([kl.get(long)?.[0], kl.get(short)?.[0], kl.get(short)?.[2]]).toEqual([0, 0, 0]);
  expect(meanKl(kl)).toBeCloseTo(values.reduce((a, b) => a + b, 0) / 4, 6);
  expect(meanKl(new Map())).toBeNull();
});

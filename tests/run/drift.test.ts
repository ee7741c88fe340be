/** The distance from the base model, by hand. */
import { expect, test } from "bun:test";
import type { Policy, TokenBatch } from "../../src/core/policy.ts";
import { klDrift } from "../../src/run/drift.ts";
import { groupOf, rolloutOf } from "../support/rollouts.ts";

/** Log-probabilities are the tokens' own numbers, times one for the policy and two for the base model. */
const asked: { model: string; batch: TokenBatch; temperature: number }[] = [];
const policy = {
  logprobs: async (model: string, batch: TokenBatch, { temperature }: { temperature: number }) => {
    asked.push({ model, batch, temperature });
    return Float32Array.from(batch.tokens_N, (token) => -token / (model === "base" ? 4 : 8));
  },
} as unknown as Policy;

const rollout = (tokens: number[], mask: number[], fields = {}) =>
  rolloutOf({ tokens: Uint32Array.from(tokens), sampled_mask: Uint8Array.from(mask), ...fields });

test("k3 over the sampled tokens of each task's first sound trial, at temperature 1", async () => {
  const groups = [
    groupOf([rollout([8, 2, 4], [0, 1, 0]), rollout([1, 1], [0, 1])]),
    groupOf([rollout([9], [0], { termination: "infrastructure_error" }), rollout([8, 6], [0, 1])]),
  ];
  // d = log base - log policy = -token/8: for tokens 2 and 6, -1/4 and -3/4.
  const k3 = (d: number) => Math.exp(d) - d - 1;
  expect(await klDrift(policy, "base", groups)).toBeCloseTo((k3(-1 / 4) + k3(-3 / 4)) / 2, 6);
  expect(asked.map(({ model, temperature }) => [model, temperature])).toEqual([
    ["policy", 1],
    ["base", 1],
  ]);
  expect(asked[0]!.batch).toEqual({ tokens_N: Uint32Array.of(8, 2, 4, 8, 6), offsets: Uint32Array.of(0, 3, 5) });
});

test("nothing sampled, no distance", async () => {
  expect(await klDrift(policy, "base", [groupOf([rollout([1, 2], [0, 0])])])).toBeNull();
});

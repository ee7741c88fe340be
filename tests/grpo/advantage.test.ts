import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { groupAdvantages, isTied, stepAdvantages } from "../../src/grpo/advantage.ts";
import { readSafetensors } from "../support/safetensors.ts";
import { foldersWith, SHARED } from "../support/shared.ts";

const EXPECTED = "fixtures/core/expected";
const models = foldersWith(EXPECTED, "grpo.json");

describe("as TRL computes them", () => {
  if (models.length === 0) test.skip("no fixtures/core/expected/*/grpo.json under GRPO_CL_SHARED", () => {});

  test.each(models)("%s", (model) => {
    const { group, advantages_by_scale_rewards: expected } = JSON.parse(
      readFileSync(join(SHARED, EXPECTED, model, "grpo.json"), "utf8"),
    );
    const batch = readSafetensors(
      join(SHARED, EXPECTED, model, "grpo_batch.safetensors"),
      (name) => name === "rewards",
    );
    const rewards = batch.get("rewards")?.values ?? [];
    const rewards_PG = Array.from({ length: rewards.length / group }, (_, p) =>
      rewards.slice(p * group, (p + 1) * group),
    );
    for (const scale_rewards of ["group", "batch", "none"] as const) {
      const advantages = stepAdvantages(rewards_PG, { scale_rewards }).flat();
      expect(advantages).toHaveLength(expected[scale_rewards].length);
      // The fixture is float32 arithmetic on numbers of order 1.
      for (const [i, advantage] of advantages.entries()) expect(advantage).toBeCloseTo(expected[scale_rewards][i], 5);
    }
  });
});

test.each([
  { rewards: [0.1, 0.1, 0.1], why: "their mean misses 0.1 by a rounding error" },
  { rewards: [1], why: "a group of one" },
  { rewards: [], why: "a group whose rollouts all failed" },
])("a tied group has advantages of exactly zero: $why", ({ rewards }) => {
  expect(isTied(rewards)).toBe(true);
  expect(groupAdvantages(rewards, { scale_rewards: "group" })).toEqual(rewards.map(() => 0));
  expect(stepAdvantages([rewards, [0, 1]], { scale_rewards: "batch" })[0]).toEqual(rewards.map(() => 0));
});

test("the advantages of a group sum to zero and order as the rewards do", () => {
  const rewards_PG = fc.array(fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { minLength: 1, maxLength: 8 }), {
    minLength: 1,
    maxLength: 5,
  });
  fc.assert(
    fc.property(rewards_PG, fc.constantFrom("group", "batch", "none"), (rewards_PG, scale_rewards) => {
      for (const [p, advantages] of stepAdvantages(rewards_PG, { scale_rewards }).entries()) {
        expect(Math.abs(advantages.reduce((sum, a) => sum + a, 0))).toBeLessThan(1e-9);
        const rewards = rewards_PG[p] ?? [];
        const byReward = rewards.map((reward, g) => ({ reward, advantage: advantages[g] ?? 0 }));
        byReward.sort((a, b) => a.reward - b.reward);
        for (const [i, { advantage }] of byReward.entries())
          if (i > 0) expect(advantage).toBeGreaterThanOrEqual((byReward[i - 1]?.advantage ?? 0) - 1e-12);
      }
    }),
  );
});

import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { groupAdvantages, isTied, stepAdvantages, turnAdvantages } from "../../src/grpo/advantage.ts";
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
      const advantages = stepAdvantages(rewards_PG, { scale_rewards, advantage_baseline: "group_mean" }).flat();
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
  expect(stepAdvantages([rewards, [0, 1]], { scale_rewards: "batch", advantage_baseline: "leave_one_out" })[0]).toEqual(
    rewards.map(() => 0),
  );
});

const anyConfig = fc.record({
  scale_rewards: fc.constantFrom("group" as const, "batch" as const, "none" as const),
  advantage_baseline: fc.constantFrom("group_mean" as const, "leave_one_out" as const),
});

test("the advantages of a group sum to zero and order as the rewards do", () => {
  const rewards_PG = fc.array(fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { minLength: 1, maxLength: 8 }), {
    minLength: 1,
    maxLength: 5,
  });
  fc.assert(
    fc.property(rewards_PG, anyConfig, (rewards_PG, config) => {
      for (const [p, advantages] of stepAdvantages(rewards_PG, config).entries()) {
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

/** Numbers of torch by the lines of TRL 1.16's RLOOTrainer: baselines = (sum - r)/(n - 1) of each group, then r - baselines. */
test("leave one out, as TRL's RLOO", () => {
  const rewards_PG = [
    [1, 0, 0.5, 0.25],
    [0, 0, 1, 0],
  ];
  const expected = [0.75, -0.5833333, 0.0833333, -0.25, -0.3333333, -0.3333333, 1, -0.3333333];
  const config = { scale_rewards: "none", advantage_baseline: "leave_one_out" } as const;
  const got = stepAdvantages(rewards_PG, config).flat();
  for (const [i, advantage] of got.entries()) expect(advantage).toBeCloseTo(expected[i] ?? Number.NaN, 6);
});

describe("credit", () => {
  const config = { scale_rewards: "none", advantage_baseline: "group_mean" } as const;
  // Three conversations of three, two and one turn; the second one's first turn and the first one's last were malformed.
  const rewards = [
    { outcome: 1, turns_K: [0, 0, -0.5] },
    { outcome: 1, turns_K: [-0.5, 0] },
    { outcome: 0, turns_K: [0] },
  ];

  test("by trajectory: one advantage for all turns of a conversation", () => {
    const [advantages_GK = []] = turnAdvantages([rewards], { ...config, credit_assignment: "trajectory" });
    // returns 0.5, 0.5, 0; mean 1/3
    for (const [g, turns] of [3, 2, 1].entries()) expect(advantages_GK[g]).toHaveLength(turns);
    for (const advantage of advantages_GK.slice(0, 2).flat()) expect(advantage).toBeCloseTo(1 / 6, 12);
    expect(advantages_GK[2]?.[0]).toBeCloseTo(-1 / 3, 12);
  });

  test("by turn: a penalty is no fault of the turns after it", () => {
    const [advantages_GK = []] = turnAdvantages([rewards], { ...config, credit_assignment: "turn" });
    // returns from turn 0: 0.5, 0.5, 0; from turn 1: 0.5, 1, (0); from turn 2: 0.5, (1), (0)
    const expected = [[0.5 - 1 / 3, 0, 0], [0.5 - 1 / 3, 0.5], [-1 / 3]];
    for (const [g, turns] of expected.entries())
      for (const [k, advantage] of turns.entries()) expect(advantages_GK[g]?.[k]).toBeCloseTo(advantage, 12);
  });

  test.each(["group", "batch", "none"] as const)("without rewards of turns both are the same (scale %s)", (scale) => {
    const plain = [[1, 0, 0.25].map((outcome, g) => ({ outcome, turns_K: new Array<number>(g + 1).fill(0) }))];
    const of = (credit_assignment: "trajectory" | "turn") =>
      turnAdvantages(plain, { scale_rewards: scale, advantage_baseline: "group_mean", credit_assignment });
    expect(of("turn")).toEqual(of("trajectory"));
    const totals = stepAdvantages([[1, 0, 0.25]], { scale_rewards: scale, advantage_baseline: "group_mean" });
    expect(of("turn")[0]?.map((turns) => turns[0])).toEqual(totals[0]);
  });

  test("equal totals of unequal turns do not divide by almost nothing", () => {
    const tied = [
      { outcome: 1, turns_K: [-0.5, 0] },
      { outcome: 1, turns_K: [0, -0.5] },
    ];
    const scaled = { scale_rewards: "group", advantage_baseline: "group_mean", credit_assignment: "turn" } as const;
    const [advantages_GK = []] = turnAdvantages([tied], scaled);
    expect(advantages_GK.map((turns) => turns[0])).toEqual([0, 0]);
    // returns from turn 1: 1, 0.5: deviation 0.35355
    expect(advantages_GK[0]?.[1]).toBeCloseTo(0.25 / 0.35365339, 6);
  });
});

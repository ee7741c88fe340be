/** Methods that grow or merge: progressive, dynamic expansion, fusion. */
import { describe, expect, test } from "bun:test";
import { Rng } from "../../src/base/rng.ts";
import { adaptiveFusion, best, candidates } from "../../src/cl/adaptive-fusion.ts";
import { dynamicExpansion, rankFor } from "../../src/cl/dynamic-expansion.ts";
import { type FusionConfig, fusion, shares } from "../../src/cl/fusion.ts";
import { TrajectoryBuffer } from "../../src/cl/memory.ts";
import type { MethodOp } from "../../src/cl/method.ts";
import { progressive } from "../../src/cl/progressive.ts";
import { at, drive, experience, FIRST, SECOND, THIRD } from "../support/plans.ts";
import { rolloutOf } from "../support/rollouts.ts";

const lora = { lora_r: 8, lora_alpha: 16, lora_target_modules: ["q_proj"] };
const dense = { ...lora, lora_r: 0 };

test("progressive: a domain has its newest column, an unseen one the newest of all", () => {
  const method = progressive(lora);
  expect(drive(method.beforeDomain("a")).ops).toEqual([]);
  const order = [FIRST, SECOND, experience({ index: 2, domain: "a", earlier: ["b"] })];
  for (const one of order) {
    expect(drive(method.beforeExperience(at(one))).ops).toMatchObject([
      { op: "add_adapter", name: `column_${one.index}`, rank: 8, alpha: 16, gates: true },
    ]);
  }
  const columns = ["a", "b", "c"].map((domain) => drive(method.beforeDomain(domain)).ops);
  expect(columns).toEqual(
    ["column_2", "column_1", "column_2"].map((column) => [{ op: "activate_adapter", column } as const]),
  );
});

describe("dynamic_expansion", () => {
  test.each([
    [0, 16],
    [0.29, 16],
    [0.3, 8],
    [0.59, 8],
    [0.6, 4],
    [1, 4],
  ])("a reward of %d asks for rank %d", (reward, rank) => {
    const { ops } = drive(dynamicExpansion(lora).beforeExperience(at(SECOND)), () => ({ rewards: { b: reward } }));
    expect(ops).toMatchObject([
      { op: "probe", domains: ["b"], tasks: "train", tasks_max: 16 },
      { op: "add_adapter", rank, alpha: 2 * rank, gates: false },
    ]);
  });

  test("no block is empty", () => expect(rankFor(1, 1)).toBe(1));
});

describe("fusion", () => {
  const config: FusionConfig = {
    ...dense,
    fusion_start: "base",
    fusion_merge: "average",
    fusion_scale: 0.5,
    ties_density: 0.2,
    dare_drop_rate: 0.5,
    fisher_tasks: 3,
  };
  const merged = (fields: Partial<FusionConfig>, memory = new TrajectoryBuffer({ capacity: 9 })) => {
    const method = fusion({ ...config, ...fields });
    drive(method.afterExperience(at(FIRST, { memory })));
    return drive(method.afterExperience(at(SECOND, { memory }))).ops;
  };
  const weightsOf = (op: MethodOp | undefined) =>
    op?.op === "combine" ? op.terms.map(({ vector, factor }) => `${vector} ${factor}`) : [];

  test("each experience starts from θ₀, or from the merged weights", () => {
    const starts = (fields: Partial<FusionConfig>) =>
      [FIRST, SECOND].map((one) => drive(fusion({ ...config, ...fields }).beforeExperience(at(one))).ops);
    const copy = (from: string, into: string) => ({ op: "combine", into, terms: [{ vector: from, factor: 1 }] });
    const keep = copy("effective", "fusion_base");
    expect(starts({})).toEqual([[keep], [copy("fusion_base", "weights")]] as MethodOp[][]);
    expect(starts({ fusion_start: "merged" })).toEqual([[keep], []] as MethodOp[][]);
    expect(starts(lora)[1]?.[1]).toMatchObject({ op: "add_adapter", name: "task_1" });
  });

  test("the first experience merges nothing; LoRA is folded first", () => {
    const tau = {
      op: "combine",
      into: "fusion_tau_0",
      terms: [
        { vector: "weights", factor: 1 },
        { vector: "fusion_base", factor: -1 },
      ],
    };
    expect(drive(fusion(config).afterExperience(at(FIRST))).ops).toEqual([tau] as MethodOp[]);
    expect(drive(fusion({ ...config, ...lora }).afterExperience(at(FIRST))).ops).toEqual([
      { op: "merge_adapters" },
      tau,
    ] as MethodOp[]);
  });

  test("average, task arithmetic, reward-weighted", () => {
    expect(weightsOf(merged({}).at(-1))).toEqual(["fusion_base 1", "fusion_tau_0 0.5", "fusion_tau_1 0.5"]);
    expect(weightsOf(merged({ fusion_merge: "task_arithmetic", fusion_scale: 0.4 }).at(-1))).toEqual([
      "fusion_base 1",
      "fusion_tau_0 0.4",
      "fusion_tau_1 0.4",
    ]);
    // Rewards of the second half of each experience's own steps: 0.25 and 0.75.
    const memory = new TrajectoryBuffer({ capacity: 99 });
    for (const [task_idx, reward] of [
      [0, 0.25],
      [1, 0.75],
    ] as const) {
      const domain = "ab"[task_idx] as string;
      for (const [step, value] of [
        [0, 1],
        [9, reward],
      ] as const)
        memory.add({ ...rolloutOf({ domain, reward: value }), task_idx, step, replayed: false });
      memory.add({ ...rolloutOf({ domain: "a", reward: 1 }), task_idx, step: 9, replayed: true });
    }
    expect(weightsOf(merged({ fusion_merge: "reward_weighted" }, memory).at(-1))).toEqual([
      "fusion_base 1",
      "fusion_tau_0 0.25",
      "fusion_tau_1 0.75",
    ]);
    expect(shares([0, 0])).toEqual([0.5, 0.5]);
  });

  test.each([
    { fusion_merge: "ties", op: { op: "merge_ties", density: 0.2 }, factor: 0.5 },
    { fusion_merge: "dare", op: { op: "merge_dare", drop_rate: 0.5 }, factor: 0.5 },
    {
      fusion_merge: "fisher",
      op: { op: "merge_fisher", importances: ["fusion_fisher_0", "fusion_fisher_1"] },
      factor: 1,
    },
  ] as const)("$fusion_merge", ({ fusion_merge, op, factor }) => {
    const [merge, apply, drop] = merged({ fusion_merge }).slice(-3);
    expect(merge).toMatchObject({ ...op, into: "fusion_merged", vectors: ["fusion_tau_0", "fusion_tau_1"] } as never);
    expect(weightsOf(apply)).toEqual(["fusion_base 1", `fusion_merged ${factor}`]);
    expect(drop).toEqual({ op: "drop", name: "fusion_merged" });
  });
});

describe("adaptive_fusion", () => {
  test("candidates are uniform, one-hot and ten Dirichlet draws, each on the simplex", () => {
    const all = candidates(3, Rng.from(1));
    expect(all.length).toBe(1 + 3 + 10);
    expect(all.slice(1, 4)).toEqual([
      [1, 0, 0],
      [0, 1, 0],
      [0, 0, 1],
    ]);
    for (const weights of all) {
      expect(weights.reduce((sum, weight) => sum + weight, 0)).toBeCloseTo(1, 12);
      expect(Math.min(...weights)).toBeGreaterThanOrEqual(0);
    }
  });

  test("the best macro mean wins, ties go to the one nearest to uniform", () => {
    const tried = [
      { weights: [1, 0], reward: 0.5 },
      { weights: [0.6, 0.4], reward: 0.5 },
      { weights: [0.5, 0.5], reward: 0.4 },
    ];
    expect(best(tried).weights).toEqual([0.6, 0.4]);
  });

  test("every candidate is probed on all seen domains; the winner becomes the policy", () => {
    const method = adaptiveFusion({ ...dense, fusion_start: "base" });
    drive(method.afterExperience(at(FIRST)));
    let probes = 0;
    const { ops } = drive(method.afterExperience(at(THIRD)), (op) => {
      if (op.op !== "probe") return {};
      expect(op).toMatchObject({ domains: ["a", "b", "c"], tasks: "train", tasks_max: 8 });
      probes += 1;
      return { rewards: { a: 0, b: probes === 3 ? 1 : 0, c: 0 } };
    });
    expect(probes).toBe(14);
    // The third candidate is the second one-hot one.
    expect(ops.at(-1)).toMatchObject({ terms: [{}, { factor: 0 }, { factor: 1 }, { factor: 0 }] });
  });
});

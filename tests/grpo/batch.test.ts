import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import type { TrainingBatch } from "../../src/core/policy.ts";
import { type BatchConfig, hasSignal, type PackedStep, packBatches } from "../../src/grpo/batch.ts";
import type { Group, Rollout } from "../../src/rollout/types.ts";
import { groupOf, PLAIN_STEP, rolloutOf } from "../support/rollouts.ts";
import { readSafetensors, type Tensor } from "../support/safetensors.ts";
import { foldersWith, SHARED } from "../support/shared.ts";

const EXPECTED = "fixtures/core/expected";
const models = foldersWith(EXPECTED, "grpo.json");

const CONFIG = PLAIN_STEP;

describe("the losses of TRL's GRPO trainer follow from our weights", () => {
  if (models.length === 0) test.skip("no fixtures/core/expected/*/grpo.json under GRPO_CL_SHARED", () => {});

  for (const model of models) {
    const { cases, group, T, loss_tokens } = JSON.parse(
      readFileSync(join(SHARED, EXPECTED, model, "grpo.json"), "utf8"),
    );
    const fixture = readFixture(model);
    const config = { ...CONFIG, completion_tokens_max: T };

    test.each(cases as Case[])(
      `${model}: $loss_type, beta $beta, epsilon $epsilon/$epsilon_high, KL correction $use_bias_correction_kl`,
      (expected) => {
        const of = { ...config, loss_type: expected.loss_type, kl_coef: expected.beta };
        const loss = plainLoss(only(packBatches(groupsOf(fixture, group), of)), fixture, expected);
        expect(Math.abs(loss - expected.loss)).toBeLessThan(1e-5);
        expect(Math.abs(loss - expected.formula_loss)).toBeLessThan(1e-5);
      },
    );

    test(`${model}: every token of completion_mask and tool_mask is in the loss, no other`, () => {
      const packed = packBatches(groupsOf(fixture, group), config);
      const { report } = packed;
      const expected = fixture.rows.flatMap((row) => row.mask);
      const inLoss = Array.from(only(packed).weights_N, (weight) => (weight > 0 ? 1 : 0));
      expect(inLoss as number[]).toEqual(expected);
      expect(report.loss_tokens).toBe(loss_tokens);
    });
  }
});

/** The batch of the one update. */
function only({ mini_batches }: PackedStep): TrainingBatch {
  expect(mini_batches).toHaveLength(1);
  return mini_batches[0] as TrainingBatch;
}

interface Case {
  readonly loss_type: BatchConfig["loss_type"];
  readonly beta: number;
  readonly epsilon: number;
  readonly epsilon_high: number;
  readonly use_bias_correction_kl: boolean;
  readonly loss: number;
  readonly formula_loss: number;
}

interface Fixture {
  readonly rewards: readonly number[];
  /** Prompt and completion without padding; `id` tells a row and position in every other tensor. */
  readonly rows: readonly {
    readonly tokens: readonly number[];
    readonly mask: readonly number[];
    readonly old: readonly number[];
    readonly now: readonly number[];
    readonly ref: readonly number[];
  }[];
}

/** -min(r·A, clip(r)·A) + beta·k3, summed with the weights: the formula of policy.ts in plain numbers. */
function plainLoss(batch: TrainingBatch, fixture: Fixture, c: Case): number {
  let loss = 0;
  for (const [s, row] of batchRows(batch, fixture).entries()) {
    const start = batch.offsets[s] ?? 0;
    for (const [t, now] of row.now.entries()) {
      const weight = batch.weights_N[start + t] ?? 0;
      if (weight === 0) continue;
      const ratio = Math.exp(now - (batch.old_logprobs_N[start + t] ?? 0));
      const A = batch.advantages_N[start + t] ?? 0;
      const clipped = Math.min(Math.max(ratio, 1 - c.epsilon), 1 + c.epsilon_high);
      const d = (row.ref[t] ?? 0) - now;
      const k3 = (Math.exp(d) - d - 1) * (c.use_bias_correction_kl ? ratio : 1);
      loss += weight * (-Math.min(ratio * A, clipped * A) + c.beta * k3);
    }
  }
  return loss;
}

/** The fixture's rows that a batch holds, found by their tokens. */
function batchRows(batch: TrainingBatch, fixture: Fixture) {
  return Array.from(batch.offsets.subarray(0, -1), (start, s) => {
    const tokens = [...batch.tokens_N.subarray(start, batch.offsets[s + 1])].join();
    const row = fixture.rows.find((candidate) => candidate.tokens.join() === tokens);
    if (row === undefined) throw new Error(`sequence ${s} is no row of the fixture`);
    return row;
  });
}

function readFixture(model: string): Fixture {
  const folder = join(SHARED, EXPECTED, model);
  const batch = readSafetensors(join(folder, "grpo_batch.safetensors"));
  const { per_token_logps } = Object.fromEntries(
    readSafetensors(join(folder, "grpo_tensors.safetensors"), (name) => name === "per_token_logps"),
  );
  const row = (tensor: Tensor | undefined, i: number) => {
    const width = tensor?.shape[1] ?? 0;
    return tensor?.values.slice(i * width, (i + 1) * width) ?? [];
  };
  const rewards = batch.get("rewards")?.values ?? [];
  const rows = rewards.map((_, i) => {
    const prompt = kept(row(batch.get("prompt_ids"), i), row(batch.get("prompt_mask"), i));
    const present = row(batch.get("completion_mask"), i);
    const unsampled = prompt.map(() => 0);
    const completion = (name: string) => kept(row(batch.get(name), i), present);
    return {
      tokens: [...prompt, ...completion("completion_ids")],
      mask: [...unsampled, ...completion("tool_mask")],
      old: [...unsampled, ...completion("old_per_token_logps")],
      ref: [...unsampled, ...completion("ref_per_token_logps")],
      now: [...unsampled, ...kept(row(per_token_logps, i), present)],
    };
  });
  return { rewards, rows };
}

const kept = (values: readonly number[], mask: readonly number[]) => values.filter((_, t) => mask[t] === 1);

function groupsOf(fixture: Fixture, size: number): Group[] {
  const rollouts = fixture.rows.map((row, i) =>
    rolloutOf({
      task_id: String(Math.floor(i / size)),
      sample: i % size,
      tokens: Uint32Array.from(row.tokens),
      sampled_mask: Uint8Array.from(row.mask),
      logprobs: Float32Array.from(row.old),
      reward: fixture.rewards[i] ?? 0,
    }),
  );
  return Array.from({ length: rollouts.length / size }, (_, p) =>
    groupOf(rollouts.slice(p * size, (p + 1) * size), { task_id: String(p) }),
  );
}

const anyRollout: fc.Arbitrary<Rollout> = fc
  .record({
    tail: fc.array(fc.record({ token: fc.nat(50), sampled: fc.boolean() }), { maxLength: 12 }),
    reward: fc.constantFrom(0, 0.5, 1),
    failed: fc.boolean(),
  })
  .map(({ tail, reward, failed }) =>
    rolloutOf({
      tokens: Uint32Array.of(7, ...tail.map(({ token }) => token)),
      sampled_mask: Uint8Array.of(0, ...tail.map(({ sampled }) => (sampled ? 1 : 0))),
      logprobs: Float32Array.of(0, ...tail.map(({ sampled }) => (sampled ? -2 : 0))),
      reward,
      termination: failed ? "infrastructure_error" : "user_stop",
    }),
  );
const anyGroups = fc.array(fc.array(anyRollout, { minLength: 1, maxLength: 4 }), { minLength: 1, maxLength: 5 });
const anyConfig: fc.Arbitrary<BatchConfig> = fc.record({
  loss_type: fc.constantFrom("grpo", "dr_grpo", "dapo", "bnpo", "gspo", "cispo"),
  scale_rewards: fc.constantFrom("group", "batch", "none"),
  advantage_baseline: fc.constantFrom("group_mean", "leave_one_out"),
  credit_assignment: fc.constantFrom("trajectory", "turn"),
  num_mini_batches: fc.integer({ min: 1, max: 3 }),
  kl_in_reward: fc.constant(false),
  mask_truncated_completions: fc.constant(false),
  malformed_call_penalty: fc.constantFrom(0, 0.5),
  max_completion_len: fc.constantFrom(null, 6),
  soft_punish_cache: fc.constant(3),
  kl_coef: fc.constantFrom(0, 0.1),
  entropy_coef: fc.constantFrom(0, 0.01),
  completion_tokens_max: fc.constant(12),
});

test("every sampled token is in the loss exactly once, and no other is", () => {
  fc.assert(
    fc.property(anyGroups, anyConfig, (rollouts_PG, config) => {
      const groups = rollouts_PG.map((rollouts, p) => groupOf(rollouts, { task_id: String(p) }));
      const { mini_batches, report } = packBatches(groups, config);
      const alive = rollouts_PG.flat().filter((rollout) => rollout.termination !== "infrastructure_error");
      const sampled = (rollout: Rollout) => rollout.sampled_mask.reduce((n, one) => n + one, 0);
      let inLoss = 0;
      let weight = 0;
      for (const batch of mini_batches) {
        expect(batch.offsets.at(-1)).toBe(batch.tokens_N.length);
        for (const start of batch.offsets.subarray(0, -1)) expect(batch.weights_N[start]).toBe(0);
        for (const [n, one] of batch.weights_N.entries()) {
          if (one > 0) inLoss++;
          weight += one;
          expect(batch.old_logprobs_N[n]).toBe(one > 0 ? -2 : 0);
        }
      }
      expect(report.sequences).toBe(alive.length);
      expect(report.loss_tokens).toBe(inLoss);
      if (config.kl_coef + config.entropy_coef === 0) return;
      expect(inLoss).toBe(alive.reduce((n, rollout) => n + sampled(rollout), 0));
      const perToken = config.loss_type === "dapo" || config.loss_type === "cispo";
      if (inLoss > 0 && perToken) expect(weight).toBeCloseTo(config.num_mini_batches, 4);
      if (inLoss > 0 && config.loss_type === "bnpo") expect(weight).toBeCloseTo(mini_batches.length, 4);
      const speaking = alive.filter((rollout) => sampled(rollout) > 0).length;
      const perSequence = config.loss_type === "grpo" || config.loss_type === "gspo";
      if (perSequence && alive.length > 0 && config.num_mini_batches === 1)
        expect(weight).toBeCloseTo(speaking / alive.length, 4);
    }),
  );
});

test("a rollout lost to the infrastructure moves neither the others' advantages nor their weights", () => {
  const others = [rolloutOf({ reward: 1 }), rolloutOf({ reward: 0, sample: 1 })];
  const failed = rolloutOf({ reward: 0, sample: 2, termination: "infrastructure_error" });
  const without = packBatches([groupOf(others)], CONFIG);
  const with_ = packBatches([groupOf([...others, failed])], CONFIG);
  expect(with_.mini_batches).toEqual(without.mini_batches);
  expect(with_.report).toEqual({ ...without.report, failed_rollouts: 1 });
});

test("tied groups are reported per domain, replayed ones apart, and packed only while KL or entropy is in the loss", () => {
  const tied = [rolloutOf({ reward: 1 }), rolloutOf({ reward: 1, sample: 1 })];
  const unequal = [rolloutOf({ reward: 1 }), rolloutOf({ reward: 0, sample: 1 })];
  const groups = [
    groupOf(tied, { domain: "rail" }),
    groupOf(unequal, { domain: "shop", replayed: true }),
    groupOf(tied, { domain: "rail", task_id: "1" }),
    groupOf(tied, { domain: "shop", task_id: "2" }),
  ];
  const packed = packBatches(groups, CONFIG);
  expect(packed.report.spreads).toEqual([
    { domain: "rail", replayed: false, groups: 2, tied: 2, unequal_fraction: 0 },
    { domain: "shop", replayed: true, groups: 1, tied: 0, unequal_fraction: 1 },
    { domain: "shop", replayed: false, groups: 1, tied: 1, unequal_fraction: 0 },
  ]);
  expect(only(packed).offsets.length).toBe(9);
  const noKl = packBatches(groups, { ...CONFIG, kl_coef: 0 });
  expect(only(noKl).offsets.length).toBe(3);
  expect(noKl.report).toMatchObject({ sequences: 8, packed_sequences: 2, loss_tokens: 4 });
  const weight = only(noKl).weights_N.find((one) => one > 0);
  expect(weight).toBeCloseTo(1 / (8 * 2), 7);
  expect(packBatches(groups, { ...CONFIG, kl_coef: 0, entropy_coef: 0.1 }).report.packed_sequences).toBe(8);
  expect(packBatches([groupOf(tied)], { ...CONFIG, kl_coef: 0 }).mini_batches).toEqual([]);
});

test.each([
  ["mask and tokens differ in length", { sampled_mask: Uint8Array.of(0, 1) }, "mask values"],
  ["the first token is marked as sampled", { sampled_mask: Uint8Array.of(1, 1, 1) }, "first token"],
  ["a log-probability is not a number", { logprobs: Float32Array.of(0, Number.NaN, -1) }, "not finite"],
  ["the reward is not a number", { reward: Number.NaN }, "reward is NaN"],
  ["a malformed turn was never taken", { malformed_turns: [1] }, "malformed"],
])("stops when %s", (_, fields: Partial<Rollout>, message) => {
  expect(() => packBatches([groupOf([rolloutOf(fields)])], CONFIG)).toThrow(message);
});

describe("mini-batches", () => {
  const pair = (p: number, length: number) =>
    groupOf(
      [0, 1].map((reward) => rolloutOf({ reward, sample: reward, tokens: Uint32Array.from({ length }, () => p) })),
      { task_id: String(p), replayed: p === 4 },
    );
  const groups = [3, 4, 5, 6, 7].map((length, p) => pair(p, length));
  const weights = (packed: PackedStep) =>
    packed.mini_batches.map(({ weights_N }) => [...weights_N].filter((weight) => weight > 0));

  test("are dealt out by task and share the step's advantages", () => {
    const config = { ...CONFIG, num_mini_batches: 2, scale_rewards: "batch" } as const;
    const { mini_batches, report } = packBatches(groups, config);
    expect(mini_batches.map(({ tokens_N }) => [...new Set(tokens_N)])).toEqual([
      [0, 2, 4],
      [1, 3],
    ]);
    const inStep = new Set(mini_batches.flatMap(({ advantages_N }) => [...advantages_N]));
    expect(inStep.size).toBe(3); // 0 and ±, the same in every mini-batch
    expect(report.packed_sequences).toBe(10);
  });

  // Tokens in the loss: 2·(2 + 4 + 6) = 24 of 6 sequences, 2·(3 + 5) = 16 of 4. TRL: grpo and bnpo are means over the
  // micro-batch, dapo and cispo divide by num_items_in_batch of the generation batch / steps per generation = 40/2.
  test.each([
    { loss_type: "grpo", first: [1 / 12, 1 / 24, 1 / 36], second: [1 / 12, 1 / 20] },
    { loss_type: "gspo", first: [1 / 12, 1 / 24, 1 / 36], second: [1 / 12, 1 / 20] },
    { loss_type: "bnpo", first: [1 / 24], second: [1 / 16] },
    { loss_type: "dapo", first: [1 / 20], second: [1 / 20] },
    { loss_type: "cispo", first: [1 / 20], second: [1 / 20] },
    { loss_type: "dr_grpo", first: [1 / 120], second: [1 / 80] },
  ] as const)("$loss_type is normalised over the mini-batch", ({ loss_type, first, second }) => {
    const got = weights(packBatches(groups, { ...CONFIG, loss_type, num_mini_batches: 2 }));
    for (const [m, expected] of [first, second].entries()) {
      const distinct = [...new Set(got[m])];
      expect(distinct).toHaveLength(expected.length);
      for (const [i, weight] of expected.entries()) expect(distinct[i]).toBeCloseTo(weight, 7);
    }
  });

  test("without anything to learn are left out", () => {
    const tied = groupOf([rolloutOf(), rolloutOf({ sample: 1 })], { task_id: "tied" });
    const config = { ...CONFIG, kl_coef: 0, num_mini_batches: 2 };
    expect(packBatches([pair(0, 3), tied], config).mini_batches).toHaveLength(1);
  });
});

describe("masked truncated rollouts", () => {
  const cut = { truncated_turns: 1, tokens: Uint32Array.of(1, 2, 3, 4, 5) };
  const group = groupOf([rolloutOf({ reward: 1 }), rolloutOf({ sample: 1 }), rolloutOf({ sample: 2, ...cut })]);
  const config = { ...CONFIG, mask_truncated_completions: true };

  // As TRL's mask: the sequence stays in the mean over sequences and in the group's rewards, its tokens in no sum.
  test.each([
    { loss_type: "grpo", weight: 1 / (3 * 2) },
    { loss_type: "dapo", weight: 1 / 4 },
  ] as const)("$loss_type", ({ loss_type, weight }) => {
    const packed = packBatches([group], { ...config, loss_type });
    const batch = only(packed);
    expect(batch.offsets.length).toBe(3);
    expect([...new Set(batch.weights_N)].map((w) => Number(w.toFixed(7)))).toEqual([0, Number(weight.toFixed(7))]);
    expect(batch.advantages_N[1]).toBeCloseTo((1 - 1 / 3) / (0.57735027 + 1e-4), 5);
    expect(packed.report).toMatchObject({ sequences: 3, masked_rollouts: 1, loss_tokens: 4 });
  });

  test.each(["max_steps", "context_window_exceeded"] as const)("%s cuts, too", (termination) => {
    const { report } = packBatches(
      [groupOf([rolloutOf({ reward: 1 }), rolloutOf({ sample: 1, termination })])],
      config,
    );
    expect(report.masked_rollouts).toBe(1);
  });

  test("are in the loss by default", () => {
    expect(packBatches([group], CONFIG).report).toMatchObject({ masked_rollouts: 0, loss_tokens: 8 });
  });
});

/** Two turns: tokens 1..2 and 4..5. */
const twoTurns = (fields: Partial<Rollout>) =>
  rolloutOf({ tokens: Uint32Array.of(9, 1, 2, 9, 4, 5), sampled_mask: Uint8Array.of(0, 1, 1, 0, 1, 1), ...fields });

test("turn-level credit reaches the tokens of its turn", () => {
  const group = groupOf([twoTurns({ reward: 1, malformed_turns: [0] }), twoTurns({ reward: 0, sample: 1 })]);
  const plain = { ...CONFIG, scale_rewards: "none", malformed_call_penalty: 0.5 } as const;
  const advantages = (config: BatchConfig) => [...only(packBatches([group], config)).advantages_N];
  // returns 0.5 and 0; from the second turn on 1 and 0
  expect(advantages(plain)).toEqual([0, 0.25, 0.25, 0, 0.25, 0.25, 0, -0.25, -0.25, 0, -0.25, -0.25]);
  expect(advantages({ ...plain, credit_assignment: "turn" })).toEqual([
    ...[0, 0.25, 0.25, 0, 0.5, 0.5],
    ...[0, -0.25, -0.25, 0, -0.5, -0.5],
  ]);
  expect(packBatches([group], plain).report.penalty_mean).toBe(0.25);
});

test("KL in the reward moves advantages, and tied groups without KL in the loss are packed for it", () => {
  const rollouts = [twoTurns({ reward: 1 }), twoTurns({ reward: 1, sample: 1 })];
  const kl = new Map([[rollouts[0] as Rollout, Float32Array.of(0, 1, 0.5, 0, 0.25, 0.25)]]);
  const config = { ...CONFIG, scale_rewards: "none", kl_coef: 0.5, kl_in_reward: true } as const;
  const batch = only(packBatches([groupOf(rollouts)], config, kl));
  // returns 1 - 0.5·2 = 0 and 1
  expect(batch.advantages_N[1]).toBe(-0.5);
  expect(packBatches([groupOf(rollouts)], config).mini_batches).toEqual([]);
});

test("dynamic sampling keeps groups whose rewards, penalties included, differ", () => {
  const malformed = [rolloutOf({ reward: 1 }), rolloutOf({ reward: 1, sample: 1, malformed_turns: [0] })];
  const failed = [rolloutOf({ reward: 1 }), rolloutOf({ sample: 1, termination: "infrastructure_error" })];
  expect(hasSignal(groupOf(malformed), CONFIG)).toBe(false);
  expect(hasSignal(groupOf(malformed), { ...CONFIG, malformed_call_penalty: 0.1 })).toBe(true);
  expect(hasSignal(groupOf(failed), CONFIG)).toBe(false);
  expect(hasSignal(groupOf([rolloutOf({ reward: 1 }), rolloutOf({ sample: 1 })]), CONFIG)).toBe(true);
});

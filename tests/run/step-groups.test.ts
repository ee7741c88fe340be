/** What options of GRPO do to a whole run of lamps. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CLAlgorithm } from "../../src/cl/method.ts";
import type { RunConfigInput } from "../../src/config/schema.ts";
import type { FakeScript } from "../../src/core/fake.ts";
import type { MetricsRow, TrainRow } from "../../src/metrics/rows.ts";
import { type LampRunOptions, lampConfig, lampRun, luckyScript } from "../support/lamp-run.ts";

const root = mkdtempSync(join(tmpdir(), "grpo-cl-options-"));
afterAll(() => rmSync(root, { recursive: true }));

let runs = 0;
const run = (fields: Partial<RunConfigInput>, options: LampRunOptions = {}, log_dir = join(root, `run-${runs++}`)) =>
  lampRun(lampConfig(log_dir, { eval_interval: 0, ...fields }), options);
const trainRows = (rows: readonly MetricsRow[]) => rows.filter((row) => row.kind === "train") as TrainRow[];
const metricsOf = (log_dir: string) => readFileSync(join(log_dir, "metrics.jsonl"), "utf8");

describe("dynamic sampling", () => {
  const fields = { dynamic_sampling: true, dynamic_sampling_rounds_max: 3, kl_coef: 0.1, save_interval: 1 };
  const finished = run(fields);

  test("replaces tied groups by further tasks, and leaves them out of the update", async () => {
    const { rows, policy } = await finished;
    const steps = trainRows(rows);
    expect(steps.some((row) => (row["rollout/groups_refilled"] ?? 0) > 0)).toBe(true);
    for (const row of steps) {
      const all = (row["rollout/groups"] ?? 0) + (row["rollout/replay_groups"] ?? 0);
      expect(all).toBe(4 + (row["rollout/groups_refilled"] ?? 0));
      expect(row["rollout/groups_refilled"]).toBeLessThanOrEqual(2 * 4);
    }
    // with KL in the loss a tied group would be packed, with advantages of zero
    for (const { batch } of policy.batches)
      for (const [n, weight] of batch.weights_N.entries()) if (weight > 0) expect(batch.advantages_N[n]).not.toBe(0);
  });

  test("of a policy that never wins ends after the rounds that are allowed, without an update", async () => {
    const { rows, policy } = await run({ ...fields, cl_algorithm: "sequential" }, { script: () => "Done." });
    for (const row of trainRows(rows)) expect(row).toMatchObject({ "rollout/groups_refilled": 8, "train/skipped": 1 });
    expect(policy.optimizerSteps).toEqual([]);
  });

  test("two rounds of one task are not one sample twice", async () => {
    const seeds = new Set<bigint>();
    const script: FakeScript = (_tokens, { request }) => {
      seeds.add(request.seed);
      return "Done.";
    };
    // 8 lamps, 4 a round: the third round meets the tasks of the first again
    const { policy } = await run({ ...fields, task_order: ["hall"], num_steps_per_task: 1 }, { script });
    const evaluated = 2 * 2; // two tasks, two trials, with the same streams before and after
    expect(seeds.size).toBe(policy.samples.length - evaluated);
    expect(policy.samples).toHaveLength(3 * 4 * 3 + 2 * evaluated);
  });

  test("resumed it equals the run that never stopped", async () => {
    const whole = await finished;
    const log_dir = join(root, "stopped");
    const abort = new AbortController();
    const onLine = (text: string) => void (text.startsWith("Task 1, Step 1") && abort.abort());
    await expect(run(fields, { signal: abort.signal, onLine }, log_dir)).rejects.toThrow();
    await run({ ...fields, resume_from: log_dir }, {}, log_dir);
    expect(metricsOf(log_dir)).toBe(metricsOf(whole.log_dir));
  });
});

test("a step is one gradient, the same whatever the accumulation", async () => {
  const [whole, halves] = await Promise.all(
    [1, 2].map((n) => run({ batch_size_per_gpu: 4 / n, gradient_accumulation_steps: n, kl_coef: 0.1 })),
  );
  expect(whole?.policy.batches).toHaveLength(whole?.policy.optimizerSteps.length ?? Number.NaN);
  expect(halves?.policy.batches).toEqual(whole?.policy.batches);
  expect(halves?.rows).toEqual(whole?.rows);
});

test("several updates a step: all are counted, and rollouts know how many came before", async () => {
  const { rows, policy } = await run({ num_iterations: 2, num_mini_batches: 2 });
  const steps = trainRows(rows);
  const updates = steps.map((row) => row["train/updates"] ?? 0);
  expect(updates.reduce((a, b) => a + b, 0)).toBe(policy.optimizerSteps.length);
  expect(Math.max(...updates)).toBe(4);
});

test("a method sees every update of a step", async () => {
  let seen = 0;
  class Counting extends CLAlgorithm {
    readonly name = "counting";
    override preStepHook() {
      seen += 1;
      return [];
    }
  }
  const { policy } = await run({ num_iterations: 2, num_mini_batches: 2 }, { method: new Counting() });
  expect(seen).toBe(policy.optimizerSteps.length);
  expect(seen).toBeGreaterThan(9);
});

test("KL in the reward is measured before the update, and its loss has none", async () => {
  const { rows, policy } = await run({ kl_in_reward: true, kl_estimator: "k1", kl_coef: 0.5 });
  expect(policy.calls.logprobs).toBeGreaterThan(0);
  const [first, ...later] = trainRows(rows);
  expect(first).toMatchObject({ "train/kl": 0, "rollout/penalty_mean": 0 });
  for (const row of later) {
    const sampled = (row["train/kl"] ?? 0) * (row["rollout/sampled_tokens"] ?? 0);
    expect(row["rollout/penalty_mean"]).toBeCloseTo((0.5 * sampled) / 12, 10);
    expect(sampled).not.toBe(0);
  }
  for (const { loss } of policy.batches) expect(loss).toMatchObject({ kl_coef: 0, anchor: null });
});

test("penalties move advantages; rewards are reported without them", async () => {
  const script: FakeScript = (tokens, context) => {
    const answer = luckyScript(tokens, context);
    return answer === "Done." && !context.text.includes("<tool_call>\n{") ? "<tool_call>{" : answer;
  };
  const fields = { malformed_calls: "error_to_agent", max_errors: 1 } as const;
  const plain = await run({ ...fields, num_steps_per_task: 1, task_order: ["hall"] }, { script });
  const penalised = await run(
    { ...fields, num_steps_per_task: 1, task_order: ["hall"], malformed_call_penalty: 0.5, credit_assignment: "turn" },
    { script },
  );
  const [[a], [b]] = [trainRows(plain.rows), trainRows(penalised.rows)];
  expect(a?.["rollout/reward_mean"]).toBe(b?.["rollout/reward_mean"] ?? null);
  expect(a).toMatchObject({ "rollout/penalty_mean": 0 });
  expect(b?.["rollout/penalty_mean"]).toBeCloseTo(((b?.["rollout/malformed_calls"] ?? 0) * 0.5) / 12, 12);
  expect(b?.["rollout/malformed_calls"]).toBeGreaterThan(0);
});

test("conversations that a limit cut are kept out of the loss", async () => {
  const { rows, policy } = await run({ mask_truncated_completions: true, max_new_tokens: 3, task_order: ["hall"] });
  for (const row of trainRows(rows)) expect(row).toMatchObject({ "rollout/masked": 12, "train/loss_tokens": 0 });
  expect(policy.batches).toEqual([]);
});

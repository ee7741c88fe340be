/** `overlap_rollouts`: the next step's rollouts are made beside this step's gradient, under the weights before its update. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { RunConfigInput } from "../../src/config/schema.ts";
import type { TrainRow } from "../../src/metrics/rows.ts";
import { lampConfig, lampRun } from "../support/lamp-run.ts";

const root = mkdtempSync(join(tmpdir(), "grpo-cl-overlap-"));
afterAll(() => rmSync(root, { recursive: true }));

let runs = 0;
const freshDirectory = () => join(root, `run-${runs++}`);
const OVERLAP: Partial<RunConfigInput> = { overlap_rollouts: true, save_interval: 1, num_steps_per_task: 4 };

const trainRows = (rows: readonly { kind: string }[]) => rows.filter((row) => row.kind === "train") as TrainRow[];
const metricsOf = (log_dir: string) => readFileSync(join(log_dir, "metrics.jsonl"), "utf8");

function rolloutsOf(log_dir: string): Record<string, string> {
  const names = readdirSync(join(log_dir, "rollouts"));
  const text = (name: string) => Bun.zstdDecompressSync(readFileSync(join(log_dir, "rollouts", name))).toString();
  return Object.fromEntries(names.map((name) => [name, text(name)]));
}

test("rollouts are one step old, but for the first of each experience, and the run says so", async () => {
  const { rows, lines } = await lampRun(lampConfig(freshDirectory(), { ...OVERLAP, num_mini_batches: 2 }));
  const updatesBefore = (i: number) => trainRows(rows)[i - 1]?.["train/updates"] ?? 0;
  const expected = trainRows(rows).map(({ step }, i) => (step === 0 ? 0 : updatesBefore(i)));
  expect(trainRows(rows).map((row) => row["rollout/staleness_mean"])).toEqual(expected);
  expect(Math.max(...expected)).toBe(2);
  expect(lines).toContain("  rollouts are 2.0 updates old: importance ratios correct for it");
});

test("without it every rollout is of the weights that its update begins with", async () => {
  const { rows, lines } = await lampRun(lampConfig(freshDirectory(), { num_steps_per_task: 4 }));
  for (const row of trainRows(rows)) expect(row["rollout/staleness_mean"]).toBe(0);
  expect(lines.filter((line) => line.includes("updates old"))).toEqual([]);
});

describe("a resumed run equals one that never stopped", () => {
  const cases = [
    { where: "after the first step", pattern: /^Task 0, Step 1/, fields: {} },
    { where: "in an evaluation between steps", pattern: /^Evaluation after step 1/, fields: {} },
    { where: "at the end of an experience", pattern: /^Evaluation after task 0/, fields: {} },
    { where: "in the last experience", pattern: /^Task 2, Step 2/, fields: {} },
    { where: "with refilled groups", pattern: /^Task 1, Step 2/, fields: { dynamic_sampling: true } },
    { where: "with remembered rollouts", pattern: /^Task 1, Step 2/, fields: { replay_mode: "stored" } },
  ] as const;
  test.each(cases)("$where", async ({ pattern, fields }) => {
    const whole = freshDirectory();
    const uninterrupted = await lampRun(lampConfig(whole, { ...OVERLAP, ...fields }));
    const log_dir = freshDirectory();
    const controller = new AbortController();
    const onLine = (text: string) => void (pattern.test(text) && controller.abort());
    const stopped = lampRun(lampConfig(log_dir, { ...OVERLAP, ...fields }), { signal: controller.signal, onLine });
    await expect(stopped).rejects.toThrow();
    const resumed = await lampRun(lampConfig(log_dir, { ...OVERLAP, ...fields, resume_from: log_dir }));
    expect(metricsOf(log_dir)).toBe(metricsOf(whole));
    expect(rolloutsOf(log_dir)).toEqual(rolloutsOf(whole));
    expect(resumed.policy.weights).toEqual(uninterrupted.policy.weights);
  });
});

test("rollouts that fail end the run with their own error", async () => {
  let asked = 0;
  const script = () => {
    if (++asked > 40) throw new Error("the engine was lost");
    return "Done.";
  };
  await expect(lampRun(lampConfig(freshDirectory(), OVERLAP), { script })).rejects.toThrow("the engine was lost");
});

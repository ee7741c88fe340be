import { afterAll, describe, expect, test } from "bun:test";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { RunConfigInput } from "../../src/config/schema.ts";
import { AbortedError } from "../../src/run/abort.ts";
import { lampConfig, lampRun } from "../support/lamp-run.ts";

const root = mkdtempSync(join(tmpdir(), "grpo-cl-resume-"));
afterAll(() => rmSync(root, { recursive: true }));

let runs = 0;
const freshDirectory = () => join(root, `run-${runs++}`);
const metricsOf = (log_dir: string) => readFileSync(join(log_dir, "metrics.jsonl"), "utf8");
const FIELDS: Partial<RunConfigInput> = { save_interval: 1, num_steps_per_task: 3 };

/** Starts a run and stops it at the line. */
async function interruptedAt(pattern: RegExp, fields: Partial<RunConfigInput> = FIELDS) {
  const log_dir = freshDirectory();
  const controller = new AbortController();
  const onLine = (text: string) => {
    if (pattern.test(text)) controller.abort();
  };
  const error = await lampRun(lampConfig(log_dir, fields), { signal: controller.signal, onLine }).then(
    () => null,
    (reason: unknown) => reason,
  );
  return { log_dir, error };
}

const uninterrupted = lampRun(lampConfig(freshDirectory(), FIELDS));

describe("a resumed run equals one that never stopped", () => {
  test.each([
    { where: "after the first step", pattern: /^Task 0, Step 1/ },
    { where: "in an evaluation between steps", pattern: /^Evaluation after step 1/ },
    { where: "at the end of a domain", pattern: /^Evaluation after task 0/ },
    { where: "right after a domain's checkpoint", pattern: /^Saved .*checkpoint_task_0/ },
    { where: "in the middle of the second domain", pattern: /^Task 1, Step 2/ },
    { where: "in the last domain", pattern: /^Task 2, Step 1/ },
  ])("$where", async ({ pattern }) => {
    const { log_dir, error } = await interruptedAt(pattern);
    expect(error).toBeInstanceOf(AbortedError);
    const resumed = await lampRun(lampConfig(log_dir, { ...FIELDS, resume_from: log_dir }));
    const whole = await uninterrupted;
    expect(metricsOf(log_dir)).toBe(metricsOf(whole.log_dir));
    expect(resumed.policy.weights).toEqual(whole.policy.weights);
    expect(await resumed.policy.digest()).toBe(await whole.policy.digest());
    expect(readFileSync(join(log_dir, "metrics.json"), "utf8")).toBe(
      readFileSync(join(whole.log_dir, "metrics.json"), "utf8"),
    );
    const memory = (directory: string) =>
      readFileSync(join(directory, "checkpoint_task_2", "trajectories.json"), "utf8");
    expect(memory(log_dir)).toBe(memory(whole.log_dir));
  });

  test.each([0, 1])("from checkpoint_task_%d into another directory", async (index) => {
    const whole = await uninterrupted;
    const resume_from = join(whole.log_dir, `checkpoint_task_${index}`);
    const log_dir = freshDirectory();
    const before = metricsOf(whole.log_dir);
    await lampRun(lampConfig(log_dir, { ...FIELDS, resume_from }));
    expect(metricsOf(log_dir)).toBe(metricsOf(whole.log_dir));
    expect(metricsOf(whole.log_dir)).toBe(before);
  });

  test("from a checkpoint that was copied away from its run", async () => {
    const whole = await uninterrupted;
    const resume_from = join(root, "copied");
    cpSync(join(whole.log_dir, "checkpoint_task_0"), resume_from, { recursive: true });
    const log_dir = freshDirectory();
    await lampRun(lampConfig(log_dir, { ...FIELDS, resume_from }));
    expect(metricsOf(log_dir)).toBe(metricsOf(whole.log_dir));
  });

  test("the base model is the policy as it was opened, the state comes from the checkpoint", async () => {
    const { log_dir } = await interruptedAt(/^Task 1, Step 1/);
    const { policy } = await lampRun(lampConfig(log_dir, { ...FIELDS, resume_from: log_dir }));
    expect(policy.calls).toMatchObject({ loadState: 1 });
    // The reset is of the domains still to begin; not of the one it goes on in.
    expect(policy.weightOps).toEqual([{ op: "snapshot", name: "base" }, { op: "reset_optimizer" }]);
  });
});

test("a finished run can go on with further domains, also with one that its first rows do not know", async () => {
  const log_dir = freshDirectory();
  const fields = { ...FIELDS, eval_interval: 0, save_interval: 0, num_steps_per_task: 1 };
  await lampRun(lampConfig(log_dir, { ...fields, task_order: ["hall", "attic"] }));
  const longer = lampConfig(log_dir, { ...fields, task_order: ["hall", "attic", "cellar"], resume_from: log_dir });
  const { rows } = await lampRun(longer);
  const last = rows.at(-1);
  expect(last).toMatchObject({ kind: "transfer", task_idx: 2, domain: "cellar" });
  expect(last).not.toMatchObject({ "cl/bwt": null });
  expect(last).not.toMatchObject({ "cl/forgetting": null });
});

test("a run that ended and is resumed has nothing left to do", async () => {
  const whole = await uninterrupted;
  const log_dir = freshDirectory();
  cpSync(whole.log_dir, log_dir, { recursive: true });
  const { policy } = await lampRun(lampConfig(log_dir, { ...FIELDS, resume_from: log_dir }));
  expect(policy.samples).toEqual([]);
  expect(metricsOf(log_dir)).toBe(metricsOf(whole.log_dir));
});

test("checkpoints of a way that was left are not the newest any more", async () => {
  const whole = await uninterrupted;
  const log_dir = freshDirectory();
  cpSync(whole.log_dir, log_dir, { recursive: true });
  // Goes another way from task 0 on, and is stopped in it.
  const controller = new AbortController();
  const other = { ...FIELDS, learning_rate: 0.5, resume_from: join(log_dir, "checkpoint_task_0") };
  const stop = (text: string) => /^Task 1, Step 1/.test(text) && controller.abort();
  const stopped = lampRun(lampConfig(log_dir, other), { signal: controller.signal, onLine: stop });
  await expect(stopped).rejects.toThrow(AbortedError);
  const lines: string[] = [];
  await lampRun(lampConfig(log_dir, { ...other, resume_from: log_dir }), { onLine: (text) => lines.push(text) });
  expect(lines).toContain("Going on at step 1");
});

test("a checkpoint that a crash left under its waiting name is found", async () => {
  const { log_dir } = await interruptedAt(/^Task 0, Step 2/);
  renameSync(join(log_dir, "checkpoint_latest"), join(log_dir, ".checkpoint_latest.previous"));
  mkdirSync(join(log_dir, ".checkpoint_latest.tmp", "model"), { recursive: true });
  await lampRun(lampConfig(log_dir, { ...FIELDS, resume_from: log_dir }));
  expect(metricsOf(log_dir)).toBe(metricsOf((await uninterrupted).log_dir));
  expect(readdirSync(log_dir).filter((name) => name.startsWith("."))).toEqual([]);
});

describe("what cannot be resumed is refused", () => {
  test.each([
    {
      what: "another beginning",
      fields: { task_order: ["attic", "hall", "cellar"] },
      message: "task_order: the checkpoint was trained on hall, which must come first",
    },
    {
      what: "another method",
      fields: { cl_algorithm: "sequential" as const },
      message: "cl_algorithm: the checkpoint was made with replay, not sequential",
    },
  ])("$what", async ({ fields, message }) => {
    const resume_from = join((await uninterrupted).log_dir, "checkpoint_task_0");
    await expect(lampRun(lampConfig(freshDirectory(), { ...FIELDS, ...fields, resume_from }))).rejects.toThrow(message);
  });

  test("a directory without checkpoints", async () => {
    await expect(lampRun(lampConfig(freshDirectory(), { resume_from: root }))).rejects.toThrow(
      `--resume_from: ${root} holds no checkpoint`,
    );
  });

  test("other settings are told", async () => {
    const resume_from = join((await uninterrupted).log_dir, "checkpoint_task_1");
    const { lines } = await lampRun(lampConfig(freshDirectory(), { ...FIELDS, learning_rate: 1e-5, resume_from }));
    expect(lines).toContain(
      "Warning: going on with other settings than the checkpoint's: learning_rate 0.000001 → 0.00001",
    );
  });
});

describe("Ctrl-C", () => {
  test("ends at once with a sentence, and leaves whole files", async () => {
    const { log_dir, error } = await interruptedAt(/^Task 1, Step 0/);
    expect(String(error)).toContain("Interrupted in task 1, step 1. The files in");
    expect(String(error)).toContain(`--resume_from ${log_dir}`);
    for (const line of metricsOf(log_dir).trimEnd().split("\n")) JSON.parse(line);
    JSON.parse(readFileSync(join(log_dir, "metrics.json"), "utf8"));
    expect(readFileSync(join(log_dir, "run.log"), "utf8")).toContain("Interrupted in task 1");
  });

  test("before the first checkpoint it says so", async () => {
    const { log_dir, error } = await interruptedAt(/^Evaluation before training/);
    expect(String(error)).toContain("there is no checkpoint yet");
    expect(existsSync(join(log_dir, "config.json"))).toBe(true);
  });
});

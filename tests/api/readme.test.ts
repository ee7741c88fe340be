/** The README's script runs as it stands there (with fewer evaluations). */
import { afterAll, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { emptyDirectory, removeDirectories, runCli } from "../cli/run-cli.ts";

afterAll(removeDirectories);

const README = readFileSync(resolve(import.meta.dir, "../../README.md"), "utf8");
const script = /```ts\n([\s\S]*?)```/.exec(README)?.[1] ?? "";
const STEPS = "num_steps_per_task: 4,";

test("the README's script", async () => {
  expect(script).toContain(STEPS);
  const cwd = emptyDirectory();
  const shortened = script.replace(STEPS, `${STEPS} eval_max_tasks: 4, eval_trials: 1, num_samples_per_prompt: 2,`);
  await Bun.write(join(cwd, "my.ts"), shortened);
  const { out, err, exitCode } = await runCli(["run", "my.ts"], { cwd });
  expect(err).toBe("");
  expect(exitCode).toBe(0);
  expect(out).toMatch(/^-1 \[ "\w+ \d\.\d\d"/m);
  expect(out).toMatch(/^ACC \d\.\d\d, BWT -?\d\.\d\d \[-?\d\.\d\d, -?\d\.\d\d\]$/m);
  expect(existsSync(join(cwd, "runs/rehearse/curves.png"))).toBe(true);
  const runs = readFileSync(join(cwd, "runs/rehearse/metrics.jsonl"), "utf8").trimEnd().split("\n");
  const rows = runs.map((line) => JSON.parse(line) as Record<string, unknown>);
  const last = rows.filter(({ kind, task_idx }) => kind === "train" && task_idx === 2);
  expect(last.map((row) => row["rollout/replay_groups"])).toEqual([0, 0, 0, 2]);
  expect(existsSync(join(cwd, "runs/rehearse/checkpoint_task_2/model"))).toBe(true);
}, 120_000);

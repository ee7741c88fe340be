/** The method of one's own in the README runs as it stands there (with fewer evaluations). */
import { afterAll, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { emptyDirectory, removeDirectories, runCli } from "../cli/run-cli.ts";

afterAll(removeDirectories);

const README = readFileSync(resolve(import.meta.dir, "../../README.md"), "utf8");
const script =
  [...README.matchAll(/```ts\n([\s\S]*?)```/g)]
    .map(([, code]) => code ?? "")
    .find((code) => code.includes("class Elastic")) ?? "";
const STEPS = "num_steps_per_task: 4,";

test("the README's method", async () => {
  expect(script).toContain(STEPS);
  const cwd = emptyDirectory();
  const few =
    "num_steps_per_task: 2, eval_max_tasks: 2, eval_trials: 1, num_samples_per_prompt: 2, batch_size_per_gpu: 2,";
  await Bun.write(join(cwd, "my.ts"), script.replace(STEPS, few));
  const { out, err, exitCode } = await runCli(["run", "my.ts"], { cwd });
  expect(err).toBe("");
  expect(exitCode).toBe(0);
  const rows = readFileSync(join(cwd, "runs/elastic/metrics.jsonl"), "utf8").trimEnd().split("\n");
  const steps = rows.map((row) => JSON.parse(row)).filter(({ kind }) => kind === "train");
  const penalties = steps.map((row) => row["train/penalty"] as number | null);
  expect(penalties.slice(0, 2)).toEqual([null, null]);
  expect(penalties.slice(2).every((penalty) => penalty !== null && penalty >= 0)).toBe(true);
  expect(out).toContain("null, null");
}, 120_000);

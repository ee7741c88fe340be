/** `grpo-cl bench cl`: what it refuses before a model is opened, and what it prints. */
import { afterAll, describe, expect, test } from "bun:test";
import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { Comparison } from "../../src/metrics/compare.ts";
import { LIBRARY } from "../core/opened.ts";
import { emptyDirectory, removeDirectories, runCli } from "./run-cli.ts";

afterAll(removeDirectories);

const directories: string[] = [];
const freshDirectory = () => {
  directories.push(emptyDirectory());
  return directories.at(-1) as string;
};
afterAll(() => {
  for (const directory of directories) rmSync(directory, { recursive: true, force: true });
});

describe("refused", () => {
  test.each([
    ["--methods ewcc", '--methods: unknown method "ewcc" (did you mean ewc?); known are sequential, '],
    ["--seeds many", '--seeds: expected a number of seeds, or seeds with commas between them, got "many"'],
    ["--seeds 99", "--seeds: from 1 to 10 seeds can be counted; more are named, with commas"],
    ["--methods o_lora --lora_r 0", "--lora_r: cl_algorithm o_lora trains LoRA adapters"],
    ["--methods fusion --task_order shop", "--task_order: cl_algorithm fusion merges what several domains taught"],
    ["--ewc_lamda 3", "--ewc_lamda: unknown flag (did you mean --ewc_lambda?)"],
  ])("%s", async (flags, message) => {
    const cwd = freshDirectory();
    const { err, exitCode } = await runCli(["bench", "cl", ...flags.split(" ")], { cwd });
    expect(err).toContain(message);
    expect(exitCode).toBe(2);
    expect(existsSync(join(cwd, "runs"))).toBe(false);
  });
});

test.skipIf(LIBRARY === null)(
  "runs, shares the first experience and prints JSON in its documented shape",
  async () => {
    const cwd = freshDirectory();
    const small =
      "--num_steps_per_task 1 --batch_size_per_gpu 2 --num_samples_per_prompt 2 --eval_trials 1 --eval_max_tasks 2";
    const flags = `--methods sequential,replay --seeds 7, --json ${small}`.split(" ");
    const { out, err, exitCode } = await runCli(["bench", "cl", ...flags], { cwd });
    expect(exitCode).toBe(0);
    expect(err).toMatch(/^sequential, seed 7: [\d.]+ s\nreplay, seed 7: [\d.]+ s \(first experience shared\)\n$/);
    const { methods, paired } = JSON.parse(out) as Comparison;
    expect(methods.map(({ method, seeds }) => [method, seeds])).toEqual([
      ["sequential", [7]],
      ["replay", [7]],
    ]);
    for (const method of methods)
      for (const metric of ["acc", "bwt", "fwt", "forgetting"] as const)
        expect(Object.keys(method[metric] ?? {})).toEqual(expect.arrayContaining(["mean", "low", "high"]));
    expect(paired[0]).toMatchObject({ a: "replay", b: "sequential", metric: "acc" });
    expect(existsSync(join(cwd, "runs/bench_cl/replay-seed7/checkpoint_task_2"))).toBe(true);
  },
  { timeout: 60_000 },
);

/** `grpo-cl metrics` on runs of a scripted policy. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { lampConfig, lampRun } from "../support/lamp-run.ts";
import { runCli } from "./run-cli.ts";

const LIMIT_MS = 120_000;
const cwd = mkdtempSync(join(tmpdir(), "grpo-cl-metrics-"));
afterAll(() => rmSync(cwd, { recursive: true }));

beforeAll(async () => {
  for (const [log_dir, fields] of Object.entries({
    one: { seed: 1 },
    two: { seed: 2 },
    sequential: { cl_algorithm: "sequential" },
    other: { eval_seed: 7 },
  } as const))
    await lampRun(lampConfig(join(cwd, log_dir), fields));
}, LIMIT_MS);

test(
  "summary, also from the stored conversations",
  async () => {
    const { out, exitCode } = await runCli(["metrics", "summary", "one", "two"], { cwd });
    expect(exitCode).toBe(0);
    expect(out).toMatch(/^one: replay, fake, seed 1, eval_seed 1234\n/);
    expect(out).toContain("\ntwo: replay, fake, seed 2");
    expect((await runCli(["metrics", "summary", "one", "two", "--from_rollouts"], { cwd })).out).toBe(out);
    const [first] = JSON.parse((await runCli(["metrics", "summary", "one", "--json"], { cwd })).out);
    expect(first).toMatchObject({ run: "one", method: "replay", experiences: { done: 3, all: 3 } });
  },
  LIMIT_MS,
);

test(
  "plot",
  async () => {
    for (const args of [
      ["-o", "a.png"],
      ["--out", "b.svg"],
    ])
      expect(await runCli(["metrics", "plot", "one", ...args], { cwd })).toMatchObject({ exitCode: 0, err: "" });
    expect(existsSync(join(cwd, "a.png")) && existsSync(join(cwd, "b.svg"))).toBe(true);
  },
  LIMIT_MS,
);

test(
  "compare",
  async () => {
    const runs = ["one", "two", "sequential"];
    const { out, exitCode } = await runCli(["metrics", "compare", ...runs, "-o", "c.svg"], { cwd });
    expect(exitCode).toBe(0);
    expect(out).toMatch(/\n {2}replay +2 \(1, 2\) /);
    expect(existsSync(join(cwd, "c.svg"))).toBe(true);
    const { methods, paired } = JSON.parse((await runCli(["metrics", "compare", ...runs, "--json"], { cwd })).out);
    expect(methods.map(({ method }: { method: string }) => method)).toEqual(["replay", "sequential"]);
    expect(methods[0].bwt).toContainKeys(["mean", "low", "high", "spread"]);
    expect(paired[0]).toContainKeys(["a", "b", "metric", "mean", "low", "high"]);
  },
  LIMIT_MS,
);

test.each([
  [["compare", "one", "other"], "other: cannot be compared with one: eval_seed: 1234 against 7"],
  [["summary"], "grpo-cl metrics summary: needs a run directory"],
  [["summary", "nowhere"], "nowhere: is no run directory: config.json is missing"],
  [["plot", "one", "two"], "grpo-cl metrics plot: takes one run; metrics compare overlays several"],
  [["plot", "one", "-o", "a.jpg"], "a.jpg: a picture's name ends in .png or .svg"],
] as const)(
  "%p is refused",
  async (args, sentence) => {
    const { err, exitCode } = await runCli(["metrics", ...args], { cwd });
    expect(err).toContain(sentence);
    expect(exitCode).toBe(2);
  },
  LIMIT_MS,
);

/** The benchmark of methods, with the fake: what is shared is what would have been computed. */
import { afterAll, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openCheckpoint } from "../../src/checkpoint/load.ts";
import { methodOf } from "../../src/cl/registry.ts";
import type { RunConfig } from "../../src/config/schema.ts";
import { fakePolicy } from "../../src/core/fake.ts";
import { compareRuns } from "../../src/metrics/compare.ts";
import { readRun } from "../../src/metrics/record.ts";
import { benchMethods, runDirectory, SEQUENTIAL_AT_FIRST } from "../../src/run/bench.ts";
import type { Session } from "../../src/run/session.ts";
import { lampConfig, lampDomains, lampRun, luckyScript } from "../support/lamp-run.ts";

const root = mkdtempSync(join(tmpdir(), "grpo-cl-bench-"));
afterAll(() => rmSync(root, { recursive: true }), 60_000);

const edge = {
  env: {},
  now: () => 0,
  signal: new AbortController().signal,
  reporter: { line: () => {}, progress: () => {} },
};

const open = async (config: RunConfig): Promise<Session> => ({
  edge,
  policy: fakePolicy(luckyScript),
  model_directory: "fake",
  user_model_directory: null,
  domains: lampDomains(),
  method: methodOf(config),
  resume: config.resume_from === null ? null : await openCheckpoint(config.resume_from),
});

const configOf = (method: RunConfig["cl_algorithm"], seed: number, directory: string) =>
  lampConfig(runDirectory(join(root, directory), method, seed), {
    cl_algorithm: method,
    seed,
    num_steps_per_task: 2,
    num_samples_per_prompt: 2,
    eval_interval: 0,
    fisher_tasks: 2,
    learning_rate: 0.02,
  });

const metricsOf = (log_dir: string) => readFileSync(join(log_dir, "metrics.jsonl"), "utf8");

test(
  "a run that goes on from another method's first experience equals the one that computes it",
  async () => {
    const told: string[] = [];
    const paths = await benchMethods({
      configs: SEQUENTIAL_AT_FIRST.map((method) => configOf(method, 3, "shared")),
      edge,
      open,
      onRun: ({ cl_algorithm }, { isShared }) => void told.push(`${cl_algorithm} ${isShared}`),
    });
    expect(told).toEqual(SEQUENTIAL_AT_FIRST.map((method, at) => `${method} ${at > 0}`));
    for (const [at, method] of SEQUENTIAL_AT_FIRST.entries()) {
      const { log_dir } = await lampRun(configOf(method, 3, "alone"), { script: luckyScript });
      expect(metricsOf(paths[at] as string), method).toBe(metricsOf(log_dir));
    }
  },
  { timeout: 60_000 },
);

test("seeds and settings that differ share nothing, and everything is compared", async () => {
  const told: boolean[] = [];
  const methods = ["sequential", "si", "ewc"] as const;
  const paths = await benchMethods({
    configs: [1, 2].flatMap((seed) => methods.map((method) => configOf(method, seed, "seeds"))),
    edge,
    open,
    onRun: (_, { isShared }) => void told.push(isShared),
  });
  expect(told).toEqual([false, false, true, false, false, true]);
  const { methods: compared, paired } = compareRuns(paths.map(readRun));
  expect(compared.map(({ method, seeds }) => [method, ...seeds])).toEqual([
    ["sequential", 1, 2],
    ["si", 1, 2],
    ["ewc", 1, 2],
  ]);
  expect(paired.filter(({ metric }) => metric === "bwt").map(({ a, b }) => `${a} - ${b}`)).toEqual([
    "si - sequential",
    "ewc - sequential",
    "ewc - si",
  ]);
  expect(existsSync(join(paths[0] as string, "checkpoint_latest"))).toBe(true);
});

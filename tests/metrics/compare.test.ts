/** Runs side by side: whole runs of a scripted policy, and rows made by hand. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { RunConfig } from "../../src/config/schema.ts";
import { requireComparable } from "../../src/metrics/comparable.ts";
import { compareRuns, groupRuns } from "../../src/metrics/compare.ts";
import { recomputed } from "../../src/metrics/recompute.ts";
import { type RunRecord, readRun } from "../../src/metrics/record.ts";
import type { ScoresRow } from "../../src/metrics/rows.ts";
import type { DomainScore } from "../../src/metrics/score.ts";
import { summarise } from "../../src/metrics/summary.ts";
import { comparisonText, summaryText } from "../../src/metrics/tables.ts";
import { lampConfig, lampRun } from "../support/lamp-run.ts";

const root = mkdtempSync(join(tmpdir(), "grpo-cl-compare-"));
afterAll(() => rmSync(root, { recursive: true }));

interface HandMade {
  readonly method?: string;
  readonly seed?: number;
  readonly order?: readonly string[];
  /** Row → domain → reward of each task. */
  readonly rewards: readonly Readonly<Record<string, readonly number[]>>[];
  readonly config?: Partial<RunConfig>;
  readonly cell?: Partial<DomainScore>;
}

function recordOf({ method = "sequential", seed = 1, order = ["a", "b"], rewards, config, cell }: HandMade): RunRecord {
  const average = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const rows = rewards.map(
    (domains, i): ScoresRow => ({
      kind: "scores",
      task_idx: i - 1,
      domain: order[i - 1] ?? null,
      scores: Object.fromEntries(
        Object.entries(domains).map(([domain, values]) => [
          domain,
          {
            reward_mean: average(values),
            n_trials: 1,
            n_tasks: values.length,
            nl_assertions: "exclude",
            user_identity: "scripted",
            pass_hat_k: { "1": average(values) },
            ...cell,
          } as DomainScore,
        ]),
      ),
      rewards: Object.fromEntries(
        Object.entries(domains).map(([domain, values]) => [
          domain,
          Object.fromEntries(values.map((value, t) => [`${domain}${t}`, [value]])),
        ]),
      ),
    }),
  );
  const settings = { ...lampConfig("unused", { task_order: [...order], seed }), ...config };
  return { path: `${method}-${seed}`, config: settings, method, rows };
}

const forgets = {
  rewards: [
    { a: [0, 0], b: [0, 0] },
    { a: [1, 1], b: [0, 0] },
    { a: [0, 1], b: [1, 1] },
  ],
};
const keeps = { ...forgets, rewards: [...forgets.rewards.slice(0, 2), { a: [1, 1], b: [1, 0] }] };

describe("compare", () => {
  test("seeds of a method are one row: mean over seeds, interval over tasks, spread over seeds", () => {
    const records = [
      recordOf({ ...forgets, seed: 1 }),
      recordOf({ ...keeps, seed: 2 }),
      recordOf({ ...keeps, method: "replay", seed: 1 }),
    ];
    const { methods, paired } = compareRuns(records);
    expect(methods.map(({ method, seeds }) => [method, seeds])).toEqual([
      ["sequential", [1, 2]],
      ["replay", [1]],
    ]);
    const [sequential, replay] = methods;
    expect(sequential!.bwt).toMatchObject({ mean: -0.25, low: -0.5, high: 0 });
    // -0.5 and 0: mean -0.25, deviation sqrt(2 · 0.25² / 1).
    expect(sequential!.bwt?.spread).toEqual({ deviation: Math.sqrt(0.125), lowest: -0.5, highest: 0 });
    expect(replay!.bwt).toEqual({ mean: 0, low: 0, high: 0, spread: null });
    expect(replay!.domains.b?.mean).toBe(0.5);
    const bwt = paired.find(({ metric }) => metric === "bwt");
    expect(bwt).toEqual({ a: "replay", b: "sequential", metric: "bwt", mean: 0.25, low: 0, high: 0.5 });
  });

  test("the same luck in both runs leaves no width to their difference", () => {
    const other = recordOf({ ...forgets, method: "other" });
    for (const { mean, low, high } of compareRuns([recordOf(forgets), other]).paired)
      expect([mean, low, high]).toEqual([0, 0, 0]);
  });

  test("a run on one domain, and a joint one, tell what a domain can reach", () => {
    const alone = recordOf({ method: "sequential", order: ["a"], rewards: [{ a: [0, 0] }, { a: [1, 0] }] });
    const [base, , last] = keeps.rewards;
    const joint = recordOf({ method: "joint", rewards: [base!, last!, { a: [1, 1], b: [1, 1] }] });
    const run = recordOf({ ...keeps, method: "ewc" });
    expect(compareRuns([run, alone]).methods[0]!.intransigence).toBeNull(); // nothing says what b can reach
    const { methods } = compareRuns([run, alone, joint]);
    expect(methods.map(({ method }) => method)).toEqual(["ewc", "joint"]);
    // a: (1/2 + 1)/2 - 1; b: 1 - 1/2.
    expect(methods[0]!.intransigence?.mean).toBeCloseTo((-0.25 + 0.5) / 2, 12);
    expect(methods[1]).toMatchObject({ acc: { mean: 1 }, bwt: null, forgetting: null, intransigence: null });
  });

  test("groups of one method are told apart by what differs", () => {
    const [slow, fast] = [1e-6, 1e-4].map((learning_rate) => recordOf({ ...keeps, config: { learning_rate } }));
    expect(groupRuns([slow!, fast!]).map(({ name }) => name)).toEqual([
      "sequential (learning_rate 0.000001)",
      "sequential (learning_rate 0.0001)",
    ]);
  });

  test.each([
    {
      what: "variants",
      change: { cell: { nl_assertions: "drop" } },
      reason: "nl_assertions of a: exclude against drop",
    },
    { what: "trials", change: { cell: { n_trials: 4 } }, reason: "trials of a: 1 against 4" },
    { what: "users", change: { cell: { user_identity: "openai:x" } }, reason: "user of b: scripted against openai:x" },
    { what: "eval_seed", change: { config: { eval_seed: 5 } }, reason: "eval_seed: 1234 against 5" },
    {
      what: "tasks",
      change: { rewards: forgets.rewards.map((row) => ({ ...row, b: [...row.b, 0] })) },
      reason: "tasks of b: 2 against 3, and 1 are in one only (b2)",
    },
    {
      what: "domains",
      change: { order: ["a", "c"], rewards: [{ a: [0, 0], c: [0, 0] }] },
      reason: "domains: a b against a c",
    },
  ] as const)("runs of different $what are refused", ({ change, reason }) => {
    const other = recordOf({ ...forgets, seed: 2, ...(change as Partial<HandMade>) });
    expect(() => requireComparable([recordOf(forgets), other])).toThrow(
      `sequential-2: cannot be compared with sequential-1: `,
    );
    expect(() => compareRuns([recordOf(forgets), other])).toThrow(reason);
  });

  test("another judge is another benchmark", () => {
    const judged = (model: string, seed: number) =>
      recordOf({
        ...forgets,
        seed,
        cell: { nl_assertions: "judge" },
        config: { judge: { model } as RunConfig["judge"] },
      });
    expect(() => compareRuns([judged("x", 1), judged("y", 2)])).toThrow("nl_assertions of a: judge x against judge y");
  });

  test("a run that is not as far, and one that is given twice, are refused", () => {
    const begun = recordOf({ ...keeps, seed: 2, rewards: keeps.rewards.slice(0, 2) });
    expect(() => compareRuns([recordOf(forgets), begun])).toThrow("domains trained so far: a b against a");
    const again = { ...recordOf(forgets), path: "again" };
    expect(() => compareRuns([recordOf(forgets), again])).toThrow("again: is sequential-1 again: the same method");
  });

  test("the frozen step-0 policy of another model is another user", () => {
    const cell = { user_identity: "local:base" };
    const other = recordOf({ ...forgets, cell, seed: 2, config: { model_name_or_path: "other" } });
    expect(() => compareRuns([recordOf({ ...forgets, cell }), other])).toThrow(
      "user of a: local:base (fake) against local:base (other)",
    );
  });

  test("the table says what is compared", () => {
    const records = [recordOf(forgets), recordOf({ ...keeps, seed: 2 }), recordOf({ ...keeps, method: "replay" })];
    const text = comparisonText(compareRuns(records));
    expect(text).toContain("± standard deviation over seeds");
    expect(text).toMatch(/sequential +2 \(1, 2\) +0\.7500 \[/);
    expect(text).toMatch(/replay - sequential +BWT +\+0\.2500 \[\+0\.0000, \+0\.5000\]\n/);
  });
});

describe("a stored run", () => {
  const log_dir = join(root, "run");
  const finished = lampRun(lampConfig(log_dir, { eval_interval: 2 }));

  test("its scores follow from its conversations alone", async () => {
    await finished;
    const record = readRun(log_dir);
    const again = await recomputed(record);
    expect(JSON.parse(JSON.stringify(again.rows))).toEqual(JSON.parse(JSON.stringify(record.rows)));
  });

  test("a conversation that is changed changes them", async () => {
    await finished;
    const [name] = readdirSync(join(log_dir, "rollouts")).filter((file) => file.startsWith("eval_task_2_hall"));
    const path = join(log_dir, "rollouts", name!);
    const stored = readFileSync(path);
    const text = new TextDecoder().decode(await Bun.zstdDecompress(stored));
    writeFileSync(path, await Bun.zstdCompress(text.replaceAll(/"reward": (0|1)(\.0)?,/g, '"reward": 0.75,')));
    const score = (record: RunRecord) => summarise(record).score_matrix.at(-1)?.scores.hall?.reward_mean;
    const record = readRun(log_dir);
    expect(score(await recomputed(record))).toBe(0.75);
    expect(score(record)).not.toBe(0.75);
    writeFileSync(path, stored);
  });

  test("the summary", async () => {
    await finished;
    const summary = summarise(readRun(log_dir));
    expect(summary).toMatchObject({
      method: "replay",
      seed: 42,
      experiences: { done: 3, all: 3 },
      intransigence: null,
    });
    expect(summary.power.hall).toMatchObject({ tasks: 2, trials: 2 });
    const text = summaryText(summary);
    for (const words of [
      "before training",
      "after task 2 (cellar)",
      "baselines (empty, refuse, transfer)",
      "pass^2",
      "BWT",
    ])
      expect(text).toContain(words);
  });

  test.each([[root, "is no run directory: config.json is missing"]])("%s is refused", (path, reason) => {
    expect(() => readRun(path)).toThrow(reason);
  });
});

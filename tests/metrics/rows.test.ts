import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Rng } from "../../src/base/rng.ts";
import { domainBaselines } from "../../src/metrics/baselines.ts";
import { seedName, TRAIN_METRICS, TRANSFER_METRICS } from "../../src/metrics/names.ts";
import { type MetricsRow, seedShape } from "../../src/metrics/rows.ts";
import { scoreOf } from "../../src/metrics/score.ts";
import { MetricsWriter } from "../../src/metrics/writer.ts";
import { groupOf, rolloutOf } from "../support/rollouts.ts";

const root = mkdtempSync(join(tmpdir(), "grpo-cl-rows-"));
afterAll(() => rmSync(root, { recursive: true }));

const variant = { nl_assertions: "exclude", n_excluded: 0, kl_drift: null } as const;
const score = scoreOf([groupOf([rolloutOf({ reward: 1 })])], { ...variant, contaminated: false, rng: Rng.from(1) });
const blank = <T extends string>(names: Record<T, unknown>) =>
  Object.fromEntries(Object.keys(names).map((name, i) => [name, i])) as Record<T, number>;
const train = {
  kind: "train",
  task_idx: 0,
  domain: "shop",
  step: 0,
  ...blank(TRAIN_METRICS),
  "rollout/stops": {},
} as const;

const rows: MetricsRow[] = [
  {
    kind: "baselines",
    baselines: {
      shop: domainBaselines([{ id: "0", writes: true, rewards: { empty: 0, refuse: 0, transfer: null } }], {
        train: [],
        test: [],
      }),
    },
  },
  { kind: "scores", task_idx: -1, domain: null, scores: { shop: score }, rewards: { shop: { "0": [1] } } },
  train,
  { ...train, step: 1 },
  { kind: "eval", task_idx: 0, domain: "shop", step: 1, score },
  { kind: "scores", task_idx: 0, domain: "shop", scores: { shop: score }, rewards: { shop: { "0": [1] } } },
  { kind: "transfer", task_idx: 0, domain: "shop", ...blank(TRANSFER_METRICS) },
];

test("metrics.json has the seed's keys", () => {
  const shape = seedShape(rows) as Record<string, Record<string, unknown>[]>;
  expect(Object.keys(shape)).toEqual(["baselines", "score_matrix", "task_0/train", "task_0/eval", "transfer"]);
  expect(shape["task_0/train"]?.map((row) => row.step)).toEqual([0, 1]);
  expect(shape["task_0/train"]?.[0]).toContainKeys([
    "task_idx",
    "loss",
    "reward_mean",
    "reward_max",
    "grad_norm",
    "kl",
  ]);
  expect(shape["task_0/eval"]?.[0]).toContainKeys(["task_idx", "step", "reward_mean", "pass_rate"]);
  expect(shape.transfer?.[0]).toContainKeys(["task_idx", "backward_transfer", "bwt", "current_performance"]);
  expect(shape.score_matrix?.map(({ task_idx, domain }) => [task_idx, domain])).toEqual([
    [-1, null],
    [0, "shop"],
  ]);
  expect((shape.score_matrix as unknown as { scores: Record<string, object> }[])[0]?.scores.shop).toContainKeys([
    "n_tasks",
    "n_trials",
    "reward_mean",
    "pass_rate",
    "pass_hat_k",
    "low",
    "high",
    "reward_mean_write",
    "reward_mean_noop",
    "contaminated",
  ]);
});

test.each([
  ["train", TRAIN_METRICS],
  ["transfer", TRANSFER_METRICS],
])("the seed's names of %s rows are unambiguous", (_, names) => {
  const short = [...Object.keys(names).map(seedName), "task_idx", "domain", "step", "stops"];
  expect(new Set(short).size).toBe(short.length);
});

test("the writer keeps both files in step, and goes on behind what is there", () => {
  for (const part of [rows.slice(0, 2), rows.slice(2)]) {
    using writer = new MetricsWriter(root);
    for (const row of part) writer.write(row);
    writer.timing({ task_idx: 0, step: 0, phase: "rollouts", ms: 1 });
  }
  const lines = readFileSync(join(root, "metrics.jsonl"), "utf8").trimEnd().split("\n");
  expect(lines.map((line) => JSON.parse(line))).toEqual(JSON.parse(JSON.stringify(rows)));
  expect(JSON.parse(readFileSync(join(root, "metrics.json"), "utf8"))).toEqual(
    JSON.parse(JSON.stringify(seedShape(rows))),
  );
});

/** The tracker reads what a run writes. */
import { expect, test } from "bun:test";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MetricsTracker } from "../../src/api/index.ts";

const directory = mkdtempSync(join(tmpdir(), "grpo-cl-api-"));
const rows = [
  { kind: "scores", task_idx: -1, domain: null, scores: {}, rewards: {} },
  { kind: "train", task_idx: 0, domain: "phone", step: 0, "train/loss": 0.5, "rollout/reward_mean": 0.25 },
  { kind: "train", task_idx: 0, domain: "phone", step: 1, "train/loss": null, "rollout/reward_mean": 0.5 },
  { kind: "eval", task_idx: 0, domain: "phone", step: 1, score: { reward_mean: 0.75 } },
  { kind: "scores", task_idx: 0, domain: "phone", scores: {}, rewards: {} },
  { kind: "transfer", task_idx: 0, domain: "phone", "cl/bwt": null },
  { kind: "train", task_idx: 1, domain: "rail", step: 0, "train/loss": 1, "rollout/reward_mean": 1 },
];
writeFileSync(join(directory, "metrics.jsonl"), rows.map((row) => `${JSON.stringify(row)}\n`).join(""));

test("a run directory as series and rows", () => {
  const metrics = MetricsTracker.load(directory);
  expect(metrics.rows).toHaveLength(rows.length);
  expect(metrics.series("rollout/reward_mean")).toEqual([0.25, 0.5, 1]);
  expect(metrics.series("train/loss", 0)).toEqual([0.5, null]);
  expect(metrics.steps(1).map(({ domain }) => domain)).toEqual(["rail"]);
  expect(metrics.evaluations().map(({ score }) => score.reward_mean)).toEqual([0.75]);
  expect(metrics.scoreMatrix().map(({ task_idx }) => task_idx)).toEqual([-1, 0]);
  expect(metrics.transfer()?.task_idx).toBe(0);
});

test("metrics.json has the seed's keys", async () => {
  const path = join(directory, "metrics.json");
  MetricsTracker.load(directory).save(path);
  const shape = await Bun.file(path).json();
  expect(Object.keys(shape).sort()).toEqual([
    "score_matrix",
    "task_0/eval",
    "task_0/train",
    "task_1/train",
    "transfer",
  ]);
  expect(shape["task_0/train"][0]).toMatchObject({ task_idx: 0, step: 0, loss: 0.5, reward_mean: 0.25 });
});

test("an empty tracker answers, too", () => {
  const metrics = new MetricsTracker();
  expect(metrics.transfer()).toBeNull();
  expect(metrics.series("train/loss")).toEqual([]);
});

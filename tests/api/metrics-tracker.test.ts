/** The tracker reads what a run writes. */
import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MetricsTracker } from "../../src/api/index.ts";
import { lampConfig, lampRun } from "../support/lamp-run.ts";

const directory = mkdtempSync(join(tmpdir(), "grpo-cl-api-"));
afterAll(() => rmSync(directory, { recursive: true }));
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

test("a summary and a picture need a run", async () => {
  const metrics = new MetricsTracker();
  expect(() => metrics.getSummary()).toThrow("has no run; use MetricsTracker.load(log_dir)");
  await expect(metrics.plotLearningCurves()).rejects.toThrow("has no run");
});

test("a whole run: summary and picture", async () => {
  const log_dir = join(directory, "run");
  await lampRun(lampConfig(log_dir));
  const metrics = MetricsTracker.load(log_dir);
  const summary = metrics.getSummary();
  const transfer = metrics.transfer();
  expect(summary.bwt).toMatchObject({ mean: transfer?.["cl/bwt"], low: transfer?.["cl/bwt_low"] });
  expect(summary.backward_transfer).toBe(transfer?.["cl/backward_transfer"] ?? null);
  expect(summary.score_matrix).toHaveLength(4);
  const [svg, png] = [join(directory, "a.svg"), join(directory, "a.png")];
  expect(await metrics.plotLearningCurves(svg)).toBe(svg);
  await metrics.plotLearningCurves(png);
  expect(readFileSync(svg, "utf8")).toBe(readFileSync(join(log_dir, "learning_curves.svg"), "utf8"));
  expect(readFileSync(png)).toEqual(readFileSync(join(log_dir, "learning_curves.png")));
  await expect(metrics.plotLearningCurves("a.jpg")).rejects.toThrow("a.jpg: a picture's name ends in .png or .svg");
}, 60_000);

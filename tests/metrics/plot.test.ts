/** Pictures say what the rows say, and are whole files. What they look like is for eyes. */
import { describe, expect, test } from "bun:test";
import { compareRuns } from "../../src/metrics/compare.ts";
import { comparisonSvg } from "../../src/metrics/plot/comparison.ts";
import { smoothed } from "../../src/metrics/plot/curves.ts";
import { learningCurvesSvg } from "../../src/metrics/plot/learning-curves.ts";
import { rangeOf, ticks } from "../../src/metrics/plot/panel.ts";
import { pictureBytes } from "../../src/metrics/plot/picture.ts";
import type { RunRecord } from "../../src/metrics/record.ts";
import type { MetricsRow } from "../../src/metrics/rows.ts";
import type { DomainScore } from "../../src/metrics/score.ts";
import { lampConfig } from "../support/lamp-run.ts";

test.each([
  { range: [0, 72], most: 9, expected: [0, 10, 20, 30, 40, 50, 60, 70] },
  { range: [-0.02, 1.1], most: 7, expected: [0, 0.2, 0.4, 0.6, 0.8, 1] },
  { range: [-0.13, 0.03], most: 7, expected: [-0.1, -0.05, 0] },
  { range: [0, 1], most: 9, expected: [0, 0.2, 0.4, 0.6, 0.8, 1] },
] as const)("ticks of $range", ({ range, most, expected }) => {
  expect(ticks(range, most).map((tick) => Math.round(tick * 1e6) / 1e6)).toEqual([...expected]);
});

test("a range is never empty", () => {
  for (const values of [[], [0], [3], [-1, -1]]) {
    const [low, high] = rangeOf(values);
    expect(high).toBeGreaterThan(low);
  }
});

test("a short line is not smoothed, a long one keeps its ends and its level", () => {
  const line = (length: number) => Array.from({ length }, (_, x) => ({ x, y: x % 2 }));
  expect(smoothed(line(19))).toEqual(line(19));
  const smooth = smoothed(line(100));
  expect(smooth.map(({ x }) => x)).toEqual(line(100).map(({ x }) => x));
  for (const { y } of smooth) expect(Math.abs(y - 0.5)).toBeLessThan(0.2);
});

const score = (reward_mean: number) =>
  ({
    reward_mean,
    low: reward_mean - 0.05,
    high: reward_mean + 0.05,
    n_trials: 1,
    nl_assertions: "exclude",
    user_identity: "scripted",
  }) as DomainScore;
const step = (task_idx: number, number: number) =>
  ({
    kind: "train",
    task_idx,
    domain: "hall",
    step: number,
    "train/loss": number,
    "rollout/reward_mean": 0.5,
    "rollout/replay_reward_mean": null,
  }) as MetricsRow;

function recordOf(method: string, fields: Partial<RunRecord> = {}): RunRecord {
  const rows: MetricsRow[] = [-1, 0, 1].map((task_idx) => ({
    kind: "scores",
    task_idx,
    domain: [null, "hall", "attic & co"][task_idx + 1] ?? null,
    scores: { hall: score(0.25 * (task_idx + 2)), "attic & co": score(0.1) },
    rewards: { hall: { A: [0.25 * (task_idx + 2)] }, "attic & co": { B: [0.1] } },
  }));
  const config = lampConfig("runs/x", { task_order: ["hall", "attic & co"], num_steps_per_task: 2 });
  return { path: "runs/x", config, method, rows: [...rows, step(0, 0), step(0, 1)], ...fields };
}

describe("learning curves", () => {
  test("the matrix's numbers and the domains' names stand in it, escaped", () => {
    const svg = learningCurvesSvg(recordOf("mine <1>"));
    for (const words of [
      "Training loss",
      "Training reward",
      "Score matrix",
      "0.25",
      "[0.45, 0.55]",
      "0.75",
      "after 1 · attic &amp; co",
      "mine &lt;1&gt;",
    ])
      expect(svg).toContain(words);
    expect(svg).not.toContain("NaN");
  });

  test("a run that has only been evaluated", () => {
    const { rows } = recordOf("x");
    const svg = learningCurvesSvg(recordOf("x", { rows: rows.slice(0, 1) }));
    expect(svg).toContain("no steps");
    expect(svg).not.toContain("NaN");
  });
});

test("a comparison has a curve and a legend entry for each method", () => {
  const records = [recordOf("sequential"), recordOf("replay")];
  const svg = comparisonSvg(records, compareRuns(records));
  for (const words of [
    "2 methods, 2 runs",
    "sequential",
    "replay",
    "Evaluation: hall",
    "Evaluation: attic &amp; co",
    "BWT",
  ])
    expect(svg).toContain(words);
  expect(svg).not.toContain("NaN");
});

test("PNG bytes are those of a picture of the SVG's shape, and the same each time", async () => {
  const svg = learningCurvesSvg(recordOf("x"));
  const png = await pictureBytes("a.png", svg);
  expect([...png.slice(1, 4)].map((byte) => String.fromCharCode(byte)).join("")).toBe("PNG");
  const view = new DataView(png.buffer, png.byteOffset);
  expect([view.getUint32(16), view.getUint32(20)]).toEqual([1860, 1350]);
  expect(await pictureBytes("a.png", svg)).toEqual(png);
});

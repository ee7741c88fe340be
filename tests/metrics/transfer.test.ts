import { describe, expect, test } from "bun:test";
import { Rng } from "../../src/base/rng.ts";
import {
  acc,
  bwt,
  forgetting,
  fwt,
  learningAccuracy,
  type MatrixRow,
  rewardOnEarlier,
  ScoreMatrix,
  transferMetrics,
} from "../../src/metrics/transfer.ts";

/** Rows of scores; the first is the base model's, then one after each domain of `order`. */
function matrix(order: string, scores: readonly (readonly number[])[]): MatrixRow[] {
  const columns = [...new Set(order)];
  return scores.map((row, i) => ({
    task_idx: i - 1,
    domain: order[i - 1] ?? null,
    scores: Object.fromEntries(columns.map((column, j) => [column, row[j]!])),
  }));
}

const FORMULAS = { bwt, fwt, forgetting, acc, learningAccuracy, rewardOnEarlier };

// Every number below was computed by hand from the formulas in transfer.ts.
test.each([
  {
    name: "three domains",
    rows: matrix("abc", [
      [0.1, 0.2, 0.3],
      [0.8, 0.3, 0.2],
      [0.5, 0.9, 0.4],
      [0.6, 0.7, 0.8],
    ]),
    expected: {
      bwt: (0.6 - 0.8 + (0.7 - 0.9)) / 2, // -0.2
      fwt: (0.3 - 0.2 + (0.4 - 0.3)) / 2, // 0.1
      forgetting: (0.8 - 0.6 + (0.9 - 0.7)) / 2, // 0.2
      acc: 0.7,
      learningAccuracy: (0.8 + 0.9 + 0.8) / 3,
      rewardOnEarlier: 0.65,
    },
  },
  {
    name: "forgetting looks at the best earlier row, not only at the one after training",
    rows: matrix("abc", [
      [0, 0, 0],
      [0.5, 0, 0],
      [0.7, 0.6, 0],
      [0.6, 0.6, 0.5],
    ]),
    expected: {
      bwt: (0.1 + 0) / 2,
      fwt: 0,
      forgetting: (0.1 + 0) / 2,
      acc: 1.7 / 3,
      learningAccuracy: 1.6 / 3,
      rewardOnEarlier: 0.6,
    },
  },
  {
    name: "a domain that comes back: after its last training, before its first",
    rows: matrix("aba", [
      [0.1, 0.2],
      [0.6, 0.3],
      [0.4, 0.9],
      [0.7, 0.5],
    ]),
    // last domain a; earlier: b, trained in row 1. FWT of b: row 0 against the base.
    expected: {
      bwt: 0.5 - 0.9,
      fwt: 0.3 - 0.2,
      forgetting: 0.9 - 0.5,
      acc: 0.6,
      learningAccuracy: 0.8,
      rewardOnEarlier: 0.5,
    },
  },
  {
    name: "after the first of three domains: only it counts",
    rows: matrix("abc", [
      [0.1, 0.2, 0.3],
      [0.8, 0.3, 0.2],
    ]),
    expected: { bwt: null, fwt: null, forgetting: null, acc: 0.8, learningAccuracy: 0.8, rewardOnEarlier: null },
  },
])("$name", ({ rows, expected }) => {
  const R = new ScoreMatrix(rows);
  for (const [name, value] of Object.entries(expected)) {
    const measured = FORMULAS[name as keyof typeof FORMULAS](R);
    if (value === null) expect([name, measured]).toEqual([name, null]);
    else expect(Math.abs((measured ?? Number.NaN) - value), name).toBeLessThan(1e-12);
  }
});

test("rows out of order, and scores that are missing, are refused", () => {
  const rows = matrix("ab", [
    [0, 0],
    [1, 0],
  ]);
  expect(() => new ScoreMatrix(rows.slice(1))).toThrow("missing or out of order");
  expect(() => new ScoreMatrix(rows).at(0, "c")).toThrow("row 0 has no score of c");
});

describe("transferMetrics", () => {
  const rewards = (a: number[], b: number[]) => ({
    a: Object.fromEntries(a.map((reward, i) => [`a${i}`, [reward]])),
    b: Object.fromEntries(b.map((reward, i) => [`b${i}`, [reward]])),
  });
  const rows = matrix("ab", [
    [0, 0],
    [0.75, 0],
    [0.5, 1],
  ]);
  const options = { rngOf: (domain: string) => Rng.from(1).fork(domain) };

  test("the interval of BWT pairs the tasks of both rows", () => {
    // Task 2 is lost, the others stay: the change is -1/4 in the mean, and never positive in any resample.
    const measured = transferMetrics(rows, {
      ...options,
      rewards: [rewards([0, 0, 0, 0], [0]), rewards([1, 1, 1, 0], [0]), rewards([1, 1, 0, 0], [1])],
    });
    expect(measured["cl/bwt"]).toBe(-0.25);
    expect(measured["cl/bwt_low"]).toBe(-0.75);
    expect(measured["cl/bwt_high"]).toBe(0);
    expect(measured["cl/current_performance"]).toBe(1);
  });

  test("no change at all has an interval of no width, whatever the scores", () => {
    const same = rewards([1, 0, 1, 1], [1]);
    const measured = transferMetrics(rows, { ...options, rewards: [same, same, same] });
    expect([measured["cl/bwt_low"], measured["cl/bwt_high"]]).toEqual([0, 0]);
  });
});

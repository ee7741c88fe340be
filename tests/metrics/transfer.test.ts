/** Formulas of the score matrix, against numbers that were computed by hand or published. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { Draws } from "../../src/metrics/bootstrap.ts";
import { type MatrixRow, ScoreMatrix } from "../../src/metrics/matrix.ts";
import type { ScoresRow } from "../../src/metrics/rows.ts";
import type { DomainScore } from "../../src/metrics/score.ts";
import {
  acc,
  bwt,
  estimateOf,
  forgetting,
  fwt,
  intransigence,
  learningAccuracy,
  minimumAccuracy,
  rewardOnEarlier,
  transferMetrics,
} from "../../src/metrics/transfer.ts";

/** Rows of scores; the first is the base model's, then one after each domain of `order`. */
function matrix(order: string, scores: readonly (readonly number[])[]): ScoreMatrix {
  const columns = [...new Set(order)];
  const rows: MatrixRow[] = scores.map((row, i) => ({
    task_idx: i - 1,
    domain: order[i - 1] ?? null,
    scores: Object.fromEntries(columns.map((column, j) => [column, Float64Array.of(row[j]!)])),
  }));
  return new ScoreMatrix(rows);
}

const FORMULAS = { bwt, fwt, forgetting, minimumAccuracy, acc, learningAccuracy, rewardOnEarlier };

test.each([
  {
    name: "three domains",
    R: matrix("abc", [
      [0.1, 0.2, 0.3],
      [0.8, 0.3, 0.2],
      [0.5, 0.9, 0.4],
      [0.6, 0.7, 0.8],
    ]),
    expected: {
      bwt: (0.6 - 0.8 + (0.7 - 0.9)) / 2, // -0.2
      fwt: (0.3 - 0.2 + (0.4 - 0.3)) / 2, // 0.1
      forgetting: (0.8 - 0.6 + (0.9 - 0.7)) / 2, // 0.2
      minimumAccuracy: (0.5 + 0.7) / 2, // a was lower in between
      acc: 0.7,
      learningAccuracy: (0.8 + 0.9 + 0.8) / 3,
      rewardOnEarlier: 0.65,
    },
  },
  {
    name: "forgetting looks at the best earlier row, not only at the one after training",
    R: matrix("abc", [
      [0, 0, 0],
      [0.5, 0, 0],
      [0.7, 0.6, 0],
      [0.6, 0.6, 0.5],
    ]),
    expected: {
      bwt: (0.1 + 0) / 2,
      fwt: 0,
      forgetting: (0.1 + 0) / 2,
      minimumAccuracy: 0.6,
      acc: 1.7 / 3,
      learningAccuracy: 1.6 / 3,
      rewardOnEarlier: 0.6,
    },
  },
  {
    name: "forgetting is negative where the last row is the best, and the base model is no earlier row",
    R: matrix("ab", [
      [0.9, 0],
      [0.4, 0],
      [0.6, 0.5],
    ]),
    expected: { bwt: 0.2, fwt: 0, forgetting: -0.2, minimumAccuracy: 0.6, acc: 0.55 },
  },
  {
    name: "a domain that comes back: after its last training, before its first",
    R: matrix("aba", [
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
      minimumAccuracy: 0.5,
      acc: 0.6,
      learningAccuracy: 0.8,
      rewardOnEarlier: 0.5,
    },
  },
  {
    name: "a domain that comes back and is followed by another",
    R: matrix("abac", [
      [0, 0, 0],
      [0.6, 0.1, 0.2],
      [0.2, 0.8, 0.3],
      [0.9, 0.4, 0.5],
      [0.5, 0.6, 0.7],
    ]),
    // a was last trained in row 2, b in row 1. Forgetting of a: row 2; of b: row 1.
    expected: {
      bwt: (0.5 - 0.9 + (0.6 - 0.8)) / 2,
      fwt: (0.1 + 0.5) / 2,
      forgetting: (0.4 + 0.2) / 2,
      minimumAccuracy: (0.5 + 0.4) / 2,
      acc: 0.6,
      learningAccuracy: (0.9 + 0.8 + 0.7) / 3,
    },
  },
  {
    name: "after the first of three domains: only it counts",
    R: matrix("abc", [
      [0.1, 0.2, 0.3],
      [0.8, 0.3, 0.2],
    ]),
    expected: {
      bwt: null,
      fwt: null,
      forgetting: null,
      minimumAccuracy: null,
      acc: 0.8,
      learningAccuracy: 0.8,
      rewardOnEarlier: null,
    },
  },
  {
    name: "all domains at once: nothing is earlier",
    R: new ScoreMatrix([
      { task_idx: -1, domain: null, scores: { a: Float64Array.of(0.1), b: Float64Array.of(0.2) } },
      { task_idx: 0, domain: "joint", scores: { a: Float64Array.of(0.7), b: Float64Array.of(0.9) } },
    ]),
    expected: { acc: 0.8, learningAccuracy: 0.8, bwt: null, fwt: null, forgetting: null, minimumAccuracy: null },
  },
])("$name", ({ R, expected }) => {
  for (const [name, value] of Object.entries(expected)) {
    const measured = estimateOf(FORMULAS[name as keyof typeof FORMULAS](R));
    if (value === null) expect([name, measured]).toEqual([name, null]);
    else expect(Math.abs((measured ?? Number.NaN) - value), name).toBeLessThan(1e-12);
  }
});

test("intransigence compares with what training on the domain alone, or on all, reaches", () => {
  const R = matrix("ab", [
    [0, 0],
    [0.6, 0],
    [0.3, 0.5],
  ]);
  const best: Record<string, Draws> = { a: Float64Array.of(0.9), b: Float64Array.of(0.4) };
  expect(estimateOf(intransigence(R, (domain) => best[domain] ?? null))).toBeCloseTo((0.3 - 0.1) / 2, 12);
  expect(intransigence(R, (domain) => (domain === "a" ? best.a! : null))).toBeNull();
});

test("of domains that come once: ACC = learning accuracy + BWT · (N - 1)/N, and forgetting is at least -BWT", () => {
  const reward = fc.double({ min: 0, max: 1, noNaN: true });
  const sizes = fc.integer({ min: 2, max: 6 });
  const matrices = sizes.chain((n) =>
    fc.array(fc.array(reward, { minLength: n, maxLength: n }), { minLength: n + 1, maxLength: n + 1 }),
  );
  fc.assert(
    fc.property(matrices, (scores) => {
      const n = scores.length - 1;
      const R = matrix("abcdef".slice(0, n), scores);
      const [a, la, b, f] = [acc, learningAccuracy, bwt, forgetting].map((formula) => estimateOf(formula(R)) as number);
      return Math.abs(a! - la! - (b! * (n - 1)) / n) < 1e-9 && f! >= -b! - 1e-9;
    }),
  );
});

test("rows out of order, and scores that are missing, are refused", () => {
  const row = (task_idx: number): MatrixRow => ({ task_idx, domain: null, scores: {} });
  expect(() => new ScoreMatrix([row(0)])).toThrow("missing or out of order");
  expect(() => new ScoreMatrix([row(-1), row(0)]).at(0, "c")).toThrow("row 0 has no score of c");
});

describe("transferMetrics", () => {
  const row = (task_idx: number, domain: string | null, a: number[], b: number[]): ScoresRow => {
    const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
    const rewards = (name: string, values: number[]) =>
      Object.fromEntries(values.map((reward, i) => [`${name}${i}`, [reward]]));
    return {
      kind: "scores",
      task_idx,
      domain,
      scores: { a: { reward_mean: mean(a) } as DomainScore, b: { reward_mean: mean(b) } as DomainScore },
      rewards: { a: rewards("a", a), b: rewards("b", b) },
    };
  };

  test("the intervals pair the tasks of both rows", () => {
    // Task 2 is lost, the others stay: the change is -1/4 in the mean, and never positive in any resample.
    const rows = [row(-1, null, [0, 0, 0, 0], [0]), row(0, "a", [1, 1, 1, 0], [0]), row(1, "b", [1, 1, 0, 0], [1])];
    const measured = transferMetrics(rows, 1);
    expect(measured["cl/bwt"]).toBe(-0.25);
    expect(measured["cl/bwt_low"]).toBe(-0.75);
    expect(measured["cl/bwt_high"]).toBe(0);
    expect([measured["cl/forgetting_low"], measured["cl/forgetting_high"]]).toEqual([0, 0.75]);
    expect(measured["cl/current_performance"]).toBe(1);
    expect(measured["cl/fwt"]).toBe(0);
    expect([measured["cl/fwt_low"], measured["cl/fwt_high"]]).toEqual([0, 0]);
  });

  test("no change at all has an interval of no width, whatever the scores", () => {
    const scores = [
      [1, 0, 1, 1],
      [1, 0],
    ] as const;
    const rows = [null, "a", "b"].map((domain, i) => row(i - 1, domain, [...scores[0]], [...scores[1]]));
    const measured = transferMetrics(rows, 1);
    expect([measured["cl/bwt_low"], measured["cl/bwt_high"]]).toEqual([0, 0]);
    expect(measured["cl/acc_low"]).toBeLessThan(measured["cl/acc"] ?? 0);
    expect(measured["cl/acc_high"]).toBeGreaterThan(measured["cl/acc"] ?? 1);
  });

  test("10,000 resamples of a whole report take well under a second", () => {
    const values = (length: number, salt: number) => Array.from({ length }, (_, i) => ((i * 7 + salt) % 5) / 4);
    const rows = Array.from({ length: 6 }, (_, i) =>
      row(i - 1, i === 0 ? null : i % 2 === 1 ? "a" : "b", values(114, i), values(114, i + 1)),
    );
    const began = performance.now();
    transferMetrics(rows, 1);
    expect(performance.now() - began).toBeLessThan(1000);
  });
});

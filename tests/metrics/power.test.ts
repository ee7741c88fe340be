import { expect, test } from "bun:test";
import { Rng } from "../../src/base/rng.ts";
import { powerSentence, visibleDifference } from "../../src/metrics/power.ts";

test("the formula, by hand", () => {
  // 20 tasks, 4 trials: 2.801585 · sqrt((1/12 + 2/6/4) / 20) = 2.801585 · sqrt(1/120).
  expect(visibleDifference({ tasks: 20, trials: 4 })).toBeCloseTo(2.801585 / Math.sqrt(120), 9);
  expect(powerSentence({ tasks: 20, trials: 4 })).toBe(
    "with 20 tasks and 4 trials differences under 26 points are not visible",
  );
});

test("simulated runs that differ by so much are told apart four times in five", () => {
  // Success rates with variance 1/12 and correlation 1/2: half of the tasks share their rate, half draw it anew.
  const size = { tasks: 400, trials: 4 };
  const delta = visibleDifference(size);
  const rng = Rng.from(3);
  const trials = (rate: number) =>
    Array.from({ length: size.trials }, () => (rng.uniform() < rate ? 1 : 0)).reduce<number>((a, b) => a + b, 0) /
    size.trials;
  let found = 0;
  const repeats = 400;
  for (let r = 0; r < repeats; r++) {
    const differences = Array.from({ length: size.tasks }, () => {
      const one = rng.uniform();
      const other = rng.uniform() < 0.5 ? one : rng.uniform();
      return trials(one) - trials(other) + delta;
    });
    const mean = differences.reduce((a, b) => a + b, 0) / size.tasks;
    const variance = differences.reduce((sum, d) => sum + (d - mean) ** 2, 0) / (size.tasks - 1);
    if (Math.abs(mean) > 1.96 * Math.sqrt(variance / size.tasks)) found += 1;
  }
  expect(found / repeats).toBeGreaterThan(0.74);
  expect(found / repeats).toBeLessThan(0.86);
});

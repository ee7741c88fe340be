import { describe, expect, test } from "bun:test";
import { Rng } from "../../src/base/rng.ts";
import { interval95, RESAMPLES, resampledMeans, resampleOf } from "../../src/metrics/bootstrap.ts";
import { allPass, passHatK, scoreOf, taskRewards } from "../../src/metrics/score.ts";
import { groupOf, rolloutOf } from "../support/rollouts.ts";

const variant = { nl_assertions: "exclude", n_excluded: 2, kl_drift: null } as const;

describe("pass^k", () => {
  test.each([
    { trials: 4, successes: 4, k: 4, chance: 1 },
    { trials: 4, successes: 3, k: 1, chance: 3 / 4 },
    { trials: 4, successes: 3, k: 2, chance: 3 / 6 },
    { trials: 4, successes: 3, k: 3, chance: 1 / 4 },
    { trials: 4, successes: 3, k: 4, chance: 0 },
    { trials: 5, successes: 2, k: 2, chance: 1 / 10 },
    { trials: 4, successes: 0, k: 2, chance: 0 },
  ])("C($successes, $k) / C($trials, $k)", ({ chance, ...counts }) => {
    expect(allPass(counts)).toBeCloseTo(chance, 12);
  });

  test("is the mean over tasks, and needs reward 1", () => {
    expect(
      passHatK([
        [1, 1],
        [1, 0.9],
        [1 + 1e-7, 0],
      ]),
    ).toEqual({ "1": (1 + 0.5 + 0.5) / 3, "2": 1 / 3 });
  });
});

describe("bootstrap", () => {
  const rewards = (values: readonly number[]) => Object.fromEntries(values.map((value, i) => [`t${i}`, [value]]));
  const means = (values: readonly number[], seed = 5) => {
    const tasks = rewards(values);
    return resampledMeans(tasks, resampleOf(Object.keys(tasks), Rng.from(seed)));
  };

  test("agrees with the exact binomial interval of one in two", () => {
    // 100 tasks, half won: the mean of a resample is binomial(100, 1/2)/100, whose 2.5 % and 97.5 % points are .40 and .60.
    const { low, high } = interval95(means(Array.from({ length: 100 }, (_, i) => i % 2)));
    expect([low, high].map((value) => Math.round(value * 100))).toEqual([40, 60]);
  });

  test("resamples alike in all rows, 10,000 times, and repeats itself", () => {
    const [one, other] = [means([0, 1, 2]), means([1, 2, 3])];
    expect(one.length).toBe(RESAMPLES);
    expect(one.every((mean, b) => Math.abs(other[b]! - mean - 1) < 1e-12)).toBe(true);
    expect(means([0, 1, 2])).toEqual(one);
    expect(means([0, 1, 2], 6)).not.toEqual(one);
  });

  test("the order of the ids does not matter", () => {
    const ids = ["b", "a", "c"];
    const of = (some: readonly string[]) => resampledMeans({ a: [0], b: [1], c: [5] }, resampleOf(some, Rng.from(1)));
    expect(of(ids)).toEqual(of(ids.toReversed()));
  });

  test("a task whose trials were all lost is passed over", () => {
    const resample = resampleOf(["a", "b", "c"], Rng.from(1));
    const drawn = resampledMeans({ a: [1], b: [], c: [1, 1] }, resample);
    expect(drawn.every((mean) => mean === 1 || Number.isNaN(mean))).toBe(true);
  });

  test("no tasks are refused", () => {
    expect(() => resampleOf([], Rng.from(1))).toThrow("no tasks to resample");
  });
});

describe("scoreOf", () => {
  const trial = (task_id: string, reward: number, fields = {}) => rolloutOf({ task_id, reward, ...fields });
  const groups = [
    groupOf([trial("0", 1), trial("0", 0)], { task_id: "0" }),
    groupOf([trial("1", 0.6), trial("1", 0.6, { task_writes: true })], { task_id: "1" }),
    groupOf(
      [
        trial("2", 1, { task_writes: false }),
        trial("2", 0, { task_writes: false, termination: "infrastructure_error" }),
      ],
      { task_id: "2" },
    ),
  ];
  const score = scoreOf(groups, { ...variant, contaminated: true, rng: Rng.from(1) });

  test("means are over tasks, of the trials that were not lost", () => {
    expect(score).toMatchObject({
      n_tasks: 3,
      n_tasks_write: 2,
      nl_assertions: "exclude",
      n_excluded: 2,
      n_trials: 2,
      n_failed: 1,
      reward_mean: (0.5 + 0.6 + 1) / 3,
      pass_rate: (0.5 + 1 + 1) / 3,
      pass_hat_k: { "1": (0.5 + 0 + 1) / 3 },
      reward_mean_write: (0.5 + 0.6) / 2,
      reward_mean_noop: 1,
      contaminated: true,
      stops: { infrastructure_error: 1, user_stop: 5 },
      user_identity: "scripted",
    });
    expect(score.low).toBeLessThan(score.reward_mean);
    expect(score.high).toBeGreaterThan(score.reward_mean);
  });

  test("the rewards of each task are kept for paired comparisons", () => {
    expect(taskRewards(groups)).toEqual({ "0": [1, 0], "1": [0.6, 0.6], "2": [1] });
  });

  test("nothing but lost conversations is an error", () => {
    const lost = [groupOf([trial("0", 0, { termination: "infrastructure_error" })])];
    expect(() => scoreOf(lost, { ...variant, contaminated: false, rng: Rng.from(1) })).toThrow(
      "lost to the infrastructure",
    );
  });
});

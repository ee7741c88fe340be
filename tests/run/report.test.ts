/** What a person reads about an evaluation. */
import { expect, test } from "bun:test";
import { splitDomain } from "../../src/curriculum/split.ts";
import { domainBaselines } from "../../src/metrics/baselines.ts";
import type { DomainScore } from "../../src/metrics/score.ts";
import { evaluationTable, excludedTasks, powerLines } from "../../src/run/report.ts";
import type { Task } from "../../src/tau2/types.ts";
import { lampDomain } from "../support/lamp-domain.ts";

const score: DomainScore = {
  n_tasks: 4,
  n_tasks_write: 3,
  nl_assertions: "exclude",
  n_excluded: 0,
  n_trials: 2,
  n_failed: 0,
  reward_mean: 0.5,
  pass_rate: 0.5,
  pass_hat_k: { "1": 0.5, "2": 0.25 },
  low: 0.25,
  high: 0.75,
  reward_mean_write: 1 / 3,
  reward_mean_noop: 1,
  contaminated: false,
  stops: {},
  malformed_calls: 0,
  tool_errors: 0,
  tool_accuracy: null,
  kl_drift: null,
  truncated_turns: 0,
  agent_turns_mean: 1,
  tool_calls_mean: 0,
  user_identity: "scripted",
  user_cost_usd: 0,
};

test("agents that help nobody stand below the score, those that earn the same together", () => {
  const task = (id: string, writes: boolean, empty: number, transfer: number) => ({
    id,
    writes,
    rewards: { empty, refuse: empty, transfer },
  });
  const baselines = domainBaselines([task("1", true, 0, 0), task("2", false, 1, 0)], { train: [], test: ["3"] });
  expect(evaluationTable({ scores: { hall: score }, baselines: { hall: baselines } })).toBe(
    [
      "  domain           reward  95 % interval  with a write  without     pass rate  pass^1  pass^k        tasks  trials",
      "  hall             0.5000  [0.25, 0.75]   0.3333 (3)    1.0000 (1)  0.5000     0.5000  0.2500 (k=2)  4      2",
      "    empty, refuse  0.5000                 0.0000        1.0000",
      "    transfer       0.0000                 0.0000        0.0000",
    ].join("\n"),
  );
});

test("a variant, tasks left out and contamination are said", () => {
  const told = { ...score, nl_assertions: "drop", contaminated: true } as const;
  const text = evaluationTable({ scores: { hall: told, attic: { ...score, n_excluded: 2 } }, baselines: {} });
  expect(text).toContain("* contaminated: evaluated on tasks that are trained on (hall)");
  expect(text).toContain("hall: nl_assertions drop, 0 tasks left out");
  expect(text).toContain("attic: nl_assertions exclude, 2 tasks left out");
});

test("tasks that are left out are named, a few of them", () => {
  const lamps = lampDomain({ lamps: [..."ABCDEFGHIJ"] });
  const judged = (task: Task): Task => ({
    ...task,
    evaluation_criteria: { ...task.evaluation_criteria!, reward_basis: ["NL_ASSERTION"], nl_assertions: ["polite"] },
  });
  const tasks = lamps.tasks.map((task, i) => (i < 6 ? judged(task) : task));
  const split = splitDomain(
    { ...lamps, tasks },
    {
      train_split: 0.8,
      max_tasks_per_domain: null,
      eval_max_tasks: null,
      noop_tasks: "keep",
      nl_assertions: "exclude",
      solvedByNothing: () => false,
    },
  );
  expect(excludedTasks([split])).toEqual([
    "lamps: 6 training tasks (A, B, C, D, E, …) and 0 evaluation tasks are left out, since their reward needs a judge model (nl_assertions judge or drop keeps them)",
  ]);
  expect(powerLines([split], 4)).toEqual([
    "Power: lamps, with 2 tasks and 4 trials differences under 81 points are not visible",
  ]);
});

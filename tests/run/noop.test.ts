/** Agents that help nobody, on tau2's own data where it is there: what they earn follows from the tasks' criteria. */
import { describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { splitDomain } from "../../src/curriculum/split.ts";
import { baselinesOf, solvedByNothing } from "../../src/run/noop.ts";
import { knownDomains, loadDomain } from "../../src/tau2/domains/index.ts";
import { needsJudge, taskWrites } from "../../src/tau2/evaluator.ts";
import type { Domain, Task } from "../../src/tau2/types.ts";
import { lampDomain } from "../support/lamp-domain.ts";
import { SHARED } from "../support/shared.ts";

const OPTIONS = {
  train_split: 0.8,
  max_tasks_per_domain: null,
  eval_max_tasks: null,
  noop_tasks: "keep",
  nl_assertions: "exclude",
  solvedByNothing,
} as const;

const DATA = join(SHARED, "tau2/data");
const fromData = existsSync(DATA)
  ? knownDomains().filter((name) => existsSync(join(DATA, "tau2/domains", name, "tasks.json")))
  : [];
if (fromData.length === 0) console.log("skipped: no tau2 data in ../shared");

/** Without looking at a reward: nothing that the basis counts asks for anything. */
function asksForNothing(domain: Domain, { evaluation_criteria, ...task }: Task): boolean {
  const { reward_basis, communicate_info, actions } = evaluation_criteria!;
  return reward_basis.every((kind) => {
    if (kind === "DB") return !taskWrites(domain, { ...task, evaluation_criteria });
    if (kind === "COMMUNICATE") return !communicate_info?.length;
    return kind === "ACTION" ? !actions?.length : true;
  });
}

describe.each(fromData)("%s", (name) => {
  const domain = loadDomain(name, { tau2_data_dir: DATA, train_split: 0.8 } as Parameters<typeof loadDomain>[1]);
  // What an assertion finds before anything happened cannot be told without running it.
  const tasks = domain.tasks.filter((task) => !needsJudge(task) && !task.evaluation_criteria?.env_assertions?.length);

  test("doing nothing solves the tasks that ask for nothing, and no others", () => {
    const ids = (those: readonly Task[]) => those.map(({ id }) => id);
    const solved = tasks.filter((task) => solvedByNothing(domain, task));
    expect(ids(solved)).toEqual(ids(tasks.filter((task) => asksForNothing(domain, task))));
  });

  test("drop_from_train leaves none of them in training, and evaluation as it is", () => {
    const [kept, dropped] = (["keep", "drop_from_train"] as const).map((noop_tasks) =>
      splitDomain(domain, { ...OPTIONS, noop_tasks }),
    );
    expect(dropped!.train).toEqual(kept!.train.filter((task) => !solvedByNothing(domain, task)));
    expect(dropped!.test).toEqual(kept!.test);
  });

  test("the means are over evaluated tasks; with and without a write they add up", () => {
    const split = splitDomain(domain, OPTIONS);
    const { agents, n_tasks, n_tasks_write, noop_tasks, excluded } = baselinesOf(split);
    expect(n_tasks).toBe(split.test.length);
    expect(excluded).toEqual(split.excluded);
    expect(noop_tasks).toEqual(split.test.filter((task) => solvedByNothing(domain, task)).map(({ id }) => id));
    for (const score of Object.values(agents)) {
      if (score === null) continue;
      const { reward_mean, reward_mean_write, reward_mean_noop } = score;
      const sum = (reward_mean_write ?? 0) * n_tasks_write + (reward_mean_noop ?? 0) * (n_tasks - n_tasks_write);
      expect(sum / n_tasks).toBeCloseTo(reward_mean, 12);
    }
  });
});

describe("one domain", () => {
  const change = (criteria: Partial<NonNullable<Task["evaluation_criteria"]>>) => (task: Task) => ({
    ...task,
    evaluation_criteria: { ...task.evaluation_criteria!, ...criteria },
  });
  const lamps = lampDomain({ lamps: [..."ABCD"] });
  const changes: readonly ((task: Task) => Task)[] = [
    (task) => task,
    change({ actions: [] }), // nothing to switch
    change({ actions: [], reward_basis: ["DB", "COMMUNICATE"], communicate_info: ["sorry"] }), // a refusal says it
    change({ reward_basis: ["DB", "NL_ASSERTION"], nl_assertions: ["polite"] }),
  ];
  const domain: Domain = {
    ...lamps,
    tasks: lamps.tasks.map((task, i) => changes[i]!(task)),
    splits: { train: ["A"], test: [..."ABCD"] },
  };

  test("each agent earns what it says; a task that needs a judge is in no mean; no tool, no transfer", () => {
    const split = { ...splitDomain(domain, { ...OPTIONS, nl_assertions: "judge" }) };
    expect(split.test.length).toBe(4);
    expect(baselinesOf(split)).toEqual({
      n_tasks: 3,
      n_tasks_write: 1,
      noop_tasks: ["B"],
      excluded: { train: [], test: [] },
      agents: {
        empty: { reward_mean: 1 / 3, reward_mean_write: 0, reward_mean_noop: 1 / 2, rewards: { A: 0, B: 1, C: 0 } },
        refuse: { reward_mean: 2 / 3, reward_mean_write: 0, reward_mean_noop: 1, rewards: { A: 0, B: 1, C: 1 } },
        transfer: null,
      },
    });
    expect(solvedByNothing(domain, domain.tasks[3]!)).toBe(false);
  });
});

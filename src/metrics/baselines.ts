/** What agents that help nobody earn on the evaluated tasks (run/noop.ts plays them). */
import type { DomainSplit } from "../curriculum/split.ts";
import { PASS_REWARD_MIN } from "./names.ts";

export const BASELINES = {
  empty: "says nothing, and the user stops",
  refuse: "one refusing sentence, then the user stops",
  transfer: "calls transfer_to_human_agents at once, then the user stops",
} as const;

export type Baseline = keyof typeof BASELINES;

export interface BaselineScore {
  readonly reward_mean: number;
  /** Of tasks whose golden run writes; null without any. */
  readonly reward_mean_write: number | null;
  /** Of tasks that need no write; null without any. */
  readonly reward_mean_noop: number | null;
  /** Task id → reward. */
  readonly rewards: Readonly<Record<string, number>>;
}

export interface DomainBaselines {
  /** Evaluated tasks that the evaluator scores without a judge model: what the means are over. */
  readonly n_tasks: number;
  readonly n_tasks_write: number;
  /** Ids of the evaluated tasks that the empty agent solves. */
  readonly noop_tasks: readonly string[];
  /** Ids of the tasks that `nl_assertions` leaves out. */
  readonly excluded: DomainSplit["excluded"];
  /** null where the domain has no tool of that name, or no task can be scored. */
  readonly agents: Readonly<Record<Baseline, BaselineScore | null>>;
}

export interface BaselineTask {
  readonly id: string;
  /** Does its golden run write? */
  readonly writes: boolean;
  readonly rewards: Readonly<Record<Baseline, number | null>>;
}

export function domainBaselines(tasks: readonly BaselineTask[], excluded: DomainSplit["excluded"]): DomainBaselines {
  return {
    n_tasks: tasks.length,
    n_tasks_write: tasks.filter(({ writes }) => writes).length,
    noop_tasks: tasks.filter(({ rewards }) => isSolved(rewards.empty)).map(({ id }) => id),
    excluded,
    agents: { empty: scoreOf(tasks, "empty"), refuse: scoreOf(tasks, "refuse"), transfer: scoreOf(tasks, "transfer") },
  };
}

function scoreOf(tasks: readonly BaselineTask[], agent: Baseline): BaselineScore | null {
  const scored = tasks.flatMap(({ id, writes, rewards }) => {
    const reward = rewards[agent];
    return reward === null ? [] : [{ id, writes, reward }];
  });
  const mean = average(scored);
  if (mean === null) return null;
  return {
    reward_mean: mean,
    reward_mean_write: average(scored.filter(({ writes }) => writes)),
    reward_mean_noop: average(scored.filter(({ writes }) => !writes)),
    rewards: Object.fromEntries(scored.map(({ id, reward }) => [id, reward])),
  };
}

export interface BaselineGroup {
  readonly agents: readonly string[];
  readonly score: BaselineScore;
}

/** Agents with equal means, together. */
export function baselineGroups(baselines: DomainBaselines | undefined): BaselineGroup[] {
  const scored = Object.entries(baselines?.agents ?? {}).flatMap(([agent, score]) =>
    score === null ? [] : [{ agent, score }],
  );
  const equal = Map.groupBy(scored, ({ score: { rewards: _, ...means } }) => JSON.stringify(means));
  return [...equal.values()].map((those) => ({
    agents: those.map(({ agent }) => agent),
    score: (those[0] as (typeof those)[number]).score,
  }));
}

const isSolved = (reward: number | null): boolean => reward !== null && reward > PASS_REWARD_MIN;

const average = (tasks: readonly { readonly reward: number }[]): number | null =>
  tasks.length === 0 ? null : tasks.reduce((sum, { reward }) => sum + reward, 0) / tasks.length;

/**
 * The score of a domain from its evaluation rollouts.
 *
 * Axes: P tasks (groups) · G trials of a task.
 */
import type { Rng } from "../base/rng.ts";
import type { NlAssertions } from "../curriculum/nl-assertions.ts";
import { isFailed } from "../grpo/batch.ts";
import type { Group, Rollout } from "../rollout/types.ts";
import { interval95, resampledMeans, resampleOf } from "./bootstrap.ts";
import { PASS_REWARD_MIN, type ScoreMetric } from "./names.ts";

export interface DomainScore extends Record<ScoreMetric, unknown> {
  readonly n_tasks: number;
  readonly n_tasks_write: number;
  readonly nl_assertions: NlAssertions;
  readonly n_excluded: number;
  readonly n_trials: number;
  readonly n_failed: number;
  readonly reward_mean: number;
  readonly pass_rate: number;
  /** By k, from "1". */
  readonly pass_hat_k: Readonly<Record<string, number>>;
  readonly low: number;
  readonly high: number;
  readonly reward_mean_write: number | null;
  readonly reward_mean_noop: number | null;
  readonly contaminated: boolean;
  readonly stops: Readonly<Record<string, number>>;
  readonly malformed_calls: number;
  readonly tool_errors: number;
  readonly tool_accuracy: number | null;
  readonly kl_drift: number | null;
  readonly truncated_turns: number;
  readonly agent_turns_mean: number;
  readonly tool_calls_mean: number;
  readonly user_identity: string;
  readonly user_cost_usd: number;
}

/** Task id → reward of each trial, failed ones left out: what paired comparisons are made from. */
export type TaskRewards = Readonly<Record<string, readonly number[]>>;

export interface ScoreOptions {
  readonly contaminated: boolean;
  readonly nl_assertions: NlAssertions;
  /** Tasks that `nl_assertions` leaves out. */
  readonly n_excluded: number;
  readonly kl_drift: number | null;
  /** The same for every row and run: see bootstrap.ts. */
  readonly rng: Rng;
}

export function scoreOf(groups: readonly Group[], { rng, ...facts }: ScoreOptions): DomainScore {
  const rollouts = groups.flatMap((group) => group.rollouts);
  const counted_PG = groups.map(scored).filter((trials_G) => trials_G.length > 0);
  const counted = counted_PG.flat();
  if (counted.length === 0) throw new Error("evaluation: every conversation was lost to the infrastructure");
  const rewards = taskRewards(groups);
  return {
    n_tasks: groups.length,
    n_tasks_write: groups.filter(writes).length,
    ...facts,
    n_trials: Math.max(...groups.map((group) => group.rollouts.length)),
    n_failed: rollouts.length - counted.length,
    reward_mean: average(taskMeans(counted_PG)),
    pass_rate: average(counted_PG.map((trials_G) => average(trials_G.map(passed)))),
    pass_hat_k: passHatK(counted_PG.map((trials_G) => trials_G.map(({ reward }) => reward))),
    ...interval95(resampledMeans(rewards, resampleOf(Object.keys(rewards), rng))),
    reward_mean_write: meanWhere(counted_PG, ({ task_writes }) => task_writes),
    reward_mean_noop: meanWhere(counted_PG, ({ task_writes }) => !task_writes),
    ...conduct(rollouts),
  };
}

export function taskRewards(groups: readonly Group[]): TaskRewards {
  return Object.fromEntries(groups.map((group) => [group.task_id, scored(group).map(({ reward }) => reward)]));
}

/** tau2's success: reward 1, up to rounding. */
export const isSuccess = (reward: number): boolean => Math.abs(reward - 1) <= 1e-6;

/** For k = 1…: mean over tasks of C(c, k) / C(n, k), c successes of n trials; up to the fewest trials of a task. */
export function passHatK(rewards_PG: readonly (readonly number[])[]): Record<string, number> {
  const kMax = Math.min(...rewards_PG.map((rewards_G) => rewards_G.length));
  return Object.fromEntries(
    Array.from({ length: kMax }, (_, i) => i + 1).map((k) => [
      String(k),
      average(
        rewards_PG.map((rewards_G) =>
          allPass({ trials: rewards_G.length, successes: rewards_G.filter(isSuccess).length, k }),
        ),
      ),
    ]),
  );
}

/** C(c, k) / C(n, k) = Π_{i<k} (c - i) / (n - i): the unbiased estimate (Yao et al. 2024, "tau-bench"). */
export function allPass({ trials, successes, k }: { trials: number; successes: number; k: number }): number {
  let chance = 1;
  for (let i = 0; i < k; i++) chance *= Math.max(0, successes - i) / (trials - i);
  return chance;
}

const writes = ({ rollouts }: Group): boolean => rollouts.some(({ task_writes }) => task_writes);

export const scored = (group: Group): Rollout[] => group.rollouts.filter((rollout) => !isFailed(rollout));

/** How the conversations went, whatever their reward. */
function conduct(rollouts: readonly Rollout[]) {
  const sum = (value: (rollout: Rollout) => number) => rollouts.reduce((total, rollout) => total + value(rollout), 0);
  const tool_calls = sum((rollout) => rollout.tool_calls);
  const tool_errors = sum((rollout) => rollout.tool_errors);
  return {
    stops: countStops(rollouts),
    malformed_calls: sum((rollout) => rollout.malformed_calls),
    tool_errors,
    tool_accuracy: tool_calls === 0 ? null : 1 - tool_errors / tool_calls,
    truncated_turns: sum((rollout) => rollout.truncated_turns),
    agent_turns_mean: sum((rollout) => rollout.agent_turns) / rollouts.length,
    tool_calls_mean: tool_calls / rollouts.length,
    user_identity: [...new Set(rollouts.map((rollout) => rollout.user_identity))].join(", "),
    user_cost_usd: sum((rollout) => rollout.user_cost_usd),
  };
}

/** Sorted by name, so that equal counts are equal text. */
export function countStops(rollouts: readonly Rollout[]): Record<string, number> {
  const byStop = Map.groupBy(rollouts, (rollout) => rollout.termination);
  return Object.fromEntries(
    [...byStop].map(([stop, those]) => [stop as string, those.length] as const).toSorted(byKey),
  );
}

const byKey = ([a]: readonly [string, number], [b]: readonly [string, number]) => (a < b ? -1 : 1);

const taskMeans = (rollouts_PG: readonly (readonly Rollout[])[]): number[] =>
  rollouts_PG.map((trials_G) => average(trials_G.map(({ reward }) => reward)));

function meanWhere(rollouts_PG: readonly Rollout[][], wanted: (rollout: Rollout) => boolean): number | null {
  const those = rollouts_PG.filter((trials_G) => trials_G.some(wanted));
  return those.length === 0 ? null : average(taskMeans(those));
}

const passed = ({ reward }: Rollout): number => (reward > PASS_REWARD_MIN ? 1 : 0);

const average = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

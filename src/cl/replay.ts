/**
 * Replay: a share of each step's tasks comes from earlier domains. By default they are rolled out again under the current
 * policy, so the update stays on-policy; `stored` trains on the remembered rollouts with their recorded log-probabilities.
 */
import type { Rng } from "../base/rng.ts";
import type { TaskRef } from "../curriculum/curriculum.ts";
import type { RememberedTask } from "./memory.ts";
import { type BatchContext, type ContinualMethod, PLAIN } from "./method.ts";

export type ReplayStrategy = "random" | "high_reward" | "recent" | "balanced";

export interface ReplayConfig {
  /** Replayed tasks as a share of a step's tasks. */
  readonly replay_ratio: number;
  /** `replace`: a step stays as large as without replay. `add`: replayed tasks come on top. */
  readonly replay_budget: "replace" | "add";
  readonly replay_strategy: ReplayStrategy;
  readonly replay_mode: "reroll" | "stored";
}

export const replay = (config: ReplayConfig): ContinualMethod => ({
  ...PLAIN,
  name: "replay",
  augmentBatch: (context) => withReplayed(context, drawn(context, config), config),
});

/** Remembered tasks of earlier domains, as many as the ratio says. */
export function drawn({ tasks, experience, step, memory, rng }: BatchContext, config: ReplayConfig): RememberedTask[] {
  const candidates = memory.tasksOf(experience.earlier);
  const wanted = replayCount({ step, ratio: config.replay_ratio, batch: tasks.length });
  return STRATEGIES[config.replay_strategy](candidates, wanted, rng);
}

export interface ReplayUse extends Pick<ReplayConfig, "replay_budget" | "replay_mode"> {
  readonly use?: TaskRef["use"];
}

/** The step's plan; `use` wins over replay_mode. */
export function withReplayed(
  { tasks }: BatchContext,
  replayed: readonly RememberedTask[],
  { replay_budget, replay_mode, use = replay_mode === "stored" ? "stored" : undefined }: ReplayUse,
): TaskRef[] {
  const kept = replay_budget === "replace" ? tasks.slice(0, Math.max(0, tasks.length - replayed.length)) : tasks;
  const marked = replayed.map(({ domain, task_id }) => ({ domain, task_id, replayed: true }));
  return [...kept, ...(use === undefined ? marked : marked.map((ref) => ({ ...ref, use })))];
}

/** ⌊(s+1)·ratio·batch⌋ − ⌊s·ratio·batch⌋: over many steps exactly the ratio, also where a batch is less than 1/ratio. */
export function replayCount({ step, ratio, batch }: { step: number; ratio: number; batch: number }): number {
  return upTo(step + 1) - upTo(step);

  // 10·0.7·3 is 20.999…: the small summand keeps whole numbers whole.
  function upTo(steps: number): number {
    return Math.floor(steps * ratio * batch + 1e-9);
  }
}

type Strategy = (tasks: readonly RememberedTask[], count: number, rng: Rng) => RememberedTask[];

/** Without replacement; fewer than `count` where memory holds fewer. */
const STRATEGIES = {
  random: (tasks, count, rng) => rng.shuffle(tasks).slice(0, count),
  high_reward: (tasks, count, rng) => drawnFromUpperHalf(tasks, count, rng, (task) => task.reward_mean),
  recent: (tasks, count, rng) => drawnFromUpperHalf(tasks, count, rng, (task) => task.newest),
  balanced: (tasks, count, rng) => inTurns(tasks, count, rng),
} satisfies Record<ReplayStrategy, Strategy>;

/** The half with the larger values (at least `count` tasks, ties by lot), then drawn evenly: not always the same ones. */
function drawnFromUpperHalf(
  tasks: readonly RememberedTask[],
  count: number,
  rng: Rng,
  value: (task: RememberedTask) => number,
): RememberedTask[] {
  const ordered = rng.shuffle(tasks).toSorted((a, b) => value(b) - value(a));
  const half = ordered.slice(0, Math.max(count, Math.ceil(ordered.length / 2)));
  return rng.shuffle(half).slice(0, count);
}

/** Domains in turn, in an order drawn anew for each step; within a domain evenly. */
function inTurns(tasks: readonly RememberedTask[], count: number, rng: Rng): RememberedTask[] {
  const piles = [...Map.groupBy(rng.shuffle(tasks), (task) => task.domain).values()];
  const longest = Math.max(0, ...piles.map((pile) => pile.length));
  const order = rng.shuffle(piles);
  const dealt = Array.from({ length: longest }, (_, round) => order.flatMap((pile) => pile.slice(round, round + 1)));
  return dealt.flat().slice(0, count);
}

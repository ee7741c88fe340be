/** What the run remembers of its rollouts: replay draws from it, checkpoints carry it, users export it. */
import { readFileSync } from "node:fs";
import { writeFileAtomic } from "../base/atomic.ts";
import { UserError } from "../base/errors.ts";
import { isArray, parseExact } from "../base/exact.ts";
import type { Rng } from "../base/rng.ts";
import { isFailed } from "../grpo/batch.ts";
import type { Group, Rollout } from "../rollout/types.ts";
import { type Trajectory, trajectoryOf, trajectoryText } from "./trajectory.ts";

export interface RememberedTask {
  readonly domain: string;
  readonly task_id: string;
  /** Over the task's remembered rollouts. */
  readonly reward_mean: number;
  /** Position of its newest rollout in the memory. */
  readonly newest: number;
}

export interface DomainStatistics {
  readonly trajectories: number;
  readonly tasks: number;
  readonly reward_mean: number;
  readonly reward_max: number;
}

export interface BufferStatistics {
  readonly size: number;
  /** Of each domain. */
  readonly capacity: number;
  /** null while nothing is remembered. */
  readonly reward_mean: number | null;
  readonly domains: Readonly<Record<string, DomainStatistics>>;
}

export interface SampleOptions {
  readonly count: number;
  readonly rng: Rng;
  /** Absent: all of them. */
  readonly domains?: readonly string[];
}

export class TrajectoryBuffer {
  /** Rollouts of each domain that fit. */
  readonly capacity: number;
  #trajectories: Trajectory[];

  constructor({
    capacity,
    trajectories = [],
  }: { readonly capacity: number; readonly trajectories?: readonly Trajectory[] }) {
    this.capacity = capacity;
    this.#trajectories = [...trajectories];
    this.#forgetSurplus();
  }

  get size(): number {
    return this.#trajectories.length;
  }

  /** Oldest first. */
  get trajectories(): readonly Trajectory[] {
    return this.#trajectories;
  }

  add(trajectory: Trajectory): void {
    this.#trajectories.push(trajectory);
    this.#forgetSurplus();
  }

  /** Adds the rollouts of a step; those that the infrastructure lost say nothing. */
  remember(groups: readonly Group[], { task_idx, step }: { readonly task_idx: number; readonly step: number }): void {
    this.#trajectories.push(...trajectoriesOf(groups, { task_idx, step }).filter((rollout) => !isFailed(rollout)));
    this.#forgetSurplus();
  }

  /** Drawn evenly, without replacement. */
  sample({ count, rng, domains }: SampleOptions): Trajectory[] {
    const wanted = domains === undefined ? this.#trajectories : this.#trajectories.filter(within(domains));
    return rng.shuffle(wanted).slice(0, count);
  }

  /** The tasks of these domains that there are rollouts of, in the order in which they were first seen. */
  tasksOf(domains: readonly string[]): RememberedTask[] {
    const indexed = this.#trajectories.map((trajectory, at) => ({ trajectory, at }));
    const wanted = indexed.filter(({ trajectory }) => domains.includes(trajectory.domain));
    const byTask = Map.groupBy(wanted, ({ trajectory: { domain, task_id } }) => JSON.stringify([domain, task_id]));
    return [...byTask.values()].map((seen) => {
      const { domain, task_id } = (seen[0] as (typeof seen)[number]).trajectory;
      return {
        domain,
        task_id,
        reward_mean: rewardMean(seen.map(({ trajectory }) => trajectory)),
        newest: Math.max(...seen.map(({ at }) => at)),
      };
    });
  }

  /** The rollouts of a task that were made together, the last time. */
  newestGroup({ domain, task_id }: { readonly domain: string; readonly task_id: string }): Trajectory[] {
    const same = this.#trajectories.filter((one) => one.domain === domain && one.task_id === task_id);
    const last = same.at(-1);
    return same.filter(({ task_idx, step }) => task_idx === last?.task_idx && step === last.step);
  }

  getStatistics(): BufferStatistics {
    const byDomain = Map.groupBy(this.#trajectories, (trajectory) => trajectory.domain);
    return {
      size: this.size,
      capacity: this.capacity,
      reward_mean: this.size === 0 ? null : rewardMean(this.#trajectories),
      domains: Object.fromEntries([...byDomain].map(([domain, those]) => [domain, statisticsOf(those)])),
    };
  }

  /** Those with at least this reward, for instance as demonstrations. */
  exportTrajectories({ min_reward }: { readonly min_reward: number }): Trajectory[] {
    return this.#trajectories.filter((trajectory) => trajectory.reward >= min_reward);
  }

  /** A JSON array, one trajectory a line. */
  save(path: string): void {
    const lines = this.#trajectories.map((trajectory) => trajectoryText(trajectory, { with_logprobs: true }));
    writeFileAtomic(path, `[\n${lines.join(",\n")}\n]\n`);
  }

  /** `capacity` absent: what the file holds. */
  static load(path: string, { capacity }: { readonly capacity?: number } = {}): TrajectoryBuffer {
    const trajectories = readTrajectories(path);
    return new TrajectoryBuffer({ capacity: capacity ?? Math.max(1, trajectories.length), trajectories });
  }

  /** The oldest rollouts of a domain go first. */
  #forgetSurplus(): void {
    const surplus = countsByDomain(this.#trajectories);
    for (const [domain, count] of surplus) surplus.set(domain, count - this.capacity);
    if ([...surplus.values()].every((count) => count <= 0)) return;
    this.#trajectories = this.#trajectories.filter(({ domain }) => {
      const left = surplus.get(domain) ?? 0;
      surplus.set(domain, left - 1);
      return left <= 0;
    });
  }
}

export function trajectoriesOf(
  groups: readonly Group[],
  { task_idx, step }: { readonly task_idx: number; readonly step: number },
): Trajectory[] {
  return groups.flatMap(({ rollouts, replayed }) =>
    rollouts.map((rollout) => ({ ...rollout, task_idx, step, replayed })),
  );
}

function readTrajectories(path: string): Trajectory[] {
  try {
    const stored = parseExact(readFileSync(path, "utf8"));
    if (!isArray(stored)) throw new Error("it is not an array");
    return stored.map(trajectoryOf);
  } catch (error) {
    throw new UserError(path, `it holds no trajectories (${(error as Error).message})`, { cause: error });
  }
}

function countsByDomain(trajectories: readonly Trajectory[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const { domain } of trajectories) counts.set(domain, (counts.get(domain) ?? 0) + 1);
  return counts;
}

const within = (domains: readonly string[]) => (trajectory: Trajectory) => domains.includes(trajectory.domain);

const rewardMean = (rollouts: readonly Rollout[]): number =>
  rollouts.reduce((sum, { reward }) => sum + reward, 0) / rollouts.length;

function statisticsOf(trajectories: readonly Trajectory[]): DomainStatistics {
  return {
    trajectories: trajectories.length,
    tasks: new Set(trajectories.map(({ task_id }) => task_id)).size,
    reward_mean: rewardMean(trajectories),
    reward_max: Math.max(...trajectories.map(({ reward }) => reward)),
  };
}

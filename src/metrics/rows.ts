/** The rows of metrics.jsonl, and metrics.json made from them. No row depends on the clock: equal runs are equal files. */
import type { DomainBaselines } from "./baselines.ts";
import { seedName, type TrainMetric, type TransferMetric } from "./names.ts";
import type { DomainScore, TaskRewards } from "./score.ts";

/** Position in the sequence, as the seed counts it. */
interface Place {
  /** The experience, from 0. */
  readonly task_idx: number;
  readonly domain: string;
}

/** Once, before the first evaluation: what agents that help nobody earn. */
export interface BaselinesRow {
  readonly kind: "baselines";
  readonly baselines: Readonly<Record<string, DomainBaselines>>;
}

export interface TrainRow extends Place, Readonly<Record<TrainMetric, number | null>> {
  readonly kind: "train";
  /** Within the experience, from 0. */
  readonly step: number;
  /** Why conversations ended, counted. */
  readonly "rollout/stops": Readonly<Record<string, number>>;
}

export interface EvalRow extends Place {
  readonly kind: "eval";
  /** The step that this evaluation came after. */
  readonly step: number;
  readonly score: DomainScore;
}

/** Between steps: earlier domains on a few of their evaluation tasks, one trial each. */
export interface ProbeRow {
  readonly kind: "probe";
  readonly task_idx: number;
  /** The step that it came after. */
  readonly step: number;
  /** Tasks of each domain, at most. */
  readonly n_tasks: number;
  /** Domain → mean reward. */
  readonly rewards: Readonly<Record<string, number>>;
}

export interface ScoresRow {
  readonly kind: "scores";
  /** -1: before training. */
  readonly task_idx: number;
  /** Trained last; null before training. */
  readonly domain: string | null;
  readonly scores: Readonly<Record<string, DomainScore>>;
  readonly rewards: Readonly<Record<string, TaskRewards>>;
}

export interface TransferRow extends Place, Readonly<Record<TransferMetric, number | null>> {
  readonly kind: "transfer";
}

export type MetricsRow = BaselinesRow | TrainRow | EvalRow | ProbeRow | ScoresRow | TransferRow;

/** The seed's shape: `task_N/train`, `task_N/eval`, `transfer`, and our `score_matrix` and `baselines`. */
export function seedShape(rows: readonly MetricsRow[]): Record<string, unknown[]> {
  const lists: Record<string, unknown[]> = {};
  for (const row of rows) {
    const [key, value] = entryOf(row);
    lists[key] ??= [];
    lists[key].push(value);
  }
  return lists;
}

export const scoresRowsOf = (rows: readonly MetricsRow[]): ScoresRow[] => rows.filter((row) => row.kind === "scores");

function entryOf(row: MetricsRow): [string, unknown] {
  switch (row.kind) {
    case "baselines":
      return ["baselines", row.baselines];
    case "train":
      return [`task_${row.task_idx}/train`, withSeedNames(row)];
    case "eval": {
      const { task_idx, domain, step, score } = row;
      return [`task_${task_idx}/eval`, { task_idx, domain, step, ...score }];
    }
    case "probe": {
      const { kind: _, ...probe } = row;
      return [`task_${row.task_idx}/probe`, probe];
    }
    case "scores": {
      const { task_idx, domain, scores } = row;
      return ["score_matrix", { task_idx, domain, scores }];
    }
    case "transfer":
      return ["transfer", withSeedNames(row)];
  }
}

function withSeedNames({ kind: _, ...fields }: TrainRow | TransferRow): Record<string, unknown> {
  return Object.fromEntries(Object.entries(fields).map(([name, value]) => [seedName(name), value]));
}

/** A run's numbers, from the rows of its metrics.jsonl. */
import { join } from "node:path";
import { writeFileAtomic } from "../base/atomic.ts";
import { readJsonl } from "../base/jsonl.ts";
import type { TrainMetric } from "../metrics/names.ts";
import {
  type EvalRow,
  type MetricsRow,
  type ScoresRow,
  seedShape,
  type TrainRow,
  type TransferRow,
} from "../metrics/rows.ts";

export class MetricsTracker {
  /** In the order in which they were written. */
  readonly rows: readonly MetricsRow[];

  constructor(rows: readonly MetricsRow[] = []) {
    this.rows = rows;
  }

  /** Of a run directory; works while the run is going on, too. */
  static load(log_dir: string): MetricsTracker {
    return new MetricsTracker(readJsonl(join(log_dir, "metrics.jsonl")) as MetricsRow[]);
  }

  /** One row a step; of one experience, or of all. */
  steps(task_idx?: number): TrainRow[] {
    const rows = this.rows.filter((row) => row.kind === "train");
    return task_idx === undefined ? rows : rows.filter((row) => row.task_idx === task_idx);
  }

  /** One metric over the steps: `series("rollout/reward_mean")`. */
  series(name: TrainMetric, task_idx?: number): (number | null)[] {
    return this.steps(task_idx).map((row) => row[name]);
  }

  evaluations(): EvalRow[] {
    return this.rows.filter((row) => row.kind === "eval");
  }

  /** A row before training (`task_idx` -1) and one after each experience. */
  scoreMatrix(): ScoresRow[] {
    return this.rows.filter((row) => row.kind === "scores");
  }

  /** After the last experience: BWT, FWT, forgetting, …; null before the first one has ended. */
  transfer(): TransferRow | null {
    return this.rows.findLast((row) => row.kind === "transfer") ?? null;
  }

  /** As metrics.json has it. */
  save(path: string): void {
    writeFileAtomic(path, `${JSON.stringify(seedShape(this.rows), null, 1)}\n`);
  }
}

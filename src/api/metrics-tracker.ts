/** A run's numbers, from the rows of its metrics.jsonl. */
import { join } from "node:path";
import { writeFileAtomic } from "../base/atomic.ts";
import { UserError } from "../base/errors.ts";
import { readJsonl } from "../base/jsonl.ts";
import type { TrainMetric } from "../metrics/names.ts";
import { learningCurvesSvg } from "../metrics/plot/learning-curves.ts";
import { pictureBytes } from "../metrics/plot/picture.ts";
import { type RunRecord, readRun } from "../metrics/record.ts";
import {
  type EvalRow,
  type MetricsRow,
  type ScoresRow,
  seedShape,
  type TrainRow,
  type TransferRow,
} from "../metrics/rows.ts";
import { type RunSummary, summarise } from "../metrics/summary.ts";

export class MetricsTracker {
  /** In the order in which they were written. */
  readonly rows: readonly MetricsRow[];
  /** The run directory; null for rows alone. */
  readonly log_dir: string | null;

  constructor(rows: readonly MetricsRow[] = [], log_dir: string | null = null) {
    this.rows = rows;
    this.log_dir = log_dir;
  }

  /** Of a run directory; works while the run is going on, too. */
  static load(log_dir: string): MetricsTracker {
    return new MetricsTracker(readJsonl(join(log_dir, "metrics.jsonl")) as MetricsRow[], log_dir);
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

  /**
   * Score matrix, baselines, and ACC, BWT, FWT, forgetting, … with their 95 % intervals. `references`: runs on one domain
   * alone, or joint ones, which say what intransigence is measured against.
   */
  getSummary({ references = [] }: { readonly references?: readonly MetricsTracker[] } = {}): RunSummary {
    return summarise(
      this.#record(),
      references.map((tracker) => tracker.#record()),
    );
  }

  /** Writes a picture (.png or .svg) of loss, training reward, evaluations and score matrix; gives its path. */
  async plotLearningCurves(path?: string): Promise<string> {
    const record = this.#record();
    const file = path ?? join(record.path, "learning_curves.png");
    writeFileAtomic(file, await pictureBytes(file, learningCurvesSvg(record)));
    return file;
  }

  #record(): RunRecord {
    if (this.log_dir === null) throw new UserError("MetricsTracker", "has no run; use MetricsTracker.load(log_dir)");
    return { ...readRun(this.log_dir), rows: this.rows };
  }

  /** As metrics.json has it. */
  save(path: string): void {
    writeFileAtomic(path, `${JSON.stringify(seedShape(this.rows), null, 1)}\n`);
  }
}

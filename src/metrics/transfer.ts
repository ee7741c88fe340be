/**
 * What the score matrix says about learning and forgetting. R[i][j] is the mean reward on domain j in row i: row -1 is
 * the base model, row i the model after experience i. Columns are the distinct domains. T is the last row, ℓ(j) the row
 * after j's last training, "last" the domain trained last, "first" the one trained first. Domains not trained yet are
 * in no mean but FWT's. A mean over nothing is null.
 */

import type { Rng } from "../base/rng.ts";
import { type Interval, interval95, resampledMeans } from "./bootstrap.ts";
import type { TransferMetric } from "./names.ts";
import type { TaskRewards } from "./score.ts";

/** One row of R. */
export interface MatrixRow {
  /** -1: before training. */
  readonly task_idx: number;
  /** Trained in this row; null before training. */
  readonly domain: string | null;
  /** Domain → mean reward. */
  readonly scores: Readonly<Record<string, number>>;
}

export class ScoreMatrix {
  readonly #rows: readonly MatrixRow[];

  /** Rows in order, the first with `task_idx` -1. */
  constructor(rows: readonly MatrixRow[]) {
    if (rows.some((row, at) => row.task_idx !== at - 1))
      throw new Error("score matrix: a row is missing or out of order");
    this.#rows = rows;
  }

  get lastRow(): number {
    return this.#rows.length - 2;
  }

  /** False for rows before a domain came into the sequence (a resumed run may have a longer one). */
  has(row: number, domain: string): boolean {
    return this.#rows[row + 1]?.scores[domain] !== undefined;
  }

  at(row: number, domain: string): number {
    const score = this.#rows[row + 1]?.scores[domain];
    if (score === undefined) throw new Error(`score matrix: row ${row} has no score of ${domain}`);
    return score;
  }

  /** Distinct domains trained so far, in order of first training. */
  trained(): string[] {
    return [...new Set(this.#rows.flatMap(({ domain }) => (domain === null ? [] : [domain])))];
  }

  /** The domain trained last; null before training. */
  lastDomain(): string | null {
    return this.#rows.at(-1)?.domain ?? null;
  }

  /** All trained domains but the one trained last. */
  earlierDomains(): string[] {
    return this.trained().filter((domain) => domain !== this.lastDomain());
  }

  /** ℓ(j). */
  rowAfterTraining(domain: string): number {
    return this.#rows.findLastIndex((row) => row.domain === domain) - 1;
  }

  rowBeforeFirstTraining(domain: string): number {
    return this.#rows.findIndex((row) => row.domain === domain) - 2;
  }
}

/** BWT = mean over domains j other than the last of R[T][j] - R[ℓ(j)][j] (Lopez-Paz & Ranzato 2017). */
export const bwt = (R: ScoreMatrix): number | null =>
  average(R.earlierDomains().map((j) => R.at(R.lastRow, j) - R.at(R.rowAfterTraining(j), j)));

/** FWT = mean over domains j other than the first of R[row before j's first training][j] - R[-1][j] (the same, with the base model in place of a random one). */
export const fwt = (R: ScoreMatrix): number | null =>
  average(
    R.trained()
      .slice(1)
      .filter((j) => R.has(-1, j))
      .map((j) => R.at(R.rowBeforeFirstTraining(j), j) - R.at(-1, j)),
  );

/** Forgetting = mean over domains j other than the last of max over rows 0 ≤ l < T of R[l][j], minus R[T][j] (Chaudhry et al. 2018). */
export const forgetting = (R: ScoreMatrix): number | null =>
  average(R.earlierDomains().map((j) => best(R, j) - R.at(R.lastRow, j)));

/** ACC = mean over the domains trained so far of R[T][j] (Lopez-Paz & Ranzato 2017). */
export const acc = (R: ScoreMatrix): number | null => average(R.trained().map((j) => R.at(R.lastRow, j)));

/** Mean over the domains trained so far of R[ℓ(j)][j] (Riemer et al. 2019). */
export const learningAccuracy = (R: ScoreMatrix): number | null =>
  average(R.trained().map((j) => R.at(R.rowAfterTraining(j), j)));

/** The seed's `backward_transfer`: mean reward on earlier domains. */
export const rewardOnEarlier = (R: ScoreMatrix): number | null =>
  average(R.earlierDomains().map((j) => R.at(R.lastRow, j)));

export type TransferMetrics = Readonly<Record<TransferMetric, number | null>>;

export interface TransferOptions {
  /** Domain → its stream of resamples. */
  readonly rngOf: (domain: string) => Rng;
  /** As `rows`: domain → task id → rewards of its trials. */
  readonly rewards: readonly Readonly<Record<string, TaskRewards>>[];
}

export function transferMetrics(rows: readonly MatrixRow[], options: TransferOptions): TransferMetrics {
  const R = new ScoreMatrix(rows);
  const interval = bwtInterval(rows, options);
  const current = R.lastDomain();
  return {
    "cl/backward_transfer": rewardOnEarlier(R),
    "cl/bwt": bwt(R),
    "cl/bwt_low": interval?.low ?? null,
    "cl/bwt_high": interval?.high ?? null,
    "cl/fwt": fwt(R),
    "cl/forgetting": forgetting(R),
    "cl/acc": acc(R),
    "cl/learning_accuracy": learningAccuracy(R),
    "cl/current_performance": current === null ? null : R.at(R.lastRow, current),
  };
}

/** Each domain's tasks are resampled; a task counts by its change between the two rows. Null where BWT is. */
function bwtInterval(rows: readonly MatrixRow[], { rngOf, rewards }: TransferOptions): Interval | null {
  const R = new ScoreMatrix(rows);
  const resampled_JB = R.earlierDomains().map((domain) => {
    const [now, then] = [R.lastRow, R.rowAfterTraining(domain)].map((row) => rewards[row + 1]?.[domain] ?? {});
    return resampledMeans([taskChanges(now ?? {}, then ?? {})], rngOf(domain))[0] as Float64Array;
  });
  const [first] = resampled_JB;
  if (first === undefined) return null;
  return interval95(first.map((_, b) => average(resampled_JB.map((means_B) => means_B[b] as number)) as number));
}

/** Of the tasks that have a trial in both rows. */
function taskChanges(now: TaskRewards, then: TaskRewards): number[] {
  return Object.entries(now).flatMap(([task, trials]) => {
    const [after, before] = [average(trials), average(then[task] ?? [])];
    return after === null || before === null ? [] : [after - before];
  });
}

function best(R: ScoreMatrix, domain: string): number {
  const rows = Array.from({ length: R.lastRow }, (_, row) => row).filter((row) => R.has(row, domain));
  return Math.max(...rows.map((row) => R.at(row, domain)));
}

const average = (values: readonly number[]): number | null =>
  values.length === 0 ? null : values.reduce((sum, value) => sum + value, 0) / values.length;

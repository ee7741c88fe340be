/**
 * 95 % percentile intervals by resampling task ids (10,000 times). Tasks of a domain are resampled alike for every row of
 * the score matrix, run and method that shares `eval_seed`, so differences between them are paired.
 *
 * Axes: P tasks of a domain · B resamples.
 */
import { Rng } from "../base/rng.ts";
import type { TaskRewards } from "./score.ts";

export const RESAMPLES = 10_000;

export interface Interval {
  readonly low: number;
  readonly high: number;
}

/** A quantity: its value in each resample, or, of length 1, its estimate. Formulas are written once for both. */
export type Draws = Float64Array;

/** Which tasks each resample draws: positions in `ids`. */
export interface Resample {
  readonly ids: readonly string[];
  readonly drawn_BP: Uint32Array;
}

/** Depends on the stream and on the set of ids, not on their order. */
export function resampleOf(task_ids: Iterable<string>, rng: Rng, resamples = RESAMPLES): Resample {
  const ids = [...new Set(task_ids)].toSorted();
  if (ids.length === 0) throw new RangeError("bootstrap: there are no tasks to resample");
  // Multiply and shift: the bias is below ids.length / 2^32.
  const drawn_BP = Uint32Array.from({ length: resamples * ids.length }, () => (rng.uint32() * ids.length) / 2 ** 32);
  return { ids, drawn_BP };
}

/** The stream of a domain's resamples: the same in all rows, runs and methods with this `eval_seed`. */
export const resampleStream = (eval_seed: number, domain: string): Rng => Rng.from(eval_seed).fork("bootstrap", domain);

/** Mean over the drawn tasks of the mean reward of each; tasks all of whose trials were lost are passed over. */
export function resampledMeans(rewards: TaskRewards, { ids, drawn_BP }: Resample): Draws {
  const means_P = Float64Array.from(ids, (id) => average(rewards[id] ?? []));
  const sums_B = drawnSums(
    means_P.map((mean) => (Number.isNaN(mean) ? 0 : mean)),
    drawn_BP,
  );
  if (!means_P.some(Number.isNaN)) return sums_B.map((sum) => sum / ids.length);
  const counts_B = drawnSums(
    means_P.map((mean) => (Number.isNaN(mean) ? 0 : 1)),
    drawn_BP,
  );
  return sums_B.map((sum, b) => sum / (counts_B[b] as number));
}

function drawnSums(values_P: Float64Array, drawn_BP: Uint32Array): Draws {
  const tasks = values_P.length;
  const sums_B = new Float64Array(drawn_BP.length / tasks);
  for (let b = 0, at = 0; b < sums_B.length; b++) {
    let sum = 0;
    for (const end = at + tasks; at < end; at++) sum += values_P[drawn_BP[at] as number] as number;
    sums_B[b] = sum;
  }
  return sums_B;
}

/** The central 95 %, interpolated linearly between order statistics. */
export function interval95(draws: Draws): Interval {
  const sorted = draws.toSorted();
  return { low: quantile(sorted, 0.025), high: quantile(sorted, 0.975) };
}

/** Elementwise; null of nothing. */
export const meanDraws = (all: readonly Draws[]): Draws | null =>
  fold(all, (sum, value) => sum + value)?.map((sum) => sum / all.length) ?? null;

export const largest = (all: readonly Draws[]): Draws | null => fold(all, Math.max);

export const smallest = (all: readonly Draws[]): Draws | null => fold(all, Math.min);

export const minus = (a: Draws, b: Draws): Draws => a.map((value, i) => value - (b[i] as number));

function fold([first, ...rest]: readonly Draws[], join: (a: number, b: number) => number): Draws | null {
  if (first === undefined) return null;
  const joined = first.slice();
  for (const draws of rest) for (let i = 0; i < joined.length; i++) joined[i] = join(joined[i]!, draws[i]!);
  return joined;
}

/** NaN of nothing. */
const average = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

function quantile(sorted: Float64Array, q: number): number {
  const at = (sorted.length - 1) * q;
  const below = sorted[Math.floor(at)] as number;
  const above = sorted[Math.ceil(at)] as number;
  return below + (above - below) * (at - Math.floor(at));
}

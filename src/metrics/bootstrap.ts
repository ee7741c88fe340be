/**
 * 95 % percentile intervals by resampling task ids (10,000 times). Tasks of a domain are resampled alike for every row
 * of the score matrix, run and method that shares the seed, so differences between them are paired.
 *
 * Axes: R rows · P tasks of a domain · B resamples.
 */
import type { Rng } from "../base/rng.ts";

export const RESAMPLES = 10_000;

export interface Interval {
  readonly low: number;
  readonly high: number;
}

/** Means of B resamples of the columns of `values_RP`, the same resample for all rows. */
export function resampledMeans(
  values_RP: readonly ArrayLike<number>[],
  rng: Rng,
  resamples = RESAMPLES,
): Float64Array[] {
  const size = values_RP[0]?.length ?? 0;
  if (size === 0 || values_RP.some((values_P) => values_P.length !== size))
    throw new RangeError("bootstrap: every row needs the same number of tasks, at least one");
  const rows = values_RP.map((values_P) => Float64Array.from(values_P));
  const means_RB = rows.map(() => new Float64Array(resamples));
  const drawn_P = new Uint32Array(size);
  for (let b = 0; b < resamples; b++) {
    // Multiply and shift: the bias is below size / 2^32.
    for (let i = 0; i < size; i++) drawn_P[i] = (rng.uint32() * size) / 2 ** 32;
    for (let r = 0; r < rows.length; r++) (means_RB[r] as Float64Array)[b] = meanAt(rows[r] as Float64Array, drawn_P);
  }
  return means_RB;
}

/** The central 95 % of the resampled statistic, interpolated linearly between order statistics. */
export function interval95(values_B: Float64Array): Interval {
  const sorted = values_B.toSorted();
  return { low: quantile(sorted, 0.025), high: quantile(sorted, 0.975) };
}

function meanAt(values: Float64Array, drawn: Uint32Array): number {
  let sum = 0;
  for (let i = 0; i < drawn.length; i++) sum += values[drawn[i] as number] as number;
  return sum / drawn.length;
}

function quantile(sorted: Float64Array, q: number): number {
  const at = (sorted.length - 1) * q;
  const below = sorted[Math.floor(at)] as number;
  const above = sorted[Math.ceil(at)] as number;
  return below + (above - below) * (at - Math.floor(at));
}

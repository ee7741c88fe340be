/**
 * What the score matrix says about learning and forgetting. T is the last row, ℓ(j) the row after j's last training,
 * "last" the domain trained last, "first" the one trained first. Domains not trained yet are in no mean. A mean over
 * nothing is null. Every formula works on estimates and on resamples alike, so an interval is that of the formula itself.
 */
import { type Draws, interval95, largest, meanDraws, minus, smallest } from "./bootstrap.ts";
import { estimatedMatrix, Resamples, resampledMatrix, type ScoreMatrix } from "./matrix.ts";
import type { EstimateMetric, TransferMetric } from "./names.ts";
import type { ScoresRow } from "./rows.ts";

type Formula = (R: ScoreMatrix) => Draws | null;

/** ACC = mean over the domains trained so far of R[T][j] (Lopez-Paz & Ranzato 2017). */
export const acc: Formula = (R) => meanDraws(R.trained().map((j) => R.at(R.lastRow, j)));

/** Learning accuracy = mean over the domains trained so far of R[ℓ(j)][j] (Riemer et al. 2019). */
export const learningAccuracy: Formula = (R) => meanDraws(R.trained().map((j) => R.at(R.rowAfterTraining(j), j)));

/** BWT = mean over domains j other than the last of R[T][j] - R[ℓ(j)][j] (Lopez-Paz & Ranzato 2017). */
export const bwt: Formula = (R) =>
  meanDraws(R.earlierDomains().map((j) => minus(R.at(R.lastRow, j), R.at(R.rowAfterTraining(j), j))));

/** FWT = mean over domains j other than the first of R[row before j's first training][j] - R[-1][j] (the same, with the base model in place of a random one). */
export const fwt: Formula = (R) =>
  meanDraws(
    R.trained()
      .slice(1)
      .filter((j) => R.has(-1, j) && R.rowBeforeFirstTraining(j) >= 0)
      .map((j) => minus(R.at(R.rowBeforeFirstTraining(j), j), R.at(-1, j))),
  );

/** Forgetting = mean over domains j other than the last of max over rows 0 ≤ l < T of R[l][j], minus R[T][j] (Chaudhry et al. 2018). */
export const forgetting: Formula = (R) =>
  meanDraws(R.earlierDomains().map((j) => minus(largest(R.between(0, R.lastRow - 1, j)) as Draws, R.at(R.lastRow, j))));

/** Minimum accuracy = mean over domains j other than the last of min over rows ℓ(j) < l ≤ T of R[l][j] (De Lange et al. 2023, at the ends of experiences). */
export const minimumAccuracy: Formula = (R) =>
  meanDraws(R.earlierDomains().map((j) => smallest(R.between(R.rowAfterTraining(j) + 1, R.lastRow, j)) as Draws));

/** The seed's `backward_transfer`: mean reward on earlier domains. */
export const rewardOnEarlier: Formula = (R) => meanDraws(R.earlierDomains().map((j) => R.at(R.lastRow, j)));

/** Intransigence = mean over the domains trained so far of R*[j] - R[ℓ(j)][j]; R* is the last row of a run that trained on j alone, or on all at once (Chaudhry et al. 2018). */
export function intransigence(R: ScoreMatrix, reference: (domain: string) => Draws | null): Draws | null {
  const differences = R.trained().map((j) => {
    const best = reference(j);
    return best === null ? null : minus(best, R.at(R.rowAfterTraining(j), j));
  });
  return differences.every((difference) => difference !== null) ? meanDraws(differences) : null;
}

export const FORMULAS = {
  "cl/acc": acc,
  "cl/learning_accuracy": learningAccuracy,
  "cl/bwt": bwt,
  "cl/fwt": fwt,
  "cl/forgetting": forgetting,
  "cl/minimum_accuracy": minimumAccuracy,
} as const satisfies Record<EstimateMetric, Formula>;

export type TransferMetrics = Readonly<Record<TransferMetric, number | null>>;

/** Of a run so far. `rows`: before training, and after each experience. */
export function transferMetrics(rows: readonly ScoresRow[], eval_seed: number): TransferMetrics {
  const estimates = estimatedMatrix(rows);
  const resampled = resampledMatrix(rows, new Resamples(rows, eval_seed));
  const [current] = estimates.lastDomains();
  const fields = Object.entries(FORMULAS).flatMap(([name, formula]) => {
    const draws = formula(resampled);
    const interval = draws === null ? null : interval95(draws);
    return [
      [name, estimateOf(formula(estimates))],
      [`${name}_low`, interval?.low ?? null],
      [`${name}_high`, interval?.high ?? null],
    ];
  });
  return {
    "cl/backward_transfer": estimateOf(rewardOnEarlier(estimates)),
    "cl/current_performance": current === undefined ? null : estimateOf(estimates.at(estimates.lastRow, current)),
    ...(Object.fromEntries(fields) as Record<EstimateMetric, number | null>),
  } as TransferMetrics;
}

export const estimateOf = (estimate: Draws | null): number | null => estimate?.[0] ?? null;

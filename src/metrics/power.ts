/** How small a difference of two runs an evaluation can show. */

/** Normal quantiles of a two-sided test at 5 % and of 80 % power. */
const Z_TEST = 1.959964;
const Z_POWER = 0.841621;

/** Assumed before anything is measured: the success rates of tasks spread evenly over 0…1, … */
const RATE_VARIANCE = 1 / 12;
const TRIAL_VARIANCE = 1 / 6; // E[p(1 - p)]
/** … and those of two runs correlate over tasks. */
const RATE_CORRELATION = 0.5;

export interface EvaluationSize {
  readonly tasks: number;
  readonly trials: number;
}

/**
 * The smallest true difference in mean reward of two runs, evaluated on the same tasks, that a test at 5 % finds with 80 %
 * power: (z₀.₉₇₅ + z₀.₈) · sqrt((ω² + 2σ²/K) / n) for n tasks and K trials, where σ² is the variance of a trial given its
 * task and ω² that of the difference of success rates over tasks (Miller 2024, "Adding error bars to evals", section 5).
 * With rates spread evenly over 0…1 and a correlation of 1/2: σ² = 1/6, ω² = 2 · 1/12 · (1 - 1/2) = 1/12.
 */
export function visibleDifference({ tasks, trials }: EvaluationSize): number {
  const between = 2 * RATE_VARIANCE * (1 - RATE_CORRELATION);
  return (Z_TEST + Z_POWER) * Math.sqrt((between + (2 * TRIAL_VARIANCE) / trials) / tasks);
}

/** `with 20 tasks and 4 trials differences under 26 points are not visible` */
export function powerSentence({ tasks, trials }: EvaluationSize): string {
  const points = Math.ceil(100 * visibleDifference({ tasks, trials }));
  return `with ${tasks} tasks and ${trials} trials differences under ${points} points are not visible`;
}

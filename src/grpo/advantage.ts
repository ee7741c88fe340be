/**
 * Group-relative advantages (Shao et al. 2024, "DeepSeekMath"), with the scalings that TRL calls `scale_rewards`.
 *
 * Axes: P groups (one per task) · G rollouts of a group.
 */

/** Added to the standard deviation, as TRL does. */
const STD_EPSILON = 1e-4;

export interface AdvantageConfig {
  /** Divide by the standard deviation of the group, of all rewards of the step, or not at all (Dr. GRPO). */
  readonly scale_rewards: "group" | "batch" | "none";
}

/**
 * A_i = r_i - mean(r), divided by the group's unbiased standard deviation + 1e-4 when `scale_rewards` is "group".
 * Equal rewards carry no signal: exact zeros. "batch" needs the whole step: see `stepAdvantages`.
 */
export function groupAdvantages(
  rewards_G: readonly number[],
  { scale_rewards }: { readonly scale_rewards: "group" | "none" },
): number[] {
  return centred(rewards_G, scale_rewards === "group" ? deviation(rewards_G) + STD_EPSILON : 1);
}

/** The advantages of every group of a step; "batch" divides by the deviation of all rewards of the step + 1e-4. */
export function stepAdvantages(
  rewards_PG: readonly (readonly number[])[],
  { scale_rewards }: AdvantageConfig,
): number[][] {
  if (scale_rewards !== "batch") return rewards_PG.map((rewards_G) => groupAdvantages(rewards_G, { scale_rewards }));
  const scale = deviation(rewards_PG.flat()) + STD_EPSILON;
  return rewards_PG.map((rewards_G) => centred(rewards_G, scale));
}

/** True when all rewards are equal (one reward is equal to itself): the group has nothing to teach. */
export function isTied(rewards_G: readonly number[]): boolean {
  return rewards_G.every((reward) => reward === rewards_G[0]);
}

function centred(rewards_G: readonly number[], scale: number): number[] {
  // The mean of equal numbers can miss them by a rounding error, which a deviation of 0 + 1e-4 would blow up.
  if (isTied(rewards_G)) return rewards_G.map(() => 0);
  const mean = average(rewards_G);
  return rewards_G.map((reward) => (reward - mean) / scale);
}

/** Unbiased (divided by n - 1), as torch.std; 0 for fewer than two values. */
function deviation(values: readonly number[]): number {
  if (values.length < 2) return 0;
  const mean = average(values);
  return Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (values.length - 1));
}

const average = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;

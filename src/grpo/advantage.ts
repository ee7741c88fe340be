/**
 * Group-relative advantages (Shao et al. 2024, "DeepSeekMath"), with the scalings that TRL calls `scale_rewards`, the
 * baselines of GRPO and RLOO, and credit by trajectory or by turn.
 *
 * Axes: P groups (one per task) · G rollouts of a group · K turns of a rollout.
 */
import { returnFrom, type ShapedReward } from "./reward.ts";

/** Added to the standard deviation, as TRL does. */
const STD_EPSILON = 1e-4;

export interface BaselineConfig {
  /** Divide by the standard deviation of the group, of all rewards of the step, or not at all (Dr. GRPO). */
  readonly scale_rewards: "group" | "batch" | "none";
  /** Subtract the group's mean, or the mean of the other rollouts (RLOO: Kool et al. 2019, Ahmadian et al. 2024). */
  readonly advantage_baseline: "group_mean" | "leave_one_out";
}

export interface AdvantageConfig extends BaselineConfig {
  /** One advantage for the whole conversation, or one for each turn, from what is still to come. */
  readonly credit_assignment: "trajectory" | "turn";
}

/**
 * A_i = r_i - mean(r), divided by the group's unbiased standard deviation + 1e-4 when `scale_rewards` is "group".
 * Equal rewards carry no signal: exact zeros. "batch" needs the whole step: see `stepAdvantages`.
 */
export function groupAdvantages(
  rewards_G: readonly number[],
  { scale_rewards }: { readonly scale_rewards: "group" | "none" },
): number[] {
  return stepAdvantages([rewards_G], { scale_rewards, advantage_baseline: "group_mean" })[0] ?? [];
}

/** The advantages of every group of a step; "batch" divides by the deviation of all rewards of the step + 1e-4. */
export function stepAdvantages(rewards_PG: readonly (readonly number[])[], config: BaselineConfig): number[][] {
  const scale = scaleOf([rewards_PG], config);
  return rewards_PG.map((rewards_G, p) => centred(rewards_G, { scale: scale(p), ...config }));
}

/**
 * An advantage for each turn of each rollout.
 *
 *   trajectory  that of the whole return, for every turn
 *   turn        A_i,k = (R_i,k - baseline_k) / scale with R_i,k = outcome + the rewards of turn k and those after it: what
 *               came before an action is no credit of it (the policy gradient theorem, Sutton et al. 2000; applied to turns
 *               in Zeng et al. 2025, "Turn-Level Credit Assignment"). The baseline of turn k is over the whole group; a
 *               rollout that ended before has only its outcome left. The scale is the largest deviation of any turn.
 *
 * tau2 rewards whole conversations, so only malformed calls and KL in the reward tell turns apart; without them both are
 * the same. Either way the advantages of a group's kth turns sum to zero (rollouts that ended before k counted).
 */
export function turnAdvantages(
  rewards_PG: readonly (readonly ShapedReward[])[],
  config: AdvantageConfig,
): number[][][] {
  const turns = config.credit_assignment === "turn" ? longest(rewards_PG.flat()) : 1;
  const returns_KPG = Array.from({ length: turns }, (_, k) =>
    rewards_PG.map((rewards_G) => rewards_G.map((reward) => returnFrom(reward, k))),
  );
  const scale = scaleOf(returns_KPG, config);
  return rewards_PG.map((rewards_G, p) => {
    const advantages_KG = returns_KPG.map((returns_PG) => centred(returns_PG[p] ?? [], { scale: scale(p), ...config }));
    return rewards_G.map(({ turns_K }, g) => turns_K.map((_, k) => advantages_KG[Math.min(k, turns - 1)]?.[g] ?? 0));
  });
}

/** True when all rewards are equal (one reward is equal to itself): the group has nothing to teach. */
export function isTied(rewards_G: readonly number[]): boolean {
  return rewards_G.every((reward) => reward === rewards_G[0]);
}

const longest = (rewards: readonly ShapedReward[]) =>
  rewards.reduce((most, { turns_K }) => Math.max(most, turns_K.length), 1);

/** What group p is divided by. */
function scaleOf(
  returns_KPG: readonly (readonly (readonly number[])[])[],
  { scale_rewards }: Pick<BaselineConfig, "scale_rewards">,
): (p: number) => number {
  const largest = (pick: (returns_PG: readonly (readonly number[])[]) => readonly number[]) =>
    Math.max(...returns_KPG.map((returns_PG) => deviation(pick(returns_PG)))) + STD_EPSILON;
  switch (scale_rewards) {
    case "none":
      return () => 1;
    case "batch": {
      const scale = largest((returns_PG) => returns_PG.flat());
      return () => scale;
    }
    case "group":
      return (p) => largest((returns_PG) => returns_PG[p] ?? []);
  }
}

function centred(
  rewards_G: readonly number[],
  { scale, advantage_baseline }: { readonly scale: number } & Pick<BaselineConfig, "advantage_baseline">,
): number[] {
  // The mean of equal numbers can miss them by a rounding error, which a deviation of 0 + 1e-4 would blow up.
  if (isTied(rewards_G)) return rewards_G.map(() => 0);
  const mean = average(rewards_G);
  // r_i - (Σ r - r_i)/(G - 1)
  const factor = advantage_baseline === "leave_one_out" ? rewards_G.length / (rewards_G.length - 1) : 1;
  return rewards_G.map((reward) => (factor * (reward - mean)) / scale);
}

/** Unbiased (divided by n - 1), as torch.std; 0 for fewer than two values. */
function deviation(values: readonly number[]): number {
  if (values.length < 2) return 0;
  const mean = average(values);
  return Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (values.length - 1));
}

const average = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;

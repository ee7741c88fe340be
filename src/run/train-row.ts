/** What metrics.jsonl says about a step. */
import type { Experience } from "../curriculum/experience.ts";
import { isTied } from "../grpo/advantage.ts";
import type { PackReport } from "../grpo/batch.ts";
import { PASS_REWARD_MIN } from "../metrics/names.ts";
import type { TrainRow } from "../metrics/rows.ts";
import { countStops, scored } from "../metrics/score.ts";
import type { Group, Rollout } from "../rollout/types.ts";
import type { StepUpdate } from "./updates.ts";

export interface StepFacts {
  readonly experience: Experience;
  readonly step: number;
  readonly groups: readonly Group[];
  /** Groups sampled in place of tied ones. */
  readonly refilled: number;
  readonly packing: PackReport;
  /** Mean KL of the sampled tokens, where it is in the reward. */
  readonly reward_kl: number | null;
  readonly update: StepUpdate;
  /** Optimizer updates before this step. */
  readonly version: number;
}

export function trainRow({
  experience,
  step,
  groups,
  refilled,
  packing,
  reward_kl,
  update,
  version,
}: StepFacts): TrainRow {
  const fresh = groups.filter(({ use }) => use !== "stored").flatMap((group) => group.rollouts);
  return {
    kind: "train",
    task_idx: experience.index,
    domain: experience.domain,
    step,
    ...updateMetrics(update),
    ...(reward_kl === null ? {} : { "train/kl": finite(reward_kl) }),
    ...rewardMetrics(groups),
    "rollout/groups_refilled": refilled,
    "rollout/masked": packing.masked_rollouts,
    "rollout/penalty_mean": packing.penalty_mean,
    "rollout/staleness_mean": mean(fresh.map(({ policy_version }) => version - policy_version)),
    ...conductMetrics(fresh),
  };
}

const updateMetrics = (update: StepUpdate) => ({
  "train/loss": finite(update.loss),
  "train/penalty": update.penalty === null ? null : finite(update.penalty),
  "train/kl": finite(update.kl),
  "train/entropy": finite(update.entropy),
  "train/grad_norm": finite(update.grad_norm),
  "train/learning_rate": update.learning_rate,
  "train/clip_low_fraction": finite(update.clip_low_fraction),
  "train/clip_high_fraction": finite(update.clip_high_fraction),
  "train/dual_clip_fraction": finite(update.dual_clip_fraction),
  "train/logprob_diff_max": finite(update.logprob_diff_max),
  "train/loss_tokens": update.loss_tokens,
  "train/computed_tokens": update.computed_tokens,
  "train/updates": update.updates,
  "train/skipped": update.updates > 0 ? 0 : 1,
});

function rewardMetrics(groups: readonly Group[]) {
  const { current = [], replayed = [] } = Object.groupBy(groups, (group) => (group.replayed ? "replayed" : "current"));
  const rewards = rewardsOf(current);
  return {
    "rollout/reward_mean": mean(rewards),
    "rollout/reward_max": rewards.length === 0 ? null : Math.max(...rewards),
    "rollout/reward_std": deviation(rewards),
    "rollout/pass_rate": mean(rewards.map((reward) => (reward > PASS_REWARD_MIN ? 1 : 0))),
    "rollout/groups": current.length,
    "rollout/groups_tied": current.filter(tied).length,
    "rollout/replay_groups": replayed.length,
    "rollout/replay_groups_tied": replayed.filter(tied).length,
    "rollout/replay_reward_mean": mean(rewardsOf(replayed)),
    "rollout/failed": groups.flatMap((group) => group.rollouts).length - groups.flatMap(scored).length,
  };
}

function conductMetrics(rollouts: readonly Rollout[]) {
  const values = (value: (rollout: Rollout) => number) => rollouts.map(value);
  return {
    "rollout/sampled_tokens": sum(values(({ sampled_mask }) => sum(sampled_mask))),
    "rollout/tokens_max": Math.max(0, ...values(({ tokens }) => tokens.length)),
    "rollout/agent_turns_mean": mean(values(({ agent_turns }) => agent_turns)),
    "rollout/tool_calls_mean": mean(values(({ tool_calls }) => tool_calls)),
    "rollout/tool_errors": sum(values(({ tool_errors }) => tool_errors)),
    "rollout/malformed_calls": sum(values(({ malformed_calls }) => malformed_calls)),
    "rollout/masked_mass_mean": meanMaskedMass(rollouts),
    "rollout/truncated_turns": sum(values(({ truncated_turns }) => truncated_turns)),
    "rollout/user_cost_usd": sum(values(({ user_cost_usd }) => user_cost_usd)),
    "rollout/stops": countStops(rollouts),
  };
}

function meanMaskedMass(rollouts: readonly Rollout[]): number | null {
  const tokens = sum(rollouts.map(({ sampled_mask }) => sum(sampled_mask)));
  return tokens === 0 ? null : sum(rollouts.map(({ masked_mass }) => masked_mass)) / tokens;
}

const rewardsOf = (groups: readonly Group[]): number[] => groups.flatMap(scored).map(({ reward }) => reward);

const tied = (group: Group): boolean => isTied(scored(group).map(({ reward }) => reward));

function sum(values: Iterable<number>): number {
  let total = 0;
  for (const value of values) total += value;
  return total;
}

const mean = (values: readonly number[]): number | null => (values.length === 0 ? null : sum(values) / values.length);

function deviation(values: readonly number[]): number | null {
  const center = mean(values);
  return center === null ? null : Math.sqrt(sum(values.map((value) => (value - center) ** 2)) / values.length);
}

/** JSON has no NaN. */
const finite = (value: number): number | null => (Number.isFinite(value) ? value : null);

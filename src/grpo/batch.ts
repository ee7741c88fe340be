/**
 * Groups of rollouts → what the updates of one step send to the core: ragged tokens, their weights in the loss, their
 * advantages and recorded log-probabilities.
 *
 * Axes: P groups · G rollouts of a group · K turns of a rollout · S sequences of a mini-batch · N tokens of a batch, laid
 * end to end.
 */
import type { TrainingBatch } from "../core/policy.ts";
import type { Group, Rollout } from "../rollout/types.ts";
import { type AdvantageConfig, isTied, turnAdvantages } from "./advantage.ts";
import { unweighedBatch } from "./ragged.ts";
import { isTruncated, type RewardConfig, returnFrom, type ShapedReward, shapedReward, turnsOf } from "./reward.ts";

export interface BatchConfig extends AdvantageConfig, RewardConfig {
  readonly loss_type: "grpo" | "dr_grpo" | "dapo" | "bnpo" | "gspo" | "cispo";
  readonly num_mini_batches: number;
  readonly entropy_coef: number;
  /** The KL is in the reward instead of the loss. */
  readonly kl_in_reward: boolean;
  /** Keep rollouts that a limit cut out of the loss. */
  readonly mask_truncated_completions: boolean;
  /**
   * dr_grpo's constant: TRL divides by sequences × T, where T is the completion's width. A conversation has no
   * padded width; the run passes one constant, so that a token weighs the same in every step.
   */
  readonly completion_tokens_max: number;
}

export interface PackedStep {
  /** One an update, so that the core computes what its conversations share once; those without anything to learn are left out. */
  readonly mini_batches: readonly TrainingBatch[];
  readonly report: PackReport;
}

export interface PackReport {
  /** Rollouts that count in the normaliser: all but those lost to the infrastructure. */
  readonly sequences: number;
  /** Of these, the ones in batches. The others have no sampled token, are masked, or have a loss of zero whatever the weights. */
  readonly packed_sequences: number;
  readonly failed_rollouts: number;
  /** Cut by a limit and kept out of the loss (`mask_truncated_completions`). */
  readonly masked_rollouts: number;
  /** Mean of what penalties (overlong, malformed calls, KL in the reward) took from a reward; null without rollouts. */
  readonly penalty_mean: number | null;
  /** Sampled tokens in batches. */
  readonly loss_tokens: number;
  /** Per domain, tasks replayed from earlier domains apart: replayed groups can hide that the current domain is tied. */
  readonly spreads: readonly GroupSpread[];
}

export interface GroupSpread {
  readonly domain: string;
  readonly replayed: boolean;
  readonly groups: number;
  /** Groups whose rewards are all equal: no advantage, no policy gradient. */
  readonly tied: number;
  /** Share of groups with unequal rewards. */
  readonly unequal_fraction: number;
}

interface Sample {
  readonly rollout: Rollout;
  readonly reward: ShapedReward;
  readonly advantages_K: readonly number[];
  /** Sampled tokens that are in the loss. */
  readonly length: number;
}

/**
 * Every sampled token of every packed rollout gets a weight, no other token does. Weights are normalised over a mini-batch
 * (with one of them: over the step). S and "tokens" are those of the mini-batch, M the number of mini-batches:
 *
 *   grpo, gspo   1 / (S · tokens of the sequence)        mean over sequences of the mean over tokens
 *   bnpo         1 / tokens
 *   dapo, cispo  M / tokens of the step                  a token weighs the same in every mini-batch
 *   dr_grpo      1 / (S · completion_tokens_max)
 *
 * These are TRL's (GRPOTrainer 1.16); grpo: Shao et al. 2024, dapo: Yu et al. 2025, dr_grpo: Liu et al. 2025, gspo: Zheng et
 * al. 2025, cispo: MiniMax 2025. Rollouts lost to the infrastructure are in no sum. Masked ones (as in TRL) count in S and
 * in the advantages, but their tokens count nowhere. Sequences whose advantages are zero are left out of the batches when
 * neither KL nor entropy is in the loss (they count in S and in the tokens all the same); their KL is then not measured.
 *
 * Mini-batch m takes the groups m, m + M, m + 2M, …, so that replayed tasks, which stand together, are spread.
 * `token_kl`: see kl.ts; with `kl_in_reward` every packed rollout has one.
 */
export function packBatches(
  groups: readonly Group[],
  config: BatchConfig,
  token_kl: ReadonlyMap<Rollout, Float32Array> = new Map(),
): PackedStep {
  const samples_PG = samplesOf(groups, config, token_kl);
  const samples = samples_PG.flat();
  const zeroLossWithoutAdvantage = (config.kl_coef === 0 || config.kl_in_reward) && config.entropy_coef === 0;
  const matters = ({ length, advantages_K }: Sample) =>
    length > 0 && !(zeroLossWithoutAdvantage && advantages_K.every((advantage) => advantage === 0));
  const packed = dealt(samples_PG, config.num_mini_batches).map((mini_PG) => ({
    weightOf: tokenWeight({ mini: mini_PG.flat(), step: samples }, config),
    inLoss: mini_PG.flat().filter(matters),
  }));
  const inLoss = packed.flatMap((mini) => mini.inLoss);
  return {
    mini_batches: packed.filter((mini) => mini.inLoss.length > 0).map((mini) => pack(mini.inLoss, mini.weightOf)),
    report: {
      sequences: samples.length,
      packed_sequences: inLoss.length,
      failed_rollouts: groups.flatMap((group) => group.rollouts).length - samples.length,
      masked_rollouts: samples.filter(({ rollout }) => isMasked(rollout, config)).length,
      penalty_mean: samples.length === 0 ? null : sum(samples.map(penalty)) / samples.length,
      loss_tokens: sum(inLoss.map((sample) => sample.length)),
      spreads: groupSpreads(groups),
    },
  };
}

/** Some reward differs from the others, penalties included: `dynamic_sampling` keeps such groups (Yu et al. 2025). */
export function hasSignal(group: Group, config: RewardConfig): boolean {
  return !isTied(scored(group).map((rollout) => returnFrom(shapedReward(rollout, config), 0)));
}

/** Lost to the infrastructure (the user's endpoint was down): says nothing about the policy. */
export const isFailed = (rollout: Rollout) => rollout.termination === "infrastructure_error";

export function groupSpreads(groups: readonly Group[]): GroupSpread[] {
  const byKey = Map.groupBy(groups, ({ domain, replayed }) => `${replayed ? "replayed" : "current"} ${domain}`);
  return [...byKey.values()].map((alike) => {
    const { domain, replayed } = alike[0] as Group;
    const tied = alike.filter((group) => isTied(scored(group).map((rollout) => rollout.reward))).length;
    return { domain, replayed, groups: alike.length, tied, unequal_fraction: 1 - tied / alike.length };
  });
}

const scored = (group: Group) => group.rollouts.filter((rollout) => !isFailed(rollout));

function samplesOf(
  groups: readonly Group[],
  config: BatchConfig,
  token_kl: ReadonlyMap<Rollout, Float32Array>,
): Sample[][] {
  const rollouts_PG = groups.map(scored);
  for (const rollout of rollouts_PG.flat()) assertRollout(rollout);
  const rewards_PG = rollouts_PG.map((rollouts) =>
    rollouts.map((rollout) => shapedReward(rollout, config, token_kl.get(rollout))),
  );
  const advantages_PGK = turnAdvantages(rewards_PG, config);
  return rollouts_PG.map((rollouts, p) =>
    rollouts.map((rollout, g) => ({
      rollout,
      reward: rewards_PG[p]?.[g] as ShapedReward,
      advantages_K: advantages_PGK[p]?.[g] ?? [],
      length: isMasked(rollout, config) ? 0 : sum(rollout.sampled_mask),
    })),
  );
}

const isMasked = (rollout: Rollout, config: BatchConfig) => config.mask_truncated_completions && isTruncated(rollout);

const penalty = ({ rollout, reward }: Sample) => rollout.reward - returnFrom(reward, 0);

function tokenWeight(
  { mini, step }: { readonly mini: readonly Sample[]; readonly step: readonly Sample[] },
  config: BatchConfig,
): (sample: Sample) => number {
  const tokensOf = (samples: readonly Sample[]) => sum(samples.map((sample) => sample.length));
  switch (config.loss_type) {
    case "grpo":
    case "gspo":
      return (sample) => 1 / (mini.length * sample.length);
    case "bnpo": {
      const tokens = tokensOf(mini);
      return () => 1 / tokens;
    }
    case "dapo":
    case "cispo": {
      const tokens = tokensOf(step);
      return () => config.num_mini_batches / tokens;
    }
    case "dr_grpo":
      return () => 1 / (mini.length * config.completion_tokens_max);
  }
}

/** As cards are dealt. */
const dealt = <T>(items: readonly T[], hands: number): T[][] =>
  Array.from({ length: hands }, (_, hand) => items.filter((_, i) => i % hands === hand));

function pack(samples: readonly Sample[], weightOf: (sample: Sample) => number): TrainingBatch {
  const batch = unweighedBatch(samples.map(({ rollout }) => rollout));
  for (const [s, sample] of samples.entries())
    fill(batch, { sample, start: batch.offsets[s] ?? 0, weight: weightOf(sample) });
  assertBatch(batch, samples);
  return batch;
}

function fill(
  batch: TrainingBatch,
  { sample, start, weight }: { readonly sample: Sample; readonly start: number; readonly weight: number },
): void {
  const { sampled_mask, logprobs } = sample.rollout;
  for (const [k, [from, to]] of turnsOf(sampled_mask).entries()) {
    batch.weights_N.fill(weight, start + from, start + to);
    batch.advantages_N.fill(sample.advantages_K[k] ?? Number.NaN, start + from, start + to);
    batch.old_logprobs_N.set(logprobs.subarray(from, to), start + from);
  }
}

function assertRollout(rollout: Rollout): void {
  const { domain, task_id, sample, tokens, sampled_mask, logprobs, reward, malformed_turns } = rollout;
  const name = `rollout ${domain}/${task_id}/${sample}`;
  if (sampled_mask.length !== tokens.length || logprobs.length !== tokens.length)
    throw new Error(
      `${name}: ${tokens.length} tokens, ${sampled_mask.length} mask values, ${logprobs.length} log-probabilities`,
    );
  if (sampled_mask.some((sampled) => sampled > 1)) throw new Error(`${name}: the mask must hold 0 and 1 only`);
  if (sampled_mask[0] === 1) throw new Error(`${name}: the first token of a sequence cannot be in the loss`);
  if (!Number.isFinite(reward)) throw new Error(`${name}: the reward is ${reward}`);
  const turns = turnsOf(sampled_mask).length;
  if (malformed_turns.some((turn) => turn >= turns))
    throw new Error(`${name}: turns ${malformed_turns} of ${turns} are malformed`);
}

/** Every sampled token exactly once in the loss, and no other. */
function assertBatch(batch: TrainingBatch, samples: readonly Sample[]): void {
  const inLoss = batch.weights_N.reduce((count, weight) => count + (weight > 0 ? 1 : 0), 0);
  const sampled = sum(samples.map((sample) => sample.length));
  if (inLoss !== sampled) throw new Error(`${inLoss} tokens in the loss, but ${sampled} were sampled`);
  if (!batch.advantages_N.every(Number.isFinite)) throw new Error("an advantage is not finite");
  if (!batch.old_logprobs_N.every(Number.isFinite)) throw new Error("a recorded log-probability is not finite");
}

const sum = (values: Iterable<number>) => {
  let total = 0;
  for (const value of values) total += value;
  return total;
};

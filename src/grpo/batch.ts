/**
 * Groups of rollouts → what one optimizer step sends to the core: ragged tokens, their weights in the loss, their
 * advantages and recorded log-probabilities.
 *
 * Axes: P groups · G rollouts of a group · S sequences of the step · N tokens of a batch, laid end to end.
 */
import type { TrainingBatch } from "../core/policy.ts";
import type { Group, Rollout } from "../rollout/types.ts";
import { type AdvantageConfig, isTied, stepAdvantages } from "./advantage.ts";

export interface BatchConfig extends AdvantageConfig {
  readonly loss_type: "grpo" | "dr_grpo" | "dapo" | "bnpo";
  readonly gradient_accumulation_steps: number;
  readonly kl_coef: number;
  readonly entropy_coef: number;
  /**
   * dr_grpo's constant: TRL divides by sequences × T, where T is the completion's width. A conversation has no
   * padded width; the run passes one constant, so that a token weighs the same in every step.
   */
  readonly completion_tokens_max: number;
}

export interface PackedStep {
  /** One per gradient-accumulation slice that has something to learn from; groups are never cut in two. */
  readonly batches: readonly TrainingBatch[];
  readonly report: PackReport;
}

export interface PackReport {
  /** Rollouts that count in the normaliser: all but those lost to the infrastructure. */
  readonly sequences: number;
  /** Of these, the ones in `batches`. The others have no sampled token, or a loss that is zero whatever the weights. */
  readonly packed_sequences: number;
  readonly failed_rollouts: number;
  /** Sampled tokens in `batches`. */
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
  readonly advantage: number;
  /** Sampled tokens. */
  readonly length: number;
}

/**
 * Every sampled token of every packed rollout gets a weight, no other token does. Weights are normalised over the whole
 * step, so the losses of the batches add up to the loss of the step:
 *
 *   grpo     1 / (S · tokens of the sequence)        mean over sequences of the mean over tokens
 *   bnpo     1 / tokens of the step                  as dapo while there is one rank: TRL's bnpo counts a local batch
 *   dapo     1 / tokens of the step
 *   dr_grpo  1 / (S · completion_tokens_max)
 *
 * Rollouts lost to the infrastructure are in no sum. Sequences whose advantage is zero are left out of the batches when
 * neither KL nor entropy is in the loss (they count in S and in the tokens all the same); their KL is then not measured.
 */
export function packBatches(groups: readonly Group[], config: BatchConfig): PackedStep {
  const samples_PG = samplesOf(groups, config);
  const samples = samples_PG.flat();
  const weightOf = tokenWeight(samples, config);
  const zeroLossWithoutAdvantage = config.kl_coef === 0 && config.entropy_coef === 0;
  const matters = (sample: Sample) => sample.length > 0 && !(zeroLossWithoutAdvantage && sample.advantage === 0);
  const packed = slices(samples_PG, config.gradient_accumulation_steps)
    .map((slice) => slice.flat().filter(matters))
    .filter((slice) => slice.length > 0);
  const batches = packed.map((slice) => pack(slice, weightOf));
  return {
    batches,
    report: {
      sequences: samples.length,
      packed_sequences: packed.flat().length,
      failed_rollouts: groups.flatMap((group) => group.rollouts).length - samples.length,
      loss_tokens: sum(packed.flat().map((sample) => sample.length)),
      spreads: groupSpreads(groups),
    },
  };
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

function samplesOf(groups: readonly Group[], config: AdvantageConfig): Sample[][] {
  const rollouts_PG = groups.map(scored);
  const rewards_PG = rollouts_PG.map((rollouts) => rollouts.map((rollout) => rollout.reward));
  const advantages_PG = stepAdvantages(rewards_PG, config);
  return rollouts_PG.map((rollouts, p) =>
    rollouts.map((rollout, g) => {
      assertRollout(rollout);
      return { rollout, advantage: advantages_PG[p]?.[g] ?? 0, length: sum(rollout.sampled_mask) };
    }),
  );
}

function tokenWeight(samples: readonly Sample[], config: BatchConfig): (sample: Sample) => number {
  const tokens = sum(samples.map((sample) => sample.length));
  switch (config.loss_type) {
    case "grpo":
      return (sample) => 1 / (samples.length * sample.length);
    case "bnpo":
    case "dapo":
      return () => 1 / tokens;
    case "dr_grpo":
      return () => 1 / (samples.length * config.completion_tokens_max);
  }
}

/** Contiguous runs of groups, as even in number as they can be. */
function slices<T>(items: readonly T[], count: number): T[][] {
  const border = (slice: number) => Math.round((slice * items.length) / count);
  return Array.from({ length: count }, (_, slice) => items.slice(border(slice), border(slice + 1)));
}

function pack(samples: readonly Sample[], weightOf: (sample: Sample) => number): TrainingBatch {
  const offsets = new Uint32Array(samples.length + 1);
  for (const [s, { rollout }] of samples.entries()) offsets[s + 1] = (offsets[s] ?? 0) + rollout.tokens.length;
  const size = offsets.at(-1) ?? 0;
  const batch = {
    tokens_N: new Uint32Array(size),
    offsets,
    weights_N: new Float32Array(size),
    advantages_N: new Float32Array(size),
    old_logprobs_N: new Float32Array(size),
  };
  for (const [s, sample] of samples.entries())
    fill(batch, { sample, start: offsets[s] ?? 0, weight: weightOf(sample) });
  assertBatch(batch, samples);
  return batch;
}

function fill(
  batch: TrainingBatch,
  { sample, start, weight }: { readonly sample: Sample; readonly start: number; readonly weight: number },
): void {
  const { tokens, sampled_mask, logprobs } = sample.rollout;
  batch.tokens_N.set(tokens, start);
  for (const [t, sampled] of sampled_mask.entries()) {
    if (sampled === 0) continue;
    batch.weights_N[start + t] = weight;
    batch.advantages_N[start + t] = sample.advantage;
    batch.old_logprobs_N[start + t] = logprobs[t] ?? Number.NaN;
  }
}

function assertRollout({ domain, task_id, sample, tokens, sampled_mask, logprobs, reward }: Rollout): void {
  const name = `rollout ${domain}/${task_id}/${sample}`;
  if (sampled_mask.length !== tokens.length || logprobs.length !== tokens.length)
    throw new Error(
      `${name}: ${tokens.length} tokens, ${sampled_mask.length} mask values, ${logprobs.length} log-probabilities`,
    );
  if (sampled_mask.some((sampled) => sampled > 1)) throw new Error(`${name}: the mask must hold 0 and 1 only`);
  if (sampled_mask[0] === 1) throw new Error(`${name}: the first token of a sequence cannot be in the loss`);
  if (!Number.isFinite(reward)) throw new Error(`${name}: the reward is ${reward}`);
}

/** Every sampled token exactly once in the loss, and no other. */
function assertBatch(batch: TrainingBatch, samples: readonly Sample[]): void {
  const inLoss = batch.weights_N.reduce((count, weight) => count + (weight > 0 ? 1 : 0), 0);
  const sampled = sum(samples.map((sample) => sample.length));
  if (inLoss !== sampled) throw new Error(`${inLoss} tokens in the loss, but ${sampled} were sampled`);
  if (!batch.old_logprobs_N.every(Number.isFinite)) throw new Error("a recorded log-probability is not finite");
}

const sum = (values: Iterable<number>) => {
  let total = 0;
  for (const value of values) total += value;
  return total;
};

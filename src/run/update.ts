/** One optimizer update: the gradient of a batch, then AdamW. */
import type { RunConfig } from "../config/schema.ts";
import type { LossOptions, ModelName, Policy, TrainingBatch } from "../core/policy.ts";
import { orAborted } from "./abort.ts";

export interface Update {
  readonly loss: number;
  readonly kl: number;
  readonly entropy: number;
  readonly clip_low_fraction: number;
  readonly clip_high_fraction: number;
  readonly dual_clip_fraction: number;
  readonly logprob_diff_max: number;
  readonly loss_tokens: number;
  readonly computed_tokens: number;
  readonly learning_rate: number;
  readonly grad_norm: number;
  /** What the method's penalty came to; null: none. */
  readonly penalty: number | null;
  readonly outcome: UpdateOutcome;
}

/** `nothing_to_learn`: no token had a loss that depends on the weights, so no update was made. */
export type UpdateOutcome = "updated" | "nonfinite_gradient" | "nothing_to_learn";

export interface UpdateOptions {
  readonly config: RunConfig;
  readonly learning_rate: number;
  /** Frozen model that the KL is measured against. */
  readonly anchor: ModelName | null;
  /** What the method does with the gradient; gives its penalty. */
  readonly beforeUpdate: () => Promise<number | null>;
  readonly signal: AbortSignal;
}

export async function gradientStep(
  policy: Policy,
  batch: TrainingBatch,
  { config, learning_rate, anchor, beforeUpdate, signal }: UpdateOptions,
): Promise<Update> {
  const report = await orAborted(signal, policy.forwardBackward(batch, lossOptions(config, anchor)));
  const { kl_mean: kl, entropy_mean: entropy, ...rest } = report;
  const penalty = await beforeUpdate();
  const { grad_norm, skipped } = await orAborted(signal, policy.optimizerStep(optimizerOptions(config, learning_rate)));
  return {
    ...rest,
    kl,
    entropy,
    learning_rate,
    grad_norm,
    penalty,
    outcome: skipped ? "nonfinite_gradient" : "updated",
  };
}

/** What a step comes to that has nothing to learn from. */
export const noUpdate = (learning_rate: number): Update => ({
  loss: 0,
  kl: 0,
  entropy: 0,
  clip_low_fraction: 0,
  clip_high_fraction: 0,
  dual_clip_fraction: 0,
  logprob_diff_max: 0,
  loss_tokens: 0,
  computed_tokens: 0,
  learning_rate,
  grad_norm: 0,
  penalty: null,
  outcome: "nothing_to_learn",
});

/** Linear: the k-th step since the start (from 0) has (k + 1) / warmup_steps of the rate, so the first one moves too. */
export function learningRate(
  step: number,
  { learning_rate, warmup_steps }: Pick<RunConfig, "learning_rate" | "warmup_steps">,
): number {
  return warmup_steps === 0 ? learning_rate : learning_rate * Math.min(1, (step + 1) / warmup_steps);
}

/** With `kl_in_reward` no KL is left for the loss, and what there was is measured already. */
export function lossOptions(config: RunConfig, anchor: ModelName | null): LossOptions {
  return {
    kind: "grpo",
    surrogate: config.loss_type === "cispo" ? "cispo" : "clip",
    importance_sampling_level: config.importance_sampling_level ?? (config.loss_type === "gspo" ? "sequence" : "token"),
    clip_low: config.clip_range,
    clip_high: config.clip_range_high ?? config.clip_range,
    delta: config.delta,
    kl_coef: config.kl_in_reward ? 0 : config.kl_coef,
    kl_estimator: config.kl_estimator,
    kl_ratio_correction: config.kl_ratio_correction,
    anchor: config.kl_in_reward ? null : anchor,
    entropy_coef: config.entropy_coef,
    temperature: config.temperature,
  };
}

export const optimizerOptions = (config: RunConfig, learning_rate: number) => ({
  learning_rate,
  beta1: config.adam_beta1,
  beta2: config.adam_beta2,
  eps: config.adam_eps,
  weight_decay: config.weight_decay,
  max_grad_norm: config.max_grad_norm,
});

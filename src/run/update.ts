/** One optimizer update: the gradients of all batches of a step, then AdamW. */
import type { RunConfig } from "../config/schema.ts";
import type { GradientReport, LossOptions, ModelName, Policy, TrainingBatch } from "../core/policy.ts";
import { orAborted } from "./abort.ts";

export interface Update {
  /** Sum over the batches: their weights are normalised over the whole step. */
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
  batches: readonly TrainingBatch[],
  { config, learning_rate, anchor, beforeUpdate, signal }: UpdateOptions,
): Promise<Update> {
  const reports: GradientReport[] = [];
  const loss = lossOptions(config, anchor);
  for (const batch of batches) reports.push(await orAborted(signal, policy.forwardBackward(batch, loss)));
  const summary = { ...combined(reports), learning_rate };
  if (batches.length === 0) return { ...summary, grad_norm: 0, penalty: null, outcome: "nothing_to_learn" };
  const penalty = await beforeUpdate();
  const { grad_norm, skipped } = await orAborted(signal, policy.optimizerStep(optimizerOptions(config, learning_rate)));
  return { ...summary, grad_norm, penalty, outcome: skipped ? "nonfinite_gradient" : "updated" };
}

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

/** Means are weighted by tokens. */
function combined(reports: readonly GradientReport[]) {
  const tokens = sum(reports, (report) => report.loss_tokens);
  const mean = (value: (report: GradientReport) => number) =>
    tokens === 0 ? 0 : sum(reports, (report) => value(report) * report.loss_tokens) / tokens;
  return {
    loss: sum(reports, (report) => report.loss),
    kl: mean((report) => report.kl_mean),
    entropy: mean((report) => report.entropy_mean),
    clip_low_fraction: mean((report) => report.clip_low_fraction),
    clip_high_fraction: mean((report) => report.clip_high_fraction),
    dual_clip_fraction: mean((report) => report.dual_clip_fraction),
    logprob_diff_max: Math.max(0, ...reports.map((report) => report.logprob_diff_max)),
    loss_tokens: tokens,
    computed_tokens: sum(reports, (report) => report.computed_tokens),
  };
}

const sum = (reports: readonly GradientReport[], value: (report: GradientReport) => number): number =>
  reports.reduce((total, report) => total + value(report), 0);

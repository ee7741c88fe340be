/** What the options must satisfy together. Each rule gives the option to change and a sentence, or null. */
import type { RunConfig } from "./schema.ts";

export interface Violation {
  readonly option: string;
  readonly sentence: string;
}

type Rule = (config: RunConfig) => Violation | null;

const rule =
  (option: string, broken: (config: RunConfig) => string | null | false): Rule =>
  (config) => {
    const sentence = broken(config);
    return sentence ? { option, sentence } : null;
  };

const OFF_IN_TRAINING = "must be off in training, because the recorded log-probabilities would not be the policy's";

/** For every command. */
const GENERAL_RULES: readonly Rule[] = [
  rule(
    "user.model",
    ({ user }) => user.kind === "openai" && user.model === null && "user.kind openai needs the model's name",
  ),
  rule(
    "user.model",
    ({ user }) =>
      (user.kind === "auto" || user.kind === "scripted") &&
      user.model !== null &&
      `is not used by user.kind ${user.kind}; set --user.kind openai or local`,
  ),
  rule(
    "user.base_url",
    ({ user }) =>
      user.kind !== "openai" &&
      user.base_url !== null &&
      `is not used by user.kind ${user.kind}; set --user.kind openai`,
  ),
  rule(
    "user.base_url",
    ({ user }) =>
      user.base_url !== null &&
      !isHttpUrl(user.base_url) &&
      `expected an http or https address, got "${user.base_url}"`,
  ),
  rule(
    "max_new_tokens",
    (config) =>
      config.max_context_tokens !== null &&
      config.max_new_tokens >= config.max_context_tokens &&
      `${config.max_new_tokens} tokens a turn do not fit into max_context_tokens ${config.max_context_tokens}`,
  ),
];

const LOSS_RULES: readonly Rule[] = [
  rule(
    "clip_range_high",
    ({ loss_type, clip_range_high }) =>
      loss_type === "cispo" &&
      clip_range_high === null &&
      "loss_type cispo needs it: how far an importance weight may exceed 1, such as 4",
  ),
  rule(
    "importance_sampling_level",
    ({ loss_type, importance_sampling_level }) =>
      loss_type === "gspo" &&
      importance_sampling_level === "token" &&
      "loss_type gspo is grpo with the ratio of the sequence; use loss_type grpo for that of the token",
  ),
  rule(
    "delta",
    ({ loss_type, delta }) =>
      loss_type === "cispo" && delta !== null && "is not used by loss_type cispo, whose weights clip_range_high bounds",
  ),
  rule("delta", ({ delta, clip_range, clip_range_high }) => {
    const high = 1 + (clip_range_high ?? clip_range);
    return delta !== null && delta <= high && `must be above 1 + clip_range_high, which is ${high}`;
  }),
  rule(
    "kl_in_reward",
    ({ kl_in_reward, kl_coef }) => kl_in_reward && kl_coef === 0 && "needs a kl_coef above 0 to weigh the KL",
  ),
  rule(
    "kl_ratio_correction",
    ({ kl_in_reward, kl_ratio_correction }) =>
      kl_in_reward && kl_ratio_correction && "is for a KL in the loss; with kl_in_reward leave it false",
  ),
  rule(
    "kl_estimator",
    ({ kl_estimator, kl_coef, kl_in_reward, kl_ratio_correction }) =>
      kl_estimator === "k1" &&
      kl_coef > 0 &&
      !kl_in_reward &&
      !kl_ratio_correction &&
      "the gradient of k1 in the loss is zero on average; set kl_in_reward or kl_ratio_correction, or use k2 or k3",
  ),
  rule(
    "credit_assignment",
    ({ credit_assignment, malformed_call_penalty, kl_in_reward }) =>
      credit_assignment === "turn" &&
      malformed_call_penalty === 0 &&
      !kl_in_reward &&
      "turn needs rewards that belong to turns; set malformed_call_penalty or kl_in_reward, or use trajectory",
  ),
  rule(
    "soft_punish_cache",
    ({ max_completion_len, soft_punish_cache }) =>
      (max_completion_len === null) !== (soft_punish_cache === null) &&
      "goes together with max_completion_len: set both, or neither",
  ),
  rule(
    "soft_punish_cache",
    ({ max_completion_len, soft_punish_cache }) =>
      max_completion_len !== null &&
      soft_punish_cache !== null &&
      soft_punish_cache > max_completion_len &&
      `must not exceed max_completion_len ${max_completion_len}`,
  ),
  rule("num_mini_batches", ({ num_mini_batches, ...config }) => {
    const tasks = config.batch_size_per_gpu * config.gradient_accumulation_steps * config.nproc_per_node;
    return num_mini_batches > tasks && `a step has ${tasks} tasks, too few for ${num_mini_batches} mini-batches`;
  }),
];

const TRAINING_RULES: readonly Rule[] = [
  rule(
    "temperature",
    ({ temperature }) => temperature === 0 && "must be above 0 in training: greedy rollouts of a task are all the same",
  ),
  rule("top_p", ({ top_p }) => top_p !== 1 && `${OFF_IN_TRAINING}; set it to 1`),
  rule("top_k", ({ top_k }) => top_k !== 0 && `${OFF_IN_TRAINING}; set it to 0`),
  rule("min_p", ({ min_p }) => min_p !== 0 && `${OFF_IN_TRAINING}; set it to 0`),
  rule(
    "num_samples_per_prompt",
    (config) => config.num_samples_per_prompt < 2 && "must be at least 2: advantages compare the rollouts of a task",
  ),
  rule("clip_range", ({ clip_range }) => clip_range >= 1 && `must be below 1, got ${clip_range}`),
  ...LOSS_RULES,
  rule(
    "replay_ratio",
    ({ cl_algorithm, replay_ratio }) =>
      cl_algorithm === "replay" &&
      replay_ratio === 0 &&
      "must be above 0 with cl_algorithm replay; use cl_algorithm sequential for none",
  ),
  rule(
    "replay_ratio",
    ({ cl_algorithm, replay_ratio, replay_budget }) =>
      cl_algorithm === "replay" &&
      replay_budget === "replace" &&
      replay_ratio === 1 &&
      "1 leaves no task of the current domain; lower it, or set replay_budget to add",
  ),
];

export type Command = "train" | "eval";

export function firstViolation(config: RunConfig, command: Command): Violation | null {
  const rules = command === "train" ? [...GENERAL_RULES, ...TRAINING_RULES] : GENERAL_RULES;
  for (const check of rules) {
    const violation = check(config);
    if (violation !== null) return violation;
  }
  return null;
}

const isHttpUrl = (text: string) => URL.canParse(text) && /^https?:$/.test(new URL(text).protocol);

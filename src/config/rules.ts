/** What the options must satisfy together. Each rule gives the option to change and a sentence, or null. */
import { DOTTED } from "./options.ts";
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
  ...(["base_url", "cache_dir"] as const).flatMap((name) => [
    rule(
      `user.${name}`,
      ({ user }) =>
        user.kind !== "openai" &&
        user[name] !== null &&
        `is not used by user.kind ${user.kind}; set --user.kind openai`,
    ),
    rule(
      `judge.${name}`,
      ({ judge }) => judge.model === null && judge[name] !== null && "is not used without judge.model",
    ),
  ]),
  ...DOTTED.map((section) =>
    rule(`${section}.base_url`, ({ [section]: { base_url } }) => base_url !== null && flawOfAddress(base_url)),
  ),
  rule(
    "user.max_cost_usd",
    ({ user, judge }) =>
      user.max_cost_usd !== null &&
      !(user.kind === "openai" && hasPrice(user)) &&
      !(judge.model !== null && hasPrice(judge)) &&
      "needs the prices of what is paid: user.price_per_million_input_tokens and …_output_tokens, or the judge's",
  ),
  rule(
    "judge.model",
    ({ nl_assertions, judge }) =>
      nl_assertions === "judge" &&
      judge.model === null &&
      "nl_assertions judge needs the name of the model that judges",
  ),
  rule(
    "max_new_tokens",
    (config) =>
      config.max_context_tokens !== null &&
      config.max_new_tokens >= config.max_context_tokens &&
      `${config.max_new_tokens} tokens a turn do not fit into max_context_tokens ${config.max_context_tokens}`,
  ),
];

const REPLAYING = ["replay", "a_gem", "der_pp"];
const OF_ADAPTERS = ["o_lora", "progressive", "dynamic_expansion"];

/** What a method needs. */
const METHOD_RULES: readonly Rule[] = [
  rule(
    "replay_ratio",
    ({ cl_algorithm, replay_ratio }) =>
      REPLAYING.includes(cl_algorithm) &&
      replay_ratio === 0 &&
      `must be above 0 with cl_algorithm ${cl_algorithm}; use cl_algorithm sequential for none`,
  ),
  rule(
    "replay_ratio",
    ({ cl_algorithm, replay_ratio }) =>
      cl_algorithm === "adaptive_replay" &&
      (replay_ratio < 0.1 || replay_ratio > 0.5) &&
      `is where adaptive_replay starts, from 0.1 to 0.5; got ${replay_ratio}`,
  ),
  rule(
    "replay_ratio",
    ({ cl_algorithm, replay_ratio, replay_budget }) =>
      (cl_algorithm === "replay" || cl_algorithm === "a_gem") &&
      replay_budget === "replace" &&
      replay_ratio === 1 &&
      "1 leaves no task of the current domain; lower it, or set replay_budget to add",
  ),
  rule(
    "lora_r",
    ({ cl_algorithm, lora_r }) =>
      OF_ADAPTERS.includes(cl_algorithm) &&
      lora_r === 0 &&
      `cl_algorithm ${cl_algorithm} trains LoRA adapters; set lora_r to their rank, such as 8`,
  ),
  rule(
    "task_order",
    ({ cl_algorithm, task_order }) =>
      (cl_algorithm === "fusion" || cl_algorithm === "adaptive_fusion") &&
      new Set(task_order).size < 2 &&
      `cl_algorithm ${cl_algorithm} merges what several domains taught; name at least two`,
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
  rule(
    "num_iterations",
    ({ cl_algorithm, num_iterations, num_mini_batches }) =>
      cl_algorithm === "si" &&
      num_iterations * num_mini_batches > 1 &&
      "cl_algorithm si follows the path of one update a step; set num_iterations and num_mini_batches to 1",
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
  ...METHOD_RULES,
];

const SFT_RULES: readonly Rule[] = [
  rule("data", ({ data }) => data === null && "needs recorded conversations: --data FILE …"),
];

const NOT_SFT_RULES: readonly Rule[] = [rule("data", ({ data }) => data !== null && "is what grpo-cl sft trains on")];

const RULES_OF: Readonly<Record<Command, readonly Rule[]>> = {
  train: [...GENERAL_RULES, ...NOT_SFT_RULES, ...TRAINING_RULES],
  eval: [...GENERAL_RULES, ...NOT_SFT_RULES],
  sft: [...GENERAL_RULES, ...SFT_RULES],
};

export type Command = "train" | "eval" | "sft";

export function firstViolation(config: RunConfig, command: Command): Violation | null {
  for (const check of RULES_OF[command]) {
    const violation = check(config);
    if (violation !== null) return violation;
  }
  return null;
}

const hasPrice = (endpoint: RunConfig["judge"]): boolean =>
  endpoint.price_per_million_input_tokens + endpoint.price_per_million_output_tokens > 0;

/** The address goes into config.json and messages, so it may hold no secret; none is quoted here either. */
function flawOfAddress(address: string): string | null {
  const url = URL.canParse(address) ? new URL(address) : null;
  if (url === null || !/^https?:$/.test(url.protocol))
    return "expected an http or https address, such as http://localhost:8000/v1";
  if (url.username !== "" || url.password !== "" || SECRET_PARAMETER.test(url.search))
    return "the address must hold no name, password or key; put the key into the environment variable that api_key_env names";
  return null;
}

const SECRET_PARAMETER = /[?&][^=&]*(key|token|secret|sig|password)[^=&]*=/i;

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

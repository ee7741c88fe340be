/**
 * One vocabulary. metrics.jsonl uses these names; metrics.json, in the seed's shape, uses them without their stage
 * (`train/loss` → `loss`), which a test keeps unambiguous. Rewards of a step are those of the current domain's tasks:
 * replayed ones stand apart, since they would hide that the current domain has nothing to learn from.
 */

/** Of one training step. */
export const TRAIN_METRICS = {
  "train/loss": "Loss of the step: policy term plus kl_coef times KL; mean over its updates.",
  "train/penalty": "What the method added to the loss (EWC's quadratic, a distillation, …); null: nothing.",
  "train/kl":
    "KL (kl_estimator) to the anchor, mean over tokens in the loss (in the reward: over all sampled ones); 0 when not measured.",
  "train/entropy": "Entropy of the policy, mean over tokens in the loss.",
  "train/grad_norm":
    "Global gradient norm before clipping, mean over the step's updates; null when one was not finite.",
  "train/learning_rate": "Of this step, warm-up included.",
  "train/clip_low_fraction": "Share of tokens whose ratio was clipped below (their own, or their sequence's).",
  "train/clip_high_fraction":
    "Share of tokens whose ratio was clipped above; with cispo, whose weight was, where the advantage is positive.",
  "train/dual_clip_fraction": "Share of tokens whose ratio met delta, where the advantage is negative.",
  "train/logprob_diff_max":
    "Largest difference between recorded and recomputed log-probability, before the step's first update.",
  "train/loss_tokens": "Tokens in the loss, of all updates of the step.",
  "train/computed_tokens": "Tokens that were computed, after sharing prefixes.",
  "train/updates": "Optimizer updates of the step that moved the weights.",
  "train/skipped": "1 when the weights did not move: gradient not finite, or nothing to learn from.",
  "rollout/reward_mean": "Mean reward, current domain.",
  "rollout/reward_max": "Largest reward, current domain.",
  "rollout/reward_std": "Standard deviation of the rewards, current domain.",
  "rollout/pass_rate": "Share of rewards above 0.5, current domain.",
  "rollout/groups": "Groups, current domain.",
  "rollout/groups_tied": "Groups whose rewards are all equal, current domain: no gradient from these.",
  "rollout/staleness_mean":
    "Updates between the weights that sampled a rollout and those that the step began with; 0 without overlap_rollouts. Remembered rollouts do not count.",
  "rollout/groups_refilled": "Groups sampled in place of tied ones (dynamic_sampling); counted among the groups.",
  "rollout/masked": "Rollouts kept out of the loss because a limit cut them (mask_truncated_completions).",
  "rollout/penalty_mean":
    "Mean of what penalties and KL in the reward took from a reward, over the rollouts of the update.",
  "rollout/replay_groups": "Groups replayed from earlier domains.",
  "rollout/replay_groups_tied": "Replayed groups whose rewards are all equal.",
  "rollout/replay_reward_mean": "Mean reward of replayed groups; null without any.",
  "rollout/failed": "Rollouts lost to the infrastructure; in no mean and not in the loss.",
  "rollout/sampled_tokens": "Tokens that the policy sampled.",
  "rollout/tokens_max": "Longest conversation, in tokens.",
  "rollout/agent_turns_mean": "Turns of the agent per conversation.",
  "rollout/tool_calls_mean": "Tool calls per conversation.",
  "rollout/tool_errors": "Tool calls that failed.",
  "rollout/malformed_calls": "Turns whose tool call could not be parsed.",
  "rollout/masked_mass_mean":
    "Probability that constrained_tool_calls forbade, mean over the sampled tokens: 1 − the mean importance ratio; 0 without it.",
  "rollout/truncated_turns": "Turns cut by max_new_tokens.",
  "rollout/user_cost_usd": "Price of the simulated user.",
} as const;

/** Of one step of a supervised warm start. */
export const SFT_METRICS = {
  "sft/loss": "Mean of −log π(token) over the agent's tokens of the step.",
  "sft/grad_norm": "Global gradient norm before clipping; null when it was not finite.",
  "sft/learning_rate": "Of this step, warm-up included.",
  "sft/loss_tokens": "The agent's tokens.",
  "sft/computed_tokens": "Tokens that were computed, after sharing prefixes.",
  "sft/skipped": "1 when the gradient was not finite and the weights did not move.",
} as const;

/** Of the conversations that a warm start holds out. */
export const SFT_VALIDATION_METRICS = {
  "sft/validation_loss": "As sft/loss, over the conversations held out.",
  "sft/validation_tokens": "The agent's tokens in them.",
} as const;

/** Of one evaluated domain. */
export const SCORE_METRICS = {
  n_tasks: "Tasks evaluated.",
  n_tasks_write: "Of these, tasks whose golden run writes.",
  nl_assertions: "judge, exclude or drop: scores of different variants are not comparable.",
  n_excluded: "Tasks that nl_assertions leaves out.",
  n_trials: "Trials per task.",
  n_failed: "Trials lost to the infrastructure; in no mean.",
  reward_mean: "Mean over tasks of the mean reward of their trials.",
  pass_rate: "Share of trials with a reward above 0.5, mean over tasks.",
  pass_hat_k: "tau2's pass^k: chance that k trials of a task all have reward 1; by k.",
  low: "Lower end of reward_mean's 95 % interval (bootstrap over task ids).",
  high: "Upper end of it.",
  reward_mean_write: "reward_mean of tasks whose golden run writes; null without any.",
  reward_mean_noop: "reward_mean of tasks that need no write; null without any.",
  contaminated: "True when these tasks may have been trained on.",
  stops: "Why conversations ended, counted.",
  malformed_calls: "Turns whose tool call could not be parsed.",
  tool_errors: "Tool calls that failed.",
  tool_accuracy: "Share of tool calls that did not fail; null without any.",
  kl_drift:
    "KL (k3) from the base model, mean over the sampled tokens of each task's first trial, at temperature 1; null where no base model is kept (kl_coef 0).",
  truncated_turns: "Turns cut by max_new_tokens.",
  agent_turns_mean: "Turns of the agent per conversation.",
  tool_calls_mean: "Tool calls per conversation.",
  user_identity: "Who played the user.",
  user_cost_usd: "Price of the simulated user.",
} as const;

/** From the score matrix, each with a 95 % interval (`…_low`, `…_high`); formulas in transfer.ts. */
export const ESTIMATES = {
  "cl/acc": "ACC: mean reward on the domains trained so far (Lopez-Paz & Ranzato 2017).",
  "cl/learning_accuracy": "Mean reward on each domain right after its training (Riemer et al. 2019).",
  "cl/bwt": "Backward transfer (Lopez-Paz & Ranzato 2017).",
  "cl/fwt": "Forward transfer against the base model (the same).",
  "cl/forgetting": "Forgetting: from the best earlier row (Chaudhry et al. 2018).",
  "cl/minimum_accuracy": "Mean over earlier domains of the lowest reward since their training (De Lange et al. 2023).",
} as const;

/** After each experience. */
export const TRANSFER_METRICS = {
  "cl/backward_transfer": "The seed's word: mean reward on earlier domains, now. Not the literature's; that is bwt.",
  "cl/current_performance": "Reward on the domain just trained.",
  ...(Object.fromEntries(
    Object.entries(ESTIMATES).flatMap(([name, meaning]) => [
      [name, meaning],
      [`${name}_low`, `Lower end of ${name}'s 95 % interval.`],
      [`${name}_high`, "Upper end of it."],
    ]),
  ) as Readonly<Record<EstimateMetric | `${EstimateMetric}_${"low" | "high"}`, string>>),
} as const;

export type EstimateMetric = keyof typeof ESTIMATES;
export type TrainMetric = keyof typeof TRAIN_METRICS;
export type SftMetric = keyof typeof SFT_METRICS;
export type SftValidationMetric = keyof typeof SFT_VALIDATION_METRICS;
export type ScoreMetric = keyof typeof SCORE_METRICS;
export type TransferMetric = keyof typeof TRANSFER_METRICS;

/** `rollout/reward_mean` → `reward_mean`. */
export const seedName = (name: string): string => name.slice(name.indexOf("/") + 1);

/** A reward above this passes, in the seed's pass_rate. */
export const PASS_REWARD_MIN = 0.5;

/** Rollouts made by hand, for what only looks at tokens and rewards. */
import type { BatchConfig } from "../../src/grpo/batch.ts";
import type { Group, Rollout } from "../../src/rollout/types.ts";

export function rolloutOf(fields: Partial<Rollout> = {}): Rollout {
  const tokens = fields.tokens ?? Uint32Array.of(1, 2, 3);
  return {
    domain: "shop",
    task_id: "0",
    sample: 0,
    tokens,
    sampled_mask: Uint8Array.from(tokens, (_, t) => (t === 0 ? 0 : 1)),
    logprobs: Float32Array.from(tokens, (_, t) => (t === 0 ? 0 : -1)),
    messages: [],
    termination: "user_stop",
    detail: null,
    reward: 0,
    reward_info: null,
    agent_turns: 1,
    tool_calls: 0,
    tool_errors: 0,
    malformed_calls: 0,
    malformed_turns: [],
    truncated_turns: 0,
    masked_mass: 0,
    task_writes: true,
    policy_version: 0,
    user_identity: "scripted",
    user_cost_usd: 0,
    ...fields,
  };
}

export function groupOf(rollouts: readonly Rollout[], fields: Partial<Group> = {}): Group {
  return { domain: "shop", task_id: "0", replayed: false, rollouts, ...fields };
}

/** One update, GRPO as it was published, KL in the loss. */
export const PLAIN_STEP: BatchConfig = {
  loss_type: "grpo",
  scale_rewards: "group",
  advantage_baseline: "group_mean",
  credit_assignment: "trajectory",
  num_mini_batches: 1,
  kl_coef: 0.1,
  kl_in_reward: false,
  entropy_coef: 0,
  mask_truncated_completions: false,
  malformed_call_penalty: 0,
  max_completion_len: null,
  soft_punish_cache: null,
  completion_tokens_max: 20,
};

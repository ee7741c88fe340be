/** Rollouts made by hand, for what only looks at tokens and rewards. */
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

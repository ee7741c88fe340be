/** What a rollout leaves behind: its tokens with their log-probabilities, its conversation, its reward. */
import type { TaskUse } from "../curriculum/curriculum.ts";
import type { Message, RewardInfo, TerminationReason } from "../tau2/types.ts";

/** One conversation of the policy with the user and the environment of one task. */
export interface Rollout {
  readonly domain: string;
  readonly task_id: string;
  /** Index within the group. */
  readonly sample: number;
  /** All tokens of the agent's view: prompt, then turns, append-only. */
  readonly tokens: Uint32Array;
  /** 1 where the policy sampled the token; only these are in the loss. */
  readonly sampled_mask: Uint8Array;
  /** At the sampling temperature; 0 where not sampled. */
  readonly logprobs: Float32Array;
  readonly messages: readonly Message[];
  readonly termination: TerminationReason;
  readonly detail: string | null;
  /** 0 when the conversation was not scored (SPEC section 7). */
  readonly reward: number;
  readonly reward_info: RewardInfo | null;
  readonly agent_turns: number;
  readonly tool_calls: number;
  readonly tool_errors: number;
  /** Turns whose tool call could not be parsed. */
  readonly malformed_calls: number;
  /** Which turns these were, counted from 0. */
  readonly malformed_turns: readonly number[];
  /** Turns cut by max_new_tokens. */
  readonly truncated_turns: number;
  /** Probability that `constrained_tool_calls` forbade, summed over the sampled tokens; 0 where sampling was free. */
  readonly masked_mass: number;
  /** Did the task's golden run write to the database? */
  readonly task_writes: boolean;
  /** Weight version (optimizer steps taken) that sampled it. */
  readonly policy_version: number;
  readonly user_identity: string;
  readonly user_cost_usd: number;
}

/** The rollouts of one task within a step. */
export interface Group {
  readonly domain: string;
  readonly task_id: string;
  /** True for tasks that a method added from earlier domains. */
  readonly replayed: boolean;
  /** As the plan said: not in the loss, or remembered from an earlier step. */
  readonly use?: TaskUse;
  readonly rollouts: readonly Rollout[];
}

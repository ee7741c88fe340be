/**
 * A rollout's reward as training sees it: tau2's, less what lengths, unreadable tool calls and KL cost. Metrics and
 * evaluations show tau2's alone.
 *
 * Axes: K turns of the agent · T tokens of a rollout.
 */
import type { Rollout } from "../rollout/types.ts";

export interface RewardConfig {
  /** Taken from the reward for every turn whose tool call could not be read. */
  readonly malformed_call_penalty: number;
  /** Sampled tokens of a conversation at which the overlong penalty is 1; null = no such penalty. */
  readonly max_completion_len: number | null;
  /** Tokens before that over which the penalty grows from 0. */
  readonly soft_punish_cache: number | null;
  /** Weight of the KL that `token_kl` holds. */
  readonly kl_coef: number;
}

export interface ShapedReward {
  /** What the conversation as a whole earned. */
  readonly outcome: number;
  /** What single turns cost, at most 0 but for KL estimates of either sign. */
  readonly turns_K: readonly number[];
}

/** `token_kl`: KL to the anchor by token (`kl_in_reward`), 0 where not sampled. */
export function shapedReward(rollout: Rollout, config: RewardConfig, token_kl?: Float32Array): ShapedReward {
  const turns = turnsOf(rollout.sampled_mask);
  const malformed = new Set(rollout.malformed_turns);
  return {
    outcome:
      rollout.reward -
      overlongPenalty(
        turns.reduce((n, [from, to]) => n + to - from, 0),
        config,
      ),
    turns_K: turns.map(
      ([from, to], k) =>
        0 - (malformed.has(k) ? config.malformed_call_penalty : 0) - config.kl_coef * sum(token_kl?.subarray(from, to)),
    ),
  };
}

/** The return from turn k on. A conversation that ended before has its outcome left. */
export function returnFrom({ outcome, turns_K }: ShapedReward, k: number): number {
  return turns_K.slice(k).reduce((total, reward) => total + reward, outcome);
}

/**
 * DAPO's soft overlong punishment (Yu et al. 2025, equation 13; TRL's get_soft_overlong_punishment), as a positive number:
 * 0 up to L_max - L_cache, then linear to 1 at L_max, and 1 beyond. Length is what the agent said in all turns together.
 */
export function overlongPenalty(
  length: number,
  { max_completion_len, soft_punish_cache }: Pick<RewardConfig, "max_completion_len" | "soft_punish_cache">,
): number {
  if (max_completion_len === null || soft_punish_cache === null) return 0;
  const over = length - (max_completion_len - soft_punish_cache);
  return over <= 0 ? 0 : Math.min(1, over / soft_punish_cache);
}

/**
 * A limit cut the conversation: max_new_tokens a turn, or max_steps or the context window all of it. Its reward is that of
 * the limit as much as of the policy (`mask_truncated_completions`; DAPO's overlong filtering).
 */
export function isTruncated({ truncated_turns, termination }: Rollout): boolean {
  return truncated_turns > 0 || termination === "max_steps" || termination === "context_window_exceeded";
}

/** Runs [from, to) of sampled tokens: one a turn, since the prompt of the next turn comes between. */
export function turnsOf(sampled_mask: Uint8Array): [number, number][] {
  const turns: [number, number][] = [];
  for (let from = sampled_mask.indexOf(1); from !== -1; ) {
    const end = sampled_mask.indexOf(0, from);
    const to = end === -1 ? sampled_mask.length : end;
    turns.push([from, to]);
    from = sampled_mask.indexOf(1, to);
  }
  return turns;
}

const sum = (values: Float32Array = new Float32Array()) => values.reduce((total, value) => total + value, 0);

/** KL to the anchor as a part of the reward (`kl_in_reward`): known before advantages are made, no gradient through it. */
import type { ModelName, Policy } from "../core/policy.ts";
import type { Group, Rollout } from "../rollout/types.ts";
import { isFailed } from "./batch.ts";

/** KL of each token of a rollout; 0 where not sampled. */
export type TokenKl = ReadonlyMap<Rollout, Float32Array>;

export type KlEstimator = "k1" | "k2" | "k3";

export interface TokenKlOptions {
  readonly anchor: ModelName;
  /** k1 is the one whose policy gradient is that of the KL (TRL's RLOO has it); k2 and k3 vary less and are biased here. */
  readonly kl_estimator: KlEstimator;
  /** That the log-probabilities were recorded at. */
  readonly temperature: number;
  /** Groups are computed in this many parts. */
  readonly gradient_accumulation_steps: number;
}

export async function tokenKl(policy: Policy, groups: readonly Group[], options: TokenKlOptions): Promise<TokenKl> {
  const { anchor, kl_estimator, temperature, gradient_accumulation_steps } = options;
  const kl = new Map<Rollout, Float32Array>();
  const part = Math.ceil(groups.length / gradient_accumulation_steps);
  for (let from = 0; from < groups.length; from += part) {
    const rollouts = groups
      .slice(from, from + part)
      .flatMap((group) => group.rollouts)
      .filter((rollout) => !isFailed(rollout) && rollout.tokens.length > 0);
    if (rollouts.length === 0) continue;
    const batch = laidOut(rollouts);
    const reference_N = await policy.logprobs(anchor, batch, { temperature });
    for (const [s, rollout] of rollouts.entries())
      kl.set(rollout, klOf(rollout, reference_N.subarray(batch.offsets[s], batch.offsets[s + 1]), kl_estimator));
  }
  return kl;
}

/** Mean over all tokens that were sampled; null where nothing was measured. */
export function meanKl(kl: TokenKl): number | null {
  let [total, tokens] = [0, 0];
  for (const [{ sampled_mask }, values] of kl) {
    for (const [t, value] of values.entries()) {
      total += value;
      tokens += sampled_mask[t] ?? 0;
    }
  }
  return tokens === 0 ? null : total / tokens;
}

function laidOut(rollouts: readonly Rollout[]) {
  const offsets = new Uint32Array(rollouts.length + 1);
  for (const [s, { tokens }] of rollouts.entries()) offsets[s + 1] = (offsets[s] ?? 0) + tokens.length;
  const tokens_N = new Uint32Array(offsets.at(-1) ?? 0);
  for (const [s, { tokens }] of rollouts.entries()) tokens_N.set(tokens, offsets[s]);
  return { tokens_N, offsets };
}

/** Schulman 2020, with d = log π_anchor - log π: the samples are π's own. */
function klOf({ sampled_mask, logprobs }: Rollout, reference_T: Float32Array, estimator: KlEstimator): Float32Array {
  return Float32Array.from(logprobs, (logprob, t) => {
    if (sampled_mask[t] !== 1) return 0;
    const d = (reference_T[t] ?? Number.NaN) - logprob;
    switch (estimator) {
      case "k1":
        return -d;
      case "k2":
        return (d * d) / 2;
      case "k3":
        return Math.exp(d) - d - 1;
    }
  });
}

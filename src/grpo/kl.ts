/** KL to the anchor as a part of the reward (`kl_in_reward`): known before advantages are made, no gradient through it. */
import type { ModelName, Policy } from "../core/policy.ts";
import type { Group, Rollout } from "../rollout/types.ts";
import { isFailed } from "./batch.ts";
import { laidEndToEnd } from "./ragged.ts";

/** KL of each token of a rollout; 0 where not sampled. */
export type TokenKl = ReadonlyMap<Rollout, Float32Array>;

export type KlEstimator = "k1" | "k2" | "k3";

export interface TokenKlOptions {
  readonly anchor: ModelName;
  /** k1 is the one whose policy gradient is that of the KL (TRL's RLOO has it); k2 and k3 vary less and are biased here. */
  readonly kl_estimator: KlEstimator;
  /** That the log-probabilities were recorded at. */
  readonly temperature: number;
}

export async function tokenKl(policy: Policy, groups: readonly Group[], options: TokenKlOptions): Promise<TokenKl> {
  const { anchor, kl_estimator, temperature } = options;
  const rollouts = groups
    .flatMap((group) => group.rollouts)
    .filter((rollout) => !isFailed(rollout) && rollout.tokens.length > 0);
  if (rollouts.length === 0) return new Map();
  const batch = laidEndToEnd(rollouts);
  const reference_N = await policy.logprobs(anchor, batch, { temperature });
  const reference = (s: number) => reference_N.subarray(batch.offsets[s], batch.offsets[s + 1]);
  return new Map(rollouts.map((rollout, s) => [rollout, klOf(rollout, reference(s), kl_estimator)]));
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

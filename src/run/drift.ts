/** How far training has carried the policy from the base model, seen on the conversations of an evaluation. */
import type { ModelName, Policy } from "../core/policy.ts";
import { laidEndToEnd } from "../grpo/ragged.ts";
import { scored } from "../metrics/score.ts";
import type { Group } from "../rollout/types.ts";

/**
 * Mean over the sampled tokens of each task's first trial of k3 = exp(d) - d - 1, d = log base - log policy, both at
 * temperature 1 (Schulman 2020, "Approximating KL divergence"): never negative, 0 where nothing changed. Evaluation samples
 * at another temperature, so it is a measure of distance at these tokens and no unbiased estimate of the KL. null: no tokens.
 */
export async function klDrift(policy: Policy, base: ModelName, groups: readonly Group[]): Promise<number | null> {
  const rollouts = groups.flatMap((group) => scored(group).slice(0, 1));
  const batch = laidEndToEnd(rollouts);
  const sampled_N = rollouts.flatMap(({ sampled_mask }) => Array.from(sampled_mask));
  if (!sampled_N.includes(1)) return null;
  const now_N = await policy.logprobs("policy", batch, { temperature: 1 });
  const then_N = await policy.logprobs(base, batch, { temperature: 1 });
  let sum = 0;
  let tokens = 0;
  for (const [t, sampled] of sampled_N.entries()) {
    if (sampled === 0) continue;
    const d = (then_N[t] as number) - (now_N[t] as number);
    sum += Math.expm1(d) - d;
    tokens += 1;
  }
  return sum / tokens;
}

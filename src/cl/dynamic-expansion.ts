/**
 * Grows by need: before an experience a probe of its training tasks tells how much the policy can do already, and so how
 * large the new block (a LoRA adapter that starts at B = 0) must be. Earlier blocks are frozen, all of them are active.
 */
import { type AdapterConfig, newAdapter } from "./adapter.ts";
import { type ContinualMethod, PLAIN, type Plan } from "./method.ts";

const PROBE = { tasks_max: 16, trials: 1 } as const;

export const dynamicExpansion = (config: AdapterConfig): ContinualMethod => ({
  ...PLAIN,
  name: "dynamic_expansion",
  ownAdapters: true,
  *beforeExperience({ experience: { index, domain }, rng }): Plan {
    const { rewards } = yield { op: "probe", domains: [domain], tasks: "train", ...PROBE };
    const rank = rankFor(rewards[domain] ?? 0, config.lora_r);
    yield newAdapter(`block_${index}`, config, rng, { rank });
  },
});

/** 2r below a reward of 0.3, r below 0.6, else r / 2 (at least 1). */
export function rankFor(reward: number, lora_r: number): number {
  if (reward < 0.3) return 2 * lora_r;
  return reward < 0.6 ? lora_r : Math.max(1, Math.floor(lora_r / 2));
}

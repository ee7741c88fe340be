/**
 * O-LoRA (Wang et al. 2023): every experience trains a new adapter, earlier ones are frozen and stay active; the new one is
 * kept orthogonal to them by λ · Σ_k ‖A_k Aᵀ‖².
 */
import { type AdapterConfig, newAdapter } from "./adapter.ts";
import { type ContinualMethod, PLAIN, type Plan } from "./method.ts";

export interface OLoraConfig extends AdapterConfig {
  readonly o_lora_lambda: number;
}

export const oLora = (config: OLoraConfig): ContinualMethod => ({
  ...PLAIN,
  name: "o_lora",
  ownAdapters: true,
  beforeExperience: ({ experience, rng }) => [newAdapter(`task_${experience.index}`, config, rng)],
  *beforeUpdate({ experience }): Plan {
    if (experience.index === 0 || config.o_lora_lambda === 0) return;
    const { value } = yield { op: "add_orthogonal_penalty", strength: config.o_lora_lambda };
    return config.o_lora_lambda * value;
  },
});

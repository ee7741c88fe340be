/** A new LoRA adapter (Hu et al. 2021), as the config describes it. */
import type { Rng } from "../base/rng.ts";
import type { WeightOp } from "../base/weight-op.ts";

export interface AdapterConfig {
  readonly lora_r: number;
  readonly lora_alpha: number;
  readonly lora_target_modules: readonly string[];
}

export const newAdapter = (
  name: string,
  { lora_r, lora_alpha, lora_target_modules }: AdapterConfig,
  rng: Rng,
  { rank = lora_r, gates = false }: { readonly rank?: number; readonly gates?: boolean } = {},
): WeightOp => ({
  op: "add_adapter",
  name,
  rank,
  // alpha / rank, the factor of B·A, stays the config's.
  alpha: (lora_alpha * rank) / lora_r,
  target_modules: lora_target_modules,
  gates,
  seed: String(rng.fork("adapter", name).uint64()),
});

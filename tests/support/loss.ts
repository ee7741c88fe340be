/** A loss of the GRPO family, for tests that change a field or two. */
import type { LossOptions } from "../../src/core/policy.ts";

type GrpoLoss = Extract<LossOptions, { readonly kind: "grpo" }>;

export const grpoLoss = (fields: Partial<GrpoLoss> = {}): GrpoLoss => ({
  kind: "grpo",
  surrogate: "clip",
  importance_sampling_level: "token",
  clip_low: 0.2,
  clip_high: 0.2,
  delta: null,
  kl_coef: 0.1,
  kl_estimator: "k3",
  kl_ratio_correction: false,
  anchor: "base",
  entropy_coef: 0,
  temperature: 1,
  ...fields,
});

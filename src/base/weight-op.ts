/**
 * What can be done to weights, as data: methods ask for it, the core does it. It stands here, left of both, because
 * methods and the core do not know each other.
 */

/** A model that lives in the core. `policy` is the one that learns; others are frozen (`base`, `user`). */
export type ModelName = string;

/**
 * A vector is a named set of f32 arrays shaped like the trained parameters. Three are live: `weights` (θ; with LoRA the
 * trained adapter), `gradient` (what has been accumulated) and `effective` (the dense weights that the model computes
 * with; without LoRA the same as `weights`). Reading one copies nothing; writing `weights` or `effective` moves the policy
 * and makes its sequences stale. Vectors of one operation must have the same shapes.
 */
export type VectorName = string;

export interface Term {
  readonly vector: VectorName;
  readonly factor: number;
}

/** What is done to weights and vectors, as data. Where a value comes of it, the report has it. */
export type WeightOp =
  /** Moments, step count and accumulated gradients back to zero. */
  | { readonly op: "reset_optimizer" }
  /** Copies the policy's weights as a frozen model under `name` (replaces one of that name). */
  | { readonly op: "snapshot"; readonly name: ModelName }
  /** A frozen model or a vector. */
  | { readonly op: "drop"; readonly name: ModelName | VectorName }
  /** into ← Σ factor · vector; without terms zero. `into` may be among the terms. */
  | { readonly op: "combine"; readonly into: VectorName; readonly terms: readonly Term[] }
  /** into ← into + factor · a ⊙ b (into starts at zero). */
  | {
      readonly op: "add_product";
      readonly into: VectorName;
      readonly a: VectorName;
      readonly b: VectorName;
      readonly factor: number;
    }
  /** value = a · b. */
  | { readonly op: "dot"; readonly a: VectorName; readonly b: VectorName }
  /**
   * Joins λ/2·add⊙(θ−θ_now)² to what `importance` H and `anchor` m stand for, so that Σ_k F_k(θ−θ*_k)² stays one quadratic
   * and two vectors: H ← H + F, m ← (H·m + F·θ_now)/(H + F). value = the constant that the sum has gained, Σ HF/(H+F)·(m−θ_now)².
   */
  | {
      readonly op: "consolidate";
      readonly importance: VectorName;
      readonly anchor: VectorName;
      readonly add: VectorName;
    }
  /** Adds strength · importance ⊙ (θ − anchor) to the gradient. value = strength/2 · Σ importance·(θ−anchor)². */
  | {
      readonly op: "add_quadratic_penalty";
      readonly importance: VectorName;
      readonly anchor: VectorName;
      readonly strength: number;
    }
  /** A-GEM (Chaudhry et al. 2019): where g·ref < 0, g ← g − (g·ref / ref·ref)·ref. value = g·ref before. */
  | { readonly op: "project_gradient"; readonly reference: VectorName }
  /** Synaptic intelligence (Zenke et al. 2017): into ← into + max(0, path) / ((θ − start)² + damping). */
  | {
      readonly op: "add_path_importance";
      readonly into: VectorName;
      readonly path: VectorName;
      readonly start: VectorName;
      readonly damping: number;
    }
  /** TIES (Yadav et al. 2023): keep the share `density` of largest entries, elect signs, mean of those that agree. */
  | {
      readonly op: "merge_ties";
      readonly into: VectorName;
      readonly vectors: readonly VectorName[];
      readonly density: number;
    }
  /** DARE (Yu et al. 2024): drop each entry with `drop_rate`, rescale the rest, mean over the vectors. `seed` in decimal. */
  | {
      readonly op: "merge_dare";
      readonly into: VectorName;
      readonly vectors: readonly VectorName[];
      readonly drop_rate: number;
      readonly seed: string;
    }
  /** Fisher-weighted mean (Matena & Raffel 2022); where no importance is above 0, the plain mean. */
  | {
      readonly op: "merge_fisher";
      readonly into: VectorName;
      readonly vectors: readonly VectorName[];
      readonly importances: readonly VectorName[];
    }
  /**
   * A new LoRA adapter (A random, B zero; PEFT's start), which is trained from now on; those before are frozen and stay
   * active. `gates`: a trained factor, from 0, for every earlier adapter and module. `seed` in decimal.
   */
  | {
      readonly op: "add_adapter";
      readonly name: string;
      readonly rank: number;
      readonly alpha: number;
      readonly target_modules: readonly string[];
      readonly gates: boolean;
      readonly seed: string;
    }
  /** Reads an adapter in PEFT's files (`directory` holds adapter_config.json); as `add_adapter` otherwise. */
  | { readonly op: "load_adapter"; readonly name: string; readonly directory: string }
  /** The policy computes as when `column` was the newest adapter: with it, those before it and its gates. */
  | { readonly op: "activate_adapter"; readonly column: string }
  /** Adds strength · the gradient of Σ ‖A_earlier · Aᵀ‖² (O-LoRA, Wang et al. 2023) to the trained adapter's. value = the penalty. */
  | { readonly op: "add_orthogonal_penalty"; readonly strength: number }
  /** Folds all active adapters into the dense weights; the policy goes on without adapters. */
  | { readonly op: "merge_adapters" };

export interface WeightOpReport {
  /** As the operation says; 0 where it says nothing. */
  readonly value: number;
}

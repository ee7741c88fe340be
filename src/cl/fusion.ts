/**
 * Fusion: every experience is trained for itself, from θ₀ (or from the merged weights); then the policy becomes
 * θ₀ + merge(τ₁ … τ_t), τ = θ − θ₀. With LoRA the adapter is folded into the weights first, so B·A is merged, never A and B
 * apart. Stores θ₀ and a τ for every experience.
 */
import { assertNever } from "../base/errors.ts";
import type { Term, VectorName } from "../base/weight-op.ts";
import { type AdapterConfig, newAdapter } from "./adapter.ts";
import type { TrajectoryBuffer } from "./memory.ts";
import { type ContinualMethod, type ExperienceContext, type MethodOp, PLAIN, type Plan } from "./method.ts";
import { copied, fisher } from "./quadratic.ts";

export type FusionMerge = "average" | "reward_weighted" | "task_arithmetic" | "fisher" | "ties" | "dare";

export interface TaskVectorConfig extends AdapterConfig {
  readonly fusion_start: "base" | "merged";
}

export interface FusionConfig extends TaskVectorConfig {
  readonly fusion_merge: FusionMerge;
  /** Factor of the merged task vector, for task_arithmetic, ties and dare. */
  readonly fusion_scale: number;
  readonly ties_density: number;
  readonly dare_drop_rate: number;
  readonly fisher_tasks: number;
}

const [BASE, MERGED] = ["fusion_base", "fusion_merged"] as const;
const tau = (index: number): VectorName => `fusion_tau_${index}`;
const fisherOf = (index: number): VectorName => `fusion_fisher_${index}`;

export function fusion(config: FusionConfig): ContinualMethod {
  /** Training reward of each experience. */
  let rewards: readonly number[] = [];
  return {
    ...PLAIN,
    name: "fusion",
    ...startsFromBase(config),
    *afterExperience(context): Plan {
      const { index, domain } = context.experience;
      yield* taskVector(index, config);
      if (config.fusion_merge === "fisher") yield fisher(fisherOf(index), domain, config.fisher_tasks);
      rewards = [...rewards, trainingReward(context.experience, context.memory)];
      if (index > 0) yield* merged(context, { config, rewards });
    },
    state: () => ({ rewards }),
    restore: (saved) => {
      ({ rewards } = saved as { rewards: readonly number[] });
    },
  };
}

/** What every experience begins with: θ₀ is kept, later ones go back to it; with LoRA an adapter of its own. */
export function startsFromBase(config: TaskVectorConfig): Pick<ContinualMethod, "ownAdapters" | "beforeExperience"> {
  return {
    ownAdapters: config.lora_r > 0,
    *beforeExperience({ experience: { index }, rng }): Plan {
      if (index === 0) yield copied("effective", BASE);
      else if (config.fusion_start === "base") yield copied(BASE, "weights");
      if (config.lora_r > 0) yield newAdapter(`task_${index}`, config, rng);
    },
  };
}

/** τ_index ← θ − θ₀. */
export function* taskVector(index: number, { lora_r }: TaskVectorConfig): Plan {
  if (lora_r > 0) yield { op: "merge_adapters" };
  const terms = [
    { vector: "weights", factor: 1 },
    { vector: BASE, factor: -1 },
  ];
  yield { op: "combine", into: tau(index), terms };
}

/** θ ← θ₀ + Σ weight_k · τ_k. */
export const weighted = (weights: readonly number[]): MethodOp => ({
  op: "combine",
  into: "weights",
  terms: [{ vector: BASE, factor: 1 }, ...weights.map((factor, k): Term => ({ vector: tau(k), factor }))],
});

function* merged(
  { experience: { index }, rng }: ExperienceContext,
  { config, rewards }: { readonly config: FusionConfig; readonly rewards: readonly number[] },
): Plan {
  const { fusion_merge, fusion_scale, ties_density, dare_drop_rate } = config;
  const count = index + 1;
  const vectors = rewards.map((_, k) => tau(k));
  switch (fusion_merge) {
    case "average":
      yield weighted(new Array<number>(count).fill(1 / count));
      return;
    case "reward_weighted":
      yield weighted(shares(rewards));
      return;
    case "task_arithmetic":
      yield weighted(new Array<number>(count).fill(fusion_scale));
      return;
    case "fisher":
      yield { op: "merge_fisher", into: MERGED, vectors, importances: rewards.map((_, k) => fisherOf(k)) };
      yield* mergedVector(1);
      return;
    case "ties":
      yield { op: "merge_ties", into: MERGED, vectors, density: ties_density };
      yield* mergedVector(fusion_scale);
      return;
    case "dare":
      yield { op: "merge_dare", into: MERGED, vectors, drop_rate: dare_drop_rate, seed: String(rng.uint64()) };
      yield* mergedVector(fusion_scale);
      return;
    default:
      assertNever(fusion_merge);
  }
}

function* mergedVector(factor: number): Plan {
  const terms = [
    { vector: BASE, factor: 1 },
    { vector: MERGED, factor },
  ];
  yield { op: "combine", into: "weights", terms };
  yield { op: "drop", name: MERGED };
}

/** In proportion; equal where nobody earned anything. */
export function shares(values: readonly number[]): number[] {
  const total = values.reduce((sum, value) => sum + value, 0);
  return values.map((value) => (total > 0 ? value / total : 1 / values.length));
}

/** Mean reward of the experience's own rollouts in the second half of its steps. */
function trainingReward({ index, steps }: ExperienceContext["experience"], memory: TrajectoryBuffer): number {
  const own = memory.trajectories.filter(({ task_idx, step, replayed }) => {
    return task_idx === index && !replayed && step >= Math.floor(steps / 2);
  });
  return own.length === 0 ? 0 : own.reduce((sum, { reward }) => sum + reward, 0) / own.length;
}

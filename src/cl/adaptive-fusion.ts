/**
 * Fusion whose weights are chosen by trying: candidates are uniform, one-hot and ten Dirichlet draws; each is rolled out on
 * training tasks of every seen domain, all with the same luck, and the best macro mean wins.
 */
import type { Rng } from "../base/rng.ts";
import { shares, startsFromBase, type TaskVectorConfig, taskVector, weighted } from "./fusion.ts";
import { type ContinualMethod, PLAIN, type Plan } from "./method.ts";

const PROBE = { tasks_max: 8, trials: 1 } as const;
const DIRICHLET_DRAWS = 10;

export const adaptiveFusion = (config: TaskVectorConfig): ContinualMethod => ({
  ...PLAIN,
  name: "adaptive_fusion",
  ...startsFromBase(config),
  *afterExperience({ experience: { index, domain, earlier }, rng }): Plan {
    yield* taskVector(index, config);
    if (index === 0) return;
    const tried: Tried[] = [];
    for (const weights of candidates(index + 1, rng)) {
      yield weighted(weights);
      const { rewards } = yield { op: "probe", domains: [...earlier, domain], tasks: "train", ...PROBE };
      tried.push({ weights, reward: mean(Object.values(rewards)) });
    }
    yield weighted(best(tried).weights);
  },
});

export interface Tried {
  readonly weights: readonly number[];
  /** Macro mean over the seen domains. */
  readonly reward: number;
}

export function candidates(count: number, rng: Rng): number[][] {
  const uniform = new Array<number>(count).fill(1 / count);
  const one_hot = uniform.map((_, k) => uniform.map((_, j) => (j === k ? 1 : 0)));
  // Exponential variables over their sum are Dirichlet(1, …, 1).
  const drawn = Array.from({ length: DIRICHLET_DRAWS }, () => shares(uniform.map(() => -Math.log1p(-rng.uniform()))));
  return [uniform, ...one_hot, ...drawn];
}

/** Ties go to the candidate nearest to uniform, then to the first. */
export function best(tried: readonly Tried[]): Tried {
  const ranked = tried.toSorted((a, b) => b.reward - a.reward || unevenness(a.weights) - unevenness(b.weights));
  return ranked[0] as Tried;
}

/** Squared distance to uniform, but for a constant. */
const unevenness = (weights: readonly number[]): number => weights.reduce((sum, weight) => sum + weight * weight, 0);

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

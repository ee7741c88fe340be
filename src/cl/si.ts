/**
 * Synaptic intelligence (Zenke et al. 2017): a weight is important by how much its way through an experience lowered the
 * loss, ω = −Σ_steps g·Δθ, over the square of how far it went. g is the gradient of the task's loss, without the penalty
 * and before clipping.
 */
import { type ContinualMethod, PLAIN, type Plan } from "./method.ts";
import { copied, pulledBack } from "./quadratic.ts";

export interface SiConfig {
  readonly si_lambda: number;
  /** ξ: keeps weights that hardly moved from being important. */
  readonly si_damping: number;
}

const [PATH, START, GRADIENT, MOVE] = ["si_path", "si_start", "si_gradient", "si_move"] as const;
const [IMPORTANCE, ANCHOR] = ["si_importance", "si_anchor"] as const;

export const si = ({ si_lambda: lambda, si_damping: damping }: SiConfig): ContinualMethod => ({
  ...PLAIN,
  name: "si",
  beforeExperience: () => [{ op: "combine", into: PATH, terms: [] }, copied("weights", START)],
  *beforeUpdate({ experience }): Plan {
    yield copied("gradient", GRADIENT);
    yield copied("weights", MOVE);
    if (experience.index === 0) return;
    return yield* pulledBack({ importance: IMPORTANCE, anchor: ANCHOR, lambda });
  },
  afterStep: ({ updated }) =>
    updated
      ? [
          {
            op: "combine",
            into: MOVE,
            terms: [
              { vector: "weights", factor: 1 },
              { vector: MOVE, factor: -1 },
            ],
          },
          { op: "add_product", into: PATH, a: GRADIENT, b: MOVE, factor: -1 },
        ]
      : [],
  afterExperience: () => [
    { op: "add_path_importance", into: IMPORTANCE, path: PATH, start: START, damping },
    copied("weights", ANCHOR),
  ],
});

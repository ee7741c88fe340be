/**
 * Elastic weight consolidation (Kirkpatrick et al. 2017): λ/2 · Σ_k Σ F_k (θ − θ*_k)², an anchor after every experience k.
 * The sum is a quadratic itself, so two vectors and a constant hold all of them, whatever their number.
 */
import { type ContinualMethod, PLAIN, type Plan } from "./method.ts";
import { fisher, pulledBack } from "./quadratic.ts";

export interface EwcConfig {
  readonly ewc_lambda: number;
  readonly fisher_tasks: number;
}

const [IMPORTANCE, ANCHOR] = ["ewc_importance", "ewc_anchor"] as const;

export function ewc({ ewc_lambda: lambda, fisher_tasks }: EwcConfig): ContinualMethod {
  let state = { anchors: 0, constant: 0 };
  return {
    ...PLAIN,
    name: "ewc",
    *beforeUpdate(): Plan {
      if (state.anchors === 0 || lambda === 0) return;
      const moved = yield* pulledBack({ importance: IMPORTANCE, anchor: ANCHOR, lambda });
      return Number(moved) + (lambda / 2) * state.constant;
    },
    *afterExperience({ experience }): Plan {
      const { value } = yield { ...fisher(IMPORTANCE, experience.domain, fisher_tasks), anchor: ANCHOR };
      state = { anchors: state.anchors + 1, constant: state.constant + value };
    },
    state: () => state,
    restore: (saved) => {
      state = saved as typeof state;
    },
  };
}

/** Online EWC (Schwarz et al. 2018, "Progress & Compress"): one running Fisher F̃ ← γF̃ + F, one anchor, the newest θ*. */
import { type ContinualMethod, PLAIN, type Plan } from "./method.ts";
import { copied, fisher, pulledBack } from "./quadratic.ts";

export interface OnlineEwcConfig {
  readonly ewc_lambda: number;
  readonly ewc_gamma: number;
  readonly fisher_tasks: number;
}

const [IMPORTANCE, ANCHOR, FISHER] = ["ewc_importance", "ewc_anchor", "ewc_fisher"] as const;

export const onlineEwc = ({ ewc_lambda: lambda, ewc_gamma, fisher_tasks }: OnlineEwcConfig): ContinualMethod => ({
  ...PLAIN,
  name: "online_ewc",
  beforeUpdate: ({ experience }) =>
    experience.index === 0 ? [] : pulledBack({ importance: IMPORTANCE, anchor: ANCHOR, lambda }),
  *afterExperience({ experience }): Plan {
    yield fisher(FISHER, experience.domain, fisher_tasks);
    const decayed = experience.index === 0 ? [] : [{ vector: IMPORTANCE, factor: ewc_gamma }];
    yield { op: "combine", into: IMPORTANCE, terms: [...decayed, { vector: FISHER, factor: 1 }] };
    yield { op: "drop", name: FISHER };
    yield copied("weights", ANCHOR);
  },
});

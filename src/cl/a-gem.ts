/**
 * A-GEM (Chaudhry et al. 2019): tasks of earlier domains are rolled out again, but not trained on. Where the step's gradient
 * would worsen them (negative dot product with theirs), it is projected so that it does not.
 */
import { type ContinualMethod, PLAIN, type Plan } from "./method.ts";
import { copied } from "./quadratic.ts";
import { drawn, type ReplayConfig, withReplayed } from "./replay.ts";

const [STEP, REFERENCE] = ["a_gem_step", "a_gem_reference"] as const;

export const aGem = (config: ReplayConfig): ContinualMethod => ({
  ...PLAIN,
  name: "a_gem",
  augmentBatch: (context) => withReplayed(context, drawn(context, config), { ...config, use: "reference" }),
  *beforeUpdate({ groups }): Plan {
    if (!groups.some(({ use }) => use === "reference")) return;
    yield copied("gradient", STEP);
    yield { op: "combine", into: "gradient", terms: [] };
    yield { op: "backward", loss: { kind: "reference" }, strength: 1 };
    yield copied("gradient", REFERENCE);
    yield copied(STEP, "gradient");
    yield { op: "project_gradient", reference: REFERENCE };
  },
});

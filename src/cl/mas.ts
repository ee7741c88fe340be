/**
 * Memory aware synapses (Aljundi et al. 2018): a weight is important by how much it moves the squared norm of the outputs
 * (here the logits), |∂‖logits‖²/∂θ|, averaged over fresh conversations and summed over experiences. Needs no reward.
 */
import { type ContinualMethod, PLAIN, type Plan } from "./method.ts";
import { copied, pulledBack } from "./quadratic.ts";

export interface MasConfig {
  readonly mas_lambda: number;
  readonly fisher_tasks: number;
}

const [IMPORTANCE, ANCHOR, FRESH] = ["mas_importance", "mas_anchor", "mas_fresh"] as const;

export const mas = ({ mas_lambda: lambda, fisher_tasks: tasks_max }: MasConfig): ContinualMethod => ({
  ...PLAIN,
  name: "mas",
  beforeUpdate: ({ experience }) =>
    experience.index === 0 ? [] : pulledBack({ importance: IMPORTANCE, anchor: ANCHOR, lambda }),
  *afterExperience({ experience: { index, domain } }): Plan {
    yield { op: "importance", of: "output_norm", into: FRESH, domains: [domain], tasks_max };
    const before = index === 0 ? [] : [{ vector: IMPORTANCE, factor: 1 }];
    yield { op: "combine", into: IMPORTANCE, terms: [...before, { vector: FRESH, factor: 1 }] };
    yield { op: "drop", name: FRESH };
    yield copied("weights", ANCHOR);
  },
});

/**
 * Learning without forgetting (Li & Hoiem 2016): α · KL(previous policy ‖ policy) on the conversations of the new domain.
 * Keeps a copy of the policy, and no data.
 */
import { type ContinualMethod, PLAIN, type Plan } from "./method.ts";

export interface LwfConfig {
  readonly lwf_alpha: number;
}

const PREVIOUS = "lwf_previous";

export const lwf = ({ lwf_alpha }: LwfConfig): ContinualMethod => ({
  ...PLAIN,
  name: "lwf",
  *beforeUpdate({ experience }): Plan {
    if (experience.index === 0 || lwf_alpha === 0) return;
    return (yield { op: "backward", loss: { kind: "distill", model: PREVIOUS }, strength: lwf_alpha }).value;
  },
  afterExperience: () => [{ op: "snapshot", name: PREVIOUS }],
});

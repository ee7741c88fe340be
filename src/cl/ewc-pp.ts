/**
 * EWC++ (Chaudhry et al. 2018, "Riemannian Walk"): while training, F̃ ← 0.9·F̃ + 0.1·F every few steps, F from a few fresh
 * sequences; at the end of an experience a copy of F̃ is frozen together with θ*, and pulls from then on.
 */
import { type ContinualMethod, PLAIN, type Plan } from "./method.ts";
import { copied, fisher, pulledBack } from "./quadratic.ts";

export interface EwcPpConfig {
  readonly ewc_lambda: number;
  /** Share of the old F̃ that is kept. */
  readonly ewc_pp_decay: number;
  readonly ewc_pp_interval: number;
  readonly ewc_pp_tasks: number;
}

const [RUNNING, FISHER] = ["ewc_pp_running", "ewc_pp_fisher"] as const;
const [IMPORTANCE, ANCHOR] = ["ewc_importance", "ewc_anchor"] as const;

export function ewcPp(config: EwcPpConfig): ContinualMethod {
  const { ewc_lambda: lambda, ewc_pp_decay, ewc_pp_interval, ewc_pp_tasks } = config;
  let state = { measured: false, frozen: false };

  /** The first measurement is taken as it is: an average that starts at zero would be too small. */
  function* measure(domain: string): Plan {
    yield fisher(FISHER, domain, ewc_pp_tasks);
    const [kept, fresh] = state.measured ? [ewc_pp_decay, 1 - ewc_pp_decay] : [0, 1];
    const before = state.measured ? [{ vector: RUNNING, factor: kept }] : [];
    yield { op: "combine", into: RUNNING, terms: [...before, { vector: FISHER, factor: fresh }] };
    yield { op: "drop", name: FISHER };
    state = { ...state, measured: true };
  }

  return {
    ...PLAIN,
    name: "ewc_pp",
    beforeUpdate: () => (state.frozen ? pulledBack({ importance: IMPORTANCE, anchor: ANCHOR, lambda }) : []),
    *afterStep({ experience, step }): Plan {
      if ((step + 1) % ewc_pp_interval === 0) yield* measure(experience.domain);
    },
    *afterExperience({ experience }): Plan {
      if (!state.measured) yield* measure(experience.domain);
      yield copied(RUNNING, IMPORTANCE);
      yield copied("weights", ANCHOR);
      state = { ...state, frozen: true };
    },
    state: () => state,
    restore: (saved) => {
      state = saved as typeof state;
    },
  };
}

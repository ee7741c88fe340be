/** λ/2 · Σ importance · (θ − anchor)², which EWC, SI and MAS share, and the Fisher information of EWC. */
import type { VectorName } from "../base/weight-op.ts";
import type { MethodOp, Plan } from "./method.ts";

export interface Quadratic {
  readonly importance: VectorName;
  readonly anchor: VectorName;
  readonly lambda: number;
}

/** With λ = 0 nothing is done, so that the run is sequential's bit for bit. */
export function* pulledBack({ importance, anchor, lambda }: Quadratic): Plan {
  if (lambda === 0) return;
  const { value } = yield { op: "add_quadratic_penalty", importance, anchor, strength: lambda };
  return value;
}

export const copied = (from: VectorName, into: VectorName): MethodOp => ({
  op: "combine",
  into,
  terms: [{ vector: from, factor: 1 }],
});

/** The diagonal Fisher of the current policy on a domain, from its own samples. */
export const fisher = (into: VectorName, domain: string, tasks_max: number) =>
  ({
    op: "importance",
    of: "log_probability",
    into,
    domains: [domain],
    tasks_max,
  }) as const satisfies MethodOp;

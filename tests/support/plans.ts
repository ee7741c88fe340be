/** Contexts for methods, and their plans carried out by hand. */
import { Rng } from "../../src/base/rng.ts";
import { TrajectoryBuffer } from "../../src/cl/memory.ts";
import type { BatchContext, MethodOp, OpReport, Plan, StepEndContext } from "../../src/cl/method.ts";
import type { Experience } from "../../src/curriculum/experience.ts";

export interface Driven {
  readonly ops: readonly MethodOp[];
  readonly returned: unknown;
}

/** All operations of a plan, each answered by `answer` (nothing: zeros). */
export function drive(plan: Plan, answer: (op: MethodOp) => Partial<OpReport> = () => ({})): Driven {
  const ops: MethodOp[] = [];
  const steps = plan[Symbol.iterator]();
  let next = steps.next({ value: 0, rewards: {}, distributions: [] });
  while (next.done !== true) {
    ops.push(next.value);
    next = steps.next({ value: 0, rewards: {}, distributions: [], ...answer(next.value) });
  }
  return { ops, returned: next.value };
}

export const experience = (fields: Partial<Experience> = {}): Experience => ({
  index: 0,
  domain: "a",
  steps: 10,
  earlier: [],
  ...fields,
});

export const FIRST = experience();
export const SECOND = experience({ index: 1, domain: "b", earlier: ["a"] });
export const THIRD = experience({ index: 2, domain: "c", earlier: ["a", "b"] });

/** For any hook. */
export const at = (
  one: Experience,
  fields: Partial<BatchContext & StepEndContext> = {},
): BatchContext & StepEndContext => ({
  experience: one,
  memory: new TrajectoryBuffer({ capacity: 100 }),
  rng: Rng.from(5),
  step: 0,
  tasks: [],
  domains: ["a", "b", "c"],
  next: (domain, count) => Array.from({ length: count }, (_, i) => ({ domain, task_id: String(i), replayed: false })),
  groups: [],
  updated: true,
  ...fields,
});

/**
 * Some of tau2's tasks count natural-language assertions, which only a judge model can check. What becomes of them is a
 * variant of the benchmark: scores of different variants are not comparable.
 */
import { needsJudge } from "../tau2/evaluator.ts";
import type { Task } from "../tau2/types.ts";

/** judge: asked; exclude: tasks that need one are left out; drop: the assertions are struck from every reward. */
export type NlAssertions = "judge" | "exclude" | "drop";

export interface Usable {
  /** In the order given. */
  readonly tasks: readonly Task[];
  /** Ids of the tasks left out. */
  readonly excluded: readonly string[];
}

export function usableTasks(tasks: readonly Task[], variant: NlAssertions): Usable {
  const changed = variant === "drop" ? tasks.map(withoutNlAssertions) : tasks;
  const isUsable = { judge: () => true, exclude: (task: Task) => !needsJudge(task), drop: hasBasis }[variant];
  const { usable = [], excluded = [] } = Object.groupBy(changed, (task) => (isUsable(task) ? "usable" : "excluded"));
  return { tasks: usable, excluded: excluded.map((task) => task.id) };
}

function withoutNlAssertions(task: Task): Task {
  const criteria = task.evaluation_criteria;
  if (!criteria?.reward_basis.includes("NL_ASSERTION")) return task;
  const reward_basis = criteria.reward_basis.filter((kind) => kind !== "NL_ASSERTION");
  return { ...task, evaluation_criteria: { ...criteria, reward_basis } };
}

/** A reward that rests on nothing else would be 1 whatever the agent does. */
const hasBasis = ({ evaluation_criteria }: Task): boolean => evaluation_criteria?.reward_basis.length !== 0;

/** Some of tau2's tasks ask for nothing: an agent that does nothing gets their reward. */
import { evaluate } from "../tau2/evaluator.ts";
import type { Domain, Task } from "../tau2/types.ts";

/** The reward of a conversation without a word, ended by the user. */
export function solvedByNothing(domain: Domain, task: Task): boolean {
  return evaluate({ domain, task, simulation: { messages: [], termination: "user_stop" } }).reward > 0.5;
}

/** Whether tasks fit their domain: what they name must exist. The original finds out in the middle of a conversation. */
import { UserError } from "../base/errors.ts";
import { type Side, ToolEnvironment, type Toolkit } from "./environment.ts";
import { checked } from "./task.ts";
import type { EnvFunctionCall, EvaluationCriteria, InitialState, Requestor, Task } from "./types.ts";

interface Sides {
  readonly agent: Side;
  readonly user: Side | null;
}

/** Throws UserError for the first task that names an unknown tool or function, or brings data that does not fit. */
export function checkTasks(tasks: readonly Task[], sides: Sides, file: string): void {
  const known = { assistant: namesOf(sides.agent.toolkit), user: namesOf(sides.user?.toolkit) };
  for (const task of tasks) {
    const where = `${file}: task ${task.id}`;
    if (task.initial_state !== null) checkInitialState(task.initial_state, known, sides, where);
    if (task.evaluation_criteria !== null) checkCriteria(task.evaluation_criteria, known, where);
    for (const [i, name] of (task.user_tools ?? []).entries())
      if (!known.user.tools.has(name)) throw unknown(`${where}: user_tools.${i}`, "user tool", name, known.user.tools);
  }
}

interface Names {
  readonly tools: ReadonlySet<string>;
  /** Tools among them. */
  readonly functions: ReadonlySet<string>;
}

type KnownNames = Readonly<Record<Requestor, Names>>;

function namesOf(toolkit: Toolkit | undefined): Names {
  const tools = new Set(toolkit?.tools.map(({ name }) => name));
  return { tools, functions: new Set([...tools, ...(toolkit?.functions.map(({ name }) => name) ?? [])]) };
}

function checkInitialState(state: InitialState, known: KnownNames, sides: Sides, where: string): void {
  const { agent_data = null, user_data = null } = state.initialization_data ?? {};
  const environment = new ToolEnvironment(sides);
  for (const [field, requestor, data] of [
    ["agent_data", "assistant", agent_data],
    ["user_data", "user", user_data],
  ] as const) {
    if (data !== null)
      checked(`${where}: initial_state.initialization_data.${field}`, () => environment.mergeData(requestor, data));
  }
  for (const [i, action] of (state.initialization_actions ?? []).entries())
    checkFunction(action, known, `${where}: initial_state.initialization_actions.${i}`);
}

function checkCriteria(criteria: EvaluationCriteria, known: KnownNames, where: string): void {
  for (const [i, { requestor, name }] of (criteria.actions ?? []).entries()) {
    const { tools } = known[requestor];
    if (!tools.has(name)) throw unknown(`${where}: evaluation_criteria.actions.${i}.name`, "tool", name, tools);
  }
  for (const [i, assertion] of (criteria.env_assertions ?? []).entries())
    checkFunction(assertion, known, `${where}: evaluation_criteria.env_assertions.${i}`);
}

function checkFunction({ env_type, func_name }: EnvFunctionCall, known: KnownNames, where: string): void {
  const { functions } = known[env_type];
  if (!functions.has(func_name))
    throw unknown(`${where}.func_name`, `function of the ${env_type}`, func_name, functions);
}

function unknown(field: string, kind: string, name: string, known: ReadonlySet<string>): UserError {
  const names = known.size === 0 ? "there is none" : `known are ${[...known].join(", ")}`;
  return new UserError(field, `there is no ${kind} "${name}"; ${names}`);
}

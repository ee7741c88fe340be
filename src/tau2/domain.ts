/** Assembles a `Domain` from its two sides, its tasks and its texts. */
import { UserError } from "../base/errors.ts";
import { agentSystemPrompt, DONE, soloSystemPrompt } from "./agent.ts";
import type { Splits } from "./data-directory.ts";
import { type Side, ToolEnvironment } from "./environment.ts";
import { checkTasks } from "./task-check.ts";
import { toolSchema } from "./tool.ts";
import type { Domain, Task, ToolSchema, User } from "./types.ts";
import { userSystemPrompt, userToolsOf } from "./user.ts";

/** What a domain of tau2 is made from. */
export interface DataDomainOptions {
  /** The folder that holds `domains/` and `user_simulator/`. */
  readonly root: string;
  readonly train_split: number;
  readonly solo_mode: boolean;
}

export interface DomainDefinition {
  readonly name: string;
  readonly policy: string;
  readonly agent: Side;
  readonly user: Side | null;
  readonly sync?: (environment: ToolEnvironment) => void;
  readonly tasks: readonly Task[];
  /** Named in errors about tasks; default: the domain. */
  readonly tasksFile?: string;
  readonly splits: Splits;
  /** Guidelines of the user simulator, for users without and with tools. */
  readonly guidelines: { readonly plain: string; readonly tools: string };
  readonly scriptedUser?: (task: Task) => User;
  /** Default: false. `policy` is then the one for an agent that works alone. */
  readonly solo_mode?: boolean;
}

export function defineDomain(definition: DomainDefinition): Domain {
  const { name, policy, agent, user, sync, tasks, splits, guidelines, scriptedUser, solo_mode = false } = definition;
  checkTasks(tasks, { agent, user }, definition.tasksFile ?? `domain ${name}`);
  const agentTools = agent.toolkit.tools.map(toolSchema);
  const userTools = user?.toolkit.tools.map(toolSchema) ?? null;
  if (solo_mode) rejectOverlap(agentTools, userTools ?? []);
  const kinds = new Map(
    [agent, user].flatMap((side) => side?.toolkit.tools ?? []).map((tool) => [tool.name, tool.kind]),
  );
  const domain: Domain = {
    name,
    policy,
    systemPrompt: agentSystemPrompt(policy),
    solo_mode,
    soloSystemPrompt: (task) => soloSystemPrompt(policy, task),
    tools: solo_mode ? [...agentTools, ...(userTools ?? []), DONE] : agentTools,
    userTools,
    toolKind: (tool) => kinds.get(tool) ?? null,
    tasks,
    splits,
    createEnvironment: () => new ToolEnvironment({ agent, user, sync, solo_mode }),
    createGoldEnvironment: () => new ToolEnvironment({ agent, user, sync }),
    userSystemPrompt: (task) =>
      userSystemPrompt(userToolsOf(domain, task) === null ? guidelines.plain : guidelines.tools, task),
    scriptedUser,
  };
  return domain;
}

/** In solo mode one hand holds all tools, so their names must differ. */
function rejectOverlap(agentTools: readonly ToolSchema[], userTools: readonly ToolSchema[]): void {
  const names = new Set(agentTools.map(({ function: { name } }) => name));
  const overlap = userTools.map(({ function: { name } }) => name).filter((name) => names.has(name));
  if (overlap.length > 0)
    throw new UserError("solo_mode", `agent and user have tools of the same name: ${overlap.join(", ")}`);
}

/** Assembles a `Domain` from its two sides, its tasks and its texts. */
import { agentSystemPrompt } from "./agent.ts";
import type { Splits } from "./data-directory.ts";
import { type Side, ToolEnvironment } from "./environment.ts";
import { toolSchema } from "./tool.ts";
import type { Domain, Task, User } from "./types.ts";
import { userSystemPrompt, userToolsOf } from "./user.ts";

export interface DomainDefinition {
  readonly name: string;
  readonly policy: string;
  readonly agent: Side;
  readonly user: Side | null;
  readonly sync?: (environment: ToolEnvironment) => void;
  readonly tasks: readonly Task[];
  readonly splits: Splits;
  /** Guidelines of the user simulator, for users without and with tools. */
  readonly guidelines: { readonly plain: string; readonly tools: string };
  readonly scriptedUser?: (task: Task) => User;
}

export function defineDomain(definition: DomainDefinition): Domain {
  const { name, policy, agent, user, sync, tasks, splits, guidelines, scriptedUser } = definition;
  const kinds = new Map(
    [agent, user].flatMap((side) => side?.toolkit.tools ?? []).map((tool) => [tool.name, tool.kind]),
  );
  const domain: Domain = {
    name,
    policy,
    systemPrompt: agentSystemPrompt(policy),
    tools: agent.toolkit.tools.map(toolSchema),
    userTools: user?.toolkit.tools.map(toolSchema) ?? null,
    toolKind: (tool) => kinds.get(tool) ?? null,
    tasks,
    splits,
    createEnvironment: () => new ToolEnvironment({ agent, user, sync }),
    userSystemPrompt: (task) =>
      userSystemPrompt(userToolsOf(domain, task) === null ? guidelines.plain : guidelines.tools, task),
    scriptedUser,
  };
  return domain;
}

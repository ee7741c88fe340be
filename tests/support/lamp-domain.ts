/** The smallest domain that can be won and lost: lamps that a tool switches on. No files, no real benchmark. */
import { createHash } from "node:crypto";
import type { ExactObject } from "../../src/base/exact.ts";
import type { Domain, Environment, Message, Reply, Task, ToolCall, ToolSchema, User } from "../../src/tau2/types.ts";

const schema = (name: string, properties: ExactObject): ToolSchema => ({
  type: "function",
  function: {
    name,
    description: `${name}.`,
    parameters: { type: "object", properties, required: Object.keys(properties) },
  },
});

export const lampTask = (lamp: string): Task => ({
  id: lamp,
  description: null,
  user_scenario: { persona: null, instructions: `You want lamp ${lamp} on.` },
  ticket: null,
  initial_state: null,
  evaluation_criteria: {
    actions: [
      {
        action_id: "gold",
        requestor: "assistant",
        name: "switch_on",
        arguments: { lamp },
        info: null,
        compare_args: null,
      },
    ],
    env_assertions: null,
    communicate_info: null,
    nl_assertions: null,
    reward_basis: ["DB"],
  },
  issues: null,
  required_documents: null,
  user_tools: null,
});

/** Asks for its lamp, then ends at the agent's first text. */
export const lampUser = (task: Task): User => {
  let asked = false;
  return {
    identity: "scripted",
    async reply(_incoming: readonly Message[]): Promise<Reply> {
      const content = asked ? "###STOP###" : `Lamp ${task.id}, please.`;
      asked = true;
      return { content, tool_calls: null };
    },
  };
};

export interface LampDomainOptions {
  readonly name?: string;
  readonly lamps?: readonly string[];
  /** Gives the user a tool of its own, `look`. */
  readonly userTools?: boolean;
}

export function lampDomain({
  name = "lamps",
  lamps = ["A", "B", "C"],
  userTools = false,
}: LampDomainOptions = {}): Domain {
  return {
    name,
    policy: "Switch on what the user wants.",
    systemPrompt: `You are the agent of ${name}.`,
    tools: [schema("switch_on", { lamp: { type: "string" } }), schema("list_lamps", {})],
    userTools: userTools ? [schema("look", {})] : null,
    toolKind: (tool) => (tool === "switch_on" ? "write" : tool === "list_lamps" || tool === "look" ? "read" : null),
    tasks: lamps.map(lampTask),
    splits: {},
    createEnvironment: () => lampEnvironment(lamps),
    userSystemPrompt: (task) => `You want lamp ${task.id} on.`,
    scriptedUser: lampUser,
  };
}

function lampEnvironment(lamps: readonly string[]): Environment {
  const on = new Set<string>();
  const answer = ({ name, arguments: { lamp } }: ToolCall): string => {
    if (name === "list_lamps" || name === "look") return JSON.stringify([...on]);
    if (name !== "switch_on") throw new Error(`Tool '${name}' not found.`);
    if (typeof lamp !== "string" || !lamps.includes(lamp)) throw new Error("Lamp not found");
    on.add(lamp);
    return "done";
  };
  return {
    getResponse(call) {
      const message = { role: "tool", id: call.id, requestor: call.requestor } as const;
      try {
        return { ...message, content: answer(call), error: false };
      } catch (error) {
        return { ...message, content: `Error: ${(error as Error).message}`, error: true };
      }
    },
    callTool: (call) => void answer(call),
    agentDbHash: () =>
      createHash("sha256")
        .update([...on].sort().join())
        .digest("hex"),
    userDbHash: () => null,
  };
}

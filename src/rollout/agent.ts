/** The policy as tau2's agent: what it is told becomes tokens, what it samples becomes a text or tool calls. */
import { dumps } from "../base/exact.ts";
import type { ChatMessage } from "../core/policy.ts";
import type { Agent, EndOfConversation, Environment, Message, Reply, ToolCall, ToolMessage } from "../tau2/types.ts";
import type { Dialogue } from "./dialogue.ts";
import { type ParsedCall, parseReply, type ToolFormat } from "./tool-call.ts";

export interface PolicyAgentOptions {
  readonly dialogue: Dialogue;
  readonly systemPrompt: string;
  readonly toolFormat: ToolFormat | null;
  readonly malformed_calls: "text_to_user" | "error_to_agent";
}

export interface AgentCounts {
  agent_turns: number;
  /** Turns with a tool call that could not be read. */
  malformed_calls: number;
  /** Which turns these were, counted from 0. */
  malformed_turns: readonly number[];
  /** Turns cut by max_new_tokens. */
  truncated_turns: number;
}

export interface PolicyAgent extends Agent {
  readonly counts: Readonly<AgentCounts>;
}

/** Name of the call that stands in the trajectory for one that could not be read (`malformed_calls: error_to_agent`). */
export const MALFORMED_CALL = "malformed_tool_call";

export function policyAgent(options: PolicyAgentOptions): PolicyAgent {
  const { dialogue, systemPrompt, toolFormat, malformed_calls } = options;
  const counts: AgentCounts = { agent_turns: 0, malformed_calls: 0, malformed_turns: [], truncated_turns: 0 };

  async function reply(incoming: readonly Message[]): Promise<Reply | EndOfConversation> {
    const system: ChatMessage[] = counts.agent_turns === 0 ? [{ role: "system", content: systemPrompt }] : [];
    const { text, stop } = await dialogue.turn([...system, ...incoming.map(chatMessage)]);
    if (stop === "context_window_exceeded") return { end: stop, detail: "the agent's context is full" };
    counts.agent_turns += 1;
    if (stop === "max_new_tokens") counts.truncated_turns += 1;
    const { content, calls, malformed } = parseReply(text, toolFormat);
    if (malformed !== null) {
      counts.malformed_calls += 1;
      counts.malformed_turns = [...counts.malformed_turns, counts.agent_turns - 1];
      if (malformed_calls === "error_to_agent") {
        return toolCalls([{ name: MALFORMED_CALL, arguments: { text, problem: malformed } }]);
      }
    }
    if (calls.length > 0) return { ...toolCalls(calls), content };
    return content === null ? { end: "agent_error", detail: "empty message" } : { content, tool_calls: null };
  }

  const toolCalls = (calls: readonly ParsedCall[]): Reply => ({
    content: null,
    tool_calls: calls.map((call, i) => ({
      ...call,
      id: `call_${counts.agent_turns}_${i + 1}`,
      requestor: "assistant",
    })),
  });

  return { counts, reply };
}

/**
 * The environment, which also answers calls that could not be read, with an error: such a call costs what any failing call
 * costs, and stands in the trajectory under a name of no tool, which the evaluator's replay passes over.
 */
export function answeringUnreadableCalls(environment: Environment): Environment {
  return {
    getResponse: (call) => (call.name === MALFORMED_CALL ? unreadable(call) : environment.getResponse(call)),
    agentDbHash: () => environment.agentDbHash(),
    userDbHash: () => environment.userDbHash(),
    get ended() {
      return environment.ended ?? null;
    },
    sync: () => environment.sync?.(),
  };
}

const unreadable = ({ id, requestor, arguments: { problem } }: ToolCall): ToolMessage => ({
  role: "tool",
  id,
  content: `Error: The tool call could not be read: ${problem}.`,
  requestor,
  error: true,
});

/** A message of tau2 as chat templates see it. */
export function chatMessage(message: Message): ChatMessage {
  if (message.role === "tool") return { role: "tool", content: message.content ?? "", tool_call_id: message.id };
  const { role, content, tool_calls } = message;
  if (tool_calls === null) return { role, content: content ?? "" };
  return {
    role,
    content: content ?? "",
    tool_calls: tool_calls.map((call) => ({
      function: { name: call.name, arguments_json: dumps(call.arguments, { ascii: false }) },
    })),
  };
}

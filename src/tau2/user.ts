/** The simulated customer: tau2's prompts and role flip around a model given as a function; and a user that reads from a script. */
import { dumps } from "../base/exact.ts";
import { isEnd } from "./agent.ts";
import { scenarioText } from "./task.ts";
import type { Domain, EndOfConversation, Message, Reply, Task, ToolSchema, User } from "./types.ts";

/** A message as OpenAI's chat API spells it. */
export type LlmMessage =
  | { readonly role: "system" | "user"; readonly content: string | null }
  | { readonly role: "assistant"; readonly content: string | null; readonly tool_calls: readonly LlmToolCall[] | null }
  | { readonly role: "tool"; readonly content: string | null; readonly tool_call_id: string };

export interface LlmToolCall {
  readonly id: string;
  readonly type: "function";
  /** `arguments` is JSON text. */
  readonly function: { readonly name: string; readonly arguments: string };
}

/** One turn of a chat model. Its tool calls may carry either requestor; who called is set here. */
export type ChatCompletion = (request: ChatRequest) => Promise<Reply | EndOfConversation>;

export interface ChatRequest {
  readonly messages: LlmMessage[];
  readonly tools: readonly ToolSchema[] | null;
  /** What makes a reply useless to the one who asks, so that the model is asked again; null: nothing. */
  readonly flawOf?: (reply: Reply) => string | null;
}

const STOP_TOKENS = ["###STOP###", "###TRANSFER###", "###OUT-OF-SCOPE###"];

/** Whether a user's message ends the conversation; one with tool calls never does. */
export function isUserStop({ content, tool_calls }: Reply): boolean {
  return tool_calls === null && content !== null && STOP_TOKENS.some((token) => content.includes(token));
}

/** The user simulator's system prompt: guidelines (a file of tau2), then the scenario. */
export function userSystemPrompt(guidelines: string, task: Task): string {
  return `${guidelines.replaceAll("<PERSONA_GUIDELINES>", "")}\n\n<scenario>\n${scenarioText(task.user_scenario)}\n</scenario>`;
}

/** The user tools of a task in the toolkit's order; null where there are none, or the task names one that does not exist. */
export function userToolsOf(domain: Domain, task: Task): readonly ToolSchema[] | null {
  const { userTools } = domain;
  if (userTools === null || task.user_tools === null) return userTools;
  const names = userTools.map(({ function: { name } }) => name);
  if (task.user_tools.some((name) => !names.includes(name))) return null;
  return userTools.filter(({ function: { name } }) => task.user_tools?.includes(name));
}

export interface SimulatedUserOptions {
  readonly identity: string;
  readonly domain: Domain;
  readonly task: Task;
  readonly complete: ChatCompletion;
}

/** tau2's user simulator (SPEC section 9). */
export function simulatedUser({ identity, domain, task, complete }: SimulatedUserOptions): User {
  const seen: Message[] = [];
  const tools = userToolsOf(domain, task);
  const system: LlmMessage = { role: "system", content: domain.userSystemPrompt(task) };
  return {
    identity,
    async reply(incoming) {
      seen.push(...incoming);
      const reply = await complete({ messages: [system, ...seen.map(flipped)], tools });
      if (isEnd(reply)) return reply;
      const own: Reply = {
        content: reply.content,
        tool_calls: reply.tool_calls?.map((call) => ({ ...call, requestor: "user" as const })) ?? null,
      };
      seen.push({ role: "user", ...own });
      return own;
    },
  };
}

/** The conversation from the user's chair: the user's own words are the assistant's, the agent's are the user's. */
function flipped(message: Message): LlmMessage {
  switch (message.role) {
    case "tool":
      return { role: "tool", content: message.content, tool_call_id: message.id };
    case "user":
      return assistantMessage(message);
    case "assistant":
      return { role: "user", content: message.content };
  }
}

/** The conversation as the agent's model gets it: system prompt first, the user's own tool calls and results left out. */
export function agentMessages(systemPrompt: string, messages: readonly Message[]): LlmMessage[] {
  const system: LlmMessage = { role: "system", content: systemPrompt };
  return [system, ...messages.filter(visibleToAgent).map(unflipped)];
}

function unflipped(message: Message): LlmMessage {
  if (message.role === "assistant") return assistantMessage(message);
  return message.role === "tool" ? flipped(message) : { role: "user", content: message.content };
}

function assistantMessage({ content, tool_calls }: Reply): LlmMessage {
  const calls = tool_calls?.map(({ id, name, arguments: args }) => ({
    id,
    type: "function" as const,
    function: { name, arguments: dumps(args) },
  }));
  return { role: "assistant", content, tool_calls: calls ?? null };
}

/** What the agent sees: its own messages, the user's texts, the results of its own calls. */
export function visibleToAgent(message: Message): boolean {
  if (message.role === "tool") return message.requestor === "assistant";
  return message.role === "assistant" || message.tool_calls === null;
}

/** What the user sees: its own messages, the agent's texts, the results of its own calls. */
export function visibleToUser(message: Message): boolean {
  if (message.role === "tool") return message.requestor === "user";
  return message.role === "user" || message.tool_calls === null;
}

/** A user that says the lines of a script, then `###STOP###`: for tests and replays. */
export function replayUser(script: readonly Reply[], identity = "replay"): User {
  let next = 0;
  return { identity, reply: async () => script[next++] ?? { content: "###STOP###", tool_calls: null } };
}

/** OpenAI's chat completions as text: what a request says, and what an answer must hold. Exact JSON, so `2.0` stays. */
import {
  dumps,
  type ExactObject,
  type ExactValue,
  exactOf,
  isArray,
  isInt,
  isObject,
  tryParseExact,
} from "../base/exact.ts";
import type { Reply, ToolCall } from "../tau2/types.ts";
import type { ChatRequest } from "../tau2/user.ts";

export interface Tokens {
  readonly input: number;
  readonly output: number;
}

export interface Answer {
  readonly reply: Reply;
  /** null: the server does not say. */
  readonly tokens: Tokens | null;
}

/** Why an answer cannot be used, to stand behind "its answer". */
export class UnreadableAnswer extends Error {}

export interface Sampling {
  readonly model: string | null;
  readonly temperature: number;
  /** Sent where it matters. */
  readonly seed: number;
}

/** A null `tool_calls` is left out: OpenAI's endpoint refuses it. */
export function requestBody({ model, temperature, seed }: Sampling, { messages, tools }: ChatRequest): string {
  const spoken = messages.map((message) => {
    if ("tool_calls" in message && message.tool_calls === null) return { role: message.role, content: message.content };
    return message;
  });
  const seeded = temperature === 0 ? {} : { seed };
  const offered = tools === null ? {} : { tools, tool_choice: "auto" };
  return dumps(exactOf({ model, messages: spoken, temperature, ...seeded, ...offered }));
}

/** The tokens are counted even where the reply is of no use. */
export function tokensOf(answer: ExactValue | undefined): Tokens | null {
  const usage = field(answer, "usage");
  const [input, output] = [field(usage, "prompt_tokens"), field(usage, "completion_tokens")];
  if (!isInt(input ?? null) || !isInt(output ?? null)) return null;
  return { input: Number(input), output: Number(output) };
}

/** Throws an UnreadableAnswer. */
export function replyOf(answer: ExactValue | undefined): Reply {
  const choices = field(answer, "choices");
  const message = field(isArray(choices ?? null) ? (choices as readonly ExactValue[])[0] : undefined, "message");
  if (!isObject(message)) throw new UnreadableAnswer("is no chat completion");
  const { content = null, tool_calls = null } = message;
  if (content !== null && typeof content !== "string") throw new UnreadableAnswer("has a content that is no text");
  const calls = isArray(tool_calls) ? tool_calls.map(toolCallOf) : [];
  if (calls.length === 0 && (content === null || content.trim() === "")) throw new UnreadableAnswer("says nothing");
  return { content, tool_calls: calls.length === 0 ? null : calls };
}

/** The requestor is the user's, since only users have tools behind an endpoint. */
function toolCallOf(call: ExactValue): ToolCall {
  const called = field(call, "function");
  const [id, name, text] = [field(call, "id"), field(called, "name"), field(called, "arguments")];
  const args = text === "" || text === undefined ? {} : typeof text === "string" ? tryParseExact(text) : text;
  if (typeof name !== "string" || !isObject(args)) throw new UnreadableAnswer("has a tool call that cannot be read");
  return { id: typeof id === "string" ? id : "", name, arguments: args, requestor: "user" };
}

/** An answer as the cache keeps it; null: it is none. */
export function storedAnswer(value: ExactValue | undefined): Answer | null {
  const [reply, tokens] = [field(value, "reply"), field(value, "tokens") ?? null];
  if (!isObject(reply) || !("content" in reply) || !("tool_calls" in reply)) return null;
  return { reply: reply as unknown as Reply, tokens: tokens as unknown as Tokens | null };
}

export function field(value: ExactValue | undefined, name: string): ExactValue | undefined {
  return isObject(value) ? (value as ExactObject)[name] : undefined;
}

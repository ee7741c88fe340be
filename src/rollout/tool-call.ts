/**
 * What a model's reply says: text, tool calls, or a tool call that cannot be read. Two families:
 *
 *   hermes  <tool_call>{"name": …, "arguments": {…}}</tool_call>, several of them, text around (Qwen, Hermes)
 *   llama3  {"name": …, "parameters": {…}} as the whole message, joined by semicolons, <|python_tag|> optional
 *
 * Arguments keep Python's int and float apart (`2.0` is not `2`): tools print, store and hash them differently.
 */
import { type ExactObject, type ExactValue, isObject, JsonError, parseExact } from "../base/exact.ts";

export type ToolFormat = "hermes" | "llama3";

export interface ParsedCall {
  readonly name: string;
  readonly arguments: ExactObject;
}

export interface ParsedReply {
  /** Text outside calls, trimmed; null when there is none. */
  readonly content: string | null;
  /** Empty when one of them is malformed: half of what the agent wanted is not what it wanted. */
  readonly calls: readonly ParsedCall[];
  /** Why the first unreadable call is unreadable; `content` is then the whole text. */
  readonly malformed: string | null;
}

/** `format` null: the speaker has no tools, so everything is text. */
export function parseReply(text: string, format: ToolFormat | null): ParsedReply {
  try {
    if (format === null) return { content: textOf(text), calls: [], malformed: null };
    const { outside, calls } = format === "hermes" ? parseHermes(text) : parseLlama3(text);
    return {
      content: textOf(
        outside
          .map((part) => part.trim())
          .filter(Boolean)
          .join("\n"),
      ),
      calls,
      malformed: null,
    };
  } catch (error) {
    if (!(error instanceof MalformedCall)) throw error;
    return { content: textOf(text), calls: [], malformed: error.message };
  }
}

/**
 * The reply without its reasoning: `<think>…</think>` blocks, what stands before a `</think>` whose opening was in the
 * prompt, and what follows a `<think>` that was cut off.
 */
export function withoutThinking(text: string): string {
  const blocksRemoved = text.replace(/<think>[\s\S]*?<\/think>/g, "");
  const afterStrayClose = blocksRemoved.split("</think>").at(-1) ?? "";
  return afterStrayClose.split("<think>")[0] ?? "";
}

/**
 * The reply without control tokens, which a policy can sample (or spell) in the middle of a turn: in the user's or the
 * agent's next prompt they would end or open a turn. `<|python_tag|>` stays, since a call may follow it.
 */
export function withoutControlTokens(text: string): string {
  const cleaned = text.replace(/<[|｜](?!python_tag\|>)[^|｜<>\s]{1,40}[|｜]>/g, "");
  return cleaned === text ? text : withoutControlTokens(cleaned);
}

class MalformedCall extends Error {}

interface Outcome {
  readonly outside: readonly string[];
  readonly calls: readonly ParsedCall[];
}

const OPEN = "<tool_call>";
const CLOSE = "</tool_call>";

function parseHermes(text: string): Outcome {
  const outside: string[] = [];
  const calls: ParsedCall[] = [];
  let at = 0;
  for (let open = text.indexOf(OPEN); open !== -1; open = text.indexOf(OPEN, at)) {
    outside.push(text.slice(at, open));
    const { value, end } = objectAt(text, open + OPEN.length);
    calls.push(callOf(value, ["arguments"]));
    at = afterClose(text, end);
  }
  outside.push(text.slice(at));
  if (outside.some((part) => part.includes(CLOSE))) throw new MalformedCall(`${CLOSE} without ${OPEN}`);
  return { outside, calls };
}

/** Past `</tool_call>`; it may be missing at the end of the text and before the next call, as vLLM's parser allows. */
function afterClose(text: string, end: number): number {
  const closing = /\s*(<\/tool_call>|(?=<tool_call>)|$)/y;
  closing.lastIndex = end;
  if (!closing.test(text)) throw new MalformedCall(`expected ${CLOSE} after the JSON object`);
  return closing.lastIndex;
}

const PYTHON_TAG = "<|python_tag|>";

function parseLlama3(text: string): Outcome {
  const tag = text.indexOf(PYTHON_TAG);
  if (tag === -1 && !text.trimStart().startsWith("{")) return { outside: [text], calls: [] };
  const calls: ParsedCall[] = [];
  let at = tag === -1 ? 0 : tag + PYTHON_TAG.length;
  do {
    const { value, end } = objectAt(text, at);
    calls.push(callOf(value, ["parameters", "arguments"]));
    at = afterSeparator(text, end);
  } while (at < text.length);
  return { outside: [text.slice(0, Math.max(tag, 0))], calls };
}

function afterSeparator(text: string, end: number): number {
  const separator = /\s*(;\s*|$)/y;
  separator.lastIndex = end;
  if (!separator.test(text)) throw new MalformedCall("expected a semicolon or the end after the JSON object");
  return separator.lastIndex;
}

function callOf(value: ExactObject, argumentKeys: readonly string[]): ParsedCall {
  const { name } = value;
  if (typeof name !== "string" || name.trim() === "") throw new MalformedCall("the call has no name");
  const key = argumentKeys.find((candidate) => Object.hasOwn(value, candidate));
  if (key === undefined) throw new MalformedCall(`the call has no ${argumentKeys[0]}`);
  return { name, arguments: argumentsOf(value[key] as ExactValue, key) };
}

/** An object; null means none; OpenAI's own format is JSON text of an object. */
function argumentsOf(value: ExactValue, key: string): ExactObject {
  if (value === null) return {};
  const object = typeof value === "string" ? parsed(value) : value;
  if (!isObject(object)) throw new MalformedCall(`${key} must be a JSON object`);
  return object;
}

function objectAt(text: string, from: number): { readonly value: ExactObject; readonly end: number } {
  const start = from + text.slice(from).search(/\S|$/);
  if (text[start] !== "{") throw new MalformedCall("expected a JSON object");
  const end = objectEnd(text, start);
  const value = parsed(text.slice(start, end));
  if (!isObject(value)) throw new MalformedCall("expected a JSON object");
  return { value, end };
}

/** Past the brace that closes the one at `start`; braces in strings do not count. */
function objectEnd(text: string, start: number): number {
  const piece = /"(?:[^"\\]|\\[\s\S])*"|[{}]|"/g;
  piece.lastIndex = start;
  let depth = 0;
  for (let match = piece.exec(text); match !== null; match = piece.exec(text)) {
    if (match[0] === '"') break;
    if (match[0] === "{") depth++;
    if (match[0] === "}" && --depth === 0) return piece.lastIndex;
  }
  throw new MalformedCall("the JSON object is not closed");
}

function parsed(text: string): ExactValue {
  try {
    return parseExact(text);
  } catch (error) {
    if (error instanceof JsonError) throw new MalformedCall(`not JSON: ${error.message}`);
    throw error;
  }
}

const textOf = (text: string) => text.replaceAll(PYTHON_TAG, "").trim() || null;

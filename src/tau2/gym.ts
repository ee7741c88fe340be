/**
 * tau2's gym: actions and observations as text (SPEC section 11). An action is a JSON tool call, a call in Python's
 * notation, or else what the agent says.
 */
import { compareCodePoints, type ExactValue, pythonRepr, pythonStr, tryParseExact } from "../base/exact.ts";
import { dict, literal, ModelError, model, parseModel, str } from "./model.ts";
import { valueError } from "./python.ts";
import { keywordArguments } from "./python-call.ts";
import type { Message, Reply, Requestor, ToolCall } from "./types.ts";

/** What the action says or calls. Throws PythonError for a blank one. */
export function parseActionString(action: string, requestor: Requestor = "assistant"): Reply {
  const text = action.trim();
  if (text === "") throw valueError("Action cannot be empty");
  const call = jsonCall(text) ?? functionalCall(text, requestor);
  return call === null ? { content: action, tool_calls: null } : { content: null, tool_calls: [call] };
}

const toolCallModel = model("ToolCall", {
  id: { type: str, default: "" },
  name: str,
  arguments: dict({ kind: "any" }),
  requestor: { type: literal("user", "assistant"), default: "assistant" },
});

function jsonCall(text: string): ToolCall | null {
  const value = tryParseExact(text);
  if (value === undefined) return null;
  try {
    return parseModel(toolCallModel, value) as unknown as ToolCall;
  } catch (error) {
    if (error instanceof ModelError) return null;
    throw error;
  }
}

/** Python's `\w`, and a dot that matches all but a line feed. */
const FUNCTIONAL = /^([\p{L}\p{N}_]+)\s*\(([^\n]*)\)$/u;

function functionalCall(text: string, requestor: Requestor): ToolCall | null {
  const [, name, list] = FUNCTIONAL.exec(text) ?? [];
  if (name === undefined || list === undefined) return null;
  const given = list.trim() === "" ? {} : keywordArguments(list.trim());
  return given && { id: "", name, arguments: given, requestor };
}

/** `name(a=1, b='x')`, keys sorted. A text keeps its backslashes and line breaks, as in the original. */
export function functionalFormat({ name, arguments: args }: Pick<ToolCall, "name" | "arguments">): string {
  const keys = Object.keys(args).sort(compareCodePoints);
  return `${name}(${keys.map((key) => `${key}=${valueText(args[key] as ExactValue)}`).join(", ")})`;
}

const valueText = (value: ExactValue): string =>
  typeof value === "string" ? `'${value.replaceAll("'", "\\'")}'` : pythonRepr(value);

export interface ObservationOptions {
  /** Who looks: what was said up to this one's last message is left out. */
  readonly viewer?: Requestor;
  /** Leave nothing out. */
  readonly all_messages_as_observation: boolean;
}

/** `role: content` lines; calls in Python's notation. */
export function gymObservation(
  messages: readonly Message[],
  { viewer = "assistant", all_messages_as_observation }: ObservationOptions,
): string {
  const start = all_messages_as_observation ? 0 : messages.findLastIndex(({ role }) => role === viewer) + 1;
  return messages.slice(start).map(line).join("\n");
}

function line(message: Message): string {
  const calls = message.role === "tool" ? null : message.tool_calls;
  return `${message.role}: ${calls === null ? pythonStr(message.content) : calls.map(functionalFormat).join(", ")}`;
}

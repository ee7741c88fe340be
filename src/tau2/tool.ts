/**
 * A tool is a definition: name, kind, description and parameters give the JSON schema that models see; binding arguments
 * gives Python's own signature errors; `run` is the body. SPEC section 3.
 */
import {
  dumps,
  type ExactObject,
  type ExactValue,
  entriesOf,
  Float,
  isArray,
  isObject,
  keysOf,
  objectOf,
  pythonStr,
} from "../base/exact.ts";
import { type Field, type FieldType, objectSchema } from "./model.ts";
import { type PythonError, typeError } from "./python.ts";
import { outputText } from "./record-text.ts";
import type { ToolKind, ToolSchema } from "./types.ts";

/** A model instance in a result: its numbers stay numbers, where those of plain containers become strings (SPEC section 2.3). */
export class ModelResult {
  constructor(readonly value: ExactValue) {}
}

export type ToolResult = ExactValue | ModelResult | readonly ToolResult[] | { readonly [key: string]: ToolResult };

/** Arguments as bound: every parameter present, nothing checked. */
export type BoundArguments<P extends string = string> = { readonly [K in P]: ExactValue };

/** A function that tasks or models can call on a state `S` (a domain's view of its database). */
export interface Tool<S> {
  readonly name: string;
  readonly kind: ToolKind;
  readonly description: string;
  readonly parameters: Readonly<Record<string, Field>>;
  readonly run: (state: S, args: BoundArguments) => ToolResult;
}

interface ToolDefinition<S, P extends string> {
  readonly name: string;
  readonly kind: ToolKind;
  readonly description: string;
  readonly parameters: Readonly<Record<P, Field>>;
  readonly run: (state: S, args: BoundArguments<P>) => ToolResult;
}

/** Declares a tool; the argument names of `run` follow from `parameters`. */
export function tool<S, P extends string>(definition: ToolDefinition<S, P>): Tool<S> {
  return definition as unknown as Tool<S>;
}

/**
 * What tasks may call beside the tools: an assertion, something that breaks. No model sees it, so the names of its
 * arguments are all that is declared; those in `defaults` may be left out.
 */
export function taskFunction<S, P extends string = never>(
  name: string,
  args: readonly P[],
  run: (state: S, args: BoundArguments<P>) => ToolResult,
  defaults: { readonly [K in P]?: ExactValue } = {},
): Tool<S> {
  const parameters = args.map((arg): [P, Field] => [arg, { type: { kind: "any" }, default: defaults[arg] }]);
  return tool({
    name,
    kind: "write",
    description: "",
    parameters: Object.fromEntries(parameters) as Record<P, Field>,
    run,
  });
}

/** A parameter: its type in the schema, its description, and a default if it may be left out. */
export function parameter(
  type: FieldType,
  description: string,
  options: { readonly default?: ExactValue } = {},
): Field {
  return { type, description, ...options };
}

export function toolSchema<S>({ name, description, parameters }: Tool<S>): ToolSchema {
  return { type: "function", function: { name, description, parameters: objectSchema("parameters", parameters) } };
}

/** Lists the tools by name with the first line of each description, as agents of the original can be shown them. */
export function toolsDescription<S>(tools: readonly Tool<S>[]): string {
  const byName = [...tools].sort((a, b) => (a.name < b.name ? -1 : 1));
  return byName.map(({ name, description }, i) => `${i + 1}. ${name}\n${description.split("\n")[0]}`).join("\n\n");
}

/** Binds arguments as Python binds keyword arguments; `owner` is the class whose method this is. */
export function bindArguments<S>(owner: string, tool: Tool<S>, args: ExactObject): BoundArguments {
  const bound: Record<string, ExactValue> = {};
  let taken = 0;
  for (const key in tool.parameters) {
    const isGiven = Object.hasOwn(args, key);
    const value = isGiven ? args[key] : tool.parameters[key]?.default;
    if (value === undefined) throw bindingError(owner, tool, args);
    bound[key] = value;
    if (isGiven) taken++;
  }
  if (taken < Object.keys(args).length) throw bindingError(owner, tool, args);
  return bound;
}

/** What is wrong with the arguments; unknown ones are told before missing ones. */
function bindingError<S>(owner: string, { name, parameters }: Tool<S>, args: ExactObject): PythonError {
  const call = `${owner}.${name}()`;
  const unknown = keysOf(args).find((key) => !Object.hasOwn(parameters, key));
  if (unknown === "self") return typeError(`${call} got multiple values for argument 'self'`);
  if (unknown !== undefined) return typeError(`${call} got an unexpected keyword argument '${unknown}'`);
  const missing = Object.keys(parameters).filter(
    (key) => !Object.hasOwn(args, key) && parameters[key]?.default === undefined,
  );
  const plural = missing.length === 1 ? "" : "s";
  return typeError(`${call} missing ${missing.length} required positional argument${plural}: ${enumeration(missing)}`);
}

function enumeration(names: readonly string[]): string {
  const quoted = names.map((name) => `'${name}'`);
  if (quoted.length <= 2) return quoted.join(" and ");
  return `${quoted.slice(0, -1).join(", ")}, and ${quoted.at(-1)}`;
}

/** The text of a tool message for a result: strings as they are, everything else as JSON (SPEC section 2.3). */
export function resultText(result: ToolResult): string {
  return typeof result === "string" ? result : jsonText(result);
}

function jsonText(result: ToolResult): string {
  if (result === null || typeof result === "string") return dumps(result);
  if (typeof result !== "object" || result instanceof Float) return `"${pythonStr(result)}"`; // nothing to escape
  if (result instanceof ModelResult) return outputText(result.value);
  if (Array.isArray(result)) return `[${result.map(jsonText).join(", ")}]`;
  const dict = result as { readonly [key: string]: ToolResult };
  let text = "{";
  for (const key of keysOf(dict as ExactObject))
    text += `${text.length > 1 ? ", " : ""}${dumps(key)}: ${jsonText(dict[key] as ToolResult)}`;
  return `${text}}`;
}

/** The plain value behind a result, for functions that tasks call and compare. */
export function plainResult(result: ToolResult): ExactValue {
  if (result instanceof ModelResult) return result.value;
  if (isArray(result as ExactValue)) return (result as readonly ToolResult[]).map(plainResult);
  if (isObject(result)) return objectOf(entriesOf(result).map(([key, value]) => [key, plainResult(value)]));
  return result as ExactValue;
}

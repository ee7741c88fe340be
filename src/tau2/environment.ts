/**
 * The environment of one conversation: the agent's toolkit and database, the user's if there is one, and what keeps the two
 * in step. Generic over domains. SPEC sections 3 and 4.
 */
import { dumps, type ExactObject, type ExactValue, keysOf, pythonEquals, tryParseExact } from "../base/exact.ts";
import { Database, DatabaseImage, deepMerge } from "./database.ts";
import { type Model, parseModel } from "./model.ts";
import { PythonError, typeError, valueError } from "./python.ts";
import { bindArguments, plainResult, resultText, type Tool, type ToolResult } from "./tool.ts";
import type {
  Domain,
  EnvAssertion,
  EnvFunctionCall,
  Environment,
  InitialState,
  Message,
  Requestor,
  Task,
  ToolCall,
  ToolKind,
  ToolMessage,
} from "./types.ts";

/** One side's tools over one database. `S` is the view that tool bodies work on. */
export interface Toolkit<S = unknown> {
  /** The original's class, which signature errors name. */
  readonly className: string;
  readonly tools: readonly Tool<S>[];
  /** Methods that tasks call but models cannot: assertions, break functions. */
  readonly functions: readonly Tool<S>[];
  readonly view: (database: Database) => S;
  /** The database's type, and which of its root fields are dicts of entities. */
  readonly model: Model;
  readonly tables: readonly string[];
}

/** One side of a domain: what it can do, and the state it starts from. */
export interface Side {
  readonly toolkit: Toolkit;
  /** By name. */
  readonly tools: ReadonlyMap<string, Tool<unknown>>;
  /** Tools and functions, by name. */
  readonly methods: ReadonlyMap<string, Tool<unknown>>;
  readonly image: DatabaseImage;
}

/** Hides the view's type, which only the toolkit's own tools know. */
export function side<S>(toolkit: Toolkit<S>, data: ExactObject): Side {
  const hidden = toolkit as unknown as Toolkit;
  const byName = (tools: readonly Tool<unknown>[]) => new Map(tools.map((tool) => [tool.name, tool]));
  return {
    toolkit: hidden,
    tools: byName(hidden.tools),
    methods: byName([...hidden.functions, ...hidden.tools]),
    image: imageOf(toolkit, data),
  };
}

function imageOf<S>({ model, tables }: Toolkit<S>, data: ExactObject): DatabaseImage {
  return new DatabaseImage(parseModel(model, data), tables, model.name);
}

export interface EnvironmentOptions {
  readonly agent: Side;
  readonly user: Side | null;
  /** Agent and user tools in one hand: the agent may call both, the user none. */
  readonly solo_mode?: boolean;
  /**
   * Carries state from one side to the other after every call (SPEC section 14.3). A function of the two databases that
   * changes nothing when it runs again, so it is left out while they stay the same.
   */
  readonly sync?: (environment: ToolEnvironment) => void;
}

/** One side of a live environment. */
class LiveSide {
  #view: unknown;

  constructor(
    readonly side: Side,
    readonly database: Database,
  ) {}

  /** Made once: it may hold what its tools remember beside the database. */
  get view(): unknown {
    this.#view ??= this.side.toolkit.view(this.database);
    return this.#view;
  }

  call(name: string, args: ExactObject): ToolResult {
    const found = this.side.tools.get(name);
    if (found === undefined) throw valueError(`Tool '${name}' not found.`);
    return this.run(found, args);
  }

  run(tool: Tool<unknown>, args: ExactObject): ToolResult {
    return tool.run(this.view, bindArguments(this.side.toolkit.className, tool, args));
  }
}

export class ToolEnvironment implements Environment {
  #agent: LiveSide;
  #user: LiveSide | null;
  /** Version of both databases after the last sync; -1: there was none, or it failed. */
  #synced = -1;

  constructor(readonly options: EnvironmentOptions) {
    const { agent, user } = options;
    this.#agent = new LiveSide(agent, new Database(agent.image));
    this.#user = user && new LiveSide(user, new Database(user.image));
    this.sync();
  }

  get solo_mode(): boolean {
    return this.options.solo_mode ?? false;
  }

  get agentDb(): Database {
    return this.#agent.database;
  }

  get userDb(): Database | null {
    return this.#user?.database ?? null;
  }

  getResponse(call: ToolCall): ToolMessage {
    const { id, requestor } = call;
    try {
      const result = this.#dispatch(call);
      this.sync();
      return { role: "tool", id, content: resultText(result), requestor, error: false };
    } catch (error) {
      // Only the exceptions of the original are the agent's business; any other is a fault of ours and must surface.
      if (!(error instanceof PythonError)) throw error;
      return { role: "tool", id, content: `Error: ${error.message}`, requestor, error: true };
    }
  }

  callTool(call: ToolCall): void {
    this.#dispatch(call);
  }

  runFunction({ env_type, func_name, arguments: args }: EnvFunctionCall): ExactValue {
    const live = env_type === "user" ? this.#user : this.#agent;
    const found = live?.side.methods.get(func_name);
    if (!live || !found)
      throw new PythonError(
        "AttributeError",
        `'${live?.side.toolkit.className ?? "NoneType"}' object has no attribute '${func_name}'`,
      );
    const result = live.run(found, args);
    this.sync();
    return plainResult(result);
  }

  mergeData(target: Requestor, data: ExactObject): void {
    const live = target === "user" ? this.#user : this.#agent;
    if (live === null) throw new PythonError("AttributeError", "'NoneType' object has no attribute 'update_db'");
    const { side: owner, database: old } = live;
    const database = new Database(imageOf(owner.toolkit, deepMerge(old.dump(), data)));
    // Quirk of the original: the other side then works on this very database too (SPEC section 4a).
    this.#agent = new LiveSide(this.#agent.side, database);
    this.#user = this.#user && new LiveSide(this.#user.side, database);
    this.#synced = -1;
  }

  sync(): void {
    const { sync } = this.options;
    if (sync === undefined || this.#version() === this.#synced) return;
    this.#synced = -1;
    sync(this);
    this.#synced = this.#version();
  }

  agentDbHash(): string {
    return this.agentDb.hash();
  }

  userDbHash(): string | null {
    return this.userDb?.hash() ?? null;
  }

  #version(): number {
    return this.#agent.database.version + (this.#user?.database.version ?? 0);
  }

  /** `make_tool_call` through the call chain whose parameter names arguments can collide with. */
  #dispatch({ name, requestor, arguments: args }: ToolCall): ToolResult {
    rejectCollisions(args);
    const { solo_mode } = this;
    if (requestor === "user") {
      if (solo_mode) throw valueError("User tool calls are not allowed in solo mode");
      if (this.#user === null) throw valueError("User tools not available");
      return this.#user.call(name, args);
    }
    if (solo_mode && this.#user?.side.tools.has(name)) return this.#user.call(name, args);
    return this.#agent.call(name, args);
  }
}

function rejectCollisions(args: ExactObject): void {
  const call = "Environment.make_tool_call() got multiple values for";
  if (Object.hasOwn(args, "requestor"))
    throw typeError(`tau2.environment.environment.${call} keyword argument 'requestor'`);
  const taken = keysOf(args).find((key) => key === "self" || key === "tool_name");
  if (taken !== undefined) throw typeError(`${call} argument '${taken}'`);
}

// ---------------------------------------------------------------------------------------------------------------------
// Bringing an environment to a state

/** A fresh environment (by default the domain's usual one) with the task's initial state applied, its message history replayed. */
export function prepareEnvironment(domain: Domain, task: Task, environment = domain.createEnvironment()): Environment {
  setState({
    domain,
    environment,
    initialState: task.initial_state,
    history: task.initial_state?.message_history ?? [],
    strict: true,
  });
  return environment;
}

export interface StateOptions {
  readonly domain: Pick<Domain, "name" | "toolKind">;
  readonly environment: Environment;
  readonly initialState: InitialState | null;
  readonly history: readonly Message[];
  /** Whether a replayed call that answers otherwise than recorded is an error; if not it is ignored. */
  readonly strict: boolean;
}

/** tau2's `set_state`: data, then actions, then the recorded calls that write. */
export function setState({ domain, environment, initialState, history, strict }: StateOptions): void {
  if (environment.solo_mode && history.some(({ role }) => role === "user"))
    throw new PythonError("AssertionError", "User messages are not allowed in solo mode");
  const data = initialState?.initialization_data ?? null;
  if (data?.agent_data) required(domain, environment, "mergeData")("assistant", data.agent_data);
  if (data?.user_data) required(domain, environment, "mergeData")("user", data.user_data);
  for (const action of initialState?.initialization_actions ?? []) required(domain, environment, "runFunction")(action);
  for (const { call, recorded } of callsIn(history)) replay(domain, environment, call, recorded, strict);
  environment.sync?.();
}

/** Runs an assertion of a task; true if it holds. */
export function runAssertion(domain: Pick<Domain, "name">, environment: Environment, assertion: EnvAssertion): boolean {
  const result = required(domain, environment, "runFunction")(assertion);
  if (typeof result !== "boolean")
    throw valueError(`Function ${assertion.func_name} returned ${typeof result} instead of bool`);
  return result === assertion.assert_value;
}

function required<K extends "mergeData" | "runFunction">(
  domain: Pick<Domain, "name">,
  environment: Environment,
  method: K,
): NonNullable<Environment[K]> {
  const found = environment[method];
  if (found === undefined)
    throw new Error(`domain ${domain.name} has a task that needs ${method}, which its environment lacks`);
  return found.bind(environment) as NonNullable<Environment[K]>;
}

/** Pairs every tool call of a history with its result, in order. */
function callsIn(history: readonly Message[]): { call: ToolCall; recorded: ToolMessage }[] {
  const pairs: { call: ToolCall; recorded: ToolMessage }[] = [];
  let next = 0;
  while (next < history.length) {
    const message = history[next++] as Message;
    if (message.role === "tool")
      throw valueError("Tool message not expected. Tool messages should always follow a tool call.");
    for (const call of message.tool_calls ?? []) {
      const result = history[next++];
      if (result === undefined) throw valueError("Tool message expected. Got None.");
      if (result.role !== "tool")
        throw valueError(`Tool message expected. Got <class 'tau2.data_model.message.${messageClass(result)}'>`);
      if (call.id !== result.id) throw valueError(`Tool call id mismatch. Got ${call.id} and ${result.id}`);
      pairs.push({ call, recorded: result });
    }
  }
  return pairs;
}

const messageClass = ({ role }: Message): string =>
  ({ assistant: "AssistantMessage", user: "UserMessage", tool: "ToolMessage" })[role];

function replay(
  domain: Pick<Domain, "toolKind">,
  environment: Environment,
  call: ToolCall,
  recorded: ToolMessage,
  strict: boolean,
): void {
  if (!mutates(domain.toolKind(call.name))) return;
  const response = environment.getResponse(call);
  const same = pythonEquals(parsedContent(response.content), parsedContent(recorded.content));
  if (!same && strict)
    throw valueError(
      `Tool call:\n${toolCallText(call)}\n\nReturned:\n${response.content}\n\nExpected:\n${recorded.content}`,
    );
}

/** Whether a tool of this kind changes state: exactly the write tools do, in all domains. Unknown names change nothing. */
export const mutates = (kind: ToolKind | null): boolean => kind === "write";

function parsedContent(content: string | null): ExactValue {
  if (content === null) throw typeError("the JSON object must be str, bytes or bytearray, not NoneType");
  const parsed = tryParseExact(content);
  return parsed === undefined ? content : parsed;
}

/** The original's `str(tool_call)`. */
export function toolCallText({ id, name, arguments: args, requestor }: ToolCall): string {
  return [
    `ToolCall (from ${requestor})`,
    ...(id === "" ? [] : [`id: ${id}`]),
    `name: ${name}`,
    `arguments:\n${dumps(args, { indent: 2 })}`,
  ].join("\n");
}

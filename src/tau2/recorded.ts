/**
 * Recorded simulations in tau2's results format, of today's version and older ones: what a replay needs of them is checked,
 * everything else (costs, usage, raw data, times) is passed over.
 */
import { UserError } from "../base/errors.ts";
import { type ExactObject, type ExactValue, Float, isArray, isInt, isObject, tryParseExact } from "../base/exact.ts";
import type { Message, Requestor, RewardType, TerminationReason, ToolCall } from "./types.ts";

/** One results file, or one directory with a file a simulation. */
export interface Recording {
  readonly domain: string;
  readonly solo_mode: boolean;
  /** As they stand in the file, by id. */
  readonly tasks: ReadonlyMap<string, ExactValue>;
  readonly runs: readonly RecordedRun[];
}

export interface RecordedRun {
  readonly id: string;
  readonly task_id: string;
  readonly trial: number | null;
  readonly termination: TerminationReason;
  /** null: a voice run, which has no messages. */
  readonly messages: readonly Message[] | null;
  /** null: not scored then. */
  readonly reward_info: RecordedReward | null;
}

/** Of a recorded RewardInfo what a replay can compare; null where the recording has nothing. */
export interface RecordedReward {
  readonly reward: number;
  readonly db_match: boolean | null;
  readonly env_assertions: readonly boolean[] | null;
  readonly action_checks: readonly boolean[] | null;
  readonly communicate_checks: readonly boolean[] | null;
  /** What was checked then: golden actions by name and arguments. */
  readonly actions: readonly ExactObject[];
  readonly nl_assertions:
    | readonly { readonly nl_assertion: string; readonly met: boolean; readonly justification: string }[]
    | null;
  readonly reward_basis: readonly string[] | null;
  readonly reward_breakdown: Readonly<Partial<Record<RewardType, number>>> | null;
}

/** Does a JSON value look like a results file, its simulations in it or beside it? */
export function isResults(value: ExactValue): value is ExactObject {
  return isObject(value) && isObject(value.info) && (isArray(value.simulations) || isArray(value.tasks));
}

/** `simulations`: in place of the file's own, each with the name of its file. Throws UserError that names file and field. */
export function readRecording(
  results: ExactObject,
  where: string,
  simulations: readonly (readonly [where: string, simulation: ExactValue])[] | null = null,
): Recording {
  const field = new Field(results, where);
  const info = field.object("info");
  const own = () => field.list("simulations").map((item) => [item.where, item.value] as const);
  const tasks = isArray(results.tasks) ? results.tasks : [];
  return {
    domain: info.object("environment_info").text("domain_name"),
    solo_mode:
      info.has("agent_info") && (info.object("agent_info").textOr("implementation", "") ?? "").includes("solo"),
    tasks: new Map(tasks.filter(isObject).map((task) => [String(task.id), task])),
    runs: (simulations ?? own()).map(([place, simulation]) => readRun(new Field(simulation, place))),
  };
}

function readRun(run: Field): RecordedRun {
  const trial = run.get("trial");
  return {
    id: run.textOr("id", null) ?? run.where,
    task_id: String(run.has("task_id") ? run.get("task_id") : run.missing("task_id")),
    trial: typeof trial === "number" ? trial : null,
    termination: terminationOf(run.textOr("termination_reason", "unexpected_error")),
    messages: run.has("messages") ? run.list("messages").flatMap(readMessage) : null,
    reward_info: run.has("reward_info") ? readReward(run.object("reward_info")) : null,
  };
}

/** Python enums have been written by value and by name (`TerminationReason.USER_STOP`). */
function terminationOf(name: string | null): TerminationReason {
  return (name ?? "unexpected_error").replace(/^TerminationReason\./, "").toLowerCase() as TerminationReason;
}

/** A message, several (results of one message's calls in one), or none (a system prompt). */
function readMessage(message: Field): Message[] {
  const role = message.text("role");
  if (role === "system") return [];
  if (message.has("tool_messages")) return message.list("tool_messages").flatMap(readMessage);
  const content = message.textOr("content", null);
  if (role === "tool") {
    return [
      {
        role,
        id: message.textOr("id", ""),
        content,
        requestor: requestorOf(message),
        error: message.get("error") === true,
      },
    ];
  }
  if (role !== "assistant" && role !== "user") throw new UserError(`${message.where}.role`, `unknown role "${role}"`);
  const tool_calls = message.has("tool_calls") ? message.list("tool_calls").map((call) => readCall(call, role)) : null;
  return [{ role, content, tool_calls }];
}

function readCall(call: Field, role: Requestor): ToolCall {
  const named = call.has("function") ? call.object("function") : call; // as OpenAI spells it
  return {
    id: call.textOr("id", ""),
    name: named.text("name"),
    arguments: argumentsOf(named),
    requestor: call.has("requestor") ? requestorOf(call) : role,
  };
}

function argumentsOf(call: Field): ExactObject {
  const given = call.get("arguments");
  const value = typeof given === "string" ? tryParseExact(given) : given;
  if (!isObject(value)) throw new UserError(`${call.where}.arguments`, "an object is expected");
  return value;
}

function requestorOf(field: Field): Requestor {
  const name = field.textOr("requestor", "assistant");
  if (name !== "assistant" && name !== "user")
    throw new UserError(`${field.where}.requestor`, `expected assistant or user, got "${name}"`);
  return name;
}

function readReward(info: Field): RecordedReward {
  const checks = (name: string, flag: string): boolean[] | null =>
    info.has(name) ? info.list(name).map((check) => check.get(flag) === true) : null;
  return {
    reward: info.number("reward"),
    db_match: info.has("db_check") ? info.object("db_check").get("db_match") === true : null,
    env_assertions: checks("env_assertions", "met"),
    action_checks: checks("action_checks", "action_match"),
    communicate_checks: checks("communicate_checks", "met"),
    actions: info.has("action_checks") ? info.list("action_checks").map(goldenAction) : [],
    nl_assertions: info.has("nl_assertions")
      ? info.list("nl_assertions").map((check) => ({
          nl_assertion: check.textOr("nl_assertion", ""),
          met: check.get("met") === true,
          justification: check.textOr("justification", ""),
        }))
      : null,
    reward_basis: info.has("reward_basis") ? info.list("reward_basis").map(({ value }) => String(value)) : null,
    reward_breakdown: info.has("reward_breakdown") ? breakdownOf(info.object("reward_breakdown")) : null,
  };
}

function goldenAction(check: Field): ExactObject {
  const action = check.object("action");
  return { name: action.text("name"), arguments: argumentsOf(action) };
}

function breakdownOf(breakdown: Field): Partial<Record<RewardType, number>> {
  const names = isObject(breakdown.value) ? Object.keys(breakdown.value) : [];
  return Object.fromEntries(names.map((name) => [name, breakdown.number(name)]));
}

/** A JSON value and where it stands, for errors that name the field. */
class Field {
  constructor(
    readonly value: ExactValue,
    readonly where: string,
  ) {}

  get(name: string): ExactValue {
    if (!isObject(this.value)) throw new UserError(this.where, "an object is expected");
    return Object.hasOwn(this.value, name) ? (this.value[name] as ExactValue) : null;
  }

  /** Present, and not null. */
  has(name: string): boolean {
    return this.get(name) !== null;
  }

  missing(name: string): never {
    throw new UserError(`${this.where}: ${name}`, "is missing; is this a results file of tau2-bench?");
  }

  object(name: string): Field {
    const value = this.get(name);
    if (value === null) this.missing(name);
    if (!isObject(value)) throw new UserError(`${this.where}: ${name}`, "an object is expected");
    return new Field(value, `${this.where}: ${name}`);
  }

  list(name: string): Field[] {
    const value = this.get(name);
    if (value === null) this.missing(name);
    if (!isArray(value)) throw new UserError(`${this.where}: ${name}`, "a list is expected");
    return value.map((item, i) => new Field(item, `${this.where}: ${name}[${i}]`));
  }

  text(name: string): string {
    return this.textOr(name, null) ?? this.missing(name);
  }

  textOr<T extends string | null>(name: string, missing: T): string | T {
    const value = this.get(name);
    if (value === null) return missing;
    if (typeof value !== "string") throw new UserError(`${this.where}: ${name}`, "a text is expected");
    return value;
  }

  number(name: string): number {
    const value = this.get(name);
    if (value instanceof Float) return value.value;
    if (!isInt(value)) throw new UserError(`${this.where}: ${name}`, "a number is expected");
    return Number(value);
  }
}

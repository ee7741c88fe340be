/**
 * Domains that are not tau2's: written by people in plain TypeScript, where numbers are numbers and values are JSON. Ported
 * domains keep Python's kinds of number apart; here nothing has to equal a Python program.
 */
import { UserError } from "../../base/errors.ts";
import { type ExactObject, type ExactValue, exactOf, isObject, plainOf } from "../../base/exact.ts";
import type { Splits } from "../data-directory.ts";
import type { Database, Table } from "../database.ts";
import { defineDomain } from "../domain.ts";
import { type Side, side, type Toolkit } from "../environment.ts";
import { type Field, type Model, ModelError, parseModel } from "../model.ts";
import { PythonError } from "../python.ts";
import { checked, parseTasks } from "../task.ts";
import { ModelResult, type Tool } from "../tool.ts";
import type { Domain, Task, ToolKind, User } from "../types.ts";

/** What a tool throws to tell the agent (or user) that its call failed: the result is `Error: …`. */
export class ToolError extends PythonError {
  constructor(message: string) {
    super("ToolError", message);
  }
}

/** A function on one side's state. Arguments are checked against `parameters` before it runs. */
export interface DomainTool {
  readonly name: string;
  /** `write` is what changes the state: replays leave all others out. */
  readonly kind: ToolKind;
  readonly description: string;
  /** Made with `parameter(type, description)`. */
  readonly parameters: Readonly<Record<string, Field>>;
  // biome-ignore lint/suspicious/noExplicitAny: a tool's author knows the types of its parameters, and JSON is the result.
  readonly run: (state: State, args: any) => unknown;
}

/** A domain: what lies in the files of its directory, and what its tools.ts exports, under the same names. */
export interface DomainSource {
  /** Named in `task_order`. */
  readonly name: string;
  /** policy.md: what the agent is told. */
  readonly policy: string;
  /** db.json. Root fields that map ids to objects are tables. */
  readonly db: object;
  /** tasks.json, in tau2's format. */
  readonly tasks: readonly object[];
  /** split_tasks.json: split name → task ids; without it `train_split` divides the tasks. */
  readonly split_tasks?: Splits;
  /** user_db.json: the state of the user's own tools. */
  readonly user_db?: object;
  /** user_guidelines.md: what a language model that plays the user is told before its scenario. */
  readonly user_guidelines?: string;
  readonly tools: readonly DomainTool[];
  /** Callable by tasks alone: initialization actions, assertions. */
  readonly functions?: readonly DomainTool[];
  readonly userTools?: readonly DomainTool[];
  readonly userFunctions?: readonly DomainTool[];
  /** Types of db.json and user_db.json, for checks and defaults. */
  readonly database?: Model;
  readonly userDatabase?: Model;
  /** Runs after every call and carries state from one side to the other. */
  readonly sync?: (agent: State, user: State | null) => void;
  /** A user without a language model. */
  readonly scriptedUser?: (task: Task) => User;
}

/** One side's state in one conversation: tables of entities, and plain fields. */
export class State {
  constructor(readonly database: Database) {}

  /** The entities of a root field by id. */
  table<E extends object = Readonly<Record<string, unknown>>>(name: string): Entities<E> {
    return new Entities(this.database.table(name));
  }

  /** A root field that is no table. */
  value(name: string): unknown {
    return plainOf(this.database.value(name));
  }

  setValue(name: string, value: unknown): void {
    this.database.setValue(name, exactOf(value));
  }
}

/** Entities are replaced, never changed in place: `set(id, { ...get(id), status: "paid" })`. */
export class Entities<E extends object> {
  readonly #table: Table<ExactObject>;

  constructor(table: Table<ExactObject>) {
    this.#table = table;
  }

  get size(): number {
    return this.#table.size;
  }

  get(id: string): E | undefined {
    const entity = this.#table.get(id);
    return entity && (plainOf(entity) as E);
  }

  set(id: string, entity: E): void {
    this.#table.set(id, exactOf(entity) as ExactObject);
  }

  delete(id: string): void {
    this.#table.delete(id);
  }

  entries(): [string, E][] {
    return [...this.#table.entries()].map(([id, entity]) => [id, plainOf(entity) as E]);
  }
}

export interface CustomDomainOptions {
  readonly train_split: number;
  readonly solo_mode: boolean;
}

/** How errors name a part of the source: by its file, or by its field. */
export type PartName = (part: "db" | "user_db" | "tasks" | "split_tasks" | "tools") => string;

/** Throws UserError for what does not fit together. */
export function customDomain(
  source: DomainSource,
  { train_split, solo_mode }: CustomDomainOptions,
  where: PartName,
): Domain {
  const { name, policy, sync, scriptedUser } = source;
  const tasksFile = where("tasks");
  const tasks = parseTasks(exactOf(source.tasks), tasksFile);
  const user = userSide(source, where);
  const guidelines = source.user_guidelines ?? GUIDELINES;
  return defineDomain({
    name,
    policy,
    agent: sideOf(where("db"), {
      name: `${name}_tools`,
      tools: source.tools,
      functions: source.functions,
      model: source.database,
      data: source.db,
    }),
    user,
    sync: sync && (({ agentDb, userDb }) => sync(new State(agentDb), userDb && new State(userDb))),
    tasks,
    tasksFile,
    splits: splitsOf(source, tasks, train_split, where),
    guidelines: { plain: guidelines, tools: guidelines },
    scriptedUser,
    solo_mode,
  });
}

/** For a language model that plays the user; the scenario follows. */
const GUIDELINES = `
You are a customer, and you write to a service agent. Be the person of the scenario below, and want what it says.

- Write one short message at a time, as people do in a chat. Do not recite the scenario.
- Say only what the scenario tells you. If you are asked for something that it does not tell, say that you do not know.
- Let the agent ask: give details when they are wanted.
- If you have tools, they are your own device or account. Use them when the agent asks you to, and report what you see.
- When you have what you came for, or it is clear that you will not get it, write ###STOP### and nothing else.
- When the agent hands you over to a person, write ###TRANSFER### and nothing else.
`.trim();

interface SideParts {
  readonly name: string;
  readonly tools: readonly DomainTool[];
  readonly functions: readonly DomainTool[] | undefined;
  readonly model: Model | undefined;
  readonly data: object;
}

function userSide(source: DomainSource, where: PartName): Side | null {
  const { userTools, userFunctions, userDatabase, user_db, name } = source;
  if (userTools === undefined && userFunctions === undefined && user_db === undefined) return null;
  return sideOf(where("user_db"), {
    name: `${name}_user_tools`,
    tools: userTools ?? [],
    functions: userFunctions,
    model: userDatabase,
    data: user_db ?? {},
  });
}

/** The data is checked once, here; from then on numbers are plain. */
function sideOf(where: string, { name, tools, functions = [], model, data }: SideParts): Side {
  const given = exactOf(data);
  if (!isObject(given)) throw new UserError(where, "an object is expected");
  const typed = model === undefined ? given : checked(where, () => parseModel(model, given));
  const root = exactOf(plainOf(typed)) as ExactObject;
  const toolkit: Toolkit<State> = {
    className: name,
    tools: tools.map(checkedTool),
    functions: functions.map(checkedTool),
    view: (database) => new State(database),
    model: {
      name: "Database",
      fields: Object.fromEntries(Object.keys(root).map((key) => [key, ANY])),
      extra: "ignore",
    },
    tables: Object.keys(root).filter((key) => isTable(root[key] as ExactValue)),
  };
  return side(toolkit, root);
}

const ANY: Field = { type: { kind: "any" } };

const isTable = (value: ExactValue): boolean => isObject(value) && Object.values(value).every(isObject);

/** The body gets plain values of the declared types, and what it returns becomes JSON. */
function checkedTool(definition: DomainTool): Tool<State> {
  const { name, parameters } = definition;
  const model: Model = { name, fields: parameters, extra: "ignore" };
  return {
    ...definition,
    run: (state, args) => {
      const result = definition.run(state, plainOf(checkedArguments(model, args)));
      return typeof result === "string" ? result : new ModelResult(exactOf(result));
    },
  };
}

function checkedArguments(model: Model, args: ExactObject): ExactObject {
  try {
    return parseModel(model, args);
  } catch (error) {
    if (!(error instanceof ModelError)) throw error;
    throw new ToolError(error.issues.map(({ path, message }) => `${path.join(".")}: ${message}`).join("; "));
  }
}

function splitsOf({ split_tasks }: DomainSource, tasks: readonly Task[], train_split: number, where: PartName): Splits {
  const ids = tasks.map(({ id }) => id);
  const train = Math.floor(ids.length * train_split);
  if (split_tasks === undefined) return { train: ids.slice(0, train), test: ids.slice(train), base: ids };
  for (const [split, chosen] of Object.entries(split_tasks)) {
    const unknown = chosen.find((id) => !ids.includes(id));
    if (unknown !== undefined)
      throw new UserError(`${where("split_tasks")}: ${split}`, `task ${unknown} is not in tasks`);
  }
  const own = Object.entries(split_tasks).map(([split, chosen]) => [split, ids.filter((id) => chosen.includes(id))]);
  return { train: [], test: [], base: ids, ...Object.fromEntries(own) };
}

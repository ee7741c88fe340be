/**
 * A domain in a directory, loaded without recompiling: policy.md, db.json, tasks.json and tools.ts; optional are
 * user_db.json, split_tasks.json and user_guidelines.md.
 */
import { existsSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { UserError } from "../../base/errors.ts";
import { plainOf } from "../../base/exact.ts";
import { readJson, readSplits, readText } from "../data-directory.ts";
import { parseTasks } from "../task.ts";
import type { DomainSource, DomainTool } from "./custom.ts";
import { registerDomain } from "./index.ts";

const TOOLS_FILE = "tools.ts";

/** Directory → the name it was registered under. */
const registered = new Map<string, string>();

/** Makes the domains known to `loadDomain`; a directory that already is stays as it is. Returns their names. */
export async function registerDomainDirectories(directories: readonly string[]): Promise<string[]> {
  const names: string[] = [];
  for (const directory of directories) names.push(await registerDirectory(resolve(directory), directory));
  return names;
}

/** The name that a directory's domain has unless its tools.ts says another one. */
export const directoryName = (directory: string): string => basename(resolve(directory));

async function registerDirectory(path: string, asGiven: string): Promise<string> {
  const known = registered.get(path);
  if (known !== undefined) return known;
  const source = await readSource(path, asGiven);
  registerDomain(source, (part) => join(asGiven, part === "tools" ? TOOLS_FILE : `${part}.json`));
  registered.set(path, source.name);
  return source.name;
}

async function readSource(path: string, asGiven: string): Promise<DomainSource> {
  const file = (name: string): string => join(asGiven, name);
  if (!existsSync(path)) throw new UserError("domain_dir", `${asGiven}: no such directory`);
  for (const name of ["policy.md", "db.json", "tasks.json", TOOLS_FILE]) {
    if (!existsSync(join(path, name)))
      throw new UserError(
        file(name),
        "is missing; a domain directory holds policy.md, db.json, tasks.json and tools.ts",
      );
  }
  const exported = await readTools(join(path, TOOLS_FILE), file(TOOLS_FILE));
  const json = (name: string): object => plainOf(readJson(join(path, name))) as object;
  const optional = <T>(name: string, read: (name: string) => T): T | undefined =>
    existsSync(join(path, name)) ? read(name) : undefined;
  const tasks = json("tasks.json") as readonly object[];
  return {
    name: directoryName(path),
    ...exported,
    policy: readText(join(path, "policy.md")),
    db: json("db.json"),
    user_db: optional("user_db.json", json),
    tasks,
    split_tasks: optional("split_tasks.json", (name) =>
      readSplits(join(path, name), parseTasks(readJson(join(path, "tasks.json")), file("tasks.json")), 1),
    ),
    user_guidelines: optional("user_guidelines.md", (name) => readText(join(path, name))),
  };
}

type Exports = Omit<DomainSource, "name" | "policy" | "db" | "tasks"> & { readonly name?: string };

/** What each export must be. */
const EXPORTS: Readonly<Record<string, "text" | "tools" | "object" | "function">> = {
  name: "text",
  tools: "tools",
  functions: "tools",
  userTools: "tools",
  userFunctions: "tools",
  database: "object",
  userDatabase: "object",
  sync: "function",
  scriptedUser: "function",
};

async function readTools(path: string, where: string): Promise<Exports> {
  const exported = await imported(path, where);
  if (exported.tools === undefined)
    throw new UserError(`${where}: tools`, "is not exported; a list of tools is expected");
  for (const [name, value] of Object.entries(exported)) {
    const kind = EXPORTS[name];
    if (kind === undefined)
      throw new UserError(
        `${where}: ${name}`,
        `is no export that a domain has; those are ${Object.keys(EXPORTS).join(", ")}`,
      );
    if (kind === "tools") checkTools(value, `${where}: ${name}`);
    else if (typeof value !== (kind === "text" ? "string" : kind) || value === null)
      throw new UserError(`${where}: ${name}`, `a ${kind} is expected`);
  }
  return exported as unknown as Exports;
}

async function imported(path: string, where: string): Promise<Readonly<Record<string, unknown>>> {
  try {
    return { ...((await import(pathToFileURL(path).href)) as Readonly<Record<string, unknown>>) };
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new UserError(where, `cannot be loaded: ${reason.split("\n")[0]}`, { cause: error });
  }
}

function checkTools(value: unknown, where: string): void {
  if (!Array.isArray(value)) throw new UserError(where, "a list of tools is expected");
  const names = new Set<string>();
  for (const [i, tool] of (value as readonly Partial<DomainTool>[]).entries()) {
    const at = `${where}[${i}]`;
    if (typeof tool !== "object" || tool === null || typeof tool.name !== "string")
      throw new UserError(`${at}.name`, "a text is expected");
    if (names.has(tool.name)) throw new UserError(`${at}.name`, `there are two tools "${tool.name}"`);
    names.add(tool.name);
    if (!KINDS.includes(tool.kind ?? "")) throw new UserError(`${at}.kind`, `one of ${KINDS.join(", ")} is expected`);
    if (typeof tool.description !== "string") throw new UserError(`${at}.description`, "a text is expected");
    if (typeof tool.run !== "function") throw new UserError(`${at}.run`, "a function is expected");
    checkParameters(tool.parameters, `${at}.parameters`);
  }
}

const KINDS = ["read", "write", "think", "generic"];

function checkParameters(parameters: unknown, where: string): void {
  if (typeof parameters !== "object" || parameters === null)
    throw new UserError(where, "an object is expected: { name: parameter(type, description) }");
  for (const [name, field] of Object.entries(
    parameters as Readonly<Record<string, { readonly type?: { readonly kind?: unknown } }>>,
  )) {
    if (typeof field?.type?.kind !== "string")
      throw new UserError(
        `${where}.${name}`,
        "parameter(type, description) is expected, with a type such as str or int",
      );
  }
}

/** Config files (YAML, TOML, JSON, TypeScript) and the named ones inside the binary → option values by name. */
import { basename, extname, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { parse as parseToml } from "smol-toml";
import { parse as parseYaml } from "yaml";
import { UserError } from "../base/errors.ts";
import { NAMED_CONFIGS } from "./named.ts";
import { didYouMean } from "./nearest.ts";

export interface ConfigFile {
  /** For messages: the path, or `quickstart (embedded)`. */
  readonly where: string;
  /** Names the run when no `log_dir` is given: the file's name without its ending. */
  readonly stem: string;
  readonly values: Readonly<Record<string, unknown>>;
}

const ENDINGS = [".yaml", ".yml", ".toml", ".json", ".ts"];

/** A path with one of the known endings, or the name of an embedded config. */
export async function readConfigFile(pathOrName: string): Promise<ConfigFile> {
  const ending = extname(pathOrName);
  if (ending === "" && !(await Bun.file(pathOrName).exists())) return namedConfig(pathOrName);
  if (!ENDINGS.includes(ending)) {
    throw new UserError(`--config ${pathOrName}`, `expected a file that ends in ${ENDINGS.join(", ")}`);
  }
  if (!(await Bun.file(pathOrName).exists())) {
    throw new UserError(`--config ${pathOrName}`, `no such file; the configs inside the binary are ${names()}`);
  }
  return {
    where: pathOrName,
    stem: basename(pathOrName, ending),
    values: mapping(pathOrName, await contents(pathOrName, ending)),
  };
}

const names = () => Object.keys(NAMED_CONFIGS).join(", ");

function namedConfig(name: string): ConfigFile {
  const text = NAMED_CONFIGS[name];
  if (text === undefined) {
    const guess = didYouMean(name, Object.keys(NAMED_CONFIGS));
    throw new UserError(
      `--config ${name}`,
      `neither a file nor a config inside the binary${guess}; those are ${names()}`,
    );
  }
  const where = `${name} (embedded)`;
  return { where, stem: name, values: mapping(where, parseYaml(text)) };
}

async function contents(path: string, ending: string): Promise<unknown> {
  try {
    if (ending === ".ts") return ((await import(pathToFileURL(resolve(path)).href)) as { default?: unknown }).default;
    const text = await Bun.file(path).text();
    if (ending === ".toml") return parseToml(text);
    return ending === ".json" ? JSON.parse(text) : parseYaml(text);
  } catch (error) {
    const reason = String(error instanceof Error ? error.message : error).split("\n")[0];
    throw new UserError(path, `cannot be read as ${ending.slice(1)}: ${reason}`, { cause: error });
  }
}

function mapping(where: string, value: unknown): Record<string, unknown> {
  if (value === null || value === undefined) throw new UserError(where, "is empty; expected options, one a line");
  if (typeof value !== "object" || Array.isArray(value)) throw new UserError(where, "expected options by name");
  return { ...value };
}

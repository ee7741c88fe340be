/** tau2-bench's data files: where they lie, and reading them with errors that name the file. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parse as parseToml, TomlDate, TomlError, type TomlValue } from "smol-toml";
import { UserError } from "../base/errors.ts";
import {
  type ExactValue,
  Float,
  intOf,
  isArray,
  isObject,
  JsonError,
  keysOf,
  objectOf,
  parseExact,
} from "../base/exact.ts";
import type { Task } from "./types.ts";

// A tau2-bench checkout, its data directory (what TAU2_DATA_DIR means to tau2), or the tau2 folder inside.
const LAYOUTS = ["data/tau2", "tau2", "."];

/** The folder that holds `domains/<domain>`; `directory` is what the user configured. */
export function dataRoot(directory: string | null, domain: string): string {
  if (directory === null) {
    throw new UserError(
      "tau2_data_dir",
      `not set, and domain ${domain} needs tau2-bench's data. Clone github.com/sierra-research/tau2-bench and give its path, here or in TAU2_DATA_DIR.`,
    );
  }
  const found = LAYOUTS.map((layout) => join(directory, layout)).find((root) =>
    existsSync(join(root, "domains", domain)),
  );
  if (found === undefined) {
    throw new UserError(
      "tau2_data_dir",
      `${directory} holds no domains/${domain}. Give a tau2-bench checkout, its data directory, or the tau2 folder inside.`,
    );
  }
  return found;
}

export function readText(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    throw new UserError(
      file,
      `cannot be read: ${(error as NodeJS.ErrnoException).code ?? error}. Is the tau2-bench data complete?`,
      { cause: error },
    );
  }
}

export function readJson(file: string): ExactValue {
  const text = readText(file);
  try {
    return parseExact(text);
  } catch (error) {
    if (!(error instanceof JsonError)) throw error;
    throw new UserError(`${file}:${error.line}`, `not valid JSON: ${error.reason}`, { cause: error });
  }
}

/** Integers and floats stay apart, as in JSON; dates become their text. */
export function readToml(file: string): ExactValue {
  const text = readText(file);
  try {
    return exactToml(parseToml(text, { integersAsBigInt: true }));
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    throw new UserError(`${file}:${error.line}`, `not valid TOML: ${error.message.split("\n")[0]}`, { cause: error });
  }
}

function exactToml(value: TomlValue): ExactValue {
  if (typeof value === "bigint") return intOf(value);
  if (typeof value === "number") return new Float(value);
  if (typeof value !== "object") return value;
  if (value instanceof TomlDate) return value.toISOString();
  if (Array.isArray(value)) return value.map(exactToml);
  return objectOf(Object.entries(value).map(([key, item]) => [key, exactToml(item)]));
}

export type Splits = Readonly<Record<string, readonly string[]>>;

/**
 * The splits of a domain. With a split file they are its own; without one `train` is the first ⌊n · train_split⌋ tasks (at least
 * one) in the order of tasks.json, `test` the rest, `base` all: the same for everybody, whatever the seed.
 */
export function readSplits(file: string, tasks: readonly Task[], train_split: number): Splits {
  const ids = tasks.map(({ id }) => id);
  if (!existsSync(file)) {
    const train = Math.max(1, Math.floor(ids.length * train_split + 1e-9));
    return { train: ids.slice(0, train), test: ids.slice(train), base: ids };
  }
  const value = readJson(file);
  if (!isObject(value)) throw new UserError(file, "an object from split names to lists of task ids is expected");
  const splits = keysOf(value).map(
    (name) => [name, splitIds(value[name] as ExactValue, `${file}: ${name}`, ids)] as const,
  );
  return { train: [], test: [], base: ids, ...Object.fromEntries(splits) };
}

/** The ids of one split, in the order of tasks.json (SPEC section 1). */
function splitIds(value: ExactValue, where: string, ids: readonly string[]): string[] {
  if (!isArray(value)) throw new UserError(where, "a list of task ids is expected");
  const chosen = new Set(value);
  const known = new Set<ExactValue>(ids);
  const unknown = value.find((id) => !known.has(id));
  if (unknown !== undefined) throw new UserError(where, `task ${String(unknown)} is not in tasks.json`);
  return ids.filter((id) => chosen.has(id));
}

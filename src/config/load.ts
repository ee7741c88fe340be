/** Options from a file and from flags → one complete, checked, frozen RunConfig. */
import * as v from "valibot";
import { UserError } from "../base/errors.ts";
import type { ConfigFile } from "./files.ts";
import { didYouMean } from "./nearest.ts";
import { DOTTED, OPTION_NAMES, optionNamed } from "./options.ts";
import { refuseWhatIsNotHere } from "./refusals.ts";
import { type Command, firstViolation } from "./rules.ts";
import { type RunConfig, RunConfigSchema } from "./schema.ts";

export interface ConfigSources {
  readonly command: Command;
  readonly file: ConfigFile | null;
  /** By dotted name; they win over the file. */
  readonly flags: Readonly<Record<string, unknown>>;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly knownDomains: readonly string[];
  /** Does this run directory hold a run? Then one that nobody asked for by name is numbered. Absent: never. */
  readonly isTaken?: (log_dir: string) => boolean;
}

/** Throws a UserError that names the flag, or the file and its field. */
export function resolveConfig({
  command,
  file,
  flags,
  env,
  knownDomains,
  isTaken = () => false,
}: ConfigSources): RunConfig {
  const fromFile = file === null ? {} : flatten(file);
  const whereIs = (option: string) =>
    file !== null && option in fromFile && !(option in flags) ? `${file.where}: ${option}` : `--${option}`;
  const given = { ...fromFile, ...flags };
  for (const [option, value] of Object.entries(given)) checkValue(option, value, whereIs(option));
  if (given.model_name_or_path === undefined) {
    const where = file === null ? "--model_name_or_path" : `${file.where}: model_name_or_path`;
    throw new UserError(where, "is required: a model directory, a hub id, or builtin:quickstart");
  }

  const parsed = v.parse(RunConfigSchema, nested(given));
  const config = deepFreeze({
    ...parsed,
    tau2_data_dir: parsed.tau2_data_dir ?? (env.TAU2_DATA_DIR || null),
    log_dir:
      parsed.log_dir ??
      freeDirectory(
        `runs/${[file?.stem ?? "default", ...(command === "sft" ? ["sft"] : [])].join("-")}`,
        parsed.resume_from === null ? isTaken : () => false,
      ),
  });
  if (command !== "sft") checkDomains(config, knownDomains, whereIs("task_order"));
  const violation = firstViolation(config, command);
  if (violation !== null) throw new UserError(whereIs(violation.option), violation.sentence);
  return config;
}

/** `runs/quickstart`, else `runs/quickstart-2`, … */
function freeDirectory(name: string, isTaken: (log_dir: string) => boolean): string {
  let free = name;
  for (let number = 2; isTaken(free); number++) free = `${name}-${number}`;
  return free;
}

/** `{ user: { kind: "local" } }` → `{ "user.kind": "local" }`; unknown keys fail here. */
function flatten({ where, values }: ConfigFile): Record<string, unknown> {
  const flat: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(values)) {
    if (!isDotted(key)) flat[key] = value;
    else if (typeof value === "object" && value !== null && !Array.isArray(value)) {
      for (const [inner, innerValue] of Object.entries(value)) flat[`${key}.${inner}`] = innerValue;
    } else throw new UserError(`${where}: ${key}`, `expected options by name (model, …), got ${JSON.stringify(value)}`);
  }
  for (const key of Object.keys(flat)) {
    if (optionNamed(key) === undefined)
      throw new UserError(`${where}: ${key}`, `unknown option${didYouMean(key, OPTION_NAMES)}`);
  }
  return flat;
}

const isDotted = (key: string): boolean => DOTTED.some((section) => section === key);

function nested(flat: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const values: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(flat)) {
    const [section = "", inner] = name.split(".");
    if (inner === undefined) values[name] = value;
    else values[section] = { ...(values[section] as object | undefined), [inner]: value };
  }
  return values;
}

function checkValue(name: string, value: unknown, where: string): void {
  refuseWhatIsNotHere(name, value, where);
  const option = optionNamed(name);
  if (option === undefined) throw new UserError(where, `unknown option${didYouMean(name, OPTION_NAMES)}`);
  if (!v.safeParse(option.schema, value).success) {
    throw new UserError(where, `expected ${option.expects}, got ${JSON.stringify(value) ?? String(value)}`);
  }
}

function checkDomains({ task_order }: RunConfig, knownDomains: readonly string[], where: string): void {
  const unknown = task_order.find((name) => !knownDomains.includes(name));
  if (unknown === undefined) return;
  const known = `known are ${knownDomains.join(", ")}`;
  const guess = didYouMean(unknown, knownDomains);
  throw new UserError(where, `unknown domain "${unknown}"${guess}; ${known}`);
}

function deepFreeze<T>(value: T): T {
  if (typeof value === "object" && value !== null && !Object.isFrozen(value)) {
    for (const inner of Object.values(value)) deepFreeze(inner);
    Object.freeze(value);
  }
  return value;
}

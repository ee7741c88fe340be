/** `--kl_coef 0.1 --no-reset_optimizer --task_order airline retail` → option values by name. */
import { UserError } from "../base/errors.ts";
import { didYouMean } from "./nearest.ts";
import { OPTION_NAMES, type Option, optionNamed } from "./options.ts";

/** A flag that belongs to one command (`--json`, `--out`), not to the run's config. */
export interface CommandFlag {
  readonly name: string;
  readonly kind: "boolean" | "text";
  readonly description: string;
}

export interface ParsedFlags {
  /** Config options by dotted name, of the type that the option expects where the text could be read as such. */
  readonly options: Readonly<Record<string, unknown>>;
  /** The command's own flags. */
  readonly own: Readonly<Record<string, string | boolean>>;
}

/** Throws a UserError for an unknown flag, a flag without its value, and arguments that belong to no flag. */
export function parseFlags(argv: readonly string[], commandFlags: readonly CommandFlag[]): ParsedFlags {
  const options: Record<string, unknown> = {};
  const own: Record<string, string | boolean> = {};
  for (const { name, negated, values } of splitFlags(argv)) {
    const flag = commandFlags.find((known) => known.name === name);
    if (flag !== undefined) own[name] = ownValue(flag, negated, values);
    else {
      const option = optionNamed(name);
      if (option === undefined) throw unknownFlag(name, commandFlags);
      options[name] = optionValue(option, { negated, values, before: options[name] });
    }
  }
  return { options, own };
}

interface Flag {
  readonly name: string;
  readonly negated: boolean;
  readonly values: readonly string[];
}

/** Each `--name`, with what follows up to the next one. `-1` and `-0.5` are values. */
function splitFlags(argv: readonly string[]): Flag[] {
  const flags: (Flag & { values: string[] })[] = [];
  for (const argument of argv) {
    if (!argument.startsWith("--")) {
      const current = flags.at(-1);
      if (current === undefined) throw new UserError(argument, "is not a flag; options are written --name value");
      current.values.push(argument);
      continue;
    }
    const [name = "", ...rest] = argument.slice(2).split("=");
    const negated = name.startsWith("no-");
    flags.push({ name: negated ? name.slice(3) : name, negated, values: rest.length > 0 ? [rest.join("=")] : [] });
  }
  return flags;
}

function unknownFlag(name: string, commandFlags: readonly CommandFlag[]): UserError {
  const known = [...OPTION_NAMES, ...commandFlags.map((flag) => flag.name)];
  return new UserError(`--${name}`, `unknown flag${didYouMean(name, known, "--")}`);
}

function ownValue(flag: CommandFlag, negated: boolean, values: readonly string[]): string | boolean {
  if (flag.kind === "boolean") return switched(flag.name, negated, values);
  return single(flag.name, "text", negated, values);
}

function optionValue(option: Option, given: Omit<Flag, "name"> & { readonly before: unknown }): unknown {
  const { negated, values, before } = given;
  if (option.kind === "boolean") return switched(option.name, negated, values);
  if (option.kind === "list") {
    if (negated || values.length === 0) throw missingValue(option.name, option.expects);
    const names = values.flatMap((value) => value.split(",")).filter((value) => value !== "");
    return Array.isArray(before) ? [...before, ...names] : names;
  }
  const text = single(option.name, option.expects, negated, values);
  if (option.nullable && text === "null") return null;
  return option.kind === "integer" || option.kind === "number" ? numberOrText(text) : text;
}

function switched(name: string, negated: boolean, values: readonly string[]): boolean {
  const [text = "true", ...more] = values;
  if (more.length > 0 || (text !== "true" && text !== "false") || (negated && values.length > 0)) {
    throw new UserError(`--${negated ? "no-" : ""}${name}`, `expected true or false, got "${values.join(" ")}"`);
  }
  return negated ? false : text === "true";
}

function single(name: string, expects: string, negated: boolean, values: readonly string[]): string {
  if (negated)
    throw new UserError(
      `--no-${name}`,
      `only options that are true or false can be switched off so; --${name} expects ${expects}`,
    );
  const [text, stray] = values;
  if (text === undefined) throw missingValue(name, expects);
  if (stray !== undefined) throw new UserError(`--${name}`, `takes one value, got "${values.join(" ")}"`);
  return text;
}

const missingValue = (name: string, expects: string) => new UserError(`--${name}`, `needs a value: ${expects}`);

const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;

/** Text that is no number stays text, so that the check of types can name it. */
const numberOrText = (text: string): number | string => (NUMBER.test(text) ? Number(text) : text);

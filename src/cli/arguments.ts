/** What a command takes: its own flags, declared to citty, and (for train and eval) every option of the config. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { ArgsDef } from "citty";
import { UserError } from "../base/errors.ts";
import { readConfigFile } from "../config/files.ts";
import { type CommandFlag, type ParsedFlags, parseFlags } from "../config/flags.ts";
import { resolveConfig } from "../config/load.ts";
import { OPTIONS, optionNamed } from "../config/options.ts";
import type { Command } from "../config/rules.ts";
import type { RunConfig } from "../config/schema.ts";
import { holdsRun } from "../run/directory.ts";
import { registerDomainDirectories } from "../tau2/domains/directory.ts";
import type { Host } from "./host.ts";

/** citty reads these for nothing but names and help; values are parsed by config/flags.ts, which refuses what is unknown. */
export const CONFIG_ARGS: ArgsDef = {
  config: {
    type: "string",
    valueHint: "FILE|NAME",
    description: "Options from a .yaml, .toml, .json or .ts file, or from a config inside the binary. Flags win.",
  },
  ...Object.fromEntries(
    OPTIONS.map(({ name, kind, expects, description }) => [
      name,
      kind === "boolean"
        ? { type: "boolean" as const, description }
        : { type: "string" as const, description: `${description} (${expects})` },
    ]),
  ),
};

/** Does the command take the config's options? */
export const takesConfig = (args: ArgsDef): boolean => "config" in args;

/** The command's own flags: what `args` declares beside the config's options. */
export function ownFlags(args: ArgsDef): CommandFlag[] {
  return Object.entries(args)
    .filter(([name, { type }]) => type !== "positional" && !(takesConfig(args) && optionNamed(name) !== undefined))
    .map(([name, { type, description = "" }]) => ({
      name,
      description,
      kind: type === "boolean" ? "boolean" : "text",
    }));
}

/** For commands without config options: parses their own flags and refuses config options as unknown. */
export function parseOwnFlags(rawArgs: readonly string[], args: ArgsDef): ParsedFlags["own"] {
  return parseFlagsOf(rawArgs, args, []).own;
}

/** As `parseOwnFlags`, for commands that take `--domain_dir`: those domains are known afterwards; their names come back. */
export async function parseDomainFlags(
  rawArgs: readonly string[],
  { domain_dir: _, ...args }: ArgsDef,
): Promise<{ readonly own: ParsedFlags["own"]; readonly registered: readonly string[] }> {
  const { options, own } = parseFlagsOf(rawArgs, args, ["domain_dir"]);
  return { own, registered: await registerDomainDirectories(directoriesIn(options.domain_dir)) };
}

function parseFlagsOf(rawArgs: readonly string[], args: ArgsDef, allowed: readonly string[]): ParsedFlags {
  const { options, own } = parseFlags(rawArgs, ownFlags(args));
  const stray = Object.keys(options).find((name) => !allowed.includes(name));
  if (stray !== undefined) throw new UserError(`--${stray}`, "is an option of train and eval, not of this command");
  return { options, own };
}

export interface RunArguments {
  readonly config: RunConfig;
  readonly own: ParsedFlags["own"];
}

export async function parseRunArguments(
  host: Host,
  given: {
    readonly command: Command;
    readonly rawArgs: readonly string[];
    readonly args: ArgsDef;
    readonly knownDomains: readonly string[];
  },
): Promise<RunArguments> {
  const { options, own } = parseFlags(given.rawArgs, ownFlags(given.args));
  const path = typeof own.config === "string" ? own.config : configOfCheckpoint(options.resume_from);
  const file = path === null ? null : await readConfigFile(path);
  const { command } = given;
  const registered = await registerDomainDirectories(directoriesIn(options.domain_dir ?? file?.values.domain_dir));
  const knownDomains = [...new Set([...given.knownDomains, ...registered])];
  return {
    config: resolveConfig({ command, file, flags: options, env: host.env, knownDomains, isTaken: holdsRun }),
    own,
  };
}

/** What is no list of names is told by the check of types. */
function directoriesIn(value: unknown): string[] {
  return Array.isArray(value) ? value.filter((name) => typeof name === "string") : [];
}

/** `--resume_from` alone goes on with the config that the checkpoint, or run directory, holds. */
function configOfCheckpoint(resume_from: unknown): string | null {
  const file = typeof resume_from === "string" ? join(resume_from, "config.json") : null;
  return file !== null && existsSync(file) ? file : null;
}

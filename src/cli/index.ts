/** `grpo-cl COMMAND …`: finds the command, prints help, refuses what is unknown. */
import { type CommandDef, defineCommand, runCommand } from "citty";
import { UserError } from "../base/errors.ts";
import { didYouMean } from "../config/nearest.ts";
import { benchCommand } from "./bench.ts";
import { dataCommand } from "./data.ts";
import { doctorCommand } from "./doctor.ts";
import { evalCommand } from "./eval.ts";
import { helpText } from "./help.ts";
import type { Host } from "./host.ts";
import { licensesCommand } from "./licenses.ts";
import { metricsCommand } from "./metrics.ts";
import { planCommand } from "./plan.ts";
import { playCommand } from "./play.ts";
import { runScriptCommand } from "./run-script.ts";
import { sftCommand } from "./sft.ts";
import { tau2Command } from "./tau2.ts";
import { trainCommand } from "./train.ts";
import { VERSION, versionCommand } from "./version.ts";

const PROGRAM = "grpo-cl";

const rootCommand = (host: Host) =>
  defineCommand({
    meta: {
      name: PROGRAM,
      version: VERSION,
      description:
        "Continual reinforcement learning (GRPO) of tool-using language-model agents on tau2-bench's domains.",
    },
    subCommands: {
      train: trainCommand(host),
      eval: evalCommand(host),
      sft: sftCommand(host),
      plan: planCommand(host),
      metrics: metricsCommand(host),
      bench: benchCommand(host),
      run: runScriptCommand(host),
      data: dataCommand(host),
      play: playCommand(host),
      tau2: tau2Command(host),
      doctor: doctorCommand(host),
      version: versionCommand(host),
      licenses: licensesCommand(host),
    },
  });

/** Runs the command that `argv` (without the program's name) asks for. Throws what the command throws. */
export async function dispatch(host: Host, argv: readonly string[]): Promise<void> {
  const { command, path, rest } = find(rootCommand(host), argv);
  const [first] = rest;
  if (isRoot(path) && (first === "--version" || first === "-V")) return void host.print(`${VERSION}\n`);
  const asksForHelp = path.at(-1) === "run" ? isHelp(first) : rest.some(isHelp);
  if (asksForHelp || (command.run === undefined && first === undefined)) {
    return void host.print(`${await helpText(path.join(" "), command)}\n`);
  }
  if (command.run === undefined) throw unknownCommand(command, path, first);
  await runCommand(command, { rawArgs: [...rest] });
}

interface Found {
  readonly command: CommandDef;
  readonly path: readonly string[];
  readonly rest: readonly string[];
}

/** Follows sub-commands as far as the words go: `data check --json` → check, with `--json` left. */
function find(root: CommandDef, argv: readonly string[]): Found {
  let found: Found = { command: root, path: [PROGRAM], rest: argv[0] === "help" ? [...argv.slice(1), "--help"] : argv };
  for (;;) {
    const [word, ...rest] = found.rest;
    const next = word === undefined ? undefined : subCommandsOf(found.command)[word];
    if (word === undefined || next === undefined) return found;
    found = { command: next, path: [...found.path, word], rest };
  }
}

/** Ours are plain objects; citty would allow functions and promises, too. */
const subCommandsOf = (command: CommandDef) => (command.subCommands ?? {}) as Readonly<Record<string, CommandDef>>;

const isRoot = (path: readonly string[]) => path.length === 1;
const isHelp = (word: string | undefined) => word === "--help" || word === "-h";

function unknownCommand(command: CommandDef, path: readonly string[], word = ""): UserError {
  const known = Object.keys(subCommandsOf(command));
  const what = word.startsWith("-") ? "unknown flag before the command" : "unknown command";
  return new UserError(
    `${path.join(" ")} ${word}`,
    `${what}${didYouMean(word, known)}; commands are ${known.join(", ")}`,
  );
}

/** `--help`: what a command is for and takes, its options by topic. */
import type { ArgDef, ArgsDef, CommandDef, CommandMeta } from "citty";
import { type Option, optionNamed, shown } from "../config/options.ts";
import { takesConfig } from "./arguments.ts";

const TOPICS: Readonly<Record<string, string>> = {
  model: "Model",
  sequence: "Sequence of domains",
  tau2: "tau2 environments",
  sampling: "Sampling",
  grpo: "GRPO",
  optimizer: "Optimizer",
  evaluation: "Evaluation",
  cl: "Continual learning",
  lora: "LoRA",
  sft: "Supervised warm start",
  output: "Output",
  user: "Simulated user",
  judge: "Judge of natural-language assertions",
};

const WIDTH = 100;
const INDENT = 30;

/** `path` is how the command is called: `grpo-cl train`. */
export async function helpText(path: string, command: CommandDef): Promise<string> {
  const { description = "" } = (await resolved<CommandMeta>(command.meta)) ?? {};
  const args = (await resolved<ArgsDef>(command.args)) ?? {};
  const subCommands = (await resolved<Record<string, unknown>>(command.subCommands)) ?? {};
  const commands = await Promise.all(
    Object.entries(subCommands).map(async ([name, sub]) => entry(name, await purpose(sub as CommandDef))),
  );
  return [
    `${description}\n`,
    `Usage: ${path}${usageOf(args, commands.length > 0)}\n`,
    ...block("Commands", commands),
    ...argumentBlocks(args),
    ...(commands.length > 0 ? [`${path} COMMAND --help explains a command.`] : []),
  ].join("\n");
}

function usageOf(args: ArgsDef, hasCommands: boolean): string {
  if (hasCommands) return " COMMAND";
  const positional = Object.entries(args).filter(([, { type }]) => type === "positional");
  const flags = Object.values(args).some(({ type }) => type !== "positional") ? " [--option value …]" : "";
  return `${positional.map(([name]) => ` ${name.toUpperCase()}`).join("")}${flags}`;
}

function argumentBlocks(args: ArgsDef): string[] {
  const byTopic = new Map<string, string[]>();
  for (const [name, arg] of Object.entries(args)) {
    const option = takesConfig(args) ? optionNamed(name) : undefined;
    const topic = arg.type === "positional" ? "Arguments" : (TOPICS[option?.section ?? ""] ?? "Flags");
    byTopic.set(topic, [...(byTopic.get(topic) ?? []), argumentEntry(name, arg, option)]);
  }
  return [...byTopic].flatMap(([topic, entries]) => block(topic, entries));
}

function argumentEntry(name: string, arg: ArgDef, option: Option | undefined): string {
  if (arg.type === "positional") return entry(name.toUpperCase(), arg.description ?? "");
  const byDefault = option !== undefined && !option.required ? ` [${shown(option.byDefault)}]` : "";
  const value = option === undefined && arg.valueHint !== undefined ? ` ${arg.valueHint}` : "";
  return entry(`--${name}${value}`, `${arg.description ?? ""}${byDefault}`);
}

const block = (title: string, entries: readonly string[]) =>
  entries.length === 0 ? [] : [`${title}:`, ...entries, ""];

/** `  name    description`, the description wrapped in its column. */
function entry(name: string, description: string): string {
  const lines: string[] = [];
  let line = "";
  for (const word of description.split(" ")) {
    if (line !== "" && line.length + word.length + 1 > WIDTH - INDENT) {
      lines.push(line);
      line = word;
    } else line = line === "" ? word : `${line} ${word}`;
  }
  lines.push(line);
  const left = `  ${name}`;
  const first = left.length < INDENT ? left.padEnd(INDENT) : `${left}\n${" ".repeat(INDENT)}`;
  return first + lines.join(`\n${" ".repeat(INDENT)}`);
}

async function purpose(command: CommandDef): Promise<string> {
  return (await resolved<CommandMeta>(command.meta))?.description ?? "";
}

/** citty allows a value, a promise, or a function that gives either. */
async function resolved<T>(value: unknown): Promise<T | undefined> {
  return (typeof value === "function" ? await value() : await value) as T | undefined;
}

/** The memory plan in words: for a config, from config.json alone, against a device and this machine. */
import { existsSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../base/errors.ts";
import type { RunConfig } from "../config/schema.ts";
import { distinct } from "../curriculum/experience.ts";
import { toolsJson } from "../rollout/local-user.ts";
import { loadDomainOrNull } from "../tau2/domains/index.ts";
import type { Domain } from "../tau2/types.ts";
import { builtinModelDirectory } from "./builtin-model.ts";
import {
  type MemoryPlan,
  memoryPlan,
  nextRemedy,
  type PlanFacts,
  parameters,
  shapeOf,
  trainedParameters,
} from "./memory-plan.ts";

export interface MemoryOptions {
  /** Bytes; null: the core computes in this machine's memory. */
  readonly device_memory: number | null;
  /** Bytes of this machine. */
  readonly host_memory: number;
  readonly processors: number;
  /** Tokens of the longest conversation; null = as many as the options and the model allow. */
  readonly conversation_tokens: number | null;
  /** Tokens that a domain's conversations share; null = estimated from its policy text and tools. */
  readonly prompt_tokens: number | null;
  readonly env: Readonly<Record<string, string | undefined>>;
}

export interface MemoryReport {
  readonly text: string;
  readonly fits: boolean;
}

export async function memoryReport(config: RunConfig, options: MemoryOptions): Promise<MemoryReport> {
  const facts = await factsOf(config, options);
  const plan = memoryPlan(config, facts);
  const fits = fitsInto(plan, options);
  const lines = [
    ...headLines(config, facts, plan),
    "",
    ...termLines(plan),
    "",
    ...peakLines(plan, options),
    ...(fits ? [] : remedyLines(config, { facts, options })),
    "",
    ...variantLines(config, facts),
  ];
  return { text: `${lines.join("\n")}\n`, fits };
}

async function factsOf(config: RunConfig, options: MemoryOptions): Promise<PlanFacts> {
  const shapeIn = async (name: string, option: string) => {
    const file = join(await modelDirectory(name, { option, env: options.env }), "config.json");
    return shapeOf(readJson(file), file);
  };
  const shape = await shapeIn(config.model_name_or_path, "model_name_or_path");
  const domains = distinct(config.task_order).map((name) => loadDomainOrNull(name, config));
  const { kind, model } = config.user;
  const longest = Math.min(options.conversation_tokens ?? Number.POSITIVE_INFINITY, shape.context_tokens_max);
  const scripted = domains.every((domain) => domain?.scriptedUser !== undefined);
  return {
    shape,
    threads: config.num_threads || options.processors,
    conversation_tokens: longest,
    prompt_tokens: options.prompt_tokens ?? Math.min(...domains.map(promptEstimate), Math.floor(longest / 2)),
    user_shape: kind === "local" && model !== null ? await shapeIn(model, "user.model") : null,
    base_plays_user: (kind === "local" && model === null) || (kind === "auto" && !scripted && !config.solo_mode),
  };
}

/** Only config.json is needed, so no weights are looked for and nothing is downloaded. */
async function modelDirectory(
  name: string,
  { option, env }: { readonly option: string; readonly env: MemoryOptions["env"] },
): Promise<string> {
  if (name.startsWith("builtin:")) return builtinModelDirectory(name, env);
  const inside = join(name, "model");
  if (existsSync(join(inside, "config.json"))) return inside;
  if (existsSync(name) && statSync(name).isDirectory()) return name;
  throw new UserError(option, `"${name}" is no directory. The plan needs one with the model's config.json; no weights`);
}

function readJson(file: string): Readonly<Record<string, unknown>> {
  if (!existsSync(file)) throw new UserError(file, "the file is missing");
  try {
    return JSON.parse(readFileSync(file, "utf8"));
  } catch (error) {
    throw new UserError(file, `it is not JSON (${(error as Error).message})`, { cause: error });
  }
}

/** A token of English has about four characters. Templates may show less than whole schemas, hence never over half a conversation. */
const CHARACTERS_PER_TOKEN = 4;

function promptEstimate(domain: Domain | null): number {
  if (domain === null) return 0;
  const tools = toolsJson(domain.tools) ?? "";
  return Math.floor((domain.systemPrompt.length + tools.length) / CHARACTERS_PER_TOKEN);
}

// ---------------------------------------------------------------------------------------------------------------------
// Text

const fitsInto = (plan: MemoryPlan, { device_memory, host_memory }: MemoryOptions): boolean =>
  device_memory === null ? overall(plan) <= host_memory : plan.device <= device_memory && plan.host <= host_memory;

/** Where device and host are one memory. */
const overall = ({ peaks }: MemoryPlan): number =>
  Math.max(...Object.values(peaks).map(({ device, host }) => device + host));

function headLines(config: RunConfig, facts: PlanFacts, { pass, sequences }: MemoryPlan): string[] {
  const { shape } = facts;
  const trained = trainedParameters(shape, config);
  const all = parameters(shape);
  return [
    `Model: ${config.model_name_or_path} (${shape.architecture}, ${count(all)} parameters, ${trained === all ? "all" : count(trained)} trained), ${config.model_dtype}`,
    `Rollouts: ${count(sequences)} conversations at once, of up to ${count(pass.sequence_tokens)} tokens`,
    `Gradient: a tree of ${count(pass.tree_rows)} tokens, ${cutting(pass)}`,
    "Gradients, moments, masters and activations are float32; the device is the processor in this release.",
  ];
}

function cutting({ rows, trunk_rows, tree_rows }: MemoryPlan["pass"]): string {
  if (rows === tree_rows) return "at once";
  const parts = `in parts of up to ${count(rows)}`;
  return trunk_rows === 0 ? parts : `${parts} below a trunk of ${count(trunk_rows)}`;
}

function termLines({ terms }: MemoryPlan): string[] {
  const width = Math.max(...terms.map(({ name }) => name.length));
  const column = (bytes: number | null) => (bytes === null ? "" : size(bytes)).padStart(11);
  return [
    `${"".padEnd(width)}${"device".padStart(11)}${"host".padStart(11)}  during`,
    ...terms.map(({ name, bytes, where, during }) => {
      const cells = where === "device" ? [bytes, null] : [null, bytes];
      return `${name.padEnd(width)}${cells.map(column).join("")}  ${during.length === 3 ? "always" : during.join(", ")}`;
    }),
  ];
}

function peakLines(plan: MemoryPlan, options: MemoryOptions): string[] {
  const { device_memory, host_memory } = options;
  const phases = Object.entries(plan.peaks).map(
    ([phase, { device, host }]) => `  ${phase.padEnd(12)}device ${size(device)}, host ${size(host)}`,
  );
  const verdict =
    device_memory === null
      ? `${fitsInto(plan, options) ? "Fits" : "Does not fit"}: ${size(overall(plan))} of this machine's ${size(host_memory)}`
      : `${fitsInto(plan, options) ? "Fits" : "Does not fit"}: ${size(plan.device)} of the device's ${size(device_memory)}, ${size(plan.host)} of this machine's ${size(host_memory)}`;
  return ["At the height of", ...phases, verdict];
}

/** Changes on top of each other until it fits, the cheapest first. */
function remedyLines(
  config: RunConfig,
  { facts, options }: { readonly facts: PlanFacts; readonly options: MemoryOptions },
): string[] {
  const lines = ["What to change, the cheapest first, each on top of those before:"];
  let changed = config;
  for (let remedy = nextRemedy(changed, facts); remedy !== null; remedy = nextRemedy(changed, facts)) {
    changed = { ...changed, ...remedy.change };
    const plan = memoryPlan(changed, facts);
    const bytes = options.device_memory === null ? overall(plan) : plan.device;
    const flags = Object.entries(remedy.change).map(([name, value]) => `--${name} ${value}`);
    lines.push(`  ${flags.join(" ")}: ${size(bytes)} (${remedy.price})`);
    if (fitsInto(plan, options)) return [...lines, "  With these it fits."];
  }
  return [...lines, "  Nothing of this is enough: take a smaller model, or more memory."];
}

/** What the two largest switches are worth, whichever way they stand. */
function variantLines(config: RunConfig, facts: PlanFacts): string[] {
  const rank = config.lora_r || 16;
  const variants = [0, rank].flatMap((lora_r) =>
    [false, true].map((gradient_checkpointing) => ({ lora_r, gradient_checkpointing })),
  );
  return [
    "Height of the device, by LoRA and gradient_checkpointing:",
    ...variants.map((variant) => {
      const { device } = memoryPlan({ ...config, ...variant }, facts);
      return `  lora_r ${String(variant.lora_r).padEnd(4)} gradient_checkpointing ${String(variant.gradient_checkpointing).padEnd(6)} ${size(device).padStart(11)}`;
    }),
  ];
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

export function size(bytes: number): string {
  const unit = bytes < 1 ? 0 : Math.min(UNITS.length - 1, Math.floor(Math.log2(bytes) / 10));
  return `${(bytes / 1024 ** unit).toFixed(unit === 0 ? 0 : 2)} ${UNITS[unit]}`;
}

const count = (value: number): string => value.toLocaleString("en-US");

/** `80GiB`, `24 GB`, `512MiB`, bytes. */
export function bytesOf(text: string, where: string): number {
  const match = /^\s*(\d+(?:\.\d+)?)\s*([KMGTP]?)(i?)B?\s*$/i.exec(text);
  const power = ["", "K", "M", "G", "T", "P"].indexOf((match?.[2] ?? "").toUpperCase());
  if (match === null || power === -1)
    throw new UserError(where, `expected a size such as 80GiB or 24GB, got "${text}"`);
  return Math.floor(Number(match[1]) * (match[3] === "" && power > 0 ? 1000 : 1024) ** power);
}

/**
 * A model's name becomes a directory that the core can load: a local directory, a checkpoint of ours, a Hugging Face id
 * (downloaded into Hugging Face's own cache), or `builtin:quickstart`. What the core could not use is refused here, in
 * one sentence naming the file, before any weight is read.
 */
import { existsSync, statSync } from "node:fs";
import { open, readFile, stat } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { UserError } from "../base/errors.ts";
import { builtinModelDirectory } from "./builtin-model.ts";
import { type DownloadProgress, downloadModel } from "./hub.ts";

export { setEmbeddedModel } from "./builtin-model.ts";
export type { DownloadProgress } from "./hub.ts";

export interface ModelDirectoryOptions {
  /** Branch, tag or commit of a Hugging Face id. */
  readonly revision: string;
  /** HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_TOKEN_PATH, HF_ENDPOINT, HF_HUB_OFFLINE, XDG_CACHE_HOME, HOME. */
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly onProgress?: (progress: DownloadProgress) => void;
  readonly signal?: AbortSignal;
}

const WHERE = "model_name_or_path";
const HUB_ID = /^[A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*$/;
/** `architectures[0]` of config.json by its `model_type`. */
const ARCHITECTURES: Readonly<Record<string, string>> = {
  qwen2: "Qwen2ForCausalLM",
  qwen3: "Qwen3ForCausalLM",
  llama: "LlamaForCausalLM",
};

/** The checked directory of a model. Throws a UserError for what a person can repair. */
export async function resolveModelDirectory(nameOrPath: string, options: ModelDirectoryOptions): Promise<string> {
  const directory = await locate(nameOrPath, options);
  await checkModelDirectory(directory);
  return directory;
}

async function locate(nameOrPath: string, options: ModelDirectoryOptions): Promise<string> {
  if (nameOrPath.startsWith("builtin:")) return builtinModelDirectory(nameOrPath, options.env);
  const path = expanded(nameOrPath, options.env);
  if (existsSync(path)) return localDirectory(path);
  if (HUB_ID.test(nameOrPath)) return downloadModel(nameOrPath, options);
  throw new UserError(
    WHERE,
    `"${nameOrPath}" is neither a directory that exists nor a Hugging Face id. Give the path of a model directory, or an id such as Qwen/Qwen2.5-7B-Instruct`,
  );
}

export interface AdapterDirectory {
  readonly directory: string;
  /** Name or path of the model that it was trained on. */
  readonly base: string;
}

/** A directory with PEFT's adapter files in place of a model's; null for anything else. */
export async function adapterDirectory(
  nameOrPath: string,
  { env }: Pick<ModelDirectoryOptions, "env">,
): Promise<AdapterDirectory | null> {
  const directory = expanded(nameOrPath, env);
  const file = join(directory, "adapter_config.json");
  if (!existsSync(file) || existsSync(join(directory, "config.json"))) return null;
  const { base_model_name_or_path: base } = await jsonObject(file, "");
  if (typeof base !== "string" || base === "")
    throw new UserError(file, "base_model_name_or_path is missing: the adapter does not say which model it belongs to");
  return { directory, base };
}

const expanded = (path: string, env: ModelDirectoryOptions["env"]): string =>
  path.replace(/^~(?=\/|$)/, env.HOME ?? homedir());

/** A model directory as it is; a checkpoint (`checkpoint_task_0`) stands for its `model/`. */
function localDirectory(path: string): string {
  if (!statSync(path).isDirectory()) {
    throw new UserError(WHERE, `"${path}" is a file. Give the directory that holds config.json`);
  }
  const ofCheckpoint = join(path, "model");
  return existsSync(join(ofCheckpoint, "config.json")) ? ofCheckpoint : path;
}

/** Refuses a directory that the core cannot load or talk to; the message names the file and the remedy. */
export async function checkModelDirectory(directory: string): Promise<void> {
  await checkConfig(join(directory, "config.json"));
  await checkWeights(directory);
  await jsonObject(
    join(directory, "tokenizer.json"),
    "a fast tokenizer is needed (transformers' save_pretrained writes one)",
  );
  await checkChatTemplate(directory);
}

async function checkConfig(file: string): Promise<void> {
  const config = await jsonObject(file, "it is no Hugging Face model directory");
  const modelType = String(config.model_type);
  const expected = ARCHITECTURES[modelType];
  const declared = Array.isArray(config.architectures) ? String(config.architectures[0]) : expected;
  if (expected === undefined || declared !== expected) {
    const supported = Object.values(ARCHITECTURES).join(", ");
    throw new UserError(
      file,
      `the architecture ${declared ?? modelType} is not supported. Use a model of ${supported}`,
    );
  }
  if (config.quantization_config != null) {
    throw new UserError(file, "the weights are quantized. Use the model's float16, bfloat16 or float32 version");
  }
}

async function checkWeights(directory: string): Promise<void> {
  const index = join(directory, "model.safetensors.index.json");
  const files = existsSync(index) ? await shardsOf(index) : ["model.safetensors"];
  for (const file of files) await checkSafetensors(join(directory, file));
}

async function shardsOf(index: string): Promise<string[]> {
  const { weight_map } = await jsonObject(index, "");
  if (!isObject(weight_map)) throw new UserError(index, "it has no weight_map. Download the file again");
  return [...new Set(Object.values(weight_map).map(String))].sort();
}

/**
 * Format: u64 (little-endian) length of the header, a JSON header, then the tensors' bytes; the largest end among
 * `data_offsets` tells the file's size, so that a truncated copy and a Git LFS pointer are found without reading it.
 */
async function checkSafetensors(file: string): Promise<void> {
  if (!existsSync(file)) {
    throw new UserError(
      file,
      "the file is missing. Weights must be in safetensors (one file, or all shards of model.safetensors.index.json)",
    );
  }
  const { size } = await stat(file);
  const expected = await sizeInHeader(file, size);
  if (expected !== size) {
    throw new UserError(
      file,
      `it has ${size} bytes and its header says ${expected ?? "something else"}: it is truncated, or a Git LFS pointer. Copy or download it again`,
    );
  }
}

/** The safetensors library's own limit. */
const HEADER_BYTES_MAX = 100_000_000;

async function sizeInHeader(file: string, size: number): Promise<number | null> {
  const handle = await open(file);
  try {
    const prefix = Buffer.alloc(8);
    await handle.read(prefix, 0, 8, 0);
    const headerBytes = Number(prefix.readBigUInt64LE());
    if (headerBytes > Math.min(size - 8, HEADER_BYTES_MAX)) return null;
    const header = Buffer.alloc(headerBytes);
    await handle.read(header, 0, headerBytes, 8);
    return 8 + headerBytes + lastOffset(header.toString());
  } finally {
    await handle.close();
  }
}

function lastOffset(headerText: string): number {
  const header = parseJson(headerText);
  if (!isObject(header)) return Number.NaN;
  const ends = Object.values(header).map((tensor) =>
    isObject(tensor) && Array.isArray(tensor.data_offsets) ? Number(tensor.data_offsets[1]) : 0,
  );
  return ends.reduce((largest, end) => Math.max(largest, end), 0);
}

/** transformers looks in the same places: chat_template.jinja first, then tokenizer_config.json. */
async function checkChatTemplate(directory: string): Promise<void> {
  if (existsSync(join(directory, "chat_template.jinja"))) return;
  const file = join(directory, "tokenizer_config.json");
  const { chat_template } = await jsonObject(file, "it holds the chat template");
  if (chat_template == null) {
    throw new UserError(
      file,
      "it has no chat_template, and there is no chat_template.jinja. Use the model's instruct version, or add a template",
    );
  }
}

async function jsonObject(file: string, whyNeeded: string): Promise<Record<string, unknown>> {
  if (!existsSync(file)) throw new UserError(file, `the file is missing${whyNeeded && `: ${whyNeeded}`}`);
  const value = parseJson(await readFile(file, "utf8"));
  if (!isObject(value)) throw new UserError(file, "it is not a JSON object. Copy or download it again");
  return value;
}

/** undefined where the text is not JSON; the callers name the file. */
function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * What makes a checkpoint whole: manifest.json, written last, names every other file with its size and SHA-256.
 *
 *   checkpoint_task_0/
 *     model/                    loads in transformers
 *     trajectories.json         the memory
 *     config.json               of the run
 *     state/optimizer.safetensors, state/run.json, state/method.json, state/metrics.jsonl, state/ahead.json (may be absent)
 *     manifest.json
 */
import { createReadStream, existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join, relative } from "node:path";
import { UserError } from "../base/errors.ts";

export const FORMAT = 2;

export const FILES = {
  model: "model",
  /** With LoRA: PEFT's files of what is active. */
  adapter: "adapter",
  memory: "trajectories.json",
  config: "config.json",
  optimizer: "state/optimizer.safetensors",
  run: "state/run.json",
  method: "state/method.json",
  /** Where rollouts were made ahead. */
  ahead: "state/ahead.json",
  metrics: "state/metrics.jsonl",
  manifest: "manifest.json",
} as const;

export interface Manifest {
  readonly format: number;
  readonly files: readonly ManifestFile[];
}

export interface ManifestFile {
  /** Relative to the checkpoint. */
  readonly path: string;
  readonly bytes: number;
  readonly sha256: string;
}

/** Of all files below the directory. */
export async function manifestOf(directory: string): Promise<Manifest> {
  const paths = filesBelow(directory).filter((path) => path !== FILES.manifest);
  const files: ManifestFile[] = [];
  for (const path of paths) {
    const file = join(directory, path);
    files.push({ path, bytes: statSync(file).size, sha256: await sha256(file) });
  }
  return { format: FORMAT, files };
}

/** Compares every file with the manifest; a difference is a UserError that names the file. */
export async function verify(directory: string): Promise<void> {
  for (const { path, bytes, sha256: expected } of readManifest(directory).files) {
    const file = join(directory, path);
    if (!existsSync(file)) throw damaged(file, "the file is missing");
    const size = statSync(file).size;
    if (size !== bytes) throw damaged(file, `it has ${size} bytes, but ${bytes} were written`);
    if ((await sha256(file)) !== expected) throw damaged(file, "its content is not what was written");
  }
}

function readManifest(directory: string): Manifest {
  const path = join(directory, FILES.manifest);
  if (!existsSync(path)) throw new UserError(directory, `it is no checkpoint: ${FILES.manifest} is missing`);
  let manifest: Manifest;
  try {
    manifest = JSON.parse(readFileSync(path, "utf8"));
  } catch (error) {
    throw damaged(path, (error as Error).message);
  }
  if (manifest.format !== FORMAT)
    throw new UserError(path, `its format is ${manifest.format}, and this program reads ${FORMAT}`);
  return manifest;
}

const damaged = (file: string, what: string) =>
  new UserError(file, `the checkpoint is damaged: ${what}. Resume from another one`);

/** Sorted, with `/`. */
export function filesBelow(directory: string): string[] {
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(directory, join(entry.parentPath, entry.name)))
    .toSorted();
}

/** Streamed: a model's file may not fit the memory twice. */
async function sha256(file: string): Promise<string> {
  const hasher = new Bun.CryptoHasher("sha256");
  for await (const chunk of createReadStream(file, { highWaterMark: 1 << 20 })) hasher.update(chunk as Buffer);
  return hasher.digest("hex");
}

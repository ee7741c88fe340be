/**
 * `builtin:quickstart`: the small agent model that comes with the program. From a clone it is configs/quickstart-model
 * itself; the binary carries its files and lays them out once in the user's cache, since the core loads directories.
 */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { chmod, mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { UserError } from "../base/errors.ts";

/** File name → where the binary can read it (`import … with { type: "file" }`). */
export type EmbeddedModel = Readonly<Record<string, string>>;

const NAME = "builtin:quickstart";
let embedded: EmbeddedModel | null = null;

/** Called once by main.ts inside the binary; in a clone nobody calls it. */
export function setEmbeddedModel(files: EmbeddedModel): void {
  embedded = files;
}

export async function builtinModelDirectory(
  name: string,
  env: Readonly<Record<string, string | undefined>>,
): Promise<string> {
  if (name !== NAME) throw new UserError("model_name_or_path", `there is no "${name}". The built-in model is ${NAME}`);
  if (embedded === null) return sourceDirectory();
  const cache = env.XDG_CACHE_HOME || join(env.HOME ?? homedir(), ".cache");
  return extracted(await contents(embedded), join(cache, "grpo-cl", "models"));
}

function sourceDirectory(): string {
  return fileURLToPath(new URL("../../configs/quickstart-model", import.meta.url));
}

type Contents = ReadonlyMap<string, Uint8Array>;

async function contents(files: EmbeddedModel): Promise<Contents> {
  const names = Object.keys(files).sort();
  return new Map(
    await Promise.all(names.map(async (name) => [name, await Bun.file(files[name] as string).bytes()] as const)),
  );
}

/** The directory's name carries the hash of what must be in it, so versions do not meet and damage is found. */
async function extracted(files: Contents, models: string): Promise<string> {
  const digest = digestOf(files);
  const directory = join(models, `quickstart-${digest.slice(0, 16)}`);
  if ((await digestOfDirectory(directory)) === digest) return directory;
  await mkdir(models, { recursive: true, mode: 0o700 });
  const fresh = await written(files, models, basename(directory));
  try {
    await rename(fresh, directory);
  } catch {
    await replace(fresh, directory, digest);
  }
  return directory;
}

/** Something has the name: what another process has just written, or a damaged copy. */
async function replace(fresh: string, directory: string, digest: string): Promise<void> {
  if ((await digestOfDirectory(directory)) === digest) return rm(fresh, { recursive: true });
  await rm(directory, { recursive: true, force: true });
  await rename(fresh, directory);
}

async function written(files: Contents, parent: string, name: string): Promise<string> {
  const directory = await mkdtemp(join(parent, `.${name}-`));
  await chmod(directory, 0o700);
  for (const [file, bytes] of files) {
    await writeFile(join(directory, file), bytes, { mode: 0o600, flush: true });
  }
  return directory;
}

async function digestOfDirectory(directory: string): Promise<string | null> {
  if (!existsSync(directory)) return null;
  const names = (await readdir(directory)).sort();
  const files = await Promise.all(names.map(async (name) => [name, await readFile(join(directory, name))] as const));
  return digestOf(new Map(files));
}

/** SHA-256 over names and contents, each with its length, in the order of names. */
function digestOf(files: Contents): string {
  const hash = createHash("sha256");
  for (const [name, bytes] of files) hash.update(`${name.length} ${name} ${bytes.length} `).update(bytes);
  return hash.digest("hex");
}

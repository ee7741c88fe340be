/** Finds and opens the Rust core's shared library, once per path: an engine's threads may outlive its close. */
import { dlopen } from "bun:ffi";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { UserError } from "../base/errors.ts";
import { ABI_VERSION, SYMBOLS } from "./abi.ts";

export type Library = ReturnType<typeof dlopen<typeof SYMBOLS>>["symbols"];

const FILE_NAME = "libgrpo_core.so";
/** Where Bun shows files that are inside a compiled binary. */
const EMBEDDED_ROOT = "/$bunfs/";

const opened = new Map<string, Library>();
let cacheDirectory = join(homedir(), ".cache", "grpo-cl");

/** Called once by main.ts: where an embedded library is unpacked when Bun's own place is mounted noexec. */
export function setLibraryCache(directory: string): void {
  cacheDirectory = directory;
}

/**
 * Opens the library at `path`, also one inside the binary (`import … with { type: "file" }`); null: the one that cargo
 * built from this clone.
 */
export function openLibrary(path: string | null): Library {
  const file = path ?? builtLibrary();
  const library = opened.get(file) ?? checkedVersion(file, loaded(file));
  opened.set(file, library);
  return library;
}

function builtLibrary(): string {
  const targets = [join(homedir(), ".cache/grpo-cl/target"), fileURLToPath(new URL("../../target", import.meta.url))];
  const file = targets.map((target) => join(target, "release", FILE_NAME)).find(existsSync);
  if (file !== undefined) return file;
  throw new UserError(
    "core library",
    `there is no ${FILE_NAME} in ${targets.join(" or ")}. Build it with scripts/build`,
  );
}

function loaded(file: string): Library {
  try {
    return dlopen(file, SYMBOLS).symbols;
  } catch (error) {
    if (!file.startsWith(EMBEDDED_ROOT)) throw unusable(file, error);
  }
  const copy = extractedLibrary(readFileSync(file), cacheDirectory);
  try {
    return dlopen(copy, SYMBOLS).symbols;
  } catch (error) {
    throw unusable(copy, error);
  }
}

const unusable = (file: string, error: unknown) =>
  new UserError("core library", `${file} cannot be opened: ${error instanceof Error ? error.message : error}`);

/**
 * Writes the library to `directory` under the hash of its bytes, unless it is there already and unharmed. Written beside
 * and renamed, so that two processes at once do no harm. Returns its path.
 */
export function extractedLibrary(bytes: Uint8Array, directory: string): string {
  const digest = hashOf(bytes);
  const file = join(directory, `libgrpo_core-${digest.slice(0, 16)}.so`);
  if (existsSync(file) && hashOf(readFileSync(file)) === digest) return file;
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const fresh = `${file}.${process.pid}.new`;
  writeFileSync(fresh, bytes, { mode: 0o700, flush: true });
  renameSync(fresh, file);
  if (hashOf(readFileSync(file)) !== digest) throw new UserError("core library", `${file} changes under our hands`);
  return file;
}

const hashOf = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

function checkedVersion(file: string, library: Library): Library {
  const theirs = library.grpo_abi_version();
  checkAbiVersion(file, theirs);
  return library;
}

/** A library of another build would read our structs wrongly. */
export function checkAbiVersion(file: string, theirs: number): void {
  if (theirs === ABI_VERSION) return;
  throw new UserError(
    "core library",
    `${file} speaks ABI version ${theirs}, this program ${ABI_VERSION}. Build both from one commit with scripts/build`,
  );
}

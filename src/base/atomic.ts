/** Files that are whole or not there: written beside, fsynced, renamed. A crash leaves the old file or the new one. */
import { closeSync, existsSync, fsyncSync, openSync, renameSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { basename, dirname, join } from "node:path";

/** Survives a power cut. */
export function writeFileAtomic(path: string, content: string | Uint8Array): void {
  const beside = besideOf(path);
  const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
  const file = openSync(beside, "w");
  try {
    for (let at = 0; at < bytes.length; ) at += writeSync(file, bytes, at);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
  renameSync(beside, path);
  syncDirectory(dirname(path));
}

/** Whole for every reader, and after a crash of this process; not held to a power cut, hence quick. For what can be made anew. */
export function replaceFile(path: string, content: string | Uint8Array): void {
  const beside = besideOf(path);
  writeFileSync(beside, content);
  renameSync(beside, path);
}

/**
 * Puts the directory `staged` at `path`; one that was there goes away last, so that at every moment a whole one exists
 * under `path` or under the name that `previousOf` gives.
 */
export function replaceDirectory(staged: string, path: string): void {
  const previous = previousOf(path);
  if (existsSync(path)) {
    rmSync(previous, { recursive: true, force: true });
    renameSync(path, previous);
  }
  renameSync(staged, path);
  syncDirectory(dirname(path));
  rmSync(previous, { recursive: true, force: true });
}

/** Where a file or directory is written before it gets its name. */
export const besideOf = (path: string): string => join(dirname(path), `.${basename(path)}.tmp`);

/** Where the old directory waits while the new one gets its name. */
export const previousOf = (path: string): string => join(dirname(path), `.${basename(path)}.previous`);

/** Makes what was written to a file survive a power cut. */
export function syncFile(path: string): void {
  const file = openSync(path, "r+");
  try {
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}

/** Makes names in a directory survive a power cut. */
export function syncDirectory(path: string): void {
  const directory = openSync(path, "r");
  try {
    fsyncSync(directory);
  } finally {
    closeSync(directory);
  }
}

/** One file of a model into the cache's `blobs/`: resumed where it stopped, checked against the hub's hash, then named. */
import { createHash, type Hash } from "node:crypto";
import { constants, createReadStream } from "node:fs";
import { type FileHandle, open, rename, rm, stat } from "node:fs/promises";
import { UserError } from "../base/errors.ts";
import { networkError, type Repository, request, retrying, stallGuard, Transient } from "./hub-http.ts";

export interface RemoteFile {
  readonly name: string;
  readonly bytes: number;
  /** SHA-256 of a large file, git blob SHA-1 of a small one: the blob's name in the cache. */
  readonly etag: string;
}

export interface BlobJob {
  readonly url: string;
  readonly file: RemoteFile;
  /** The blob's path; the part that has arrived lies beside it as `.incomplete`. */
  readonly blob: string;
  readonly onBytes: (bytes: number) => void;
}

/** Brings the blob, if it is not there, whole and checked. */
export async function ensureBlob(repository: Repository, job: BlobJob): Promise<void> {
  const { blob, file, onBytes } = job;
  if ((await sizeOf(blob)) !== file.bytes) {
    await retrying(repository, () => download(repository, job));
    await renameOnce(incompleteOf(blob), blob);
  }
  onBytes(file.bytes);
}

export const incompleteOf = (blob: string) => `${blob}.incomplete`;

/** Another process may have finished the same file: both wrote the same bytes at the same places. */
async function renameOnce(from: string, to: string): Promise<void> {
  try {
    await rename(from, to);
  } catch (error) {
    if ((await sizeOf(to)) === null) throw error;
  }
}

/** One attempt: what `incomplete` already holds is kept, and the whole is checked. */
async function download(repository: Repository, { url, file, blob, onBytes }: BlobJob): Promise<void> {
  const incomplete = incompleteOf(blob);
  const kept = Math.min((await sizeOf(incomplete)) ?? 0, file.bytes);
  const sink = await openSink(file, incomplete, kept);
  try {
    if (kept < file.bytes) await receive(repository, url, sink, onBytes);
    await sink.handle.sync();
  } finally {
    await sink.handle.close();
  }
  if (sink.position < file.bytes) throw new Transient(`${file.name} was cut short`, sink.position > kept);
  if (sink.position > file.bytes || !sink.hash.matches()) {
    await rm(incomplete, { force: true });
    if (kept > 0) throw new Transient(`the part of ${file.name} that an earlier call left was damaged`);
    throw new UserError(
      file.name,
      `it arrived damaged from ${repository.hub.endpoint}: its hash is not the one that the hub states. Try again, or another HF_ENDPOINT`,
    );
  }
}

interface Sink {
  readonly handle: FileHandle;
  position: number;
  hash: BlobHash;
  /** Back to the first byte. */
  readonly restart: () => void;
}

async function openSink(file: RemoteFile, incomplete: string, kept: number): Promise<Sink> {
  const hash = blobHash(file);
  if (kept > 0) for await (const chunk of createReadStream(incomplete, { end: kept - 1 })) hash.update(chunk);
  const sink: Sink = {
    handle: await open(incomplete, constants.O_RDWR | constants.O_CREAT), // never truncated: see renameOnce
    position: kept,
    hash,
    restart: () => Object.assign(sink, { position: 0, hash: blobHash(file) }),
  };
  return sink;
}

async function receive(
  repository: Repository,
  url: string,
  sink: Sink,
  onBytes: (bytes: number) => void,
): Promise<void> {
  const start = sink.position;
  const headers: Record<string, string> = start > 0 ? { Range: `bytes=${start}-` } : {};
  using stall = stallGuard(repository.signal);
  const response = await request({ ...repository, signal: stall.signal }, url, { headers });
  if (response.status !== 206) sink.restart(); // a server without Range sends it all again
  try {
    for await (const chunk of response.body ?? []) {
      stall.alive();
      await sink.handle.write(chunk, 0, chunk.length, sink.position);
      sink.hash.update(chunk);
      sink.position += chunk.length;
      onBytes(sink.position);
    }
  } catch (error) {
    throw networkError(error, stall.signal, sink.position > start);
  }
}

interface BlobHash {
  update(chunk: Uint8Array): void;
  matches(): boolean;
}

/** The hub's ETag is a SHA-256 (LFS, Xet) or git's SHA-1 of `blob <size>\0<content>`; others can only be sized. */
function blobHash({ etag, bytes }: RemoteFile): BlobHash {
  const hash: Hash | null = /^[0-9a-f]{64}$/.test(etag)
    ? createHash("sha256")
    : /^[0-9a-f]{40}$/.test(etag)
      ? createHash("sha1").update(`blob ${bytes}\0`)
      : null;
  return { update: (chunk) => hash?.update(chunk), matches: () => hash === null || hash.digest("hex") === etag };
}

export async function sizeOf(path: string): Promise<number | null> {
  return stat(path).then(
    ({ size }) => size,
    () => null,
  );
}

/**
 * Downloads a model from a Hugging Face endpoint into the cache that huggingface_hub shares (`blobs/`, `snapshots/`,
 * `refs/`), so that a model fetched by either is there for both. An interrupted download goes on where it stopped, every
 * file is checked against the hash that the hub states, and the token goes to the endpoint's host alone.
 *
 * Own code instead of npm @huggingface/hub: its downloadFileToCacheDir (2.17) neither resumes, reports progress, checks
 * hashes nor works offline, and follows redirects with the caller's headers.
 */
import { createHash, type Hash } from "node:crypto";
import { constants, createReadStream } from "node:fs";
import { type FileHandle, mkdir, open, readFile, readlink, rename, rm, stat, statfs, symlink } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import pLimit from "p-limit";
import pRetry from "p-retry";
import { writeFileAtomic } from "../base/atomic.ts";
import { UserError } from "../base/errors.ts";

export interface DownloadProgress {
  readonly model: string;
  /** Of all files together, those already in the cache included. */
  readonly receivedBytes: number;
  readonly totalBytes: number;
}

export interface DownloadOptions {
  readonly revision: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly onProgress?: (progress: DownloadProgress) => void;
  readonly signal?: AbortSignal;
}

const WHERE = "model_name_or_path";
/** What the core reads; other weight formats and folders of a repository stay where they are. */
const NEEDED =
  /^(config|generation_config|tokenizer[\w.-]*|chat_template[\w.-]*)\.(json|jinja)$|^model(-\d+-of-\d+)?\.safetensors$|^model\.safetensors\.index\.json$/;
const REVISION = /^\w[\w.-]*(\/\w[\w.-]*)*$/;
const COMMIT = /^[0-9a-f]{40}$/;
const PARALLEL_FILES = 4;
const STALL_MS = 30_000;
const REDIRECTS_MAX = 5;
/** Waits of about 0.3, 0.9, 2.7 and 8 s; an attempt that brought bytes costs none of them. */
const BACKOFF = { minTimeout: 300, factor: 3, randomize: true } as const;
const RETRIES = 4;
/** The first contact: a person without network should not wait long for the news. */
const RETRIES_LISTING = 2;

interface Hub {
  readonly endpoint: string;
  readonly cache: string;
  readonly token: string | null;
  readonly offline: boolean;
}

/** A model at a revision, and where the cache keeps it. */
interface Repository {
  readonly hub: Hub;
  readonly id: string;
  readonly revision: string;
  readonly folder: string;
  readonly signal: AbortSignal | undefined;
}

interface RemoteFile {
  readonly name: string;
  readonly bytes: number;
  /** SHA-256 of a large file, git blob SHA-1 of a small one: the blob's name in the cache. */
  readonly etag: string;
}

/** The snapshot directory of `id` (`organisation/name`), complete. Throws a UserError for what a person can repair. */
export async function downloadModel(id: string, options: DownloadOptions): Promise<string> {
  const { revision, env, signal } = options;
  if (!REVISION.test(revision)) throw new UserError("revision", `"${revision}" is no branch, tag or commit`);
  const hub = await hubSettings(env);
  const folder = join(hub.cache, `models--${id.replace("/", "--")}`);
  const repository = { hub, id, revision, folder, signal };
  if (hub.offline) return cachedSnapshot(repository);
  try {
    return await downloadSnapshot(repository, options.onProgress ?? (() => {}));
  } catch (error) {
    if (error instanceof Transient) throw unreachable(repository, error);
    throw error;
  }
}

/** The variables and files of huggingface_hub, with its precedence. */
async function hubSettings(env: DownloadOptions["env"]): Promise<Hub> {
  const caches = env.XDG_CACHE_HOME || join(env.HOME ?? homedir(), ".cache");
  const home = env.HF_HOME || join(caches, "huggingface");
  const file = await readFile(env.HF_TOKEN_PATH || join(home, "token"), "utf8").catch(() => "");
  return {
    endpoint: endpointOf(env.HF_ENDPOINT || "https://huggingface.co"),
    cache: env.HF_HUB_CACHE || join(home, "hub"),
    token: tokenOf(env.HF_TOKEN || env.HUGGING_FACE_HUB_TOKEN || file),
    offline: [env.HF_HUB_OFFLINE, env.TRANSFORMERS_OFFLINE].some((flag) => /^(1|on|yes|true)$/i.test(flag ?? "")),
  };
}

/** Checked here, since fetch would quote a header that it cannot send. */
function tokenOf(text: string): string | null {
  const token = text.trim();
  if (/[^\x21-\x7e]/.test(token)) throw new UserError("HF_TOKEN", "it holds characters that no token has");
  return token || null;
}

function endpointOf(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : null;
  if (url === null || !/^https?:$/.test(url.protocol)) throw new UserError("HF_ENDPOINT", "it is not an http(s) URL");
  return `${url.origin}${url.pathname}`.replace(/\/+$/, "");
}

async function cachedSnapshot({ hub, id, revision, folder }: Repository): Promise<string> {
  const commit = COMMIT.test(revision)
    ? revision
    : await readFile(join(folder, "refs", revision), "utf8").catch(() => "");
  const snapshot = join(folder, "snapshots", commit.trim());
  if (commit !== "" && (await sizeOf(snapshot)) !== null) return snapshot;
  throw new UserError(
    WHERE,
    `${id} (revision ${revision}) is not in the cache ${hub.cache}, and HF_HUB_OFFLINE forbids to download it. Unset HF_HUB_OFFLINE, or point HF_HOME to a cache that has the model`,
  );
}

/** refs/<revision> is written last: it names complete snapshots only. */
async function downloadSnapshot(
  repository: Repository,
  onProgress: (progress: DownloadProgress) => void,
): Promise<string> {
  const { id, revision, folder } = repository;
  const { commit, names } = await listing(repository);
  const files = await inParallel(names, repository, (name, signal) =>
    remoteFile({ ...repository, signal }, commit, name),
  );
  await checkDiskSpace(repository, files);
  const progress = totals(id, files, onProgress);
  const snapshot = join(folder, "snapshots", commit);
  await inParallel(files, repository, async (file, signal) => {
    await ensureBlob({ ...repository, signal }, commit, file, (bytes) => progress(file, bytes));
    await link(snapshot, file);
  });
  if (!COMMIT.test(revision)) writeFileAtomic(await parentMade(join(folder, "refs", revision)), commit);
  return snapshot;
}

/** A few at once, results in order; the first failure stops the others. */
async function inParallel<T, R>(
  items: readonly T[],
  { signal }: Repository,
  work: (item: T, signal: AbortSignal) => Promise<R>,
): Promise<R[]> {
  const stop = new AbortController();
  const both = signal ? AbortSignal.any([signal, stop.signal]) : stop.signal;
  const limit = pLimit(PARALLEL_FILES);
  try {
    return await Promise.all(items.map((item) => limit(() => work(item, both))));
  } catch (error) {
    stop.abort(error);
    throw error;
  }
}

async function listing(repository: Repository): Promise<{ commit: string; names: string[] }> {
  const { hub, id, revision } = repository;
  const url = `${hub.endpoint}/api/models/${id}/revision/${encodeURIComponent(revision)}`;
  const info: unknown = await retrying(
    repository,
    async () => (await request(repository, url, {})).json(),
    RETRIES_LISTING,
  );
  const { sha, siblings } = (info ?? {}) as { sha?: unknown; siblings?: { rfilename?: unknown }[] };
  if (typeof sha !== "string" || !COMMIT.test(sha) || !Array.isArray(siblings)) {
    throw new UserError("HF_ENDPOINT", `${hub.endpoint} does not answer like a Hugging Face hub`);
  }
  return { commit: sha, names: siblings.map(({ rfilename }) => String(rfilename)).filter((name) => NEEDED.test(name)) };
}

/** Size and hash, from the headers that the hub sends before it redirects to the storage of large files. */
async function remoteFile(repository: Repository, commit: string, name: string): Promise<RemoteFile> {
  const url = fileUrl(repository, commit, name);
  const { headers } = await retrying(repository, () => request(repository, url, { method: "HEAD" }));
  const etag = (headers.get("x-linked-etag") ?? headers.get("etag") ?? "").replace(/^W\/|"/g, "");
  const bytes = Number(headers.get("x-linked-size") ?? headers.get("content-length") ?? Number.NaN);
  if (!/^[\w-]+$/.test(etag) || !Number.isSafeInteger(bytes)) {
    throw new UserError("HF_ENDPOINT", `${repository.hub.endpoint} states no size and ETag for ${name}`);
  }
  return { name, bytes, etag };
}

const fileUrl = ({ hub, id }: Repository, commit: string, name: string) =>
  `${hub.endpoint}/${id}/resolve/${commit}/${encodeURIComponent(name)}`;

const blobPath = ({ folder }: Repository, { etag }: RemoteFile) => join(folder, "blobs", etag);

async function checkDiskSpace(repository: Repository, files: readonly RemoteFile[]): Promise<void> {
  const { hub, folder, id } = repository;
  await mkdir(join(folder, "blobs"), { recursive: true });
  const missing = await Promise.all(
    files.map(async (file) => {
      const blob = blobPath(repository, file);
      return (await sizeOf(blob)) === file.bytes ? 0 : file.bytes - ((await sizeOf(`${blob}.incomplete`)) ?? 0);
    }),
  );
  const needed = missing.reduce((sum, bytes) => sum + bytes, 0);
  const { bavail, bsize } = await statfs(folder);
  if (needed <= bavail * bsize) return;
  const gigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(1)} GB`;
  throw new UserError(
    hub.cache,
    `${id} needs ${gigabytes(needed)} and ${gigabytes(bavail * bsize)} are free. Set HF_HOME to a larger disk`,
  );
}

function totals(model: string, files: readonly RemoteFile[], onProgress: (progress: DownloadProgress) => void) {
  const totalBytes = files.reduce((sum, file) => sum + file.bytes, 0);
  const received = new Map<RemoteFile, number>();
  return (file: RemoteFile, bytes: number) => {
    received.set(file, bytes);
    onProgress({ model, receivedBytes: [...received.values()].reduce((sum, each) => sum + each, 0), totalBytes });
  };
}

async function ensureBlob(
  repository: Repository,
  commit: string,
  file: RemoteFile,
  onBytes: (bytes: number) => void,
): Promise<void> {
  const blob = blobPath(repository, file);
  if ((await sizeOf(blob)) !== file.bytes) {
    const url = fileUrl(repository, commit, file.name);
    await retrying(repository, () => download(repository, { url, file, incomplete: `${blob}.incomplete`, onBytes }));
    await renameOnce(`${blob}.incomplete`, blob);
  }
  onBytes(file.bytes);
}

/** Another process may have finished the same file: both wrote the same bytes at the same places. */
async function renameOnce(from: string, to: string): Promise<void> {
  try {
    await rename(from, to);
  } catch (error) {
    if ((await sizeOf(to)) === null) throw error;
  }
}

interface Download {
  readonly url: string;
  readonly file: RemoteFile;
  readonly incomplete: string;
  readonly onBytes: (bytes: number) => void;
}

/** One attempt: what `incomplete` already holds is kept, and the whole is checked. */
async function download(repository: Repository, { url, file, incomplete, onBytes }: Download): Promise<void> {
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
    throw networkError(error, repository, sink.position > start);
  }
}

/** Aborts a transfer that brings nothing for STALL_MS. */
function stallGuard(outer: AbortSignal | undefined) {
  const controller = new AbortController();
  const stalled = () => controller.abort(new Transient(`nothing arrived for ${STALL_MS / 1000} s`));
  let timer = setTimeout(stalled, STALL_MS);
  return {
    signal: outer ? AbortSignal.any([outer, controller.signal]) : controller.signal,
    alive: () => {
      clearTimeout(timer);
      timer = setTimeout(stalled, STALL_MS);
    },
    [Symbol.dispose]: () => clearTimeout(timer),
  };
}

interface BlobHash {
  update(chunk: Uint8Array): void;
  matches(): boolean;
}

/** The hub's ETag is a SHA-256 (LFS, Xet) or git's SHA-1 of `blob <size>\0<content>`; others can only be sized. */
function blobHash({ etag, bytes }: RemoteFile): BlobHash {
  const hash: Hash | null = /^[0-9a-f]{64}$/.test(etag)
    ? createHash("sha256")
    : COMMIT.test(etag)
      ? createHash("sha1").update(`blob ${bytes}\0`)
      : null;
  return { update: (chunk) => hash?.update(chunk), matches: () => hash === null || hash.digest("hex") === etag };
}

async function link(snapshot: string, { name, etag }: RemoteFile): Promise<void> {
  const target = join("..", "..", "blobs", etag);
  const path = await parentMade(join(snapshot, name));
  if ((await readlink(path).catch(() => null)) === target) return;
  await rm(path, { force: true });
  await symlink(target, path);
}

/** Worth another attempt: the network, a busy or failing server, a transfer cut short. */
class Transient extends Error {
  constructor(
    message: string,
    readonly progressed = false,
  ) {
    super(message);
  }
}

function retrying<T>({ signal }: Repository, attempt: () => Promise<T>, retries = RETRIES): Promise<T> {
  return pRetry(attempt, {
    ...BACKOFF,
    retries,
    signal,
    shouldRetry: ({ error }) => error instanceof Transient,
    shouldConsumeRetry: ({ error }) => !(error instanceof Transient && error.progressed),
  });
}

/**
 * Follows redirects itself: the token goes to the endpoint's origin only, and a HEAD stops before another origin, since
 * the hub's own answer carries the size and hash.
 */
async function request(
  repository: Repository,
  url: string,
  { method = "GET", headers = {} }: { method?: "GET" | "HEAD"; headers?: Record<string, string> },
): Promise<Response> {
  const { hub, signal } = repository;
  let target = new URL(url);
  for (let hop = 0; hop <= REDIRECTS_MAX; hop++) {
    const ours = target.origin === new URL(hub.endpoint).origin;
    const authorization: Record<string, string> = ours && hub.token ? { Authorization: `Bearer ${hub.token}` } : {};
    const response = await fetch(target, {
      method,
      headers: { "Accept-Encoding": "identity", ...headers, ...authorization },
      redirect: "manual",
      signal,
    }).catch((error: unknown) => {
      throw networkError(error, repository);
    });
    const location = response.headers.get("location");
    if (response.status < 300 || response.status >= 400 || location === null) return accepted(response, repository);
    const next = new URL(location, target);
    if (method === "HEAD" && next.origin !== target.origin) return response;
    target = next;
  }
  throw new Transient(`more than ${REDIRECTS_MAX} redirects`);
}

/** Nothing of the request is quoted: a storage URL is a secret, and so is a header. */
function networkError(error: unknown, { signal }: Repository, progressed = false): unknown {
  if (signal?.aborted) return signal.reason;
  const { code, name } = error as { code?: unknown; name?: unknown };
  return new Transient(`network error ${code ?? name}`, progressed);
}

function accepted(response: Response, repository: Repository): Response {
  const { status } = response;
  if (status >= 200 && status < 300) return response;
  if (status === 408 || status === 429 || status >= 500) throw new Transient(`the server answered ${status}`);
  throw refused(status, response.headers.get("x-error-code"), repository);
}

function refused(status: number, code: string | null, { hub, id, revision }: Repository): UserError {
  const page = `${hub.endpoint}/${id}`;
  if (code === "GatedRepo" || status === 403) {
    return new UserError(
      WHERE,
      `${id} is gated (${status}). Accept its licence at ${page} and set HF_TOKEN to a token that may read it`,
    );
  }
  if (code === "RevisionNotFound")
    return new UserError("revision", `${id} has no branch, tag or commit "${revision}". See ${page}/tree/main`);
  if (status === 401 && hub.token !== null) {
    return new UserError(
      WHERE,
      `${hub.endpoint} refuses the token for ${id} (401): it is not valid, or the model does not exist. Check HF_TOKEN and the spelling`,
    );
  }
  if (status === 401 || status === 404) {
    return new UserError(
      WHERE,
      `"${id}" is no directory here, and ${hub.endpoint} knows no such public model (${status}). Check the spelling; for a private model set HF_TOKEN`,
    );
  }
  return new UserError(WHERE, `${hub.endpoint} answered ${status} for ${id}`);
}

function unreachable({ hub, id }: Repository, { message }: Transient): UserError {
  return new UserError(
    WHERE,
    `${id} could not be downloaded from ${hub.endpoint} (${message}). Run the same command again to go on where it stopped; with a copy in the cache, HF_HUB_OFFLINE=1 needs no network; a local directory can be given instead`,
  );
}

async function sizeOf(path: string): Promise<number | null> {
  return stat(path).then(
    ({ size }) => size,
    () => null,
  );
}

async function parentMade(path: string): Promise<string> {
  await mkdir(dirname(path), { recursive: true });
  return path;
}

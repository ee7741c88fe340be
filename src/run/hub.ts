/**
 * Downloads a model from a Hugging Face endpoint into the cache that huggingface_hub shares (`blobs/`, `snapshots/`,
 * `refs/`), so that a model fetched by either is there for both. An interrupted download goes on where it stopped, every
 * file is checked against the hash that the hub states, and the token goes to the endpoint's host alone.
 *
 * Own code instead of npm @huggingface/hub: its downloadFileToCacheDir (2.17) neither resumes, reports progress, checks
 * hashes nor works offline, and follows redirects with the caller's headers.
 */
import { mkdir, readFile, readlink, rm, statfs, symlink } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import pLimit from "p-limit";
import { writeFileAtomic } from "../base/atomic.ts";
import { UserError } from "../base/errors.ts";
import { ensureBlob, incompleteOf, type RemoteFile, sizeOf } from "./hub-blob.ts";
import { type Hub, RETRIES_FIRST_CONTACT, type Repository, request, retrying, Transient, WHERE } from "./hub-http.ts";

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

/** What the core reads; other weight formats and folders of a repository stay where they are. */
const NEEDED =
  /^(config|generation_config|tokenizer[\w.-]*|chat_template[\w.-]*)\.(json|jinja)$|^model(-\d+-of-\d+)?\.safetensors$|^model\.safetensors\.index\.json$/;
const REVISION = /^\w[\w.-]*(\/\w[\w.-]*)*$/;
const COMMIT = /^[0-9a-f]{40}$/;
const PARALLEL_FILES = 4;
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

function unreachable({ hub, id }: Repository, { message }: Transient): UserError {
  return new UserError(
    WHERE,
    `${id} could not be downloaded from ${hub.endpoint} (${message}). Run the same command again to go on where it stopped; with a copy in the cache, HF_HUB_OFFLINE=1 needs no network; a local directory can be given instead`,
  );
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
    const url = fileUrl(repository, commit, file.name);
    const onBytes = (bytes: number) => progress(file, bytes);
    await ensureBlob({ ...repository, signal }, { url, file, blob: blobPath(repository, file), onBytes });
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
    async () => (await request(repository, url)).json().catch(() => null),
    RETRIES_FIRST_CONTACT,
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
      return (await sizeOf(blob)) === file.bytes ? 0 : file.bytes - ((await sizeOf(incompleteOf(blob))) ?? 0);
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

async function link(snapshot: string, { name, etag }: RemoteFile): Promise<void> {
  const target = join("..", "..", "blobs", etag);
  const path = await parentMade(join(snapshot, name));
  if ((await readlink(path).catch(() => null)) === target) return;
  await rm(path, { force: true });
  await symlink(target, path);
}

async function parentMade(path: string): Promise<string> {
  await mkdir(dirname(path), { recursive: true });
  return path;
}

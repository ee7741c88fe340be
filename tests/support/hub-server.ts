/**
 * A small Hugging Face hub on 127.0.0.1: the revision API, HEAD and GET of files with Range and ETag, and a second
 * server on another port for large files, reached by redirect as on the real hub. It remembers every request.
 */
import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export interface HubRepository {
  readonly commit: string;
  readonly files: Readonly<Record<string, Uint8Array>>;
  /** Branches and tags besides the commit itself. */
  readonly revisions?: readonly string[];
  /** "private" hides the model without the token, "gated" refuses its files without it. */
  readonly access?: "private" | "gated";
}

/** What goes wrong with the next GET of a file; used up by it. */
export type Mishap =
  | { readonly kind: "cut"; readonly afterBytes: number }
  | { readonly kind: "flip" }
  | { readonly kind: "status"; readonly status: number };

export interface HubRequest {
  readonly server: "hub" | "storage";
  readonly method: string;
  readonly path: string;
  readonly authorization: string | undefined;
  readonly range: string | undefined;
}

export interface HubServer extends AsyncDisposable {
  readonly url: string;
  readonly requests: HubRequest[];
  /** File name → mishaps of its next requests, in order. */
  readonly mishaps: Map<string, Mishap[]>;
}

export const VALID_TOKEN = "hf_valid_secret";

export async function hubServer(repositories: Readonly<Record<string, HubRepository>>): Promise<HubServer> {
  const requests: HubRequest[] = [];
  const mishaps = new Map<string, Mishap[]>();
  const remember = (server: HubRequest["server"], { method, url, headers }: IncomingMessage) =>
    requests.push({
      server,
      method: method ?? "",
      path: url ?? "",
      authorization: headers.authorization,
      range: headers.range,
    });
  const storage = createServer((request, response) => {
    remember("storage", request);
    const { id, name } = Object.fromEntries(new URL(request.url ?? "", "http://x").searchParams) as {
      id: string;
      name: string;
    };
    sendFile(request, response, {
      name,
      bytes: repositories[id]?.files[name] as Uint8Array,
      mishap: mishaps.get(name)?.shift(),
    });
  });
  const storageUrl = await listening(storage);
  const hub = createServer((request, response) => {
    remember("hub", request);
    answer({ request, response, repositories, mishaps, storageUrl });
  });
  const url = await listening(hub);
  const stop = (server: Server) => new Promise<void>((resolve) => server.close(() => resolve()));
  return {
    url,
    requests,
    mishaps,
    [Symbol.asyncDispose]: async () => {
      for (const server of [hub, storage]) server.closeAllConnections();
      await Promise.all([stop(hub), stop(storage)]);
    },
  };
}

async function listening(server: Server): Promise<string> {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

interface Call {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly repositories: Readonly<Record<string, HubRepository>>;
  readonly mishaps: Map<string, Mishap[]>;
  readonly storageUrl: string;
}

const LISTING = /^\/api\/models\/([^/]+\/[^/]+)\/revision\/([^/]+)$/;
const FILE = /^\/([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/;

function answer(call: Call): ServerResponse {
  const { pathname } = new URL(call.request.url ?? "", "http://x");
  const [, id = "", revision = "", name] = (LISTING.exec(pathname) ?? FILE.exec(pathname) ?? []).map(
    decodeURIComponent,
  );
  const repository = call.repositories[id];
  const token = call.request.headers.authorization;
  if (token !== undefined && token !== `Bearer ${VALID_TOKEN}`) return refuse(call, 401, null);
  const hidden = repository === undefined || (repository.access === "private" && token === undefined);
  if (hidden) return refuse(call, token === undefined ? 401 : 404, "RepoNotFound");
  if (![repository.commit, "main", ...(repository.revisions ?? [])].includes(revision))
    return refuse(call, 404, "RevisionNotFound");
  if (name === undefined) return sendListing(call, id, repository);
  if (repository.access === "gated" && token === undefined) return refuse(call, 401, "GatedRepo");
  return sendEntry(call, id, repository, name);
}

function refuse({ response }: Call, status: number, code: string | null): ServerResponse {
  return response.writeHead(status, code === null ? {} : { "x-error-code": code }).end();
}

function sendListing({ response }: Call, id: string, { commit, files }: HubRepository): ServerResponse {
  const siblings = Object.keys(files).map((rfilename) => ({ rfilename }));
  return response
    .writeHead(200, { "content-type": "application/json" })
    .end(JSON.stringify({ id, sha: commit, siblings }));
}

function sendEntry(call: Call, id: string, { commit, files }: HubRepository, name: string): ServerResponse {
  const { request, response, storageUrl, mishaps } = call;
  const bytes = files[name];
  if (bytes === undefined) return refuse(call, 404, "EntryNotFound");
  response.setHeader("x-repo-commit", commit);
  if (!isLarge(name)) {
    response.setHeader("etag", `"${gitBlobSha1(bytes)}"`);
    return sendFile(request, response, {
      name,
      bytes,
      mishap: request.method === "GET" ? mishaps.get(name)?.shift() : undefined,
    });
  }
  const etag = createHash("sha256").update(bytes).digest("hex");
  const location = `${storageUrl}/blob?${new URLSearchParams({ id, name, signature: "storage-secret" })}`;
  return response.writeHead(302, { location, "x-linked-etag": `"${etag}"`, "x-linked-size": bytes.length }).end();
}

/** The hub keeps these in LFS. */
const isLarge = (name: string) => name.endsWith(".safetensors") || name === "tokenizer.json";

export const gitBlobSha1 = (bytes: Uint8Array) =>
  createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");

interface Sent {
  readonly name: string;
  readonly bytes: Uint8Array;
  readonly mishap: Mishap | undefined;
}

function sendFile(request: IncomingMessage, response: ServerResponse, { bytes, mishap }: Sent): ServerResponse {
  if (mishap?.kind === "status") return response.writeHead(mishap.status).end();
  const start = Number(/^bytes=(\d+)-/.exec(request.headers.range ?? "")?.[1] ?? 0);
  const body = Buffer.from(bytes.subarray(start));
  if (mishap?.kind === "flip") body.writeUInt8(body.readUInt8(0) ^ 1, 0);
  if (start > 0) response.setHeader("content-range", `bytes ${start}-${bytes.length - 1}/${bytes.length}`);
  response.writeHead(start > 0 ? 206 : 200, { "content-length": body.length });
  if (request.method === "HEAD") return response.end();
  if (mishap?.kind !== "cut") return response.end(body);
  response.write(body.subarray(0, mishap.afterBytes));
  setTimeout(() => response.destroy(), 50); // once the first part is through
  return response;
}

/** Hub ids: cache layout, resume, offline use, tokens, and what each refusal tells a person. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { UserError } from "../../src/base/errors.ts";
import { type DownloadProgress, resolveModelDirectory } from "../../src/run/model-directory.ts";
import { gitBlobSha1, type HubServer, hubServer, VALID_TOKEN } from "../support/hub-server.ts";
import { modelFiles } from "./model-files.ts";

const COMMIT = "0123456789abcdef0123456789abcdef01234567";
const ID = "acme/tiny";
const FILES = modelFiles({ weightBytes: 300_000, shards: 2 });
const FOLDER = "models--acme--tiny";

let home: string;
let server: HubServer;

beforeEach(async () => {
  home = mkdtempSync(join(tmpdir(), "hub-test-"));
  const files = {
    ...FILES,
    "README.md": Buffer.from("no"),
    "onnx/model.safetensors": Buffer.from("no"),
    "pytorch_model.bin": Buffer.from("no"),
  };
  server = await hubServer({
    [ID]: { commit: COMMIT, files, revisions: ["v1", "refs/pr/1"] },
    "acme/private": { commit: COMMIT, files, access: "private" },
    "acme/gated": { commit: COMMIT, files, access: "gated" },
  });
});

afterEach(async () => {
  await server[Symbol.asyncDispose]();
  rmSync(home, { recursive: true });
});

interface Given {
  readonly revision?: string;
  readonly env?: Record<string, string>;
  readonly onProgress?: (progress: DownloadProgress) => void;
  readonly signal?: AbortSignal;
}

const resolve = (name: string, { revision = "main", env = {}, onProgress, signal }: Given = {}) =>
  resolveModelDirectory(name, {
    revision,
    env: { HF_HOME: home, HF_ENDPOINT: server.url, ...env },
    onProgress,
    signal,
  });

async function refusal(name: string, given: Given = {}): Promise<string> {
  const error = await resolve(name, given).then(
    () => null,
    (error: unknown) => error,
  );
  expect(error).toBeInstanceOf(UserError);
  return (error as UserError).message.replaceAll(server.url, "ENDPOINT").replaceAll(home, "HOME");
}

const bytesOf = (name: string) => Buffer.from(FILES[name] as Uint8Array);
const gets = (name: string) => server.requests.filter(({ method, path }) => method === "GET" && path.includes(name));

describe("cache", () => {
  test("has huggingface_hub's layout and only the files a model needs", async () => {
    const directory = await resolve(ID);
    expect(directory).toBe(join(home, "hub", FOLDER, "snapshots", COMMIT));
    for (const [name, bytes] of Object.entries(FILES))
      expect(readFileSync(join(directory, name))).toEqual(Buffer.from(bytes));
    for (const name of ["README.md", "onnx", "pytorch_model.bin"])
      expect(existsSync(join(directory, name))).toBe(false);
    expect(readFileSync(join(home, "hub", FOLDER, "refs", "main"), "utf8")).toBe(COMMIT);
    expect(readlinkSync(join(directory, "config.json"))).toBe(`../../blobs/${gitBlobSha1(bytesOf("config.json"))}`);
  });

  test("a second call fetches no file again", async () => {
    await resolve(ID);
    const before = gets("/resolve/").length;
    await resolve(ID);
    expect(gets("/resolve/").length).toBe(before);
  });

  test.each(["v1", "refs/pr/1", COMMIT])("revision %s", async (revision) => {
    expect(await resolve(ID, { revision })).toEndWith(COMMIT);
    expect(existsSync(join(home, "hub", FOLDER, "refs", revision))).toBe(revision !== COMMIT);
  });

  test("HF_HUB_CACHE wins over HF_HOME", async () => {
    const cache = join(home, "elsewhere");
    expect(await resolve(ID, { env: { HF_HUB_CACHE: cache } })).toStartWith(cache);
  });

  test("offline it answers from the cache without any request", async () => {
    const directory = await resolve(ID);
    server.requests.length = 0;
    expect(await resolve(ID, { env: { HF_HUB_OFFLINE: "1" } })).toBe(directory);
    expect(await resolve(ID, { env: { HF_HUB_OFFLINE: "1" }, revision: COMMIT })).toBe(directory);
    expect(server.requests).toEqual([]);
  });
});

describe("transfer", () => {
  const SHARD = "model-00001-of-00002.safetensors";

  test("goes on after an interruption where it stopped, within one call", async () => {
    server.mishaps.set(SHARD, [{ kind: "cut", afterBytes: 100_000 }]);
    const directory = await resolve(ID);
    expect(readFileSync(join(directory, SHARD))).toEqual(bytesOf(SHARD));
    const ranges = server.requests
      .filter(({ server: at, path }) => at === "storage" && path.includes(SHARD))
      .map(({ range }) => range);
    expect(ranges[0]).toBeUndefined();
    expect(ranges.length).toBe(2);
    expect(Number(/^bytes=(\d+)-$/.exec(ranges[1] ?? "")?.[1])).toBeGreaterThan(0);
  });

  test("goes on in a later process from what .incomplete holds", async () => {
    const directory = await resolve(ID);
    const blob = join(directory, readlinkSync(join(directory, SHARD)));
    rmSync(blob);
    writeFileSync(`${blob}.incomplete`, bytesOf(SHARD).subarray(0, 70_000));
    server.requests.length = 0;
    await resolve(ID);
    expect(readFileSync(blob)).toEqual(bytesOf(SHARD));
    expect(server.requests.filter(({ server: at }) => at === "storage").map(({ range }) => range)).toEqual([
      "bytes=70000-",
    ]);
  });

  test.each([SHARD, "config.json"])("a damaged %s is found, not used, and right the next time", async (name) => {
    server.mishaps.set(name, [{ kind: "flip" }]);
    expect(await refusal(ID)).toStartWith(`${name}: it arrived damaged from ENDPOINT`);
    expect(existsSync(join(home, "hub", FOLDER, "refs", "main"))).toBe(false);
    expect(readFileSync(join(await resolve(ID), name))).toEqual(bytesOf(name));
  });

  test("a damaged .incomplete of an earlier process is found", async () => {
    const directory = await resolve(ID);
    const blob = join(directory, readlinkSync(join(directory, SHARD)));
    rmSync(blob);
    writeFileSync(`${blob}.incomplete`, Buffer.alloc(70_000, 7));
    await resolve(ID);
    expect(readFileSync(blob)).toEqual(bytesOf(SHARD));
  });

  test("a storage address that has expired is asked for anew", async () => {
    server.mishaps.set(SHARD, [{ kind: "status", status: 403 }]);
    expect(await resolve(ID)).toEndWith(COMMIT);
  });

  test("a server that fails now and then is asked again", async () => {
    server.mishaps.set(SHARD, [
      { kind: "status", status: 503 },
      { kind: "status", status: 429 },
    ]);
    expect(await resolve(ID)).toEndWith(COMMIT);
  });

  test("reports bytes that only grow and end at the total", async () => {
    const seen: DownloadProgress[] = [];
    await resolve(ID, { onProgress: (progress) => seen.push(progress) });
    const total = Object.values(FILES).reduce((sum, { length }) => sum + length, 0);
    expect(seen.at(-1)).toEqual({ model: ID, receivedBytes: total, totalBytes: total });
    expect(seen.every(({ receivedBytes }, i) => i === 0 || receivedBytes >= (seen[i - 1]?.receivedBytes ?? 0))).toBe(
      true,
    );
  });

  test("an abort ends it at once and leaves what arrived for the next call", async () => {
    const controller = new AbortController();
    const done = resolve(ID, { signal: controller.signal, onProgress: () => controller.abort(new Error("stopped")) });
    await expect(done).rejects.toThrow("stopped");
    expect(await resolve(ID)).toEndWith(COMMIT);
  });
});

describe("token", () => {
  const written = (name: string, env: Record<string, string>) => {
    writeFileSync(join(home, name), `${VALID_TOKEN}\n`);
    return env;
  };
  const sources: [string, () => Record<string, string>][] = [
    ["HF_TOKEN", () => ({ HF_TOKEN: VALID_TOKEN })],
    ["the token file", () => written("token", {})],
    ["HF_TOKEN_PATH", () => written("t", { HF_TOKEN_PATH: join(home, "t") })],
  ];
  test.each(sources)("from %s opens private and gated models", async (_, env) => {
    for (const id of ["acme/private", "acme/gated"]) expect(await resolve(id, { env: env() })).toEndWith(COMMIT);
  });

  test("goes to the endpoint only, not to the storage it redirects to", async () => {
    await resolve(ID, { env: { HF_TOKEN: VALID_TOKEN } });
    const at = (which: string) =>
      server.requests.filter(({ server }) => server === which).map(({ authorization }) => authorization);
    expect(new Set(at("hub"))).toEqual(new Set([`Bearer ${VALID_TOKEN}`]));
    expect(new Set(at("storage"))).toEqual(new Set([undefined]));
  });

  test("stands in no error", async () => {
    server.mishaps.set("config.json", [{ kind: "status", status: 418 }]);
    const error = await resolve(ID, { env: { HF_TOKEN: VALID_TOKEN } }).catch((error: unknown) => error);
    expect(error).toBeInstanceOf(UserError);
    expect(Bun.inspect(error, { depth: 20 })).not.toContain("secret");
  });

  test("nor does a storage's signed address", async () => {
    server.mishaps.set("tokenizer.json", [{ kind: "flip" }]);
    const error = await resolve(ID, { env: { HF_TOKEN: VALID_TOKEN } }).catch((error: unknown) => error);
    expect(error).toBeInstanceOf(UserError);
    expect(Bun.inspect(error, { depth: 20 })).not.toContain("secret");
  });
});

describe("refusals say what to do", () => {
  test.each([
    ["no directory, no id", "qwen", {}, /neither a directory that exists nor a Hugging Face id/],
    [
      "unknown id",
      "acme/nothing",
      {},
      /"acme\/nothing" is no directory here, and ENDPOINT knows no such public model \(401\)/,
    ],
    ["private", "acme/private", {}, /for a private model set HF_TOKEN/],
    ["gated", "acme/gated", {}, /is gated \(401\)\. Accept its licence at ENDPOINT\/acme\/gated and set HF_TOKEN/],
    ["bad token", ID, { env: { HF_TOKEN: "hf_wrong" } }, /refuses the token.*Check HF_TOKEN/],
    ["unknown with token", "acme/nothing", { env: { HF_TOKEN: VALID_TOKEN } }, /\(404\)\. Check the spelling/],
    ["unknown revision", ID, { revision: "v9" }, /^revision: acme\/tiny has no branch, tag or commit "v9"/],
    ["revision that leaves the cache", ID, { revision: "../../x" }, /^revision: /],
    ["offline, not cached", ID, { env: { HF_HUB_OFFLINE: "1" } }, /is not in the cache HOME\/hub, and HF_HUB_OFFLINE/],
    ["token of two lines", ID, { env: { HF_TOKEN: "hf_a\nb" } }, /^HF_TOKEN: it holds characters that no token has$/],
    ["endpoint that is no URL", ID, { env: { HF_ENDPOINT: "hub" } }, /^HF_ENDPOINT: it is not an http\(s\) URL/],
  ] as [string, string, Given, RegExp][])("%s", async (_, name, given, message) => {
    expect(await refusal(name, given)).toMatch(message);
  });

  test("no network", async () => {
    expect(await refusal(ID, { env: { HF_ENDPOINT: "http://127.0.0.1:9" } })).toMatch(
      /could not be downloaded .* HF_HUB_OFFLINE=1/,
    );
  });
});

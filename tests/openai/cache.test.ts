/** Answers on disk: what counts as an equal request, who asks when several do, and what is never kept. */
import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { UserError } from "../../src/base/errors.ts";
import { dumps } from "../../src/base/exact.ts";
import { Budget } from "../../src/rollout/budget.ts";
import { type OpenaiConfig, openaiEndpoint } from "../../src/rollout/openai.ts";
import type { Reply } from "../../src/tau2/types.ts";
import type { ChatRequest } from "../../src/tau2/user.ts";
import { openaiServer, type Script } from "../support/openai-server.ts";

const root = mkdtempSync(join(tmpdir(), "grpo-cl-cache-"));
afterAll(() => rmSync(root, { recursive: true }));

let directories = 0;
const directory = () => join(root, `cache-${directories++}`);
const filesIn = (path: string): string[] =>
  readdirSync(path, { recursive: true, encoding: "utf8" })
    .filter((name) => /\.\w+$/.test(name))
    .map((name) => join(path, name));

const endpointOf = (base_url: string, cache_dir: string, fields: Partial<OpenaiConfig> = {}) =>
  openaiEndpoint({
    role: "user",
    config: {
      model: "sim-1",
      base_url,
      api_key_env: "NONE",
      temperature: 0,
      timeout_s: 5,
      max_retries: 0,
      requests_per_minute: null,
      max_concurrent_requests: 16,
      cache_dir,
      price_per_million_input_tokens: 1,
      price_per_million_output_tokens: 1,
      ...fields,
    },
    env: {},
    now: () => performance.now(),
    budget: new Budget({ limit_usd: null }),
  });

const request = (content = "Hi!"): ChatRequest => ({ messages: [{ role: "user", content }], tools: null });
const numbered: Script = (_, call) => `Answer ${call}.`;

test("equal requests at once are one request; later ones and other processes find it on disk", async () => {
  using server = openaiServer(numbered);
  const cache_dir = directory();
  const endpoint = endpointOf(server.url, cache_dir);
  const replies = await Promise.all(Array.from({ length: 8 }, () => endpoint.completion({ seed: 1 })(request())));
  expect(replies).toEqual(Array(8).fill({ content: "Answer 0.", tool_calls: null }));
  expect(endpoint.usage).toMatchObject({ calls: 1, cached_calls: 7 });
  const later = endpointOf(server.url, cache_dir);
  const complete = later.completion({ seed: 2 });
  expect(await complete(request())).toEqual({ content: "Answer 0.", tool_calls: null });
  expect(later.usage).toEqual({ calls: 0, cached_calls: 1, input_tokens: 0, output_tokens: 0, cost_usd: 0 });
  expect(complete.costUsd()).toBeGreaterThan(0); // what the reply is worth, so that metrics repeat
  expect(server.requests.length).toBe(1);
  expect(filesIn(cache_dir).length).toBe(1);
});

test("two processes that ask at once go on with the same answer", async () => {
  using server = openaiServer(numbered);
  const cache_dir = directory();
  const replies = await Promise.all(
    Array.from({ length: 6 }, () => endpointOf(server.url, cache_dir).completion({ seed: 1 })(request())),
  );
  expect(new Set(replies.map((reply) => JSON.stringify(reply))).size).toBe(1);
  expect(server.requests.length).toBe(6);
  expect(filesIn(cache_dir).map((file) => file.slice(-5))).toEqual([".json"]);
});

test.each<[string, Partial<OpenaiConfig>, Partial<OpenaiConfig>, number]>([
  ["another model", {}, { model: "sim-2" }, 2],
  ["another temperature", {}, { temperature: 0.5 }, 2],
  ["other limits and prices", {}, { timeout_s: 9, requests_per_minute: 1000, price_per_million_input_tokens: 7 }, 1],
])("%s", async (_, first, second, requests) => {
  using server = openaiServer(numbered);
  const cache_dir = directory();
  for (const fields of [first, second])
    await endpointOf(server.url, cache_dir, fields).completion({ seed: 1 })(request());
  expect(server.requests.length).toBe(requests);
});

test("another server, other words, and above temperature 0 another seed are other requests", async () => {
  using server = openaiServer(numbered);
  using other = openaiServer(numbered);
  const cache_dir = directory();
  const ask = (url: string, seed: number, content?: string) =>
    endpointOf(url, cache_dir, { temperature: 1 }).completion({ seed })(request(content));
  for (const seed of [1, 2, 1]) await ask(server.url, seed);
  expect(server.requests.length).toBe(2);
  await ask(server.url, 1, "Ho!");
  expect(server.requests.length).toBe(3);
  await ask(other.url, 1);
  expect(other.requests.length).toBe(1);
});

test("tool calls come back as they were, 2.0 a float", async () => {
  const call = { id: "c1", type: "function", function: { name: "pay", arguments: '{"10": 2.0, "2": 2}' } };
  using server = openaiServer(() => ({ kind: "message", message: { content: null, tool_calls: [call] } }));
  const cache_dir = directory();
  const replies = [];
  for (let i = 0; i < 2; i++) replies.push(await endpointOf(server.url, cache_dir).completion({ seed: 1 })(request()));
  const [paid, kept] = replies.map((reply) => dumps((reply as Reply).tool_calls as never));
  expect(kept).toBe(paid as string);
  expect(kept).toContain('{"10": 2.0, "2": 2}');
  expect(server.requests.length).toBe(1);
});

test("failures are not kept; answers that the asker cannot use are replaced", async () => {
  using server = openaiServer((_, call) => (call === 0 ? { kind: "raw", text: "<html>" } : `Answer ${call}.`));
  const cache_dir = directory();
  const complete = endpointOf(server.url, cache_dir).completion({ seed: 1 });
  expect(await complete(request())).toMatchObject({ end: "infrastructure_error" });
  expect(await complete(request())).toMatchObject({ content: "Answer 1." });
  const flawOf = ({ content }: Reply) => (content === "Answer 1." ? "is the old one" : null);
  expect(await complete({ ...request(), flawOf })).toMatchObject({ content: "Answer 2." });
  expect(await complete({ ...request(), flawOf })).toMatchObject({ content: "Answer 2." });
  expect(await complete(request())).toMatchObject({ content: "Answer 2." });
  expect(server.requests.length).toBe(3);
});

test("a damaged file is named", async () => {
  using server = openaiServer(numbered);
  const cache_dir = directory();
  const complete = endpointOf(server.url, cache_dir).completion({ seed: 1 });
  await complete(request());
  const [file = ""] = filesIn(cache_dir);
  writeFileSync(file, readFileSync(file, "utf8").slice(0, -20));
  const error = await complete(request()).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(UserError);
  expect((error as Error).message).toBe(`${file}: the stored answer is damaged. Delete the file`);
});

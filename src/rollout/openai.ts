/**
 * A model behind any OpenAI-compatible endpoint (`/chat/completions`): retries, rate and concurrency limits, answers kept
 * on disk, tokens and dollars. The key is read from the one environment variable that the configuration names, travels in
 * one header to one origin, and stands in no message and no file.
 */
import { setTimeout as sleep } from "node:timers/promises";
import pLimit, { type LimitFunction } from "p-limit";
import pRetry from "p-retry";
import { UserError } from "../base/errors.ts";
import { isObject, tryParseExact } from "../base/exact.ts";
import type { EndOfConversation, Reply } from "../tau2/types.ts";
import type { ChatCompletion, ChatRequest } from "../tau2/user.ts";
import { AnswerCache } from "./answer-cache.ts";
import type { Budget } from "./budget.ts";
import { type Answer, field, replyOf, requestBody, type Tokens, tokensOf, UnreadableAnswer } from "./chat-format.ts";

/** `user.*` or `judge.*` of the configuration, as far as it concerns an endpoint. */
export interface OpenaiConfig {
  readonly model: string | null;
  /** null = OpenAI's own. */
  readonly base_url: string | null;
  readonly api_key_env: string;
  readonly temperature: number;
  readonly timeout_s: number;
  readonly max_retries: number;
  readonly requests_per_minute: number | null;
  readonly max_concurrent_requests: number;
  readonly cache_dir: string | null;
  readonly price_per_million_input_tokens: number;
  readonly price_per_million_output_tokens: number;
}

export interface OpenaiOptions {
  /** Section of the configuration, for messages. */
  readonly role: "user" | "judge";
  readonly config: OpenaiConfig;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Milliseconds; paces `requests_per_minute`. */
  readonly now: () => number;
  /** Shared by all endpoints of a run. */
  readonly budget: Budget;
  readonly signal?: AbortSignal;
}

export interface Usage {
  /** Answers that came from the endpoint, useless ones included. */
  readonly calls: number;
  /** Answers that came from the cache, or from an equal request at the same time. */
  readonly cached_calls: number;
  readonly input_tokens: number;
  readonly output_tokens: number;
  /** Of `calls`, from the configured prices; 0 without them. */
  readonly cost_usd: number;
}

/** A model for one conversation. */
export type PricedCompletion = ChatCompletion & {
  /** Price of the replies it has given, those of the cache too: equal conversations have equal prices. */
  readonly costUsd: () => number;
};

/** One endpoint with its limits, shared by all conversations of a run. */
export interface OpenaiEndpoint {
  /** For reports, such as `openai:gpt-4.1`. */
  readonly identity: string;
  /** Of all conversations so far. */
  readonly usage: Usage;
  /** `seed`: sent where temperature is above 0. */
  completion(conversation: { readonly seed: number }): PricedCompletion;
  /** Throws a UserError when nobody listens or the key is refused; costs nothing. Whatever else is left to the first request. */
  greet(): Promise<void>;
  /** No request is under way. */
  settled(): Promise<void>;
}

interface Endpoint extends OpenaiOptions {
  readonly url: string;
  readonly key: string | null;
  readonly limit: LimitFunction;
  readonly turn: () => Promise<void>;
  readonly cache: AnswerCache | null;
  readonly usage: { -readonly [K in keyof Usage]: Usage[K] };
}

const OPENAI_URL = "https://api.openai.com/v1";
const RETRY_AFTER_MAX_S = 120;
const GREETING_TIMEOUT_MS = 5000;
const DETAIL_MAX = 300;

/** Checks the configuration at once, so that a missing key is known before a model is loaded. */
export function openaiEndpoint(options: OpenaiOptions): OpenaiEndpoint {
  const { role, config, env, now, signal } = options;
  if (config.model === null) throw new UserError(`${role}.model`, "the endpoint's model name is needed");
  const endpoint: Endpoint = {
    ...options,
    url: completionsUrl(role, config.base_url ?? OPENAI_URL),
    key: keyOf(role, config, env),
    limit: pLimit(config.max_concurrent_requests),
    turn: pacer(config.requests_per_minute, now, signal),
    cache: config.cache_dir === null ? null : new AnswerCache(config.cache_dir),
    usage: { calls: 0, cached_calls: 0, input_tokens: 0, output_tokens: 0, cost_usd: 0 },
  };
  const waiting = new Set<Promise<unknown>>();
  return {
    identity: `openai:${config.model}`,
    usage: endpoint.usage,
    completion: ({ seed }) => {
      let price = 0;
      const complete: ChatCompletion = async (request) => {
        const answering = answered(endpoint, request, seed);
        waiting.add(answering);
        const answer = await answering.finally(() => waiting.delete(answering));
        if ("end" in answer) return answer;
        price += costOf(config, answer.tokens);
        return answer.reply;
      };
      return Object.assign(complete, { costUsd: () => price });
    },
    greet: () => greet(endpoint),
    settled: async () => void (await Promise.allSettled(waiting)),
  };
}

function completionsUrl(role: string, base: string): string {
  const url = URL.canParse(base) ? new URL(base) : null;
  if (url === null || !/^https?:$/.test(url.protocol) || url.username !== "" || url.password !== "") {
    throw new UserError(
      `${role}.base_url`,
      "it must be an http(s) URL without a name or password, such as http://localhost:8000/v1",
    );
  }
  url.pathname = `${url.pathname.replace(/\/+$/, "")}/chat/completions`;
  return url.href;
}

/** Servers of one's own often need no key; OpenAI's does. */
function keyOf(role: string, { api_key_env, base_url }: OpenaiConfig, env: OpenaiOptions["env"]): string | null {
  const key = env[api_key_env]?.trim() || null;
  if (key === null && base_url === null) {
    throw new UserError(
      `${role}.api_key_env`,
      `the environment variable ${api_key_env} is not set. Set it, or give ${role}.base_url of a server that needs no key`,
    );
  }
  if (key !== null && /[^\x21-\x7e]/.test(key)) throw new UserError(api_key_env, "it holds characters that no key has");
  return key;
}

/** Even spacing: a burst of 60 requests at the start of a minute is what servers refuse. */
function pacer(perMinute: number | null, now: () => number, signal: AbortSignal | undefined): () => Promise<void> {
  let free = Number.NEGATIVE_INFINITY;
  return async () => {
    if (perMinute === null) return;
    const at = Math.max(free, now());
    free = at + 60_000 / perMinute;
    await pause(at - now(), signal);
  };
}

async function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  signal?.throwIfAborted();
  if (ms > 0) await sleep(ms, undefined, { signal }).catch(() => signal?.throwIfAborted());
}

/** From the cache, or paid. */
async function answered(endpoint: Endpoint, request: ChatRequest, seed: number): Promise<Answer | EndOfConversation> {
  const { config, url, cache, limit, usage } = endpoint;
  const body = requestBody({ model: config.model, temperature: config.temperature, seed }, request);
  const flawOf = request.flawOf ?? (() => null);
  const ask = () => limit(() => asked(endpoint, body, flawOf));
  if (cache === null) return ask();
  const accepts = ({ reply }: Answer) => flawOf(reply) === null;
  const { answer, cached } = await cache.through({ url, body }, { accepts, ask });
  if (cached) usage.cached_calls += 1;
  return answer;
}

/** Worth another attempt: network, time-out, 429, 5xx, an answer that cannot be read. */
class Transient extends Error {
  constructor(
    message: string,
    readonly retryAfterS = 0,
  ) {
    super(message);
  }
}

type FlawOf = (reply: Reply) => string | null;

/** An answer, or the end of this one conversation once the retries are spent. What no retry can repair is thrown. */
async function asked(endpoint: Endpoint, body: string, flawOf: FlawOf): Promise<Answer | EndOfConversation> {
  const { signal, config, role } = endpoint;
  try {
    return await pRetry(() => attempt(endpoint, body, flawOf), {
      retries: config.max_retries,
      minTimeout: 500,
      maxTimeout: 30_000,
      randomize: true,
      signal,
      shouldRetry: ({ error }) => error instanceof Transient,
      onFailedAttempt: async ({ error, retriesLeft }) => {
        if (error instanceof Transient && retriesLeft > 0) await pause(error.retryAfterS * 1000, signal);
      },
    });
  } catch (error) {
    if (!(error instanceof Transient)) throw error;
    const detail = `the ${role}'s model did not answer: ${error.message} (${config.max_retries} retries)`;
    return { end: "infrastructure_error", detail };
  }
}

async function attempt(endpoint: Endpoint, body: string, flawOf: FlawOf): Promise<Answer> {
  endpoint.budget.check();
  await endpoint.turn();
  const { status, headers, text } = await post(endpoint, body);
  if (status !== 200) throw failure(endpoint, { status, headers, text });
  const parsed = tryParseExact(text);
  const tokens = tokensOf(parsed);
  count(endpoint, tokens);
  const reply = readable(() => replyOf(parsed));
  const flaw = flawOf(reply);
  if (flaw !== null) throw new Transient(`its answer ${flaw}`);
  return { reply, tokens };
}

function readable(read: () => Reply): Reply {
  try {
    return read();
  } catch (error) {
    throw error instanceof UnreadableAnswer ? new Transient(`its answer ${error.message}`) : error;
  }
}

function count({ usage, config, budget, url }: Endpoint, tokens: Tokens | null): void {
  const cost_usd = costOf(config, tokens);
  usage.calls += 1;
  usage.input_tokens += tokens?.input ?? 0;
  usage.output_tokens += tokens?.output ?? 0;
  usage.cost_usd += cost_usd;
  budget.add(cost_usd);
  if (tokens === null && budget.limit_usd !== null)
    throw new UserError(
      "user.max_cost_usd",
      `${new URL(url).origin} does not say how many tokens an answer took, so its cost cannot be limited. Set it to null`,
    );
}

const costOf = (config: OpenaiConfig, tokens: Tokens | null): number =>
  ((tokens?.input ?? 0) * config.price_per_million_input_tokens +
    (tokens?.output ?? 0) * config.price_per_million_output_tokens) /
  1e6;

interface Response {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
}

async function post(endpoint: Endpoint, body: string): Promise<Response> {
  const { config, signal } = endpoint;
  const timeout = AbortSignal.timeout(config.timeout_s * 1000);
  try {
    return await send(endpoint, endpoint.url, { method: "POST", body, timeout });
  } catch (error) {
    signal?.throwIfAborted();
    if (timeout.aborted) throw new Transient(`no answer within ${config.timeout_s} s`);
    throw new Transient(networkError(error));
  }
}

async function send(
  { key, signal }: Endpoint,
  url: string,
  { method, body, timeout }: { readonly method: string; readonly body?: string; readonly timeout: AbortSignal },
): Promise<Response> {
  const authorization: Record<string, string> = key === null ? {} : { Authorization: `Bearer ${key}` };
  const response = await fetch(url, {
    method,
    headers: { "Content-Type": "application/json", ...authorization },
    body,
    redirect: "manual", // a redirect would carry the key to another address
    signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
  });
  const text = await response.text();
  return { status: response.status, headers: response.headers, text: withoutKey(text, key) };
}

/** fetch's own message could quote the request. */
function networkError(error: unknown): string {
  const { code, name } = error as { code?: unknown; name?: unknown };
  return `network error ${code ?? name}`;
}

/** Below this a key may be a word, such as `EMPTY`, that answers use for themselves. */
const TELLING_KEY_LENGTH = 12;

/** Should a server echo the key, it gets into no conversation, cache or message. */
const withoutKey = (text: string, key: string | null): string =>
  key === null || key.length < TELLING_KEY_LENGTH ? text : text.replaceAll(key, "***");

async function greet(endpoint: Endpoint): Promise<void> {
  const { role, url } = endpoint;
  const models = url.replace(/\/chat\/completions(?=$|\?)/, "/models");
  const timeout = AbortSignal.timeout(GREETING_TIMEOUT_MS);
  try {
    const { status } = await send(endpoint, models, { method: "GET", timeout });
    if (status === 401 || status === 403) throw refusal(endpoint, status, "");
  } catch (error) {
    endpoint.signal?.throwIfAborted();
    if (error instanceof UserError) throw error;
    if (timeout.aborted) return; // slow is not down
    throw new UserError(
      `${role}.base_url`,
      `${new URL(url).origin} cannot be reached (${networkError(error)}). Start the server, or correct the address`,
    );
  }
}

function failure(endpoint: Endpoint, { status, headers, text }: Response): Error {
  if (status === 429 && field(field(tryParseExact(text), "error"), "code") === "insufficient_quota")
    return refusal(endpoint, status, text);
  if (status === 408 || status === 429 || status >= 500)
    return new Transient(`it answered ${status}`, retryAfterOf(headers));
  return refusal(endpoint, status, text);
}

/** Seconds, or a date in the server's own clock. */
function retryAfterOf(headers: Headers): number {
  const text = headers.get("retry-after") ?? "";
  const seconds = /^\d+(\.\d+)?$/.test(text)
    ? Number(text)
    : (Date.parse(text) - Date.parse(headers.get("date") ?? "")) / 1000;
  return Number.isFinite(seconds) ? Math.min(Math.max(seconds, 0), RETRY_AFTER_MAX_S) : 0;
}

function refusal({ role, url, key, config }: Endpoint, status: number, text: string): UserError {
  const { origin } = new URL(url);
  const { model, api_key_env } = config;
  if (status === 401 || status === 403) {
    const whose = key === null ? `no key, since ${api_key_env} is not set` : `the key in ${api_key_env}`;
    return new UserError(
      `${role}.api_key_env`,
      `${origin} refuses ${whose} (${status}). Set ${api_key_env} to a valid key`,
    );
  }
  const said = serverText(text, key);
  if (status === 404) {
    return new UserError(
      `${role}.model`,
      `${url} knows no model "${model}" or is no chat endpoint (404${said}). Check ${role}.model and ${role}.base_url`,
    );
  }
  return new UserError(role, `${origin} refuses the request for ${model} (${status}${said})`);
}

/** The server's explanation without the key, should it echo it. */
function serverText(text: string, key: string | null): string {
  const error = field(tryParseExact(text), "error");
  const message = isObject(error) ? error.message : error;
  if (typeof message !== "string") return "";
  const clean = key === null ? message : message.replaceAll(key, "***");
  return `: ${clean.slice(0, DETAIL_MAX)}`;
}

/**
 * The simulated user's model behind any OpenAI-compatible endpoint (`/chat/completions`): retries, rate and concurrency
 * limits, tokens and dollars. The key is read from the one environment variable that the configuration names, travels in
 * one header to one origin, and stands in no message.
 */
import { setTimeout as sleep } from "node:timers/promises";
import pLimit, { type LimitFunction } from "p-limit";
import pRetry from "p-retry";
import { UserError } from "../base/errors.ts";
import {
  dumps,
  type ExactObject,
  type ExactValue,
  exactOf,
  isArray,
  isInt,
  isObject,
  tryParseExact,
} from "../base/exact.ts";
import type { EndOfConversation, Reply, ToolCall } from "../tau2/types.ts";
import type { ChatCompletion } from "../tau2/user.ts";

/** `user.*` of the configuration, as far as it concerns an endpoint. */
export interface OpenaiConfig {
  readonly model: string | null;
  /** null = OpenAI's own. */
  readonly base_url: string | null;
  readonly api_key_env: string;
  readonly temperature: number;
  readonly timeout_s: number;
  readonly max_retries: number;
  readonly requests_per_minute: number | null;
  readonly price_per_million_input_tokens: number;
  readonly price_per_million_output_tokens: number;
}

export interface OpenaiOptions {
  readonly config: OpenaiConfig;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Milliseconds; paces `requests_per_minute`. */
  readonly now: () => number;
  readonly signal?: AbortSignal;
  /** Requests under way at once. */
  readonly concurrency?: number;
}

export interface Usage {
  requests: number;
  input_tokens: number;
  output_tokens: number;
  /** From the configured prices; 0 without them. */
  cost_usd: number;
}

/** One endpoint with its limits, shared by all conversations of a run. */
export interface OpenaiEndpoint {
  /** For reports, such as `openai:gpt-4.1`. */
  readonly identity: string;
  /** Of all conversations so far. */
  readonly usage: Readonly<Usage>;
  /** The model for one conversation, with that conversation's usage. */
  completion(): ChatCompletion & { readonly usage: Readonly<Usage> };
}

interface Endpoint {
  readonly config: OpenaiConfig;
  readonly url: string;
  readonly key: string | null;
  readonly limit: LimitFunction;
  readonly turn: () => Promise<void>;
  readonly signal: AbortSignal | undefined;
}

const OPENAI_URL = "https://api.openai.com/v1";
const CONCURRENCY = 16;
const RETRY_AFTER_MAX_S = 120;
const DETAIL_MAX = 300;

/** Checks the configuration at once, so that a missing key is known before a model is loaded. */
export function openaiEndpoint(options: OpenaiOptions): OpenaiEndpoint {
  const { config, env, now, signal, concurrency = CONCURRENCY } = options;
  if (config.model === null) throw new UserError("user.model", "user.kind openai needs the endpoint's model name");
  const endpoint: Endpoint = {
    config,
    url: completionsUrl(config.base_url ?? OPENAI_URL),
    key: keyOf(config, env),
    limit: pLimit(concurrency),
    turn: pacer(config.requests_per_minute, now, signal),
    signal,
  };
  const total = noUsage();
  const completion = () => {
    const usage = noUsage();
    const count = (tokens: Tokens) => {
      for (const each of [total, usage]) add(each, tokens, config);
    };
    const complete: ChatCompletion = (request) =>
      endpoint.limit(() => completed(endpoint, bodyOf(config, request), count));
    return Object.assign(complete, { usage });
  };
  return { identity: `openai:${config.model}`, usage: total, completion };
}

/** The model for a single conversation; several that share limits and totals come from one `openaiEndpoint`. */
export const openaiCompletion = (options: OpenaiOptions) => openaiEndpoint(options).completion();

function completionsUrl(base: string): string {
  const url = URL.canParse(base) ? new URL(base) : null;
  if (url === null || !/^https?:$/.test(url.protocol) || url.username !== "" || url.password !== "") {
    throw new UserError(
      "user.base_url",
      "it must be an http(s) URL without a name or password, such as http://localhost:8000/v1",
    );
  }
  url.pathname = `${url.pathname.replace(/\/+$/, "")}/chat/completions`;
  return url.href;
}

/** Servers of one's own often need no key; OpenAI's does. */
function keyOf({ api_key_env, base_url }: OpenaiConfig, env: OpenaiOptions["env"]): string | null {
  const key = env[api_key_env]?.trim() || null;
  if (key === null && base_url === null) {
    throw new UserError(
      "user.api_key_env",
      `the environment variable ${api_key_env} is not set. Set it, or give user.base_url of a server that needs no key`,
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

/** Exact JSON: tool schemas keep `2.0`. A null `tool_calls` is left out: OpenAI's endpoint refuses it. */
function bodyOf({ model, temperature }: OpenaiConfig, { messages, tools }: Parameters<ChatCompletion>[0]): string {
  const spoken = messages.map((message) => {
    if ("tool_calls" in message && message.tool_calls === null) return { role: message.role, content: message.content };
    return message;
  });
  const offered = tools === null ? {} : { tools, tool_choice: "auto" };
  return dumps(exactOf({ model, messages: spoken, temperature, ...offered }));
}

interface Tokens {
  readonly input: number;
  readonly output: number;
}

const noUsage = (): Usage => ({ requests: 0, input_tokens: 0, output_tokens: 0, cost_usd: 0 });

function add(usage: Usage, { input, output }: Tokens, config: OpenaiConfig): void {
  usage.requests += 1;
  usage.input_tokens += input;
  usage.output_tokens += output;
  usage.cost_usd +=
    (input * config.price_per_million_input_tokens + output * config.price_per_million_output_tokens) / 1e6;
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

/** A reply, or the end of this one conversation once the retries are spent. What no retry can repair is thrown. */
async function completed(
  endpoint: Endpoint,
  body: string,
  count: (tokens: Tokens) => void,
): Promise<Reply | EndOfConversation> {
  const { signal, config } = endpoint;
  try {
    return await pRetry(() => attempt(endpoint, body, count), {
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
    const detail = `the user's model did not answer: ${error.message} (${config.max_retries} retries)`;
    return { end: "infrastructure_error", detail };
  }
}

async function attempt(endpoint: Endpoint, body: string, count: (tokens: Tokens) => void): Promise<Reply> {
  await endpoint.turn();
  const { status, headers, text } = await post(endpoint, body);
  if (status === 408 || status === 429 || status >= 500)
    throw new Transient(`it answered ${status}`, retryAfterOf(headers));
  if (status !== 200) throw refusal(endpoint, status, text);
  const answer = tryParseExact(text);
  count(tokensOf(answer));
  return replyOf(answer);
}

async function post(endpoint: Endpoint, body: string): Promise<{ status: number; headers: Headers; text: string }> {
  const { url, key, config, signal } = endpoint;
  const timeout = AbortSignal.timeout(config.timeout_s * 1000);
  const authorization: Record<string, string> = key === null ? {} : { Authorization: `Bearer ${key}` };
  try {
    const response = await fetch(url, {
      method: "POST",
      headers: { "Content-Type": "application/json", ...authorization },
      body,
      redirect: "manual", // a redirect would carry the key to another address
      signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
    });
    return { status: response.status, headers: response.headers, text: await response.text() };
  } catch (error) {
    signal?.throwIfAborted();
    if (timeout.aborted) throw new Transient(`no answer within ${config.timeout_s} s`);
    const { code, name } = error as { code?: unknown; name?: unknown };
    throw new Transient(`network error ${code ?? name}`); // fetch's own message could quote the request
  }
}

/** Seconds, or a date in the server's own clock. */
function retryAfterOf(headers: Headers): number {
  const text = headers.get("retry-after") ?? "";
  const seconds = /^\d+(\.\d+)?$/.test(text)
    ? Number(text)
    : (Date.parse(text) - Date.parse(headers.get("date") ?? "")) / 1000;
  return Number.isFinite(seconds) ? Math.min(Math.max(seconds, 0), RETRY_AFTER_MAX_S) : 0;
}

function refusal({ url, key, config }: Endpoint, status: number, text: string): UserError {
  const { origin } = new URL(url);
  const { model, api_key_env } = config;
  if (status === 401 || status === 403) {
    const whose = key === null ? `no key, since ${api_key_env} is not set` : `the key in ${api_key_env}`;
    return new UserError(
      "user.api_key_env",
      `${origin} refuses ${whose} (${status}). Set ${api_key_env} to a valid key`,
    );
  }
  const said = serverText(text, key);
  if (status === 404) {
    return new UserError(
      "user.model",
      `${url} knows no model "${model}" or is no chat endpoint (404${said}). Check user.model and user.base_url`,
    );
  }
  return new UserError("user", `${origin} refuses the request for ${model} (${status}${said})`);
}

/** The server's explanation without the key, should it echo it. */
function serverText(text: string, key: string | null): string {
  const error = field(tryParseExact(text), "error");
  const message = isObject(error) ? error.message : error;
  if (typeof message !== "string") return "";
  const clean = key === null ? message : message.replaceAll(key, "***");
  return `: ${clean.slice(0, DETAIL_MAX)}`;
}

function tokensOf(answer: ExactValue | undefined): Tokens {
  const usage = field(answer, "usage");
  const number = (name: string) => {
    const value = field(usage, name);
    return isInt(value ?? null) ? Number(value) : 0;
  };
  return { input: number("prompt_tokens"), output: number("completion_tokens") };
}

function replyOf(answer: ExactValue | undefined): Reply {
  const choices = field(answer, "choices");
  const message = field(isArray(choices ?? null) ? (choices as readonly ExactValue[])[0] : undefined, "message");
  if (!isObject(message)) throw new Transient("its answer is no chat completion");
  const { content = null, tool_calls = null } = message;
  if (content !== null && typeof content !== "string") throw new Transient("its answer's content is no text");
  const calls = isArray(tool_calls) ? tool_calls.map(toolCallOf) : [];
  return { content, tool_calls: calls.length === 0 ? null : calls };
}

/** The requestor is the user's, since only users live behind an endpoint. */
function toolCallOf(call: ExactValue): ToolCall {
  const called = field(call, "function");
  const [id, name, text] = [field(call, "id"), field(called, "name"), field(called, "arguments")];
  const args = text === "" || text === undefined ? {} : typeof text === "string" ? tryParseExact(text) : text;
  if (typeof name !== "string" || !isObject(args)) throw new Transient("a tool call of its answer cannot be read");
  return { id: typeof id === "string" ? id : "", name, arguments: args, requestor: "user" };
}

function field(value: ExactValue | undefined, name: string): ExactValue | undefined {
  return isObject(value) ? (value as ExactObject)[name] : undefined;
}

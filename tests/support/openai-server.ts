/**
 * A small OpenAI-compatible server on 127.0.0.1 whose answers come from a function, with the failures of real ones.
 *
 * As a process, for end-to-end runs: `bun tests/support/openai-server.ts --rule parity [--port 0]` prints its base URL
 * (give it as `--user.base_url`) and serves until it is ended.
 */
import { parseArgs } from "node:util";

export interface ServedMessage {
  readonly role: "system" | "user" | "assistant" | "tool";
  readonly content: string | null;
}

/** What the model says; or what goes wrong instead. */
export type Script = (messages: readonly ServedMessage[], call: number) => Answer;
export type Answer =
  | string
  | { readonly kind: "message"; readonly message: unknown }
  | {
      readonly kind: "status";
      readonly status: number;
      readonly headers?: Record<string, string>;
      readonly error?: string;
    }
  | { readonly kind: "raw"; readonly text: string; readonly status?: number }
  | { readonly kind: "hang" };

export interface ServedRequest {
  readonly authorization: string | null;
  readonly path: string;
  /** The body's text as it came, since parsing would lose `2.0`. */
  readonly body: string;
  readonly at: number;
}

export interface OpenaiServer extends Disposable {
  /** With `/v1`, as `base_url` wants it. */
  readonly url: string;
  readonly requests: ServedRequest[];
}

export interface ServerOptions {
  readonly port?: number;
  /** Others are refused with 401. */
  readonly key?: string;
}

export function openaiServer(script: Script, { port = 0, key }: ServerOptions = {}): OpenaiServer {
  const requests: ServedRequest[] = [];
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port,
    idleTimeout: 0,
    async fetch(request) {
      const body = await request.text();
      const path = new URL(request.url).pathname;
      requests.push({ authorization: request.headers.get("authorization"), path, body, at: performance.now() });
      if (key !== undefined && request.headers.get("authorization") !== `Bearer ${key}`)
        return Response.json({ error: { message: "wrong key" } }, { status: 401 });
      if (path !== "/v1/chat/completions") return Response.json({ error: { message: `no ${path}` } }, { status: 404 });
      const { messages, model } = JSON.parse(body) as { messages: ServedMessage[]; model: string };
      return responseOf(script(messages, requests.length - 1), messages, model);
    },
  });
  return { url: `http://127.0.0.1:${server.port}/v1`, requests, [Symbol.dispose]: () => void server.stop(true) };
}

function responseOf(answer: Answer, messages: readonly ServedMessage[], model: string): Response | Promise<Response> {
  if (typeof answer === "string") return chatCompletion({ role: "assistant", content: answer }, messages, model);
  switch (answer.kind) {
    case "message":
      return chatCompletion(answer.message, messages, model);
    case "status":
      return Response.json(
        { error: { message: answer.error ?? "scripted" } },
        { status: answer.status, headers: answer.headers },
      );
    case "raw":
      return new Response(answer.text, { status: answer.status, headers: { "Content-Type": "application/json" } });
    case "hang":
      return new Promise(() => {});
  }
}

/** Usage counts words, so that tests can tell the sums beforehand. */
function chatCompletion(message: unknown, messages: readonly ServedMessage[], model: string): Response {
  const words = (text: string | null) => (text === null ? 0 : text.split(/\s+/).filter(Boolean).length);
  const prompt_tokens = messages.reduce((sum, { content }) => sum + words(content), 0);
  const completion_tokens = words((message as { content?: string | null }).content ?? null);
  return Response.json({
    id: "chatcmpl-0",
    object: "chat.completion",
    created: 0,
    model,
    choices: [{ index: 0, finish_reason: "stop", message }],
    usage: { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens },
  });
}

const OPENING = "Hello, I have a question about my reservation.";
const ENCOURAGEMENT = "Please go on.";
/** tau2's word for a user who is done. */
const STOP = "###STOP###";

/** Does the agent's first own text end the conversation? */
export const RULES = {
  parity: (text: string) => Array.from(text).reduce((sum, char) => sum + (char.codePointAt(0) ?? 0), 0) % 2 === 0,
  length: (text: string) => text.length % 2 === 0,
  always: () => true,
  never: () => false,
} as const satisfies Record<string, (text: string) => boolean>;

/**
 * A user who opens, and after the agent's first own text either stops or never does: then the conversation runs into
 * `max_steps` and scores 0. On tasks that want no write an early stop scores 1, so rewards differ within a group even
 * for a random model. To the user's model the agent's texts have role `user`; the first of them is the fixed greeting.
 */
export function ruleUser(rule: keyof typeof RULES): Script {
  return (messages) => {
    const [, deciding] = messages.filter(({ role }) => role === "user");
    if (deciding === undefined) return OPENING;
    return RULES[rule](deciding.content ?? "") ? STOP : ENCOURAGEMENT;
  };
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: { rule: { type: "string", default: "parity" }, port: { type: "string", default: "0" } },
  });
  if (!Object.hasOwn(RULES, values.rule)) {
    console.error(`--rule: one of ${Object.keys(RULES).join(", ")}`);
    process.exit(2);
  }
  console.log(openaiServer(ruleUser(values.rule as keyof typeof RULES), { port: Number(values.port) }).url);
}

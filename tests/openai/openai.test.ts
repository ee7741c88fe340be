/** The endpoint client against a scripted server: replies, failures, limits, accounting, and where the key may not be. */
import { describe, expect, test } from "bun:test";
import { UserError } from "../../src/base/errors.ts";
import { dumps, parseExact } from "../../src/base/exact.ts";
import { Budget, BudgetError } from "../../src/rollout/budget.ts";
import { type OpenaiConfig, type OpenaiOptions, openaiEndpoint } from "../../src/rollout/openai.ts";
import type { Reply } from "../../src/tau2/types.ts";
import type { ChatCompletion } from "../../src/tau2/user.ts";
import { type Answer, openaiServer, type Script } from "../support/openai-server.ts";

const KEY = "sk-very-secret-0123456789";
const REQUEST: Parameters<ChatCompletion>[0] = {
  messages: [
    { role: "system", content: "You are a user" },
    { role: "user", content: "Hi! How can I help you today?" },
  ],
  tools: null,
};

const configOf = (overrides: Partial<OpenaiConfig>): OpenaiConfig => ({
  model: "sim-1",
  base_url: null,
  api_key_env: "SIM_KEY",
  temperature: 0,
  timeout_s: 5,
  max_retries: 1,
  requests_per_minute: null,
  max_concurrent_requests: 16,
  cache_dir: null,
  price_per_million_input_tokens: 2,
  price_per_million_output_tokens: 8,
  ...overrides,
});

const optionsOf = (base_url: string | null, overrides: Partial<OpenaiConfig> = {}): OpenaiOptions => ({
  role: "user",
  config: configOf({ base_url, ...overrides }),
  budget: new Budget({ limit_usd: null }),
  env: { SIM_KEY: KEY, OPENAI_API_KEY: "sk-of-somebody-else" },
  now: () => performance.now(),
});

const openaiCompletion = (options: OpenaiOptions) => openaiEndpoint(options).completion({ seed: 7 });

/** Answers in order; the last one for all further calls. */
const inOrder =
  (...answers: Answer[]): Script =>
  (_, call) =>
    answers[Math.min(call, answers.length - 1)] as Answer;

const thrown = (promise: Promise<unknown>) =>
  promise.then(
    () => null,
    (error: unknown) => error,
  );

describe("a request and its reply", () => {
  test("has the model, the messages, the temperature and the key of the named variable", async () => {
    using server = openaiServer(inOrder("I lost my bag."));
    const reply = await openaiCompletion(optionsOf(server.url, { temperature: 0.5 }))(REQUEST);
    expect(reply).toEqual({ content: "I lost my bag.", tool_calls: null });
    expect(server.requests[0]?.authorization).toBe(`Bearer ${KEY}`);
    expect(JSON.parse(server.requests[0]?.body ?? "")).toEqual({
      model: "sim-1",
      messages: REQUEST.messages,
      temperature: 0.5,
      seed: 7,
    });
  });

  test("a greedy one has no seed", async () => {
    using server = openaiServer(inOrder("Yes."));
    await openaiCompletion(optionsOf(server.url))(REQUEST);
    expect(server.requests[0]?.body).not.toContain("seed");
  });

  test("a null tool_calls is not sent, which OpenAI would refuse", async () => {
    using server = openaiServer(inOrder("Yes."));
    const messages = [...REQUEST.messages, { role: "assistant" as const, content: "Hello", tool_calls: null }];
    await openaiCompletion(optionsOf(server.url))({ ...REQUEST, messages });
    expect(server.requests[0]?.body).not.toContain("tool_calls");
  });

  test("tools go out and arguments come back with 2.0 still a float", async () => {
    const arguments_ = '{"amount": 2.0, "days": 2, "10": null}';
    const call = { id: "c1", type: "function", function: { name: "pay", arguments: arguments_ } };
    using server = openaiServer(inOrder({ kind: "message", message: { content: null, tool_calls: [call] } }));
    const parameters = parseExact('{"type": "object", "properties": {"amount": {"minimum": 1.0}}}');
    const tools = [
      { type: "function", function: { name: "pay", description: "Pay.", parameters } },
    ] as Parameters<ChatCompletion>[0]["tools"];
    const reply = await openaiCompletion(optionsOf(server.url))({ ...REQUEST, tools });
    if ("end" in reply) throw new Error(reply.detail);
    const [first] = reply.tool_calls ?? [];
    expect({ ...first, arguments: dumps(first?.arguments ?? null) }).toEqual({
      id: "c1",
      name: "pay",
      arguments: arguments_,
      requestor: "user",
    });
    expect(server.requests[0]?.body).toContain('"minimum": 1.0');
    expect(server.requests[0]?.body).toContain('"tool_choice": "auto"');
  });

  test.each([[""], ["{}"], [undefined]])("a call without arguments (%p) has none", async (text) => {
    const message = { content: null, tool_calls: [{ id: "c", function: { name: "look", arguments: text } }] };
    using server = openaiServer(inOrder({ kind: "message", message }));
    const reply = await openaiCompletion(optionsOf(server.url))(REQUEST);
    expect(reply).toEqual({ content: null, tool_calls: [{ id: "c", name: "look", arguments: {}, requestor: "user" }] });
  });
});

describe.concurrent("failures that pass", () => {
  const unreadableCall = {
    kind: "message",
    message: { content: null, tool_calls: [{ function: { name: "f", arguments: "{" } }] },
  } as const;
  test.each<[string, Answer]>([
    ["429", { kind: "status", status: 429 }],
    ["500", { kind: "status", status: 500 }],
    ["no JSON", { kind: "raw", text: "<html>" }],
    ["JSON cut off", { kind: "raw", text: '{"choices": [{"message": {"content": "Ye' }],
    ["JSON without choices", { kind: "raw", text: "{}" }],
    ["empty choices", { kind: "raw", text: '{"choices": []}' }],
    ["a message without a word or a call", { kind: "message", message: { content: null, tool_calls: null } }],
    ["a message of blanks", { kind: "message", message: { content: " \n" } }],
    ["a tool call cut off", unreadableCall],
    ["silence", { kind: "hang" }],
  ])("%s, then an answer", async (_, failure) => {
    using server = openaiServer(inOrder(failure, "Yes."));
    const reply = await openaiCompletion(optionsOf(server.url, { timeout_s: 0.3 }))(REQUEST);
    expect(reply).toEqual({ content: "Yes.", tool_calls: null });
    expect(server.requests.length).toBe(2);
  });

  test("a reply that the asker cannot use", async () => {
    using server = openaiServer(inOrder("Perhaps.", "Yes."));
    const flawOf = ({ content }: Reply) => (content === "Yes." ? null : "is no yes");
    const endpoint = openaiEndpoint(optionsOf(server.url));
    expect(await endpoint.completion({ seed: 7 })({ ...REQUEST, flawOf })).toMatchObject({ content: "Yes." });
    expect(endpoint.usage.calls).toBe(2);
  });

  test("Retry-After is waited for", async () => {
    using server = openaiServer(inOrder({ kind: "status", status: 429, headers: { "Retry-After": "1.5" } }, "Yes."));
    await openaiCompletion(optionsOf(server.url))(REQUEST);
    const [first, second] = server.requests;
    expect((second?.at ?? 0) - (first?.at ?? 0)).toBeGreaterThan(1500);
  });
});

describe.concurrent("failures that stay end this conversation, as data", () => {
  test.each<[string, Answer, string]>([
    ["500", { kind: "status", status: 500 }, "it answered 500"],
    ["silence", { kind: "hang" }, "no answer within 0.2 s"],
    ["no JSON", { kind: "raw", text: "<html>" }, "its answer is no chat completion"],
  ])("%s", async (_, failure, story) => {
    using server = openaiServer(() => failure);
    const end = await openaiCompletion(optionsOf(server.url, { timeout_s: 0.2 }))(REQUEST);
    expect(end).toEqual({
      end: "infrastructure_error",
      detail: `the user's model did not answer: ${story} (1 retries)`,
    });
    expect(server.requests.length).toBe(2);
  });

  test("nobody listens", async () => {
    const end = await openaiCompletion(optionsOf("http://127.0.0.1:9/v1", { max_retries: 0 }))(REQUEST);
    expect(end).toMatchObject({ end: "infrastructure_error", detail: expect.stringContaining("network error") });
  });
});

describe.concurrent("what no retry repairs is said in a sentence", () => {
  test.each<[string, Answer, RegExp]>([
    [
      "401",
      { kind: "status", status: 401, error: `bad key ${KEY}` },
      /^user\.api_key_env: http:\/\/127.* refuses the key in SIM_KEY \(401\)\. Set SIM_KEY/,
    ],
    [
      "404",
      { kind: "status", status: 404, error: "no such model" },
      /^user\.model: .* knows no model "sim-1" or is no chat endpoint \(404: no such model\)/,
    ],
    [
      "400",
      { kind: "status", status: 400, error: `temperature, said ${KEY}` },
      /^user: .* refuses the request for sim-1 \(400: temperature, said \*\*\*\)/,
    ],
    [
      "403",
      { kind: "status", status: 403, error: `not yours ${KEY}` },
      /^user\.api_key_env: .* refuses the key in SIM_KEY \(403\)/,
    ],
    [
      "a quota that is used up",
      { kind: "raw", status: 429, text: '{"error": {"message": "pay first", "code": "insufficient_quota"}}' },
      /^user: .* refuses the request for sim-1 \(429: pay first\)/,
    ],
    ["a redirect", { kind: "status", status: 307, headers: { Location: "http://127.0.0.1:9/" } }, /^user: .*\(307/],
  ])("%s, without a second request", async (_, answer, message) => {
    using server = openaiServer(() => answer);
    const error = await thrown(openaiCompletion(optionsOf(server.url))(REQUEST));
    expect(error).toBeInstanceOf(UserError);
    expect((error as Error).message).toMatch(message);
    expect(server.requests.length).toBe(1);
  });

  test.each<[string, OpenaiOptions, RegExp]>([
    ["no model", optionsOf(null, { model: null }), /^user\.model: /],
    [
      "OpenAI without a key",
      { ...optionsOf(null), env: {} },
      /^user\.api_key_env: the environment variable SIM_KEY is not set/,
    ],
    ["a key of two lines", { ...optionsOf(null), env: { SIM_KEY: "sk-a\nb" } }, /^SIM_KEY: it holds characters/],
    ["no URL", optionsOf("localhost"), /^user\.base_url: it must be an http\(s\) URL/],
    ["a URL with a password", optionsOf("http://me:sk-a@host/v1"), /^user\.base_url: [^@]*$/],
  ])("%s, before any request", (_, options, message) => {
    expect(() => openaiEndpoint(options)).toThrow(message);
  });

  test("a server without a key gets none, not even another variable's", async () => {
    using server = openaiServer(inOrder("Yes."));
    await openaiCompletion({ ...optionsOf(server.url), env: { OPENAI_API_KEY: KEY } })(REQUEST);
    expect(server.requests[0]?.authorization).toBeNull();
  });
});

describe.concurrent("the key", () => {
  test.each<[string, Answer]>([
    ["401", { kind: "status", status: 401, error: `bad ${KEY}` }],
    ["400", { kind: "status", status: 400, error: `bad ${KEY} and ${KEY}` }],
    ["500", { kind: "status", status: 500, error: KEY }],
    ["unreadable", { kind: "raw", text: KEY }],
    ["silence", { kind: "hang" }],
    ["an answer that repeats it", `Your key is ${KEY}.`],
  ])("is in nothing that %s leaves behind", async (_, answer) => {
    using server = openaiServer(() => answer);
    const left = await openaiCompletion(optionsOf(server.url, { max_retries: 0, timeout_s: 0.2 }))(REQUEST).catch(
      (error: unknown) => error,
    );
    expect(left).toBeTruthy();
    expect(Bun.inspect(left, { depth: 20 })).not.toContain("secret");
  });

  test("is not in the endpoint either", () => {
    expect(Bun.inspect(openaiEndpoint(optionsOf(null)), { depth: 20 })).not.toContain("secret");
  });
});

describe.concurrent("limits and accounting", () => {
  test("never more requests at once than allowed", async () => {
    let [now, most] = [0, 0];
    using server = openaiServer(inOrder("Yes."));
    const counting = Bun.serve({
      hostname: "127.0.0.1",
      port: 0,
      async fetch(request) {
        most = Math.max(most, ++now);
        const response = await fetch(`${server.url}/chat/completions`, { method: "POST", body: await request.text() });
        await Bun.sleep(20);
        now--;
        return response;
      },
    });
    const endpoint = openaiEndpoint(optionsOf(`http://127.0.0.1:${counting.port}`, { max_concurrent_requests: 3 }));
    await Promise.all(Array.from({ length: 9 }, () => endpoint.completion({ seed: 7 })(REQUEST)));
    counting.stop(true);
    expect(most).toBe(3);
  });

  test("requests_per_minute spaces requests evenly", async () => {
    using server = openaiServer(inOrder("Yes."));
    const endpoint = openaiEndpoint(optionsOf(server.url, { requests_per_minute: 600 }));
    await Promise.all(Array.from({ length: 4 }, () => endpoint.completion({ seed: 7 })(REQUEST)));
    const times = server.requests.map(({ at }) => at).sort((a, b) => a - b);
    expect((times[3] ?? 0) - (times[0] ?? 0)).toBeGreaterThan(250); // three gaps of 100 ms, less the timers' slack
  });

  test("tokens and dollars are counted for each conversation and in all", async () => {
    using server = openaiServer(inOrder("one two three"));
    const budget = new Budget({ limit_usd: null });
    const endpoint = openaiEndpoint({ ...optionsOf(server.url), budget });
    const [a, b] = [endpoint.completion({ seed: 1 }), endpoint.completion({ seed: 2 })];
    await a(REQUEST);
    await a(REQUEST);
    await b(REQUEST);
    const input = "You are a user Hi! How can I help you today?".split(" ").length;
    const cost = (requests: number) => (requests * (input * 2 + 3 * 8)) / 1e6;
    expect(a.costUsd()).toBeCloseTo(cost(2), 12);
    expect(b.costUsd()).toBeCloseTo(cost(1), 12);
    expect(endpoint.usage).toMatchObject({ calls: 3, cached_calls: 0, input_tokens: 3 * input, output_tokens: 9 });
    expect(endpoint.usage.cost_usd).toBeCloseTo(cost(3), 12);
    expect(budget.spent_usd).toBeCloseTo(cost(3), 12);
    expect(endpoint.identity).toBe("openai:sim-1");
  });

  test("answers of no use are paid, but are no part of the conversation's price", async () => {
    using server = openaiServer(inOrder({ kind: "message", message: { content: "" } }, "Yes."));
    const endpoint = openaiEndpoint(optionsOf(server.url));
    const complete = endpoint.completion({ seed: 1 });
    await complete(REQUEST);
    expect(endpoint.usage.calls).toBe(2);
    expect(complete.costUsd()).toBeLessThan(endpoint.usage.cost_usd);
  });

  test("beyond the budget nothing is asked", async () => {
    using server = openaiServer(inOrder("one two three"));
    const budget = new Budget({ limit_usd: 1e-9 });
    const complete = openaiCompletion({ ...optionsOf(server.url), budget });
    await complete(REQUEST);
    const error = await thrown(complete(REQUEST));
    expect(error).toBeInstanceOf(BudgetError);
    expect((error as Error).message).toMatch(/^user and judge have cost \$0\.0000, and user\.max_cost_usd is 1e-9$/);
    expect(server.requests.length).toBe(1);
  });

  test("a server that counts no tokens cannot be held to a budget", async () => {
    using server = openaiServer(() => ({ kind: "raw", text: '{"choices": [{"message": {"content": "Yes."}}]}' }));
    expect(await openaiCompletion(optionsOf(server.url))(REQUEST)).toMatchObject({ content: "Yes." });
    const budget = new Budget({ limit_usd: 1 });
    const error = await thrown(openaiCompletion({ ...optionsOf(server.url), budget })(REQUEST));
    expect((error as Error).message).toMatch(/^user\.max_cost_usd: .* does not say how many tokens/);
  });

  test("an abort ends a request, a wait for Retry-After and a turn in the queue", async () => {
    using hanging = openaiServer(() => ({ kind: "hang" }));
    using busy = openaiServer(() => ({ kind: "status", status: 429, headers: { "Retry-After": "100" } }));
    using quick = openaiServer(inOrder("Yes."));
    const cases: [string, Partial<OpenaiConfig>][] = [
      [hanging.url, {}],
      [busy.url, {}],
      [quick.url, { requests_per_minute: 1 }],
    ];
    for (const [url, overrides] of cases) {
      const controller = new AbortController();
      const complete = openaiCompletion({ ...optionsOf(url, overrides), signal: controller.signal });
      const both = Promise.all([complete(REQUEST), complete(REQUEST)]);
      setTimeout(() => controller.abort(new Error("stopped")), 100);
      expect(await thrown(both)).toMatchObject({ message: "stopped" });
    }
  });
});

describe("the greeting before a run", () => {
  const greet = (base_url: string) => thrown(openaiEndpoint(optionsOf(base_url)).greet());

  test("nobody listens", async () => {
    const error = await greet("http://127.0.0.1:9/v1");
    expect(error).toBeInstanceOf(UserError);
    expect((error as Error).message).toMatch(
      /^user\.base_url: http:\/\/127\.0\.0\.1:9 cannot be reached \(network error /,
    );
  });

  test("a wrong key is told at once; a server that knows no such path is fine; no tokens are asked for", async () => {
    using server = openaiServer(inOrder("Yes."), { key: KEY });
    expect(await greet(server.url)).toBeNull();
    const options = { ...optionsOf(server.url), env: { SIM_KEY: "sk-another-0123456789" } };
    expect(((await thrown(openaiEndpoint(options).greet())) as Error).message).toMatch(
      /^user\.api_key_env: .* refuses the key in SIM_KEY \(401\)/,
    );
    expect(server.requests.map(({ path, body }) => [path, body])).toEqual(Array(2).fill(["/v1/models", ""]));
  });
});

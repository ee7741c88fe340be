import { describe, expect, test } from "bun:test";
import { FAKE_IM_END, fakeDecode, fakePolicy, fakeRender, fakeTokenize } from "../../src/core/fake.ts";
import type { ChatMessage, Policy } from "../../src/core/policy.ts";
import { agentGrammar, openRenderer } from "../../src/rollout/renderer.ts";
import { llamaLike, qwen3Like, raise, type TemplateFunction, withTemplate } from "../support/templates.ts";

const TOOLS = '[{"type":"function","function":{"name":"get","description":"","parameters":{}}}]';
const silent = () => fakePolicy(() => "");
const OPTIONS = { model: "policy", directory: "models/x", tools_json: TOOLS as string | null, enable_thinking: false };

function open(policy: Policy, options: Partial<typeof OPTIONS> = {}) {
  return openRenderer(policy, { ...OPTIONS, ...options, info: policy.info });
}

const shown = (tokens: Uint32Array) => fakeDecode(tokens, { skip_special: false });
const system: ChatMessage = { role: "system", content: "Be brief." };
const greeting: ChatMessage = { role: "assistant", content: "Hi!" };
const said = (content: string): ChatMessage => ({ role: "user", content });
const result = (content: string): ChatMessage => ({ role: "tool", content, tool_call_id: "call_1_1" });
const call = (id: string): ChatMessage => ({
  role: "assistant",
  content: null,
  tool_calls: [{ function: { name: "get", arguments_json: `{"id": "${id}"}` } }],
});

test("a grammar of calls needs tools, and a template that shows how the model writes them", async () => {
  const xmlLike: TemplateFunction = (messages, options) =>
    fakeRender(messages, options).replaceAll(
      /<tool_call>[\s\S]*?<\/tool_call>/g,
      "<tool_call><function=q_probe_q></function></tool_call>",
    );
  const constrained = { constrained_tool_calls: true, model_name_or_path: "models/x" };
  const known = [
    [await open(silent()), "hermes"],
    [await open(withTemplate(silent(), llamaLike)), "llama3"],
  ] as const;
  for (const [renderer, format] of known) {
    expect(agentGrammar(renderer, constrained)).toEqual({ tools_json: TOOLS, format, in_reasoning: false });
    expect(agentGrammar(renderer, { ...constrained, constrained_tool_calls: false })).toBeNull();
  }
  expect(agentGrammar(await open(silent(), { tools_json: null }), constrained)).toBeNull();
  const unknown = await open(withTemplate(silent(), xmlLike));
  expect(() => agentGrammar(unknown, constrained)).toThrow("constrained_tool_calls");
});

test("prompt, sampled turns and what lies between are the tokens of the whole template", async () => {
  using policy = silent();
  const renderer = await open(policy);
  const twoCalls: ChatMessage = {
    role: "assistant",
    content: null,
    tool_calls: [...(call("1").tool_calls ?? []), ...(call("2").tool_calls ?? [])],
  };
  const conversation = [
    system,
    greeting,
    said("Hello"),
    twoCalls,
    result("one"),
    result("two"),
    greeting,
    said("Thanks ✓"),
  ];
  const spoken = (message: ChatMessage) => {
    const [, body = ""] = fakeRender([message], { ...OPTIONS, tools_json: null, add_generation_prompt: false }).split(
      "assistant\n",
    );
    return fakeTokenize(body.trimEnd());
  };
  const tokens = [
    ...(await renderer.first(conversation.slice(0, 3))),
    ...spoken(twoCalls),
    ...(await renderer.next([result("one"), result("two")], { ended: true })),
    ...spoken(greeting),
    ...(await renderer.next([said("Thanks ✓")], { ended: true })),
  ];
  const whole = fakeRender(conversation, { ...OPTIONS, add_generation_prompt: true });
  expect(shown(Uint32Array.from(tokens))).toBe(whole);
  expect(tokens).toEqual([...fakeTokenize(whole)]);
});

test("a turn that was cut gets the template's end of turn; one that ended does not get a second", async () => {
  using policy = silent();
  const renderer = await open(policy);
  const [cut, ended] = [
    await renderer.next([said("?")], { ended: false }),
    await renderer.next([said("?")], { ended: true }),
  ];
  expect(shown(cut)).toBe("<|im_end|>\n<|im_start|>user\n?<|im_end|>\n<|im_start|>assistant\n");
  expect([...cut]).toEqual([FAKE_IM_END, ...ended]);
});

test("the tokens of system prompt and tools are made once, and the prompt is the same as without the cache", async () => {
  using policy = silent();
  const tokenized: number[] = [];
  const counting = new Proxy(policy, {
    get(target, name) {
      const value = Reflect.get(target, name, target);
      if (name === "tokenize") {
        return (model: string, text: string) => {
          tokenized.push(text.length);
          return target.tokenize(model, text);
        };
      }
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
  const renderer = await open(counting);
  const long: ChatMessage = { role: "system", content: "policy ".repeat(1000) };
  for (const text of ["Hello", "\n\nq", "qLastq", ""]) {
    tokenized.length = 0;
    const messages = [long, greeting, said(text)];
    const whole = fakeRender(messages, { ...OPTIONS, add_generation_prompt: true });
    expect(shown(await renderer.first(messages))).toBe(whole);
    if (text !== "Hello") expect(Math.max(...tokenized)).toBeLessThan(200);
  }
  const other = [{ ...long, content: "Another policy." }, said("Hello")];
  expect(shown(await renderer.first(other))).toBe(fakeRender(other, { ...OPTIONS, add_generation_prompt: true }));
});

describe("templates with ways of their own", () => {
  test("Llama 3.1: the tools sit in the user's message, so the greeting is left out of the prompt", async () => {
    const policy = withTemplate(silent(), llamaLike);
    const renderer = await open(policy);
    expect(renderer.toolFormat).toBe("llama3");
    const prompt = shown(await renderer.first([system, greeting, said("Hello")]));
    expect(prompt).toBe(llamaLike([system, said("Hello")], { ...OPTIONS, add_generation_prompt: true }));
    expect(shown(await renderer.next([result("x")], { ended: true }))).toBe(
      '\n<|im_start|>ipython\n"x"<|im_end|>\n<|im_start|>assistant\n',
    );
  });

  test("Llama 3.1 without tools keeps the greeting", async () => {
    const renderer = await open(withTemplate(silent(), llamaLike), { tools_json: null });
    expect(renderer.toolFormat).toBeNull();
    expect(shown(await renderer.first([system, greeting, said("Hello")]))).toContain("Hi!");
  });

  test("Qwen3 without thinking: the empty reasoning of each prompt stays in the history, where the whole template drops it", async () => {
    const renderer = await open(withTemplate(silent(), qwen3Like));
    expect(renderer).toMatchObject({ toolFormat: "hermes", opensThinking: false });
    const prompt = shown(await renderer.first([system, greeting, said("Hello")]));
    expect(prompt).toEndWith("<|im_start|>assistant\n<think>\n\n</think>\n\n");
    expect(prompt).toContain("Hi!");
    const next = shown(await renderer.next([said("More")], { ended: true }));
    expect(next).toBe("\n<|im_start|>user\nMore<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n");
    const ours = `${prompt}Yes.<|im_end|>${next}`;
    const whole = qwen3Like([system, greeting, said("Hello"), { role: "assistant", content: "Yes." }, said("More")], {
      ...OPTIONS,
      add_generation_prompt: true,
    });
    expect(ours).not.toBe(whole);
    expect(ours.replace("<think>\n\n</think>\n\nYes.", "Yes.")).toBe(whole);
  });

  test("a prompt that ends inside the reasoning is noticed", async () => {
    const opening: TemplateFunction = (messages, options) =>
      fakeRender(messages, options) + (options.add_generation_prompt ? "<think>\n" : "");
    expect((await open(withTemplate(silent(), opening))).opensThinking).toBe(true);
  });

  test("a template without a stop token behind the assistant's text", async () => {
    const plain: TemplateFunction = (messages, options) =>
      messages.map(({ role, content }) => `${role}: ${content}\n`).join("") +
      (options.add_generation_prompt ? "assistant: " : "");
    const renderer = await open(withTemplate(silent(), plain), { tools_json: null });
    for (const ended of [true, false]) {
      expect(shown(await renderer.next([said("More")], { ended }))).toBe("\nuser: More\nassistant: ");
    }
    expect(shown(await renderer.first([system, said("Hello")]))).toBe("system: Be brief.\nuser: Hello\nassistant: ");
  });
});

describe("a template that cannot hold the conversation is refused, with the model's directory", () => {
  const onlyRoles =
    (...roles: string[]): TemplateFunction =>
    (messages, options) =>
      fakeRender(
        messages.filter(({ role }) => roles.includes(role)),
        options,
      );
  const cases: [string, TemplateFunction, RegExp][] = [
    ["drops the system prompt", onlyRoles("user", "assistant", "tool"), /leaves out the message of role system/],
    ["drops tool results", onlyRoles("system", "user", "assistant"), /leaves out the message of role tool/],
    [
      "refuses tool results",
      (messages, options) =>
        messages.some(({ role }) => role === "tool") ? raise("unknown role") : fakeRender(messages, options),
      /with roles system, user, assistant, tool, tool, user it fails: chat template: unknown role/,
    ],
    [
      "puts the system prompt last",
      (messages, options) =>
        fakeRender(
          messages.filter(({ role }) => role !== "system"),
          options,
        ) + (messages[0]?.content ?? ""),
      /moves the message of role user|leaves out/,
    ],
    [
      "does not show tools",
      (messages, options) => fakeRender(messages, { ...options, tools_json: null }),
      /does not show the tools/,
    ],
  ];
  test.each(cases)("%s", async (_, template, message) => {
    const error = await open(withTemplate(silent(), template)).catch((thrown: Error) => thrown);
    expect(error).toMatchObject({ name: "UserError", where: "models/x" });
    expect((error as Error).message).toMatch(message);
  });

  test("no template at all", async () => {
    const policy = fakePolicy(() => "", { has_chat_template: false });
    await expect(open(policy)).rejects.toThrow("models/x: the model has no chat template");
  });

  test("a broken core is not mistaken for a broken template", async () => {
    const policy = silent();
    policy[Symbol.dispose]();
    await expect(open(policy)).rejects.toMatchObject({ name: "EngineError", code: "BadHandle" });
  });
});

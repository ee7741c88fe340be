import { expect, test } from "bun:test";
import { dumps, exactOf } from "../../src/base/exact.ts";
import {
  type FakePolicy,
  type FakeScript,
  fakeDecode,
  fakePolicy,
  fakeRender,
  fakeTokenize,
} from "../../src/core/fake.ts";
import type { SampleRequest } from "../../src/core/policy.ts";
import { type PolicyAgentOptions, policyAgent } from "../../src/rollout/agent.ts";
import { Dialogue } from "../../src/rollout/dialogue.ts";
import { openRenderer } from "../../src/rollout/renderer.ts";
import type { Message } from "../../src/tau2/types.ts";
import { qwen3Like, withTemplate } from "../support/templates.ts";

const TOOLS = '[{"type":"function","function":{"name":"get"}}]';
const greeting: Message = { role: "assistant", content: "Hi!", tool_calls: null };
const user = (content: string): Message => ({ role: "user", content, tool_calls: null });
const result = (content: string): Message => ({
  role: "tool",
  id: "call_1_1",
  content,
  requestor: "assistant",
  error: false,
});

interface Setup {
  /** False: the core is done before a cancellation reaches it. */
  readonly cancels?: boolean;
  readonly whileSampling?: (dialogue: Dialogue) => void;
  readonly template?: typeof qwen3Like;
  readonly context_tokens_max?: number;
  readonly max_new_tokens?: number;
  readonly enable_thinking?: boolean;
  readonly malformed_calls?: PolicyAgentOptions["malformed_calls"];
}

/** An agent whose nth reply is the nth of `replies`. */
async function agentSaying(replies: readonly (string | number[])[], setup: Setup = {}) {
  const script: FakeScript = () => {
    setup.whileSampling?.(dialogue);
    return replies[fake.samples.length - 1] ?? "";
  };
  const fake = fakePolicy(script);
  const cancelling = setup.cancels === false ? withoutCancelling(fake) : fake;
  const policy = setup.template ? withTemplate(cancelling, setup.template) : cancelling;
  const { enable_thinking = false, malformed_calls = "text_to_user" } = setup;
  const renderer = await openRenderer(policy, {
    model: "policy",
    info: policy.info,
    directory: "m",
    tools_json: TOOLS,
    enable_thinking,
  });
  const dialogue = new Dialogue({
    policy,
    model: "policy",
    renderer,
    sampling: {
      temperature: 1,
      top_p: 1,
      top_k: 0,
      min_p: 0,
      max_new_tokens: setup.max_new_tokens ?? 500,
      stop_token_ids: policy.info.eos_token_ids,
    },
    context_tokens_max: setup.context_tokens_max ?? 10_000,
    seedOf: BigInt,
  });
  const agent = policyAgent({ dialogue, systemPrompt: "Be brief.", toolFormat: renderer.toolFormat, malformed_calls });
  return { agent, dialogue, fake };
}

const withoutCancelling = (policy: FakePolicy): FakePolicy =>
  new Proxy(policy, {
    get(target, name) {
      if (name === "sample") return (request: SampleRequest) => target.sample({ ...request, signal: undefined });
      const value = Reflect.get(target, name, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });

const call = '<tool_call>\n{"name": "get", "arguments": {"id": 2.0}}\n</tool_call>';

test("the record is the whole conversation in order; the mask marks what was sampled, stop tokens included", async () => {
  const { agent, dialogue, fake } = await agentSaying([call, "It is here."]);
  await agent.reply([greeting, user("Hello")]);
  await agent.reply([result("one")]);
  const { tokens, sampled_mask, logprobs } = dialogue.record();
  const whole = fakeRender(
    [
      { role: "system", content: "Be brief." },
      { role: "assistant", content: "Hi!" },
      { role: "user", content: "Hello" },
      { role: "assistant", content: call },
      { role: "tool", content: "one" },
      { role: "assistant", content: "It is here." },
    ],
    { tools_json: TOOLS, add_generation_prompt: false, enable_thinking: false },
  );
  expect([...tokens]).toEqual([...fakeTokenize(whole.trimEnd())]);
  const sampled = tokens.filter((_, t) => sampled_mask[t] === 1);
  expect(fakeDecode(sampled, { skip_special: false })).toBe(`${call}<|im_end|>It is here.<|im_end|>`);
  for (const [t, logprob] of logprobs.entries()) expect(logprob < 0).toBe(sampled_mask[t] === 1);
  expect(fake.samples.map(({ seed, sequence }) => [seed, sequence])).toEqual([
    [0n, null],
    [1n, 1],
  ]);
});

test("calls get ids from turn and place, and keep 2.0 apart from 2", async () => {
  const { agent } = await agentSaying(["Hm.", `Two: ${call}${call}`]);
  await agent.reply([greeting, user("Hello")]);
  const reply = await agent.reply([user("Go on")]);
  expect(dumps(exactOf(reply))).toBe(
    '{"content": "Two:", "tool_calls": [' +
      '{"name": "get", "arguments": {"id": 2.0}, "id": "call_2_1", "requestor": "assistant"}, ' +
      '{"name": "get", "arguments": {"id": 2.0}, "id": "call_2_2", "requestor": "assistant"}]}',
  );
});

test("reasoning stays in the tokens and reaches nobody else", async () => {
  const { agent, dialogue } = await agentSaying([`<think>\n${call} secret\n</think>\n\nHello.`], {
    template: qwen3Like,
    enable_thinking: true,
  });
  expect(await agent.reply([greeting, user("Hello")])).toEqual({ content: "Hello.", tool_calls: null });
  expect(fakeDecode(dialogue.record().tokens, { skip_special: false })).toContain("secret");
});

test.each([
  ["nothing", ""],
  ["blanks", " \n"],
  ["reasoning only", "<think>hm</think>"],
  ["control tokens only", "<|im_start|>"],
])("a reply of %s ends the conversation", async (_, text) => {
  const { agent, dialogue } = await agentSaying([text]);
  expect(await agent.reply([user("Hello")])).toEqual({ end: "agent_error", detail: "empty message" });
  expect(dialogue.record().sampled_mask.at(-1)).toBe(1);
});

test("a turn cut by max_new_tokens still counts as the message, and the next prompt closes it", async () => {
  const { agent, dialogue } = await agentSaying(["Hello there", "Bye"], { max_new_tokens: 5 });
  expect(await agent.reply([user("Hello")])).toEqual({ content: "Hello", tool_calls: null });
  expect(agent.counts).toEqual({ agent_turns: 1, malformed_calls: 0, malformed_turns: [], truncated_turns: 1 });
  await agent.reply([user("And?")]);
  expect(fakeDecode(dialogue.record().tokens, { skip_special: false })).toContain(
    "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n",
  );
});

test("a full context ends the conversation: before the turn without a token, within it with those sampled", async () => {
  const { agent, dialogue, fake } = await agentSaying(["x".repeat(100), "y"], { context_tokens_max: 400 });
  await agent.reply([user("Hello")]);
  const before = dialogue.record().tokens.length;
  const full = { end: "context_window_exceeded", detail: "the agent's context is full" } as const;
  expect(await agent.reply([result("z".repeat(400))])).toEqual(full);
  expect(fake.samples).toHaveLength(1);
  expect(dialogue.record().tokens.length).toBe(before);

  const narrow = await agentSaying(["x".repeat(500)], { context_tokens_max: before });
  expect(await narrow.agent.reply([user("Hello")])).toEqual(full);
  const record = narrow.dialogue.record();
  expect(record.tokens.length).toBe(before);
  expect(record.sampled_mask.at(-1)).toBe(1);
});

test.each([
  ["text_to_user", { content: "<tool_call>{", tool_calls: null }],
  [
    "error_to_agent",
    {
      content: null,
      tool_calls: [
        {
          id: "call_1_1",
          name: "malformed_tool_call",
          arguments: { text: "<tool_call>{", problem: "the JSON object is not closed" },
          requestor: "assistant",
        },
      ],
    },
  ],
] as const)("malformed_calls %s", async (malformed_calls, expected) => {
  const { agent } = await agentSaying(["<tool_call>{"], { malformed_calls });
  expect(await agent.reply([user("Hello")])).toEqual(expected as never);
  expect(agent.counts).toMatchObject({ malformed_calls: 1, malformed_turns: [0] });
});

test("control tokens in the middle of a turn stay in the record only", async () => {
  const { agent } = await agentSaying([[...fakeTokenize("a<|im_start|>b<|im_end|>")]]);
  expect(await agent.reply([user("Hello")])).toEqual({ content: "ab", tool_calls: null });
});

test("closed while its first turn is sampled, a conversation cancels it", async () => {
  const { agent, fake } = await agentSaying(["Hello"], { whileSampling: (dialogue) => dialogue.close() });
  await expect(agent.reply([user("Hello")])).rejects.toMatchObject({ name: "EngineError", code: "Cancelled" });
  expect(fake.samples).toHaveLength(1);
  expect(fake.liveSequences).toBe(0);
});

test("closed when the core was already done, it frees the sequence that the answer names", async () => {
  const setup: Setup = { whileSampling: (dialogue) => dialogue.close(), cancels: false };
  const { agent, fake } = await agentSaying(["Hello"], setup);
  await expect(agent.reply([user("Hello")])).rejects.toThrow("closed");
  expect(fake.calls.release).toBe(1);
  expect(fake.liveSequences).toBe(0);
});

test("a closed conversation frees its sequence and says no more", async () => {
  const { agent, dialogue, fake } = await agentSaying(["Hello"]);
  const turn = agent.reply([user("Hello")]);
  dialogue.close();
  await expect(turn).rejects.toThrow("closed");
  expect(fake.liveSequences).toBe(0);
  const second = await agentSaying(["Hello"]);
  await second.agent.reply([user("Hello")]);
  expect(second.fake.liveSequences).toBe(1);
  second.dialogue.close();
  second.dialogue.close();
  expect(second.fake.liveSequences).toBe(0);
  await expect(second.agent.reply([user("More")])).rejects.toThrow("closed");
});

import { expect, test } from "bun:test";
import { FAKE_IM_END, type FakeScript, fakeDecode, fakePolicy } from "../../src/core/fake.ts";
import type { SampleRequest } from "../../src/core/policy.ts";

const request = (fields: Partial<SampleRequest>): SampleRequest => ({
  model: "policy",
  sequence: null,
  tokens: Uint32Array.of(65),
  seed: 1n,
  temperature: 0.7,
  top_p: 1,
  top_k: 0,
  min_p: 0,
  max_new_tokens: 100,
  stop_token_ids: [FAKE_IM_END],
  context_tokens_max: 1000,
  ...fields,
});

const hello: FakeScript = () => "hi";

test("renders ChatML and its tokens round-trip", async () => {
  using policy = fakePolicy(hello);
  const messages = [
    { role: "system", content: "Be brief." },
    { role: "assistant", content: null, tool_calls: [{ function: { name: "f", arguments_json: '{"x": 2.0}' } }] },
  ] as const;
  const text = await policy.render("policy", messages, {
    tools_json: '[{"type":"function"}]',
    add_generation_prompt: true,
    enable_thinking: false,
  });
  expect(text).toBe(
    '<|im_start|>system\nBe brief.\n{"type":"function"}<|im_end|>\n' +
      '<|im_start|>assistant\n<tool_call>\n{"name": "f", "arguments": {"x": 2.0}}\n</tool_call><|im_end|>\n' +
      "<|im_start|>assistant\n",
  );
  const tokens = await policy.tokenize("policy", text);
  expect(tokens[0]).toBe(256);
  expect(await policy.decode("policy", tokens, { skip_special: false })).toBe(text);
});

test("a turn is appended to the live sequence, and recorded log-probabilities are the recomputed ones", async () => {
  const seen: string[] = [];
  using policy = fakePolicy((tokens) => {
    seen.push(fakeDecode(tokens, { skip_special: true }));
    return "B";
  });
  const first = await policy.sample(request({}));
  const second = await policy.sample(request({ sequence: first.sequence, tokens: Uint32Array.of(67) }));
  expect(seen).toEqual(["A", "ABC"]);
  const tokens_N = Uint32Array.of(65, ...first.tokens, 67, ...second.tokens);
  const recomputed = await policy.logprobs(
    "policy",
    { tokens_N, offsets: Uint32Array.of(0, tokens_N.length) },
    { temperature: 0.7 },
  );
  expect([...recomputed.subarray(1, 3), ...recomputed.subarray(4)]).toEqual([...first.logprobs, ...second.logprobs]);
});

test.each([
  { fields: {}, tokens: 3, stop: "stop_token" },
  { fields: { max_new_tokens: 2 }, tokens: 2, stop: "max_new_tokens" },
  { fields: { context_tokens_max: 2 }, tokens: 1, stop: "context_window_exceeded" },
  { fields: { context_tokens_max: 1 }, tokens: 0, stop: "context_window_exceeded" },
])("stop rules: $stop after $tokens tokens", async ({ fields, tokens, stop }) => {
  using policy = fakePolicy(hello);
  const sampled = await policy.sample(request(fields));
  expect({ tokens: sampled.tokens.length, stop: sampled.stop as string }).toEqual({ tokens, stop });
});

test("an optimizer step makes live sequences stale, and a release cancels", async () => {
  using policy = fakePolicy(hello);
  const { sequence } = await policy.sample(request({}));
  await policy.optimizerStep({
    learning_rate: 1,
    beta1: 0.9,
    beta2: 0.999,
    eps: 1e-8,
    weight_decay: 0,
    max_grad_norm: 1,
  });
  await expect(policy.sample(request({ sequence }))).rejects.toMatchObject({ code: "BadHandle" });
  const running = policy.sample(request({}));
  policy.release("policy", sequence + 1);
  await expect(running).rejects.toMatchObject({ code: "Cancelled" });
});

import { expect, test } from "bun:test";
import { Rng } from "../../src/base/rng.ts";
import { type FakeScript, fakeDecode, fakePolicy } from "../../src/core/fake.ts";
import { type LocalOptions, localUser } from "../../src/rollout/local-user.ts";
import type { Domain, Message } from "../../src/tau2/types.ts";
import { lampDomain } from "../support/lamp-domain.ts";

const said = (content: string): Message => ({ role: "assistant", content, tool_calls: null });

async function userOf(script: FakeScript, fields: Partial<LocalOptions> = {}, domain: Domain = lampDomain()) {
  const policy = fakePolicy(script);
  await policy.weightOp({ op: "snapshot", name: "base" });
  const [task] = domain.tasks;
  if (task === undefined) throw new Error("no task");
  const user = localUser(policy, "base", {
    domain,
    task,
    info: policy.info,
    directory: "models/x",
    temperature: 0,
    max_new_tokens: 100,
    context_tokens_max: 5000,
    enable_thinking: false,
    rng: Rng.from(1),
    ...fields,
  });
  return { user, policy };
}

test("speaks through its own template, roles flipped, appending to one sequence of the frozen model", async () => {
  const seen: string[] = [];
  const { user, policy } = await userOf((tokens) => {
    seen.push(fakeDecode(tokens, { skip_special: false }));
    return seen.length === 1 ? "<think>what now</think>Lamp A!" : "###STOP###";
  });
  expect(user.identity).toBe("local:base");
  expect(await user.reply([said("Hi!")])).toEqual({ content: "Lamp A!", tool_calls: null });
  expect(await user.reply([said("Done.")])).toEqual({ content: "###STOP###", tool_calls: null });
  expect(seen[1]).toBe(
    "<|im_start|>system\nYou want lamp A on.<|im_end|>\n<|im_start|>user\nHi!<|im_end|>\n" +
      "<|im_start|>assistant\n<think>what now</think>Lamp A!<|im_end|>\n<|im_start|>user\nDone.<|im_end|>\n" +
      "<|im_start|>assistant\n",
  );
  expect(policy.samples.map(({ model, sequence, temperature }) => ({ model, sequence, temperature }))).toEqual([
    { model: "base", sequence: null, temperature: 0 },
    { model: "base", sequence: 1, temperature: 0 },
  ]);
  expect(new Set(policy.samples.map(({ seed }) => seed)).size).toBe(2);
  expect(policy.liveSequences).toBe(1);
  user.close?.();
  user.close?.();
  expect(policy.liveSequences).toBe(0);
});

test("calls its own tools where the domain gives it some", async () => {
  let turns = 0;
  const { user, policy } = await userOf(
    () => (turns++ === 0 ? '<tool_call>{"name": "look", "arguments": {}}</tool_call>' : "It is dark."),
    {},
    lampDomain({ userTools: true }),
  );
  const reply = await user.reply([said("Is it on?")]);
  expect(reply).toEqual({
    content: null,
    tool_calls: [{ id: "user_call_1_1", name: "look", arguments: {}, requestor: "user" }],
  });
  const result: Message = { role: "tool", id: "user_call_1_1", content: "[]", requestor: "user", error: false };
  expect(await user.reply([result])).toEqual({ content: "It is dark.", tool_calls: null });
  expect(fakeDecode(policy.samples[1]?.tokens ?? [], { skip_special: false })).toContain(
    "<|im_start|>tool\n[]<|im_end|>",
  );
});

test("without tools a call is text", async () => {
  const { user } = await userOf(() => '<tool_call>{"name": "look", "arguments": {}}</tool_call>');
  expect(await user.reply([said("Hi!")])).toMatchObject({
    content: '<tool_call>{"name": "look", "arguments": {}}</tool_call>',
  });
});

test.each([
  ["says nothing", () => " ", {}, "empty message of the user"],
  ["has no room left", () => "Hello", { context_tokens_max: 50 }, "context_window_exceeded of the user"],
])("a user that %s is no reward of the agent's but a technical failure", async (_, script, fields, detail) => {
  const { user } = await userOf(script, fields);
  expect(await user.reply([said("Hi!")])).toEqual({ end: "infrastructure_error", detail });
});

test("another directory is named by its last part", async () => {
  const { policy } = await userOf(() => "x");
  await policy.loadModel("user", "/models/tiny-user");
  const domain = lampDomain();
  const user = localUser(policy, "user", {
    domain,
    task: domain.tasks[0] as (typeof domain.tasks)[0],
    info: policy.info,
    directory: "/models/tiny-user",
    temperature: 0,
    max_new_tokens: 10,
    context_tokens_max: 5000,
    enable_thinking: false,
    rng: Rng.from(1),
  });
  expect(user.identity).toBe("local:tiny-user");
});

test("a user closed before it spoke says no more", async () => {
  const { user, policy } = await userOf(() => "Hello");
  user.close?.();
  await expect(user.reply([said("Hi!")])).rejects.toThrow("closed");
  expect(policy.samples).toHaveLength(0);
});

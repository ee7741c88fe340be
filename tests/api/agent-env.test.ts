/** The environments step as tau2's gym does: observations, endings, rewards. */
import { describe, expect, test } from "bun:test";
import {
  AgentEnv,
  type EnvStep,
  openaiJudge,
  openaiUser,
  replayUser,
  UserEnv,
  UserError,
} from "../../src/api/index.ts";
import { dumps } from "../../src/base/exact.ts";
import type { Agent, User } from "../../src/tau2/types.ts";
import { lampDomain, lampTask } from "../support/lamp-domain.ts";
import { openaiServer } from "../support/openai-server.ts";
import { dataDirectory, domainOf, hasFixtures, WITHOUT_FIXTURES } from "../tau2/fixtures.ts";

const lamps = lampDomain({ userTools: true });
const judged = {
  ...lampTask("A"),
  evaluation_criteria: {
    actions: null,
    env_assertions: null,
    communicate_info: null,
    nl_assertions: ["is kind"],
    reward_basis: ["NL_ASSERTION" as const],
  },
};

const short = ({ observation, reward, terminated, truncated }: EnvStep) => [observation, reward, terminated, truncated];

test("an agent's episode", async () => {
  await using env = new AgentEnv({ domain: lamps, task_id: "B" });
  const { observation, info } = await env.reset();
  expect(observation).toBe("user: Lamp B, please.");
  expect(info).toMatchObject({ task: { id: "B" }, policy: lamps.policy, simulation_run: null, reward_info: null });
  expect(info.tools.map(({ function: { name } }) => name)).toEqual(["switch_on", "list_lamps", "done"]);
  expect(short(await env.step("  "))).toEqual(["Invalid action with error: Action cannot be empty", 0, false, false]);
  expect(short(await env.step("switch_on(lamp='Z')"))).toEqual(["tool: Error: Lamp not found", 0, false, false]);
  expect(short(await env.step('{"name": "switch_on", "arguments": {"lamp": "B"}}'))).toEqual([
    "tool: done",
    0,
    false,
    false,
  ]);
  const last = await env.step("It is on.");
  expect(short(last)).toEqual(["user: ###STOP###", 1, true, false]);
  expect(last.info).toMatchObject({
    simulation_run: { termination: "user_stop", num_errors: 1 },
    reward_info: { reward: 1, db_check: { db_match: true } },
  });
  expect(short(await env.step("again"))).toEqual(["", 0, true, false]);
  expect((await env.reset()).observation).toBe("user: Lamp B, please.");
});

test("the agent ends it with done(), and may look back on everything", async () => {
  await using env = new AgentEnv({ domain: lamps, task_id: "A", all_messages_as_observation: true });
  const greeting = "assistant: Hi! How can I help you today?\nuser: Lamp A, please.";
  expect((await env.reset()).observation).toBe(greeting);
  expect((await env.step("switch_on(lamp='A')")).observation).toBe(
    `${greeting}\nassistant: switch_on(lamp='A')\ntool: done`,
  );
  const last = await env.step("done()");
  expect(short(last)).toEqual(["", 1, true, false]);
  expect(last.info.simulation_run?.termination).toBe("agent_stop");
});

test("limits end it with the results that nobody answers, and without reward", async () => {
  await using env = new AgentEnv({ domain: lamps, task_id: "A", max_steps: 3 });
  await env.reset();
  const last = await env.step("switch_on(lamp='A')");
  expect(short(last)).toEqual(["tool: done", 0, true, false]);
  expect(last.info.simulation_run?.termination).toBe("max_steps");
});

test("a user's episode: greeting, own tools, the agent's words", async () => {
  const agent = (): Agent => ({
    reply: async (incoming) =>
      incoming.at(-1)?.role === "tool"
        ? { content: "On.", tool_calls: null }
        : {
            content: null,
            tool_calls: [{ id: "1", name: "switch_on", arguments: { lamp: "C" }, requestor: "assistant" }],
          },
  });
  await using env = new UserEnv({ domain: lamps, task_id: "C", agent });
  const { observation, info } = await env.reset();
  expect(observation).toBe("assistant: Hi! How can I help you today?");
  expect(info.tools.map(({ function: { name } }) => name)).toEqual(["look"]);
  expect((await env.step('{"name": "look", "arguments": {}, "requestor": "assistant"}')).observation).toBe("tool: []");
  expect((await env.step("Lamp C!")).observation).toBe("assistant: On.");
  const last = await env.step("###STOP###");
  expect([last.reward, last.terminated]).toEqual([1, true]);
  expect(last.info.simulation_run?.messages.filter(({ role }) => role === "tool")).toMatchObject([
    { requestor: "user" },
    { requestor: "assistant" },
  ]);
});

test("a model plays the user, and another one judges", async () => {
  using server = openaiServer((messages) => {
    const asked = messages.map(({ content }) => content ?? "").join();
    if (asked.includes("expectedOutcome"))
      return JSON.stringify({ results: [{ expectedOutcome: "is kind", reasoning: "", metExpectation: true }] });
    return asked.includes("Here you are") ? "###STOP###" : "Lamp A, please.";
  });
  const endpoint = { model: "m", base_url: server.url, max_retries: 0 };
  await using env = new AgentEnv({
    domain: { ...lamps, tasks: [judged] },
    task_id: "A",
    user: openaiUser(endpoint),
    judge: openaiJudge(endpoint),
  });
  expect((await env.reset()).observation).toBe("user: Lamp A, please.");
  const { reward, info } = await env.step("Here you are.");
  expect([reward, info.reward_info?.nl_assertions?.[0]?.met]).toEqual([1, true]);
  expect(server.requests).toHaveLength(3);
  expect(() => openaiUser({ model: "m", base_url: "nowhere" })).toThrow("user.base_url");
});

describe("what goes wrong", () => {
  test.each([
    [{ domain: lamps, task_id: "nine" }, 'task_id: lamps has no task "nine"'],
    [{ domain: "lamp", task_id: "A" }, 'there is no domain "lamp"'],
    [{ domain: { ...lamps, scriptedUser: undefined }, task_id: "A" }, "user: lamps brings no scripted user"],
    [{ domain: "airline", task_id: "0", tau2_data_dir: "/nonexistent" }, "/nonexistent holds no domains/airline"],
    [{ domain: { ...lamps, tasks: [judged] }, task_id: "A" }, "judge: task A of lamps counts nl_assertions"],
  ])("%#: %s", (options, sentence) => {
    expect(() => new AgentEnv(options)).toThrow(UserError);
    expect(() => new AgentEnv(options)).toThrow(sentence);
  });

  test("a step before reset, and two at once", async () => {
    const env = new AgentEnv({ domain: lamps, task_id: "A" });
    await expect(env.step("x")).rejects.toThrow("call reset() before step()");
    await env.reset();
    const first = env.step("list_lamps()");
    await expect(env.step("list_lamps()")).rejects.toThrow("the last step is still going on");
    await first;
    await env.close();
  });

  test("a user that throws; then reset helps", async () => {
    const replies = [new Error("no line"), "A, please"];
    const user = (): User => ({
      identity: "moody",
      reply: async () => {
        const reply = replies.shift();
        if (reply instanceof Error) throw reply;
        return { content: reply ?? "###STOP###", tool_calls: null };
      },
    });
    const env = new AgentEnv({ domain: lamps, task_id: "A", user });
    await expect(env.reset()).rejects.toThrow("no line");
    await Promise.resolve();
    expect((await env.reset()).observation).toBe("user: A, please");
    await env.close();
  });

  test("close in mid-conversation frees the user, and is idempotent", async () => {
    let closed = 0;
    const user = (): User => ({ ...replayUser([{ content: "Hello.", tool_calls: null }]), close: () => void closed++ });
    const env = new AgentEnv({ domain: lamps, task_id: "A", user });
    await env.reset();
    await env.close();
    await env.close();
    expect(closed).toBe(1);
    await expect(env.step("x")).rejects.toThrow("call reset()");
  });
});

describe.skipIf(!hasFixtures)(`on tau2's data ${hasFixtures ? "" : WITHOUT_FIXTURES}`, () => {
  test("airline's golden actions as text earn what the golden run earns", async () => {
    const domain = domainOf("airline");
    for (const task of domain.tasks.filter(
      ({ evaluation_criteria }) => !evaluation_criteria?.communicate_info?.length,
    )) {
      await using env = new AgentEnv({
        domain: "airline",
        task_id: task.id,
        tau2_data_dir: dataDirectory,
        user: () => replayUser([{ content: "Hello.", tool_calls: null }]),
      });
      await env.reset();
      for (const action of task.evaluation_criteria?.actions ?? []) {
        const { name, arguments: args } = action;
        await env.step(dumps({ name, arguments: args }));
      }
      expect((await env.step("done()")).reward, task.id).toBe(1);
    }
  });
});

import { describe, expect, test } from "bun:test";
import { type FakePolicy, type FakeScript, fakePolicy } from "../../src/core/fake.ts";
import { type CollectOptions, collectRollouts, type PlannedTask } from "../../src/rollout/collect.ts";
import type { RolloutUser } from "../../src/rollout/rollout.ts";
import type { Group } from "../../src/rollout/types.ts";
import { DONE } from "../../src/tau2/agent.ts";
import type { Domain, EndOfConversation, Task } from "../../src/tau2/types.ts";
import { lampDomain, lampUser } from "../support/lamp-domain.ts";

const CONFIG: CollectOptions["config"] = {
  model_name_or_path: "models/x",
  max_context_tokens: null,
  seed: 1,
  eval_seed: 2,
  max_steps: 20,
  max_errors: 10,
  temperature: 1,
  eval_temperature: 0.1,
  top_p: 1,
  top_k: 0,
  min_p: 0,
  max_new_tokens: 200,
  enable_thinking: false,
  malformed_calls: "text_to_user",
  constrained_tool_calls: false,
  failed_rollouts_max: 0.5,
};

const options = (fields: Partial<CollectOptions> = {}): CollectOptions => ({
  config: CONFIG,
  phase: "train",
  step: 0,
  samples: 3,
  makeUser: (_domain, task) => lampUser(task),
  policy_version: 7,
  ...fields,
});

const lamps = lampDomain();
const plan = (domain: Domain = lamps, ...replayed: boolean[]): PlannedTask[] =>
  domain.tasks.map((task, p) => ({ domain, task, replayed: replayed[p] ?? false }));

const switchOn = (lamp: string) => `<tool_call>{"name": "switch_on", "arguments": {"lamp": "${lamp}"}}</tool_call>`;
const wanted = (text: string) => /Lamp (\w+), please/.exec(text)?.[1] ?? "?";

/** Switches the right lamp on in about half of its conversations, by its random stream. */
const tossing: FakeScript = (_, { request, text }) => {
  if (text.includes("<|im_start|>tool")) return `Done ${request.seed % 1000n}.`;
  return request.seed % 2n === 0n ? switchOn(wanted(text)) : `No ${request.seed % 1000n}.`;
};

/** All that a rollout is, with its arrays as text. */
const digest = (groups: readonly Group[]) =>
  JSON.stringify(groups, (_, value) => (ArrayBuffer.isView(value) ? [...(value as Uint8Array)] : value));

async function collect(script: FakeScript, fields: Partial<CollectOptions> = {}, planned = plan()) {
  const policy = fakePolicy(script);
  const groups = await collectRollouts(policy, planned, options(fields));
  expect(policy.liveSequences).toBe(0);
  return { groups, policy };
}

test("a group per planned task in its order, scored by what the conversation did to the environment", async () => {
  const { groups } = await collect(tossing, {}, plan(lamps, false, true));
  expect(
    groups.map(({ task_id, replayed, rollouts }) => [task_id, replayed, rollouts.map(({ sample }) => sample)]),
  ).toEqual([
    ["A", false, [0, 1, 2]],
    ["B", true, [0, 1, 2]],
    ["C", false, [0, 1, 2]],
  ]);
  const rollouts = groups.flatMap((group) => group.rollouts);
  for (const rollout of rollouts) {
    expect(rollout.termination).toBe("user_stop");
    expect(rollout.reward).toBe(rollout.tool_calls === 1 ? 1 : 0);
    expect(rollout).toMatchObject({
      tool_errors: 0,
      task_writes: true,
      policy_version: 7,
      user_identity: "scripted",
      user_cost_usd: 0,
    });
    expect(rollout.agent_turns).toBe(1 + rollout.tool_calls);
  }
  expect(new Set(rollouts.map(({ reward }) => reward))).toEqual(new Set([0, 1]));
});

describe("solo mode", () => {
  const solo: Domain = {
    ...lamps,
    solo_mode: true,
    soloSystemPrompt: (task) => `Ticket: lamp ${task.id} is dark.`,
    tools: [...lamps.tools, DONE],
  };
  const makeUser: CollectOptions["makeUser"] = () => expect.unreachable("a user was made");
  const ticket = (text: string) => /Ticket: lamp (\w+)/.exec(text)?.[1] ?? "?";
  const done = '<tool_call>{"name": "done", "arguments": {}}</tool_call>';

  test("the agent works from the ticket and ends by a call of done, without a user", async () => {
    const script: FakeScript = (_, { text }) => (text.includes("<|im_start|>tool") ? done : switchOn(ticket(text)));
    const { groups } = await collect(script, { makeUser, samples: 1 }, plan(solo));
    for (const { task_id, rollouts } of groups) {
      expect(rollouts[0]).toMatchObject({
        termination: "agent_stop",
        reward: 1,
        user_identity: "none",
        agent_turns: 2,
      });
      expect(rollouts[0]?.messages).toMatchObject([
        { role: "assistant", tool_calls: [{ name: "switch_on", arguments: { lamp: task_id } }] },
        { role: "tool", content: "done" },
        { role: "assistant", content: "###STOP###", tool_calls: null },
      ]);
    }
  });

  test("a text is the agent's error", async () => {
    const { groups } = await collect(() => "Which lamp?", { makeUser, samples: 1 }, plan(solo));
    expect(groups[0]?.rollouts[0]).toMatchObject({
      termination: "agent_error",
      reward: 0,
      detail: "ValueError: LLMSoloAgent only supports tool calls.",
    });
  });
});

test("constrained_tool_calls gives every turn the grammar of its domain's tools, and only then", async () => {
  const free = await collect(tossing);
  expect(free.policy.samples.every(({ grammar }) => grammar === undefined)).toBe(true);
  const { policy, groups } = await collect(tossing, { config: { ...CONFIG, constrained_tool_calls: true } });
  const grammars = policy.samples.map(({ grammar }) => grammar);
  expect(new Set(grammars.map((grammar) => JSON.stringify(grammar))).size).toBe(1);
  expect(grammars[0]).toMatchObject({ format: "hermes", in_reasoning: false });
  expect(grammars[0]?.tools_json).toContain("switch_on");
  expect(digest(groups)).toBe(digest(free.groups)); // the fake knows no grammars
});

describe("random streams", () => {
  test("the same seed gives the same rollouts, however the conversations interleave", async () => {
    const { groups } = await collect(tossing);
    const delayed = (_domain: Domain, task: Task): RolloutUser => {
      const user = lampUser(task);
      return {
        ...user,
        reply: async (incoming) => {
          await Bun.sleep(task.id === "A" ? 6 : task.id === "B" ? 3 : 0);
          return user.reply(incoming);
        },
      };
    };
    expect(digest((await collect(tossing, { makeUser: delayed })).groups)).toBe(digest(groups));
    const alone = await Promise.all(plan().map((planned) => collect(tossing, {}, [planned])));
    expect(digest(alone.flatMap(({ groups }) => groups))).toBe(digest(groups));
  });

  const seeds = async (fields: Partial<CollectOptions>, planned = plan()) => {
    const { policy } = await collect(tossing, fields, planned);
    return policy.samples.map(({ seed }) => seed);
  };

  test("no two turns, samples, tasks, steps or repeats of a task share a stream", async () => {
    const [first] = plan();
    const repeated = [first, first] as PlannedTask[];
    const other = lampDomain({ name: "other lamps" });
    const all = [
      ...(await seeds({})),
      ...(await seeds({ step: 1 })),
      ...(await seeds({ config: { ...CONFIG, seed: 3 } })),
      ...(await seeds({ phase: "eval" })),
      ...(await seeds({ step: 2 }, repeated)),
      ...(await seeds({}, plan(other))),
    ];
    expect(all.length).toBeGreaterThan(40);
    expect(new Set(all).size).toBe(all.length);
  });

  test("an evaluation draws the same luck at every step and for every training seed", async () => {
    const row = await seeds({ phase: "eval" });
    expect(await seeds({ phase: "eval", step: 5, config: { ...CONFIG, seed: 9 } })).toEqual(row);
    expect(await seeds({ phase: "eval", config: { ...CONFIG, eval_seed: 9 } })).not.toEqual(row);
  });
});

test("training and evaluation sample at their own temperature, within the smaller context", async () => {
  const { policy } = await collect(tossing, { config: { ...CONFIG, max_context_tokens: 3000 } });
  const evaluated = await collect(tossing, { phase: "eval" });
  expect(policy.samples[0]).toMatchObject({ temperature: 1, context_tokens_max: 3000, max_new_tokens: 200 });
  expect(evaluated.policy.samples[0]).toMatchObject({
    temperature: 0.1,
    context_tokens_max: policy.info.context_tokens_max,
  });
});

describe("what goes wrong in a conversation is data", () => {
  const cases: [string, FakeScript, object][] = [
    ["an empty message", () => " ", { termination: "agent_error", detail: "empty message", reward: 0, agent_turns: 1 }],
    [
      "errors of tools",
      (_, { text }) => (text.includes("Lamp not found") ? "Sorry." : switchOn("Z")),
      { termination: "user_stop", reward: 0, tool_calls: 1, tool_errors: 1 },
    ],
    [
      "too many errors",
      () => switchOn("Z"),
      { termination: "too_many_errors", reward: 0, tool_calls: 3, tool_errors: 3 },
    ],
    [
      "a turn without an end",
      () => new Uint8Array(300).fill(65),
      { truncated_turns: 1, termination: "user_stop", reward: 0 },
    ],
    ["a malformed call", () => "<tool_call>{", { malformed_calls: 1, tool_calls: 0, termination: "user_stop" }],
  ];
  test.each(cases)("%s", async (_, script, expected) => {
    const { groups } = await collect(script, { samples: 1, config: { ...CONFIG, max_errors: 3 } });
    expect(groups[0]?.rollouts[0]).toMatchObject(expected);
  });

  test("a malformed call answered to the agent: an error that costs a turn, then a second chance", async () => {
    const script: FakeScript = (_, { text }) => {
      if (text.includes("<|im_start|>tool\ndone")) return "Done.";
      return text.includes("Error: The tool call could not be read: the JSON object is not closed.")
        ? switchOn(wanted(text))
        : "<tool_call>{";
    };
    const { groups } = await collect(script, { samples: 1, config: { ...CONFIG, malformed_calls: "error_to_agent" } });
    expect(groups[0]?.rollouts[0]).toMatchObject({
      reward: 1,
      malformed_calls: 1,
      tool_calls: 1,
      tool_errors: 0,
      agent_turns: 3,
    });
  });

  test("a context that fills up", async () => {
    const config = { ...CONFIG, max_context_tokens: 500 };
    const { groups } = await collect(() => "x".repeat(300), { samples: 1, config });
    expect(groups[0]?.rollouts[0]).toMatchObject({ termination: "context_window_exceeded", reward: 0 });
  });

  test("an environment that ends the conversation", async () => {
    const strict: Domain = {
      ...lamps,
      createEnvironment: () => {
        const environment = lamps.createEnvironment();
        let ended: { reason: string } | null = null;
        return {
          ...environment,
          getResponse: (call) => {
            ended = { reason: "switched without asking" };
            return environment.getResponse(call);
          },
          get ended() {
            return ended;
          },
        };
      },
    };
    const { groups } = await collect((_, { text }) => switchOn(wanted(text)), { samples: 1 }, plan(strict));
    expect(groups[0]?.rollouts[0]).toMatchObject({
      termination: "agent_error",
      detail: "switched without asking",
      reward: 0,
    });
  });
});

describe("technical failures", () => {
  const down: EndOfConversation = { end: "infrastructure_error", detail: "the user's model did not answer" };
  const failing =
    (fails: (task: Task) => boolean): CollectOptions["makeUser"] =>
    (_, task) =>
      fails(task) ? { identity: "openai:x", reply: async () => down, costUsd: () => 0.5 } : lampUser(task);

  test("are data while they are few", async () => {
    const { groups } = await collect(tossing, { makeUser: failing((task) => task.id === "B") });
    expect(groups[1]?.rollouts[0]).toMatchObject({
      termination: "infrastructure_error",
      detail: down.detail,
      reward: 0,
      reward_info: null,
      agent_turns: 0,
      user_identity: "openai:x",
      user_cost_usd: 0.5,
    });
    expect(groups[1]?.rollouts[0]?.tokens.length).toBe(0);
  });

  test("stop the run when they are many", async () => {
    const error = await collect(tossing, { makeUser: failing((task) => task.id !== "A") }).catch((thrown) => thrown);
    expect(error).toMatchObject({ name: "UserError", where: "failed_rollouts_max" });
    expect(error.message).toContain("6 of 9 rollouts failed for technical reasons");
    expect(error.message).toContain(down.detail);
  });
});

describe("breaking off", () => {
  /** Rejects with what the run threw, once every sequence is free again. */
  async function broken(policy: FakePolicy, fields: Partial<CollectOptions>) {
    const error = await collectRollouts(policy, plan(), options(fields)).catch((thrown) => thrown);
    for (let waits = 0; policy.liveSequences > 0 && waits < 50; waits++) await Bun.sleep(2);
    expect(policy.liveSequences).toBe(0);
    return error;
  }

  test("an abort ends it at once, even while a user's server hangs", async () => {
    const controller = new AbortController();
    const hanging: CollectOptions["makeUser"] = (_, task) => {
      const user = lampUser(task);
      let turns = 0;
      return { ...user, reply: (incoming) => (turns++ === 0 ? user.reply(incoming) : new Promise(() => {})) };
    };
    setTimeout(() => controller.abort(new Error("interrupted")), 20);
    const policy = fakePolicy(() => "Hm.");
    expect(await broken(policy, { makeUser: hanging, signal: controller.signal })).toMatchObject({
      message: "interrupted",
    });
  });

  test("an abort before the start", async () => {
    const policy = fakePolicy(() => "Hm.");
    expect(await broken(policy, { signal: AbortSignal.abort(new Error("interrupted")) })).toMatchObject({
      message: "interrupted",
    });
    expect(policy.samples).toHaveLength(0);
  });

  test("a broken invariant in one conversation ends all of them, also those that wait", async () => {
    const makeUser: CollectOptions["makeUser"] = (_, task) => ({
      ...lampUser(task),
      reply: async (incoming) => {
        if (!incoming.some(({ content }) => content === "Hm.")) return { content: "Go on.", tool_calls: null };
        if (task.id === "C") throw new Error("broken");
        return new Promise(() => {});
      },
    });
    const policy = fakePolicy(() => "Hm.");
    expect(await broken(policy, { makeUser })).toMatchObject({ message: "broken" });
    expect(policy.samples).toHaveLength(9);
  });

  test("a domain's template trouble is a UserError of the model", async () => {
    const policy = fakePolicy(() => "Hm.", { has_chat_template: false });
    expect(await broken(policy, {})).toMatchObject({ name: "UserError", where: "models/x" });
  });

  test("users are closed whatever happens", async () => {
    let [opened, closed] = [0, 0];
    const makeUser: CollectOptions["makeUser"] = (_, task) => {
      opened++;
      return { ...lampUser(task), close: () => void closed++ };
    };
    await collect(tossing, { makeUser });
    expect(closed).toBe(opened);
  });
});

test("progress hears of every rollout", async () => {
  const heard: string[] = [];
  await collect(tossing, { onRollout: ({ task_id, sample }) => heard.push(`${task_id}${sample}`) });
  expect(heard.sort()).toEqual(["A0", "A1", "A2", "B0", "B1", "B2", "C0", "C1", "C2"]);
});

/** Who is asked what and when, and how a conversation ends: our own seams, which no recording shows. */
import { describe, expect, test } from "bun:test";
import { isScored } from "../../src/tau2/evaluator.ts";
import { runConversation } from "../../src/tau2/orchestrator.ts";
import { parseTask } from "../../src/tau2/task.ts";
import type {
  Agent,
  Domain,
  EndOfConversation,
  Environment,
  Message,
  Reply,
  TerminationReason,
  ToolCall,
  User,
} from "../../src/tau2/types.ts";
import { agentMessages, type ChatCompletion, replayUser, simulatedUser, userToolsOf } from "../../src/tau2/user.ts";

const say = (content: string): Reply => ({ content, tool_calls: null });
const call = (name: string, requestor: ToolCall["requestor"] = "assistant"): Reply => ({
  content: null,
  tool_calls: [{ id: name, name, arguments: {}, requestor }],
});

/** Answers every call with its name; `bad` fails, `fatal` ends the conversation. */
function environment(): Environment {
  let ended: { reason: string } | null = null;
  return {
    getResponse({ id, name, requestor }) {
      if (name === "fatal") ended = { reason: "cancelled without a yes" };
      return { role: "tool", id, content: name, requestor, error: name === "bad" };
    },
    agentDbHash: () => "hash",
    userDbHash: () => null,
    get ended() {
      return ended;
    },
  };
}

/** Plays a script and notes what it was given each time. */
function player(...script: (Reply | EndOfConversation)[]) {
  const heard: string[][] = [];
  return {
    heard,
    identity: "script",
    reply: async (incoming: readonly Message[]) => {
      heard.push(incoming.map((message) => `${message.role}: ${message.content ?? message.role}`));
      return script[heard.length - 1] ?? say("###STOP###");
    },
  } satisfies Agent & User & { heard: string[][] };
}

const limits = { max_steps: 50, max_errors: 10 };

describe("turns", () => {
  test("each side is given what it has not seen, and nothing of the other's tool calls", async () => {
    const agent = player(call("look"), say("Hello."), say("Bye."));
    const user = player(say("Hi."), call("phone", "user"), say("Done."), say("Thanks ###STOP###"));
    const { messages, termination, step_count } = await runConversation({
      environment: environment(),
      agent,
      user,
      limits,
    });
    expect(termination).toBe("user_stop");
    expect(agent.heard).toEqual([
      ["assistant: Hi! How can I help you today?", "user: Hi."],
      ["tool: look"],
      ["user: Done."],
    ]);
    expect(user.heard).toEqual([
      ["assistant: Hi! How can I help you today?"],
      ["assistant: Hello."],
      ["tool: phone"],
      ["assistant: Bye."],
    ]);
    expect(messages.length).toBe(10);
    expect(step_count).toBe(9);
  });

  test("a history opens the trajectory, and its last message says whose turn it is", async () => {
    const history: Message[] = [
      { role: "assistant", ...say("Welcome.") },
      { role: "user", ...say("My phone is dead.") },
      { role: "assistant", ...call("look") },
      { role: "tool", id: "look", content: "dead", requestor: "assistant", error: false },
    ];
    const agent = player(say("It is dead."));
    const user = player(say("Thanks ###STOP###"));
    await runConversation({ environment: environment(), agent, user, limits, history });
    expect(agent.heard).toEqual([
      ["assistant: Welcome.", "user: My phone is dead.", "assistant: assistant", "tool: dead"],
    ]);
    expect(user.heard).toEqual([["assistant: Welcome.", "user: My phone is dead.", "assistant: It is dead."]]);
  });
});

describe("endings", () => {
  const ends: readonly [
    string,
    Parameters<typeof player>,
    Parameters<typeof player>,
    TerminationReason,
    string | null,
  ][] = [
    [
      "agent breaks off",
      [{ end: "context_window_exceeded", detail: "4097 tokens" }],
      [say("Hi.")],
      "context_window_exceeded",
      "4097 tokens",
    ],
    ["user breaks off", [], [{ end: "infrastructure_error", detail: "HTTP 500" }], "infrastructure_error", "HTTP 500"],
    ["user times out", [say("Hello.")], [say("Hi."), { end: "timeout", detail: "60 s" }], "timeout", "60 s"],
    ["environment ends it", [call("fatal")], [say("Hi.")], "agent_error", "cancelled without a yes"],
    [
      "agent calls no tool in a tool message",
      [{ content: null, tool_calls: [] }],
      [say("Hi.")],
      "agent_error",
      "IndexError: list index out of range",
    ],
    ["too many errors", Array.from({ length: 20 }, () => call("bad")), [say("Hi.")], "too_many_errors", null],
    [
      "endless talk",
      Array.from({ length: 60 }, () => say("Hm.")),
      Array.from({ length: 60 }, () => say("Hm.")),
      "max_steps",
      null,
    ],
  ];
  test.each(ends)("%s", async (_, agent, user, reason, detail) => {
    const simulation = await runConversation({
      environment: environment(),
      agent: player(...agent),
      user: player(...user),
      limits,
    });
    expect([simulation.termination, simulation.detail]).toEqual([reason, detail]);
    expect(isScored(simulation.termination)).toBe(false);
  });

  test("an empty user message is the user's fault", async () => {
    const { termination, detail } = await runConversation({
      environment: environment(),
      agent: player(),
      user: player(say("  ")),
      limits,
    });
    expect([termination, detail]).toEqual([
      "user_error",
      "ValueError: UserMessage must have either content or tool_calls. Got UserMessage\nis_final_chunk: True",
    ]);
  });

  test("mixed messages are refused only where communication is validated", async () => {
    const mixed = { ...call("look"), content: "One moment." };
    const run = (validate_communication: boolean) =>
      runConversation({
        environment: environment(),
        agent: player(mixed),
        user: player(say("Hi."), say("###STOP###")),
        limits,
        validate_communication,
      });
    expect((await run(true)).termination).toBe("agent_error");
    expect((await run(false)).termination).toBe("user_stop");
  });

  test("an aborted conversation throws", async () => {
    const stop = new AbortController();
    const user: User = {
      ...replayUser([]),
      reply: async () => {
        stop.abort(new Error("stopped"));
        return say("Hi.");
      },
    };
    expect(
      runConversation({ environment: environment(), agent: player(), user, limits, signal: stop.signal }),
    ).rejects.toThrow("stopped");
  });
});

describe("the simulated user", () => {
  const phone = { type: "function", function: { name: "phone", description: "", parameters: {} } } as const;
  const radio = { type: "function", function: { name: "radio", description: "", parameters: {} } } as const;
  const domain = { userTools: [phone, radio], userSystemPrompt: () => "Be a customer." } as unknown as Domain;
  const task = parseTask({ id: "1", user_scenario: { instructions: "x" } }, "test");

  test("hears roles flipped, and its calls become the user's", async () => {
    const requests: Parameters<ChatCompletion>[0][] = [];
    const replies = [say("Hi."), call("phone"), say("Done.")];
    const user = simulatedUser({
      identity: "fake",
      domain,
      task,
      complete: async (request) => {
        requests.push(structuredClone(request));
        return replies[requests.length - 1] as Reply;
      },
    });
    await user.reply([{ role: "assistant", ...say("Welcome.") }]);
    expect(await user.reply([{ role: "assistant", ...say("Toggle it.") }])).toEqual(call("phone", "user"));
    await user.reply([{ role: "tool", id: "phone", content: "on", requestor: "user", error: false }]);
    expect(requests.at(-1)?.messages).toEqual([
      { role: "system", content: "Be a customer." },
      { role: "user", content: "Welcome." },
      { role: "assistant", content: "Hi.", tool_calls: null },
      { role: "user", content: "Toggle it." },
      {
        role: "assistant",
        content: null,
        tool_calls: [{ id: "phone", type: "function", function: { name: "phone", arguments: "{}" } }],
      },
      { role: "tool", content: "on", tool_call_id: "phone" },
    ]);
    expect(requests[0]?.tools).toEqual([phone, radio]);
  });

  test("a task can narrow the user's tools; an unknown name leaves none", () => {
    expect(userToolsOf(domain, { ...task, user_tools: ["radio"] })).toEqual([radio]);
    expect(userToolsOf(domain, { ...task, user_tools: ["radio", "tv"] })).toBeNull();
    expect(userToolsOf(domain, { ...task, user_tools: [] })).toEqual([]);
  });

  test("the agent's model never sees the user's calls", () => {
    const messages: Message[] = [
      { role: "user", ...call("phone", "user") },
      { role: "tool", id: "phone", content: "on", requestor: "user", error: false },
      { role: "user", ...say("It is on.") },
    ];
    expect(agentMessages("Help.", messages)).toEqual([
      { role: "system", content: "Help." },
      { role: "user", content: "It is on." },
    ]);
  });
});

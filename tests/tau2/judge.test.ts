/** Natural-language assertions: what the judge is shown, what it may answer, and that nothing passes without it. */
import { describe, expect, test } from "bun:test";
import { type EvaluationType, evaluate, judgedReward, NeedsJudgeError, needsJudge } from "../../src/tau2/evaluator.ts";
import { type Judge, type JudgeQuestion, judgePrompt, modelJudge } from "../../src/tau2/judge.ts";
import { parseTask } from "../../src/tau2/task.ts";
import type { Message, Reply, RewardType, Task } from "../../src/tau2/types.ts";
import type { ChatRequest } from "../../src/tau2/user.ts";
import { lampDomain, lampTask } from "../support/lamp-domain.ts";

const domain = lampDomain();

/** Lamp A must be on, and the judge must agree with each of `nl_assertions`. */
function taskWith(nl_assertions: readonly string[] | null, reward_basis: readonly RewardType[]): Task {
  const task = lampTask("A");
  if (task.evaluation_criteria === null) throw new Error("no criteria");
  return { ...task, evaluation_criteria: { ...task.evaluation_criteria, nl_assertions, reward_basis } };
}

const lit: readonly Message[] = [
  { role: "assistant", content: "Hi!", tool_calls: null },
  { role: "user", content: "Lamp A, please.", tool_calls: null },
  {
    role: "assistant",
    content: null,
    tool_calls: [{ id: "1", name: "switch_on", arguments: { lamp: "A" }, requestor: "assistant" }],
  },
  { role: "tool", id: "1", content: "done", requestor: "assistant", error: false },
  { role: "user", content: "###STOP###", tool_calls: null },
];
const simulation = { messages: lit, termination: "user_stop" } as const;
const judged = taskWith(["It is polite.", "It's quick."], ["NL_ASSERTION"]);

const verdict = (met: boolean, nl_assertion = "It is polite.") => ({ nl_assertion, met, justification: "so" });
const judgeOf =
  (...met: boolean[]): Judge =>
  async ({ nl_assertions }) =>
    nl_assertions.map((text, i) => verdict(met[i] ?? false, text));
const mute: Judge = async () => ({ end: "infrastructure_error", detail: "no answer" });
const neverAsked: Judge = () => expect.unreachable("the judge was asked");

describe("which rewards need a judge", () => {
  test.each<[string, Task, boolean]>([
    ["assertions in the basis", judged, true],
    ["an empty list is met", taskWith([], ["DB", "NL_ASSERTION"]), false],
    ["no list is met", taskWith(null, ["DB", "NL_ASSERTION"]), false],
    ["assertions outside the basis", taskWith(["It is polite."], ["DB"]), false],
    ["no criteria", parseTask({ id: "1", user_scenario: { instructions: "x" } }, "test"), false],
  ])("%s", async (_, task, needed) => {
    expect(needsJudge(task)).toBe(needed);
    if (needed) expect(() => evaluate({ domain, task, simulation })).toThrow(NeedsJudgeError);
    else expect(await judgedReward({ domain, task, simulation, judge: neverAsked })).toHaveProperty("reward");
  });

  test("an empty list counts as 1 and says why", () => {
    const info = evaluate({ domain, task: taskWith([], ["NL_ASSERTION"]), simulation });
    expect(info).toMatchObject({ reward: 1, nl_assertions: [], reward_breakdown: { NL_ASSERTION: 1 } });
    expect(info.info).toMatchObject({ nl: { note: "No nl_assertions to evaluate" } });
  });

  test.each<[EvaluationType, boolean]>([
    ["all", false],
    ["all_ignore_basis", false],
    ["env", false],
    ["action", false],
    ["communicate", false],
    ["nl_assertions", true],
    ["all_with_nl_assertions", true],
    ["all_with_nl_assertions_ignore_basis", true],
  ])("of a task without NL_ASSERTION in its basis, type %s: %p", async (type, asked) => {
    const task = taskWith(["It is polite."], ["COMMUNICATE"]);
    const info = await judgedReward({ domain, task, simulation, type, judge: asked ? judgeOf(true) : neverAsked });
    expect(info).toHaveProperty("nl_assertions", asked ? [verdict(true)] : null);
  });
});

describe("rewards", () => {
  test.each<[readonly RewardType[], boolean[], number, object]>([
    [["NL_ASSERTION"], [true, true], 1, { NL_ASSERTION: 1 }],
    [["NL_ASSERTION"], [true, false], 0, { NL_ASSERTION: 0 }],
    [["ACTION", "NL_ASSERTION"], [true, true], 1, { ACTION: 1, NL_ASSERTION: 1 }],
    [["DB", "NL_ASSERTION"], [false, true], 0, { DB: 1, NL_ASSERTION: 0 }],
    [["DB"], [], 1, { DB: 1 }],
  ])("%p with verdicts %p: %p", async (basis, met, reward, breakdown) => {
    const task = taskWith(judged.evaluation_criteria?.nl_assertions ?? null, basis);
    const info = await judgedReward({ domain, task, simulation, judge: judgeOf(...met) });
    expect(info).toMatchObject({ reward, reward_basis: basis, reward_breakdown: breakdown });
  });

  test("recorded verdicts take the judge's place", () => {
    const verdicts = [verdict(true), verdict(true, "It's quick.")];
    expect(evaluate({ domain, task: judged, simulation, verdicts })).toMatchObject({
      reward: 1,
      nl_assertions: verdicts,
    });
  });

  test("a judge that does not answer is no reward; without one the task is refused", async () => {
    const end = await judgedReward({ domain, task: judged, simulation, judge: mute });
    expect(end).toEqual({ end: "infrastructure_error", detail: "no answer" });
    await expect(judgedReward({ domain, task: judged, simulation, judge: null })).rejects.toThrow(NeedsJudgeError);
  });

  test("a conversation that was broken off is not judged", async () => {
    const broken = { messages: lit, termination: "max_steps" } as const;
    expect(await judgedReward({ domain, task: judged, simulation: broken, judge: neverAsked })).toHaveProperty(
      "reward",
      0,
    );
  });
});

describe("the model as judge", () => {
  const question: JudgeQuestion = { messages: lit, nl_assertions: ["It is polite.", "It's quick."] };
  const result = (metExpectation: unknown, expectedOutcome: unknown = "It is polite.") => ({
    expectedOutcome,
    reasoning: "so",
    metExpectation,
  });
  const answer = (...results: unknown[]) => JSON.stringify({ results });

  test("sees every message as a line, and the assertions as Python prints them", () => {
    const [system, user] = judgePrompt(question);
    expect(system?.role).toBe("system");
    for (const field of ["results", "expectedOutcome", "reasoning", "metExpectation"])
      expect(system?.content).toContain(`"${field}"`);
    expect(user).toEqual({
      role: "user",
      content:
        "conversation:\nassistant: Hi!\nuser: Lamp A, please.\nassistant: None\ntool: done\nuser: ###STOP###\n\n" +
        "expectedOutcomes:\n['It is polite.', \"It's quick.\"]",
    });
  });

  /** Answers in order, as an endpoint that asks again while the reply is flawed. */
  const asking = (...answers: string[]) => {
    const requests: ChatRequest[] = [];
    const judge = modelJudge(async (request) => {
      for (const content of answers) {
        requests.push(request);
        const reply: Reply = { content, tool_calls: null };
        if ((request.flawOf?.(reply) ?? null) === null) return reply;
      }
      return { end: "infrastructure_error", detail: "spent" };
    });
    return { judge, requests };
  };

  test.each<[string, string]>([
    ["plain JSON", answer(result(true), result(false))],
    ["fenced JSON", `\`\`\`json\n${answer(result(true), result(false))}\n\`\`\``],
  ])("%s is read", async (_, text) => {
    const { judge, requests } = asking(text);
    expect(await judge(question)).toEqual([verdict(true), verdict(false)]);
    expect(requests).toHaveLength(1);
    expect(requests[0]?.tools).toBeNull();
  });

  test.each<[string, string]>([
    ["no JSON", "Both are met."],
    ["cut off", answer(result(true), result(true)).slice(0, -4)],
    ["no results", "{}"],
    ["an empty list", answer()],
    ["fewer verdicts than assertions", answer(result(true))],
    ["more", answer(result(true), result(true), result(true))],
    ["a verdict that is a word", answer(result(true), result("true"))],
    ["a missing verdict", answer(result(true), { expectedOutcome: "x", reasoning: "so" })],
    ["results by name", '{"results": {"metExpectation": true}}'],
  ])("%s is asked again, and never passes", async (_, text) => {
    const { judge, requests } = asking(text, answer(result(true), result(true)));
    expect(await judge(question)).toEqual([verdict(true), verdict(true)]);
    expect(requests).toHaveLength(2);
    expect(await asking(text, text).judge(question)).toEqual({ end: "infrastructure_error", detail: "spent" });
    const blind = modelJudge(async () => ({ content: text, tool_calls: null }));
    expect(await blind(question)).toMatchObject({ end: "infrastructure_error" });
  });
});

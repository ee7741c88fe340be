/** Recorded simulations: what is read of them, and that a difference is found and named. */
import { describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { type ExactObject, type ExactValue, exactOf, parseExact } from "../../src/base/exact.ts";
import { isResults, type RecordedRun, readRecording } from "../../src/tau2/recorded.ts";
import { replayRun } from "../../src/tau2/replay.ts";
import { rewardRecord } from "../../src/tau2/results.ts";
import type { Message, Task } from "../../src/tau2/types.ts";
import { lampDomain, lampTask } from "../support/lamp-domain.ts";
import { dataDirectory, domainOf, fixtures, hasFixtures, taskOf, WITHOUT_FIXTURES } from "./fixtures.ts";

const domain = lampDomain();
const task = domain.tasks[0] as Task;

const CALL = { id: "1", name: "switch_on", arguments: { lamp: "A" }, requestor: "assistant" };
const MESSAGES = [
  { role: "system", content: "You are an agent." },
  {
    role: "assistant",
    content: "Hi!",
    turn_idx: 0,
    timestamp: "2025-01-01",
    cost: 0.0,
    usage: null,
    raw_data: { a: [1] },
  },
  { role: "user", content: "Lamp A, please." },
  { role: "assistant", content: null, tool_calls: [CALL] },
  { role: "tool", id: "1", content: "done", requestor: "assistant", error: false },
  { role: "user", content: "###STOP###" },
];

const recorded = (changes: object = {}, reward: object = {}): RecordedRun => {
  const reward_info = { reward: 1.0, db_check: { db_match: true, db_reward: 1.0 }, reward_basis: ["DB"], ...reward };
  const simulation = {
    id: "s",
    task_id: "A",
    trial: 0,
    termination_reason: "user_stop",
    messages: MESSAGES,
    reward_info,
  };
  const results = { info: INFO, tasks: [], simulations: [{ ...simulation, ...changes }] };
  return readRecording(exactOf(results) as ExactObject, "r.json").runs[0] as RecordedRun;
};
const INFO = { environment_info: { domain_name: "lamps" }, agent_info: { implementation: "llm_agent" } };

function replayed(run: RecordedRun, scored: Task = task, verdictsFit = true) {
  const { messages } = run;
  if (messages === null) throw new Error("no messages");
  const { reward, differs, notes, problem, tool_results } = replayRun(
    { ...run, messages },
    { domain, task: scored, verdictsFit },
  );
  return { reward, differs, notes, problem, tools: tool_results.differs };
}

const SAME = { reward: 1, differs: [], notes: [], problem: null, tools: [] };

describe("a run and its reward", () => {
  test.each([
    ["the same", {}, {}, {}],
    ["another reward", {}, { reward: 0 }, { differs: ["reward"] }],
    ["another check", {}, { db_check: { db_match: false } }, { differs: ["db_check.db_match"] }],
    [
      "an action",
      {},
      { action_checks: [{ action: CALL, action_match: false }] },
      { differs: ["action_checks[0].action_match"] },
    ],
    [
      "another task then",
      {},
      { action_checks: [{ action: { ...CALL, arguments: {} }, action_match: true }] },
      { notes: ["action_checks[0].action was another then"] },
    ],
    ["another basis", {}, { reward_basis: ["DB", "COMMUNICATE"] }, { differs: ["reward_basis"] }],
    [
      "more checks then",
      {},
      { communicate_checks: [{ info: "x", met: true }] },
      { differs: ["communicate_checks.length"] },
    ],
    ["an old enum", { termination_reason: "TerminationReason.USER_STOP" }, {}, {}],
    ["not scored then", { reward_info: null }, {}, { notes: ["not scored when recorded"] }],
  ])("%s", (_, changes, reward, expected) => {
    expect(replayed(recorded(changes, reward))).toEqual({ ...SAME, ...expected } as never);
  });

  test("an unfinished run earns nothing", () => {
    const run = recorded({ termination_reason: "max_steps" }, { reward: 0, db_check: null, reward_basis: null });
    expect(replayed(run)).toEqual({ ...SAME, reward: 0 });
  });

  test("a write that answered otherwise is found, and the run scored all the same", () => {
    const messages = MESSAGES.map((message) => (message.role === "tool" ? { ...message, content: "on" } : message));
    const { reward, differs, problem } = replayed(recorded({ messages }));
    expect({ reward, differs }).toEqual({ reward: 1, differs: ["messages[3].content"] });
    expect(problem).toStartWith("ValueError: Tool call:");
  });

  test("results of one message's calls in one message, arguments as text, ids that are missing", () => {
    const calls = [CALL, { ...CALL, name: "list_lamps", arguments: "{}", id: null, requestor: null }];
    const tool_messages = [
      { role: "tool", id: "1", content: "done" },
      { role: "tool", id: "", content: '["A"]' },
    ];
    const messages = [
      { role: "assistant", content: "", tool_calls: calls },
      { role: "tool", tool_messages },
    ];
    expect(replayed(recorded({ messages }))).toEqual(SAME);
  });
});

describe("a judge's verdicts", () => {
  const criteria = lampTask("A").evaluation_criteria;
  if (criteria === null) throw new Error("no criteria");
  const judged: Task = {
    ...task,
    evaluation_criteria: { ...criteria, nl_assertions: ["is kind"], reward_basis: ["DB", "NL_ASSERTION"] },
  };
  const verdict = (met: boolean) => ({ nl_assertion: "is kind", met, justification: "" });
  const basis = { reward_basis: ["DB", "NL_ASSERTION"], reward_breakdown: { DB: 1.0, NL_ASSERTION: 0.0 } };

  test.each([
    [
      "are taken as recorded",
      { ...basis, reward: 0, nl_assertions: [verdict(false)] },
      true,
      { reward: 0, notes: ["recorded verdicts"] },
    ],
    [
      "decide the reward",
      { ...basis, reward: 1, nl_assertions: [verdict(false)] },
      true,
      { reward: 0, differs: ["reward"], notes: ["recorded verdicts"] },
    ],
    [
      "are left out on both sides where there are none",
      { ...basis, reward: 0 },
      true,
      { notes: ["no recorded verdicts: NL_ASSERTION left out"] },
    ],
    [
      "are left out where they are on other assertions",
      { ...basis, reward: 0, nl_assertions: [verdict(false)] },
      false,
      { notes: ["no recorded verdicts: NL_ASSERTION left out"] },
    ],
  ])("%s", (_, reward, fit, expected) => {
    expect(replayed(recorded({}, reward), judged, fit)).toEqual({ ...SAME, ...expected } as never);
  });

  test("are not missed in an unfinished run", () => {
    const run = recorded({ termination_reason: "max_steps" }, { reward: 0, db_check: null, reward_basis: null });
    expect(replayed(run, judged)).toEqual({ ...SAME, reward: 0 });
  });
});

describe("what cannot be read names its field", () => {
  test.each([
    [{ messages: [{ role: "robot" }] }, 'r.json: simulations[0]: messages[0].role: unknown role "robot"'],
    [
      { messages: [{ role: "assistant", tool_calls: [{ name: "f", arguments: 1 }] }] },
      "messages[0]: tool_calls[0].arguments: an object is expected",
    ],
    [{ messages: [{ role: "user", content: 5 }] }, "messages[0]: content: a text is expected"],
    [{ task_id: undefined }, "r.json: simulations[0]: task_id: is missing"],
    [{ reward_info: { reward: "1" } }, "simulations[0]: reward_info: reward: a number is expected"],
  ])("%j", (changes, sentence) => expect(() => recorded(changes)).toThrow(sentence));

  test("a solo agent is told from its implementation", () => {
    const info = { ...INFO, agent_info: { implementation: "llm_agent_solo" } };
    const value = exactOf({ info, tasks: [{ id: 3 }], simulations: [] });
    expect(isResults(value) && readRecording(value, "r")).toMatchObject({ solo_mode: true, domain: "lamps" });
    expect(isResults(exactOf({ simulations: [] }))).toBe(false);
  });
});

describe.skipIf(!hasFixtures)(`the original's evaluations ${hasFixtures ? "" : WITHOUT_FIXTURES}`, () => {
  /** NL_ASSERTION stands in no recording of the fixtures. */
  const withoutNl = ({ evaluation_criteria: criteria, ...rest }: Task): Task => ({
    ...rest,
    evaluation_criteria: criteria && {
      ...criteria,
      reward_basis: criteria.reward_basis.filter((kind) => kind !== "NL_ASSERTION"),
    },
  });

  for (const [name, records] of Map.groupBy(fixtures("evaluator"), ({ domain }) => domain)) {
    test(`${name}: replayed without a difference`, () => {
      const known = domainOf(name);
      for (const { id, task_id, messages, termination_reason, expected, solo_mode } of records) {
        const reward_info = (expected as ExactObject).all_minus_nl_strict as ExactObject | undefined;
        if (reward_info?.reward === undefined || solo_mode === true) continue;
        const simulation: ExactValue = {
          id,
          task_id: task_id ?? null,
          termination_reason,
          messages,
          reward_info,
        } as never;
        const info = exactOf({ environment_info: { domain_name: name } });
        const [run] = readRecording({ info, tasks: [], simulations: [simulation] }, id).runs;
        const scored = withoutNl(taskOf(known, task_id ?? null));
        const heard = run?.messages as readonly Message[];
        const { differs } = replayRun(
          { ...(run as RecordedRun), messages: heard },
          { domain: known, task: scored, verdictsFit: false },
        );
        expect({ id, differs }).toEqual({ id, differs: [] });
      }
    });
  }

  const sample = join(dataDirectory, "../results/airline_sample.json");
  test.skipIf(!existsSync(sample))("a results file: our own rewards in it replay without a difference", async () => {
    const results = parseExact(await Bun.file(sample).text()) as ExactObject;
    const recording = readRecording(results, sample);
    const airline = domainOf(recording.domain);
    for (const run of recording.runs) {
      const messages = run.messages as readonly Message[];
      const own = taskOf(airline, run.task_id);
      const { reward_info, tool_results } = replayRun(
        { ...run, messages },
        { domain: airline, task: own, verdictsFit: false },
      );
      expect(tool_results.differs).toEqual([]);
      if (reward_info === null) throw new Error("not scored");
      const again = {
        ...(results.simulations as readonly ExactObject[])[0],
        task_id: run.task_id,
        reward_info: rewardRecord(reward_info),
      };
      const [second] = readRecording({ ...results, simulations: [again as ExactValue] }, sample).runs;
      const { differs } = replayRun(
        { ...(second as RecordedRun), messages, termination: run.termination },
        { domain: airline, task: own, verdictsFit: false },
      );
      expect(differs).toEqual([]);
    }
  });
});

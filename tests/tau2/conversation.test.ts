/** Scripted conversations and recorded ones, run and scored by the original and by us. */
import { describe, expect, test } from "bun:test";
import { dumps, type ExactObject, type ExactValue } from "../../src/base/exact.ts";
import { soloAgent, stoppingAgent } from "../../src/tau2/agent.ts";
import { prepareEnvironment } from "../../src/tau2/environment.ts";
import { type EvaluationType, evaluate, matchesAction } from "../../src/tau2/evaluator.ts";
import { runConversation } from "../../src/tau2/orchestrator.ts";
import { PythonError } from "../../src/tau2/python.ts";
import { rewardRecord } from "../../src/tau2/results.ts";
import type {
  Agent,
  Message,
  Reply,
  Requestor,
  Simulation,
  Task,
  TerminationReason,
  ToolCall,
  User,
} from "../../src/tau2/types.ts";
import {
  domainOf,
  type FixtureRecord,
  fixtures,
  hasFixtures,
  messageOf,
  taskOf,
  testRecords,
  WITHOUT_FIXTURES,
} from "./fixtures.ts";

const say = (content: string): Reply => ({ content, tool_calls: null });
const DONE_CALL: ToolCall = { id: "", name: "done", arguments: {}, requestor: "assistant" };

/** A script's n-th message, calls numbered as the recordings number them (`a1_0`); then a last word. */
function scripted(script: readonly ExactObject[], requestor: Requestor, last: Reply): () => Promise<Reply> {
  let turn = 0;
  return async () => {
    const line = script[turn++];
    if (line === undefined) return last;
    const id = (i: number): string => `${requestor === "assistant" ? "a" : "u"}${turn}_${i}`;
    const calls = (line.tool_calls ?? null) as readonly ExactObject[] | null;
    return {
      content: (line.content ?? null) as string | null,
      tool_calls:
        calls?.map((call, i) => ({
          id: id(i),
          name: call.name as string,
          arguments: call.arguments as ExactObject,
          requestor,
        })) ?? null,
    };
  };
}

function agentOf(record: FixtureRecord): Agent {
  const last: Reply = record.agent_kind === "solo" ? { content: null, tool_calls: [DONE_CALL] } : say("OK.");
  const agent: Agent = { reply: scripted(record.agent_script as readonly ExactObject[], "assistant", last) };
  if (record.agent_kind === "solo") return soloAgent(agent);
  return record.agent_kind === "gym" ? stoppingAgent(agent) : agent;
}

const userOf = (record: FixtureRecord): User => ({
  identity: "script",
  reply: scripted(record.user_script as readonly ExactObject[], "user", say("###STOP###")),
});

/** The recordings drop NL_ASSERTION from the basis, since they have no judge. */
function withoutJudge(task: Task): Task {
  const criteria = task.evaluation_criteria;
  if (criteria === null) return task;
  return {
    ...task,
    evaluation_criteria: { ...criteria, reward_basis: criteria.reward_basis.filter((kind) => kind !== "NL_ASSERTION") },
  };
}

/** Recorded messages leave out the calls of a message that has none. */
function messageRecord(message: Message, turn_idx: number | null): ExactObject {
  const { tool_calls, ...rest } = { tool_calls: null, ...message };
  return { ...rest, ...(tool_calls === null ? {} : { tool_calls }), turn_idx } as unknown as ExactObject;
}

const sorted = (value: unknown): string => dumps(value as ExactValue, { sorted: true });

async function converse(record: FixtureRecord): Promise<{ simulation: Simulation; hashes: ExactObject }> {
  const domain = domainOf(record.domain, record.solo_mode);
  const task = taskOf(domain, record.task_id ?? null);
  const environment = prepareEnvironment(domain, task);
  const simulation = await runConversation({
    environment,
    agent: agentOf(record),
    user: domain.solo_mode ? null : userOf(record),
    solo_mode: domain.solo_mode,
    limits: { max_steps: record.max_steps as number, max_errors: record.max_errors as number },
    history: task.initial_state?.message_history ?? [],
    validate_communication: record.validate_communication as boolean,
  });
  return { simulation, hashes: { agent_db_hash: environment.agentDbHash(), user_db_hash: environment.userDbHash() } };
}

/** The original's exception, for a task that cannot even begin. */
function raisedBefore(error: unknown): string {
  if (error instanceof PythonError) return `${error.type}: ${error.message}`;
  throw error;
}

async function checkConversation(record: FixtureRecord): Promise<void> {
  const expected = record.expected as ExactObject;
  const conversation = await converse(record).catch((error: unknown) => raisedBefore(error));
  if (typeof conversation === "string")
    return expect(expected).toMatchObject({ raises: conversation, messages_before: [] });
  const { simulation, hashes } = conversation;
  if (expected.raises !== undefined) {
    expect(simulation.detail).toBe(expected.raises as string);
    expect(["agent_error", "user_error"]).toContain(simulation.termination);
    expect(sorted(simulation.messages.map((message) => messageRecord(message, null)))).toBe(
      sorted(expected.messages_before),
    );
    return;
  }
  expect(simulation.termination).toBe(expected.termination_reason as TerminationReason);
  expect(sorted(simulation.messages.map(messageRecord))).toBe(sorted(expected.messages));
  const { step_count, num_errors } = simulation;
  const { agent_db_hash, user_db_hash } = expected;
  expect({ step_count, num_errors, ...hashes }).toEqual({
    step_count: expected.step_count,
    num_errors: expected.num_errors,
    agent_db_hash,
    user_db_hash,
  } as never);
  const domain = domainOf(record.domain, record.solo_mode);
  const task = withoutJudge(taskOf(domain, record.task_id ?? null));
  expect(sorted(rewardRecord(evaluate({ domain, task, simulation })))).toBe(sorted(expected.reward_info));
  for (const [type, reward] of Object.entries((expected.by_evaluation_type ?? {}) as ExactObject))
    expect(sorted(rewardRecord(evaluate({ domain, task, simulation, type: type as EvaluationType })))).toBe(
      sorted(reward),
    );
}

function checkEvaluation(record: FixtureRecord): void {
  const domain = domainOf(record.domain);
  const task = withoutJudge(taskOf(domain, record.task_id ?? null));
  const messages = (record.messages as readonly ExactObject[]).map(messageOf);
  const simulation = { messages, termination: record.termination_reason as TerminationReason };
  const { all_minus_nl_strict, all_minus_nl_lenient } = record.expected as Record<string, ExactObject>;
  for (const [expected, strict] of [
    [all_minus_nl_strict, true],
    [all_minus_nl_lenient, false],
  ] as const) {
    if (expected === undefined) continue;
    const score = () => evaluate({ domain, task, simulation, strict });
    if (expected.raises === undefined) expect(sorted(rewardRecord(score()))).toBe(sorted(expected));
    else expect(raised(score)).toBe(`${expected.raises}: ${expected.message_head}`.slice(0, 60));
  }
}

function raised(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    if (error instanceof PythonError) return `${error.type}: ${error.message}`.slice(0, 60);
    throw error;
  }
  return "nothing";
}

describe.skipIf(!hasFixtures)(`conversations ${hasFixtures ? "" : WITHOUT_FIXTURES}`, () => {
  testRecords("orchestrator", fixtures("orchestrator"), checkConversation);
  testRecords("limits", fixtures("limits"), checkConversation);
  testRecords("evaluator", fixtures("evaluator"), checkEvaluation);

  test("compare_with_tool_call", () => {
    const cases = fixtures("functions").filter(({ fn }) => fn === "compare_with_tool_call");
    for (const { gold, call, compare_args, same_name, returns } of cases) {
      const action = {
        name: "f",
        arguments: gold as ExactObject,
        compare_args: compare_args as readonly string[] | null,
      };
      expect(matchesAction(action, { name: same_name ? "f" : "g", arguments: call as ExactObject })).toBe(
        returns as boolean,
      );
    }
  });
});

/** Scripts of tool calls, run by the original and by us: contents, error flags, and the hash of every state in between. */
import { describe, expect, test } from "bun:test";
import { type ExactObject, type ExactValue, pythonStr } from "../../src/base/exact.ts";
import { prepareEnvironment, runAssertion, ToolEnvironment } from "../../src/tau2/environment.ts";
import { PythonError } from "../../src/tau2/python.ts";
import { canonicalText } from "../../src/tau2/record-text.ts";
import { resultText } from "../../src/tau2/tool.ts";
import type { EnvAssertion, EnvFunctionCall, Environment, Requestor, ToolCall } from "../../src/tau2/types.ts";
import {
  domainOf,
  type FixtureRecord,
  fixtures,
  hasFixtures,
  taskOf,
  testRecords,
  WITHOUT_FIXTURES,
} from "./fixtures.ts";

interface Hashes {
  readonly agent_db_hash: string;
  readonly user_db_hash: string | null;
}

interface Step extends Partial<Hashes> {
  readonly requestor?: Requestor;
  readonly name: string;
  readonly arguments: ExactObject;
  readonly content?: string;
  readonly error?: boolean;
  readonly exc?: "core" | "signature" | "pydantic" | "python";
  readonly func_name?: string;
  readonly raises?: string;
  readonly returns?: ExactValue;
  readonly returns_json?: string;
  readonly changed?: readonly (readonly [Requestor | "agent", string, string | null])[];
}

const hashesOf = (environment: Environment): Hashes => ({
  agent_db_hash: environment.agentDbHash(),
  user_db_hash: environment.userDbHash(),
});

/** Error texts of the interpreter and of pydantic that differ, counted and shown: they are best effort. */
const looseTexts: string[] = [];
let looseTextsSeen = 0;

function checkCall(environment: Environment, step: Step): void {
  const call: ToolCall = {
    id: "x",
    name: step.name,
    requestor: step.requestor as Requestor,
    arguments: step.arguments,
  };
  const { content, error } = environment.getResponse(call);
  expect(error).toBe(step.error ?? false);
  if (step.exc === "pydantic" || step.exc === "python") {
    looseTextsSeen++;
    if (content !== step.content) looseTexts.push(`${step.name}: ${content} | recorded: ${step.content}`);
  } else expect(content).toBe(step.content as string);
}

function checkFunction(environment: Environment, step: Step): void {
  const call = step as unknown as EnvFunctionCall;
  const run = (): ExactValue => environment.runFunction?.(call) as ExactValue;
  if (step.raises === undefined) {
    const result = run();
    if (step.returns_json === undefined) expect(result).toEqual(step.returns ?? null);
    else expect(resultText(result)).toBe(step.returns_json);
    return;
  }
  try {
    run();
  } catch (error) {
    if (!(error instanceof PythonError)) throw error;
    expect(`${error.type}: ${error.message}`).toBe(step.raises);
    return;
  }
  throw new Error(`should raise ${step.raises}`);
}

function checkStep(environment: Environment, step: Step, before: Hashes): Hashes {
  if (step.func_name === undefined) checkCall(environment, step);
  else checkFunction(environment, step);
  for (const [side, path, text] of step.changed ?? [])
    expect([path, entityText(environment, side, path)]).toEqual([path, text]);
  const expected = {
    agent_db_hash: step.agent_db_hash ?? before.agent_db_hash,
    user_db_hash: step.user_db_hash ?? before.user_db_hash,
  };
  expect(hashesOf(environment)).toEqual(expected);
  return expected;
}

/** Canonical text of `orders.#W1`, `lines[2]` or `device.airplane_mode`; null where there is none. */
function entityText(environment: Environment, side: string, path: string): string | null {
  const database =
    environment instanceof ToolEnvironment ? (side === "user" ? environment.userDb : environment.agentDb) : null;
  const [field = "", key] =
    path.split(/[.[]/, 2).length === 2
      ? [path.slice(0, path.search(/[.[]/)), path.slice(path.search(/[.[]/) + 1)]
      : [path];
  if (database === null) throw new Error("only tool environments have databases to look into");
  const value = database.dump()[field] as ExactObject;
  const entity = key === undefined ? value : value[key.replace(/\]$/, "")];
  return entity === undefined ? null : canonicalText(entity);
}

function checkRecord(record: FixtureRecord): void {
  const domain = domainOf(record.domain, record.solo_mode);
  const environment =
    record.task_id == null ? domain.createEnvironment() : prepareEnvironment(domain, taskOf(domain, record.task_id));
  let hashes = record.initial as unknown as Hashes;
  expect(hashesOf(environment)).toEqual(hashes);
  const assertions =
    record.task_id == null ? [] : (taskOf(domain, record.task_id).evaluation_criteria?.env_assertions ?? []);
  const checkAssertions = (expected: ExactValue | undefined): void => {
    if (expected !== undefined)
      expect(assertions.map((assertion: EnvAssertion) => runAssertion(domain, environment, assertion))).toEqual(
        expected as boolean[],
      );
  };
  checkAssertions(record.assertions_initial);
  for (const [i, step] of (record.steps as unknown as readonly Step[]).entries()) {
    try {
      hashes = checkStep(environment, step, hashes);
    } catch (error) {
      throw new Error(`${record.id}, step ${i}: ${step.name ?? step.func_name}(${pythonStr(step.arguments)})`, {
        cause: error,
      });
    }
  }
  checkAssertions(record.assertions_after_live);
  if (record.final_live !== undefined) expect(hashesOf(environment)).toEqual(record.final_live as unknown as Hashes);
}

describe.skipIf(!hasFixtures)(`calls ${hasFixtures ? "" : WITHOUT_FIXTURES}`, () => {
  for (const kind of ["golden", "walks", "edges", "errors"]) {
    testRecords(kind, fixtures(kind), checkRecord);
  }

  test("something is recorded", () => {
    expect(fixtures("golden", "walks", "edges", "errors").length).toBeGreaterThan(0);
  });

  test("error texts of Python and pydantic are close to the original's", () => {
    for (const line of looseTexts.slice(0, 20)) console.log(line);
    if (looseTexts.length > 0) console.log(`${looseTexts.length} of ${looseTextsSeen} best-effort texts differ`);
    expect(looseTexts.length).toBeLessThanOrEqual(looseTextsSeen * 0.05);
  });
});

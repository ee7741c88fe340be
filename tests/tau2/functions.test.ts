/** The original's small functions, each recorded with inputs and results. */
import { describe, expect, test } from "bun:test";
import {
  dumps,
  type ExactObject,
  type ExactValue,
  Float,
  floatRepr,
  formatTwoDecimals,
  roundTwoDecimals,
} from "../../src/base/exact.ts";
import { Database, DatabaseImage, deepMerge } from "../../src/tau2/database.ts";
import { mockDb } from "../../src/tau2/domains/mock/model.ts";
import { communicated } from "../../src/tau2/evaluator.ts";
import { calculate } from "../../src/tau2/expression.ts";
import { functionalFormat, gymObservation, parseActionString } from "../../src/tau2/gym.ts";
import { parseModel } from "../../src/tau2/model.ts";
import { validateMessageHistory } from "../../src/tau2/orchestrator.ts";
import { PythonError } from "../../src/tau2/python.ts";
import { parseTask, scenarioText } from "../../src/tau2/task.ts";
import { resultText } from "../../src/tau2/tool.ts";
import type { Message } from "../../src/tau2/types.ts";
import { isUserStop } from "../../src/tau2/user.ts";
import { type FixtureRecord, fixtures, hasFixtures, messageOf, WITHOUT_FIXTURES } from "./fixtures.ts";

const bits = (hex: ExactValue | undefined): number => Buffer.from(hex as string, "hex").readDoubleBE();
const sha256 = (text: string): string => new Bun.CryptoHasher("sha256").update(text).digest("hex");

/** Runs a function and returns its result or `Type: message` of what it raises, next to what is recorded. */
function outcome(fixture: FixtureRecord, run: () => unknown): [unknown, unknown] {
  try {
    return [run(), fixture.returns];
  } catch (error) {
    if (error instanceof PythonError) return [`${error.type}: ${error.message}`, fixture.raises];
    throw error;
  }
}

const same = ([found, expected]: readonly [unknown, unknown]): void =>
  expect(dumps(found as ExactValue)).toBe(dumps(expected as ExactValue));

const spoken = (texts: ExactValue | undefined, role: "assistant" | "user"): Message[] =>
  (texts as string[]).map((content) => ({ role, content, tool_calls: null }));

/** Facts found in what was said, as the recordings list them. */
function checkFacts(fixture: FixtureRecord, messages: readonly Message[]): void {
  const found = (fixture.communicate_info as string[]).map((info) => communicated(info, messages));
  expect(found.map(({ met }) => met)).toEqual(fixture.met as boolean[]);
  if (fixture.justifications !== undefined)
    expect(found.map(({ justification }) => justification)).toEqual(fixture.justifications as string[]);
}

const CHECKS: Readonly<Record<string, (fixture: FixtureRecord) => void>> = {
  float_repr: ({ hex, text }) => expect(floatRepr(bits(hex))).toBe(text as string),
  format_2f: ({ hex, text }) => expect(formatTwoDecimals(bits(hex))).toBe(text as string),
  round2({ hex, returns_hex, text }) {
    const rounded = roundTwoDecimals(bits(hex));
    expect([rounded, floatRepr(rounded)]).toEqual([bits(returns_hex), text as string]);
  },
  json_dumps({ value, text, sorted_text }) {
    expect([dumps(value as ExactValue), dumps(value as ExactValue, { sorted: true })]).toEqual([
      text,
      sorted_text,
    ] as string[]);
  },
  dict_hash: ({ value, sha256: expected }) =>
    expect(sha256(dumps(value as ExactValue, { sorted: true }))).toBe(expected as string),
  to_json_str: ({ value, text }) => expect(resultText(value as ExactValue)).toBe(text as string),
  calculate: (fixture) => same(outcome(fixture, () => calculate(fixture.expression as ExactValue))),
  communicate: (fixture) => checkFacts(fixture, spoken(fixture.assistant_texts, "assistant")),
  communicate_user_ignored: (fixture) => checkFacts(fixture, spoken(fixture.user_texts, "user")),
  user_is_stop({ content, has_tool_calls, returns }) {
    expect(isUserStop({ content: content as string, tool_calls: has_tool_calls ? [] : null })).toBe(returns as boolean);
  },
  user_scenario_str({ value, returns }) {
    expect(scenarioText(parseTask({ id: "x", user_scenario: value as ExactObject }, "test").user_scenario)).toBe(
      returns as string,
    );
  },
  validate_message_history(fixture) {
    const history = (fixture.messages as readonly ExactObject[]).map(messageOf);
    same(outcome(fixture, () => validateMessageHistory(history) ?? null));
  },
  parse_action_string: (fixture) => same(outcome(fixture, () => parseActionString(fixture.action as string))),
  to_functional_format: (fixture) =>
    expect(functionalFormat({ name: "f", arguments: fixture.arguments as ExactObject })).toBe(fixture.text as string),
  gym_observation({ messages, all_messages_as_observation, text }) {
    const heard = (messages as readonly ExactObject[]).map(messageOf);
    expect(gymObservation(heard, { all_messages_as_observation: all_messages_as_observation as boolean })).toBe(
      text as string,
    );
  },
  update_db_mock(fixture) {
    const update = (): ExactObject =>
      parseModel(mockDb, deepMerge(fixture.base as ExactObject, fixture.update as ExactObject));
    same(outcome(fixture, update));
    if (fixture.raises === undefined)
      expect(new Database(new DatabaseImage(update(), ["tasks", "users"])).hash()).toBe(fixture.sha256 as string);
  },
};

// In conversation.test.ts.
const ELSEWHERE = ["compare_with_tool_call"];

describe.skipIf(!hasFixtures)(`functions ${hasFixtures ? "" : WITHOUT_FIXTURES}`, () => {
  const byFunction = Map.groupBy(fixtures("functions"), ({ fn }) => fn as string);
  for (const [fn, cases] of byFunction) {
    const check = CHECKS[fn];
    if (!ELSEWHERE.includes(fn)) {
      test(`${fn}: ${cases.length} cases`, () => {
        if (check === undefined) throw new Error(`no check for ${fn}`);
        for (const fixture of cases) check(fixture);
      });
    }
  }
});

describe("calculate", () => {
  // From CPython 3.11; each row is one branch that the recordings leave out.
  test.each([
    ["1.0 // 0.1", "9.0"],
    ["-7.5 // 2", "-4.0"],
    ["10 ** 400 / 10 ** 399", "10.0"],
    ["(10 ** 30 + 1) / 10 ** 30", "1.0"],
    ["-2 ** 2", "-4.0"],
    ["2 ** 3 ** 2", "512.0"],
    ["1 - 2 - 3", "-4.0"],
    ["00", "0.0"],
    ["4.03 ** 23", "83563392139479.42"],
    ["7.5 ** 122 / 4.007", "1.4277586215952267e+106"],
    ["0.1 ** 200 * 10 ** 200", "1.0"],
    ["- - 3", "3.0"],
    ["1e5".replace("e", " * 10 ** "), "100000.0"],
  ])("%s = %s", (expression, result) => expect(calculate(expression)).toBe(result));

  test.each([
    ["0 ** -1", "0.0 cannot be raised to a negative power"],
    ["2(3)", "'int' object is not callable"],
    ["1 / 0 +", "invalid syntax (<string>, line 1)"],
    ["(1 + * 2", "invalid syntax (<string>, line 1)"],
    [
      "* 007",
      "leading zeros in decimal integer literals are not permitted; use an 0o prefix for octal integers (<string>, line 1)",
    ],
    ["()", "float() argument must be a string or a real number, not 'tuple'"],
    ["(0 - 8) ** 0.5", "float() argument must be a string or a real number, not 'complex'"],
    ["(1 + 2", "'(' was never closed (<string>, line 1)"],
    ["9 ** 9 ** 9", "int too large to convert to float"],
    [`${"(".repeat(500)}1${")".repeat(500)}`, "too many nested parentheses (<string>, line 1)"],
  ])("%s raises", (expression, message) => expect(() => calculate(expression)).toThrow(new PythonError("", message)));

  test("a hundred thousand signs do not overflow the stack", () =>
    expect(calculate(`${"-".repeat(100_000)}1`)).toBe("1.0"));
});

test("a float keeps its kind through a tool's result", () =>
  expect(resultText([new Float(2), 2])).toBe('["2.0", "2"]'));

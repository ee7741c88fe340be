/** Data directories: what loads, and what is refused, by file, task and field. Nothing of tau2's own is needed. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { UserError } from "../../src/base/errors.ts";
import { dumps, type ExactObject } from "../../src/base/exact.ts";
import { readToml } from "../../src/tau2/data-directory.ts";
import { loadDomain } from "../../src/tau2/domains/index.ts";
import { writeMockData } from "../support/mock-data.ts";

const root = mkdtempSync(join(tmpdir(), "tau2-mock-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const load = (changes: Parameters<typeof writeMockData>[1] = {}) => {
  writeMockData(root, changes);
  return loadDomain("mock", { tau2_data_dir: root, train_split: 0.7 });
};

/** A task with one thing changed in its criteria or initial state. */
const action = (change: object) => ({
  task: { evaluation_criteria: { actions: [{ action_id: "a", name: "create_task", arguments: {}, ...change }] } },
});
const criteria = (change: object) => ({ task: { evaluation_criteria: change } });
const initial = (change: object) => ({ task: { initial_state: change } });
const assertion = (change: object) =>
  criteria({ env_assertions: [{ env_type: "assistant", func_name: "assert_task_status", arguments: {}, ...change }] });

describe("data directories", () => {
  test("splits keep the order of tasks.json, and have the names of their file", () => {
    expect(load().splits).toEqual({ train: [], test: [], base: ["greet", "leave"], small: ["greet again"] });
  });

  test("without a split file, train_split says what is trained on", () => {
    const { splits } = load({ "split_tasks.json": null });
    expect(splits).toEqual({
      train: ["greet", "greet again"],
      test: ["leave"],
      base: ["greet", "greet again", "leave"],
    });
  });

  test.each([
    ["a missing database", { "user_db.json": null }, "mock/user_db.json: cannot be read: ENOENT"],
    ["a missing text", { "policy.md": null }, "mock/policy.md: cannot be read: ENOENT"],
    ["broken JSON", { "db.json": '{\n  "tasks": {,}\n}' }, "mock/db.json:2: not valid JSON"],
    [
      "a wrong type in the database",
      { "db.json": { tasks: {}, users: { ann: { user_id: "ann", name: 7, tasks: [] } } } },
      "mock/db.json: users.ann.name: Input should be a valid string, found 7",
    ],
    ["a missing table", { "db.json": { tasks: {} } }, "mock/db.json: users: Field required"],
    ["tasks that are no list", { "tasks.json": {} }, "mock/tasks.json: a list of tasks is expected"],
    [
      "an unknown task in a split",
      { "split_tasks.json": { base: ["stay"] } },
      "mock/split_tasks.json: base: task stay is not in tasks.json",
    ],
    [
      "a split that is no list",
      { "split_tasks.json": { base: "greet" } },
      "split_tasks.json: base: a list of task ids",
    ],
    [
      "an unknown tool",
      action({ name: "delete_task" }),
      'mock/tasks.json: task greet: evaluation_criteria.actions.0.name: there is no tool "delete_task"; known are create_task,',
    ],
    [
      "the agent's tool in the user's hand",
      action({ requestor: "user" }),
      'task greet: evaluation_criteria.actions.0.name: there is no tool "create_task"; known are check_notifications,',
    ],
    [
      "an unknown assertion",
      assertion({ func_name: "assert_peace" }),
      'task greet: evaluation_criteria.env_assertions.0.func_name: there is no function of the assistant "assert_peace"',
    ],
    [
      "an unknown initialization function",
      initial({ initialization_actions: [{ env_type: "user", func_name: "create_task", arguments: {} }] }),
      'task greet: initial_state.initialization_actions.0.func_name: there is no function of the user "create_task"',
    ],
    [
      "initialization data that does not fit",
      initial({ initialization_data: { agent_data: { tasks: { t1: { status: "lost" } } } } }),
      "task greet: initial_state.initialization_data.agent_data: tasks.t1.status: Input should be 'pending' or 'completed', found \"lost\"",
    ],
    [
      "an unknown user tool",
      { task: { user_tools: ["check_notifications", "fly"] } },
      'user_tools.1: there is no user tool "fly"',
    ],
    [
      "a history with a role of its own",
      initial({ message_history: [{ role: "system", content: "x" }] }),
      "mock/tasks.json: task greet: initial_state.message_history.0.",
    ],
    [
      "an unknown basis",
      criteria({ reward_basis: ["LUCK"] }),
      "reward_basis.0: Input should be 'DB', 'ENV_ASSERTION', ",
    ],
  ] as const)("%s is refused by name", (_, changes, message) => {
    const loading = () => load(changes);
    expect(loading).toThrow(UserError);
    expect(loading).toThrow(message);
  });
});

describe("TOML", () => {
  const read = (text: string) => {
    writeFileSync(join(root, "db.toml"), text);
    return readToml(join(root, "db.toml"));
  };

  test("keeps integers apart from floats, and dates as text", () => {
    expect(dumps(read("a = 2\nb = 2.0\nday = 2025-02-28\n[[rows]]\nid = 'x'") as ExactObject)).toBe(
      '{"a": 2, "b": 2.0, "day": "2025-02-28", "rows": [{"id": "x"}]}',
    );
  });

  test("broken TOML is refused by file and line", () => {
    expect(() => read("a = 1\nb = \n")).toThrow(/db\.toml:2: not valid TOML/);
  });
});

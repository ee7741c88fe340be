/** The mock domain's corners: one side's database in place of the other's, ids that are used twice, fields that hold anything. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type ExactObject, parseExact } from "../../src/base/exact.ts";
import { loadDomain } from "../../src/tau2/domains/index.ts";
import { prepareEnvironment } from "../../src/tau2/environment.ts";
import type { Environment, Requestor } from "../../src/tau2/types.ts";
import { writeMockData } from "../support/mock-data.ts";

const root = mkdtempSync(join(tmpdir(), "tau2-mock-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
writeMockData(root);
const mock = (solo_mode = false) => loadDomain("mock", { tau2_data_dir: root, train_split: 0.8, solo_mode });

/** An environment in which a task has put its initialization data. */
function opened(initialization_data: object | null, solo_mode = false): Environment {
  const task = initialization_data === null ? {} : { initial_state: { initialization_data } };
  writeMockData(root, { task });
  const domain = mock(solo_mode);
  return prepareEnvironment(domain, domain.tasks[0] as (typeof domain.tasks)[number]);
}

const ask = (environment: Environment, requestor: Requestor, name: string, args: ExactObject = {}): string =>
  environment.getResponse({ id: "c", name, requestor, arguments: args }).content as string;

describe("initialization data", () => {
  test("for the agent takes the place of the user's database too, which then lacks its tables", () => {
    const environment = opened({ agent_data: { tasks: { t9: { task_id: "t9", title: "Rest", status: "pending" } } } });
    expect(environment.userDbHash()).toBe(environment.agentDbHash());
    expect(ask(environment, "user", "check_notifications")).toBe(
      "Error: 'MockDB' object has no attribute 'notifications'",
    );
    expect(ask(environment, "assistant", "update_task_status", { task_id: "t9", status: "completed" })).toContain(
      '"status": "completed"',
    );
    expect(environment.userDbHash()).toBe(environment.agentDbHash());
  });

  test("for the user takes the place of the agent's", () => {
    const environment = opened({
      user_data: { notifications: { n: { notification_id: "n", message: "Hello" } } },
    });
    expect(environment.agentDbHash()).toBe(environment.userDbHash() as string);
    expect(ask(environment, "assistant", "get_users")).toBe("Error: 'MockUserDB' object has no attribute 'users'");
    expect(ask(environment, "user", "check_notifications")).toBe(
      '[{"notification_id": "n", "message": "Hello", "status": "unread", "task_id": null}]',
    );
  });
});

describe("tools", () => {
  test("a new task's id counts tasks, and may overwrite one", () => {
    const environment = opened({
      agent_data: { tasks: { task_3: { task_id: "task_3", title: "Old", status: "pending" } } },
    });
    const create = (title: string) => ask(environment, "assistant", "create_task", { user_id: "ann", title });
    expect(create("New")).toBe('{"task_id": "task_3", "title": "New", "description": null, "status": "pending"}');
    expect(create("Newer")).toContain('"task_3"');
    expect(parseExact(ask(environment, "assistant", "get_users"))).toMatchObject([
      { tasks: ["t1", "task_3", "task_3"] },
    ]);
  });

  test("a status is stored as it comes", () => {
    const environment = opened(null);
    const status = parseExact('{"b": 2.0, "a": [null, true]}');
    expect(ask(environment, "assistant", "update_task_status", { task_id: "t1", status })).toContain(
      '"status": {"b": 2.0, "a": [null, true]}}',
    );
  });

  test("a title must be text, and nothing is created otherwise", () => {
    const environment = opened(null);
    const before = environment.agentDbHash();
    expect(ask(environment, "assistant", "create_task", { user_id: "ann", title: 7 })).toContain(
      "1 validation error for Task\ntitle\n",
    );
    expect(environment.agentDbHash()).toBe(before);
  });

  test("a long value is quoted in part, cut by bytes but not within a character", () => {
    const title = ["__proto__", "\u0130", "x".repeat(40)];
    expect(ask(opened(null), "assistant", "create_task", { user_id: "ann", title })).toContain(
      "input_value=['__proto__', '\u0130', 'xxxx...xxxxxxxxxxxxxxxxxxxxxx'], input_type=list",
    );
    const wide = ["\u{1f600}".repeat(20)];
    expect(ask(opened(null), "assistant", "create_task", { user_id: "ann", title: wide })).toContain(
      `input_value=['${"\u{1f600}".repeat(5)}...${"\u{1f600}".repeat(5)}'], input_type=list`,
    );
  });

  test("alone, the agent has the user's tools, by its own policy", () => {
    expect(mock(true).policy).toBe("Be silent.");
    const environment = opened(null, true);
    expect(ask(environment, "assistant", "dismiss_notification", { notification_id: "n" })).toBe(
      "Error: Notification n not found",
    );
    expect(ask(environment, "user", "check_notifications")).toBe("Error: User tool calls are not allowed in solo mode");
  });
});

/** The tools of the mock domain (SPEC section 15), for agent and user, and the functions that its tasks call. */
import { type ExactObject, type ExactValue, pythonEquals, pythonStr } from "../../../base/exact.ts";
import type { Table } from "../../database.ts";
import type { Toolkit } from "../../environment.ts";
import { parseModel, str } from "../../model.ts";
import { dictKey, valueError } from "../../python.ts";
import { type BoundArguments, ModelResult, parameter, type Tool, taskFunction, tool } from "../../tool.ts";
import { transferToHumanAgents } from "../common-tools.ts";
import type { MockTask, MockUser, Notification } from "./model.ts";
import * as models from "./model.ts";

/** The agent's view of its database. */
interface Tracker {
  readonly tasks: Table<MockTask>;
  readonly users: Table<MockUser>;
}

/** The user's view of theirs. */
interface Inbox {
  readonly notifications: Table<Notification>;
}

function found<E extends ExactObject>(table: Table<E>, key: ExactValue, kind: string): E {
  const name = dictKey(key);
  const entity = name === null ? undefined : table.get(name);
  if (entity === undefined) throw valueError(`${kind} ${pythonStr(key)} not found`);
  return entity;
}

function createTask(
  { tasks, users }: Tracker,
  { user_id, title, description }: BoundArguments<"user_id" | "title" | "description">,
): ModelResult {
  const user = found(users, user_id, "User");
  const task_id = `task_${tasks.size + 1}`;
  const task = parseModel(models.task, { task_id, title, description, status: "pending" }) as MockTask;
  tasks.set(task_id, task);
  users.set(user_id as string, { ...user, tasks: [...user.tasks, task_id] });
  return new ModelResult(task);
}

function updateStatus({ tasks }: Tracker, { task_id, status }: BoundArguments<"task_id" | "status">): ModelResult {
  const task = { ...found(tasks, task_id, "Task"), status };
  tasks.set(task_id as string, task);
  return new ModelResult(task);
}

function addNotification(
  { notifications }: Inbox,
  args: BoundArguments<"notification_id" | "message" | "task_id">,
): ModelResult {
  const added = parseModel(models.notification, args) as Notification;
  notifications.set(added.notification_id as string, added);
  return new ModelResult(added);
}

function dismiss({ notifications }: Inbox, { notification_id }: BoundArguments<"notification_id">): string {
  const notification = found(notifications, notification_id, "Notification");
  notifications.set(notification_id as string, { ...notification, status: "read" });
  return `Notification ${notification_id} dismissed`;
}

// ---------------------------------------------------------------------------------------------------------------------
// Definitions, in the original's order

const agentTools: readonly Tool<Tracker>[] = [
  tool({
    name: "create_task",
    kind: "write",
    description: "Create a new task for a user.",
    parameters: {
      user_id: parameter(str, "The ID of the user creating the task"),
      title: parameter(str, "The title of the task"),
      description: parameter(str, "Optional description of the task", { default: null }),
    },
    run: createTask,
  }),
  tool({
    name: "get_users",
    kind: "read",
    description: "Get all users in the database.",
    parameters: {},
    run: ({ users }: Tracker) => [...users.values()].map((user) => new ModelResult(user)),
  }),
  tool({
    name: "update_task_status",
    kind: "write",
    description: "Update the status of a task.",
    parameters: {
      task_id: parameter(str, "The ID of the task to update"),
      status: parameter(models.taskStatus, "The new status of the task"),
    },
    run: updateStatus,
  }),
  transferToHumanAgents,
];

const agentFunctions: readonly Tool<Tracker>[] = [
  taskFunction("assert_number_of_tasks", ["user_id", "expected_number"], ({ users }: Tracker, args) =>
    pythonEquals(found(users, args.user_id, "User").tasks.length, args.expected_number),
  ),
  taskFunction("assert_task_status", ["task_id", "expected_status"], ({ tasks }: Tracker, args) =>
    pythonEquals(found(tasks, args.task_id, "Task").status, args.expected_status),
  ),
];

const userTools: readonly Tool<Inbox>[] = [
  tool({
    name: "check_notifications",
    kind: "read",
    description: "Check all notifications in the user's inbox.",
    parameters: {},
    run: ({ notifications }: Inbox) => [...notifications.values()].map((notification) => new ModelResult(notification)),
  }),
  tool({
    name: "dismiss_notification",
    kind: "write",
    description: "Dismiss (mark as read) a notification.",
    parameters: { notification_id: parameter(str, "The ID of the notification to dismiss.") },
    run: dismiss,
  }),
];

const userFunctions: readonly Tool<Inbox>[] = [
  taskFunction("add_notification", ["notification_id", "message", "task_id"], addNotification, { task_id: null }),
  taskFunction(
    "assert_notification_status",
    ["notification_id", "expected_status"],
    ({ notifications }: Inbox, { notification_id, expected_status }) =>
      pythonEquals(found(notifications, notification_id, "Notification").status, expected_status),
  ),
];

export const mockToolkit: Toolkit<Tracker> = {
  className: "MockTools",
  tools: agentTools,
  functions: agentFunctions,
  // Looked up when used: initialization data may have put the user's database here, which has no such tables.
  view: (database) => ({
    get tasks() {
      return database.table<MockTask>("tasks");
    },
    get users() {
      return database.table<MockUser>("users");
    },
  }),
  model: models.mockDb,
  tables: ["tasks", "users"],
};

export const mockUserToolkit: Toolkit<Inbox> = {
  className: "MockUserTools",
  tools: userTools,
  functions: userFunctions,
  view: (database) => ({
    get notifications() {
      return database.table<Notification>("notifications");
    },
  }),
  model: models.mockUserDb,
  tables: ["notifications"],
};

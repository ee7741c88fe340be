/** The records of the mock domain, as the original declares them: order of fields and types. */
import type { ExactObject, ExactValue } from "../../../base/exact.ts";
import { dict, list, literal, model, optional, record, str } from "../../model.ts";

export const taskStatus = literal("pending", "completed");

export const task = model("Task", {
  task_id: str,
  title: str,
  description: { type: optional(str), default: null },
  status: taskStatus,
});

export const mockDb = model(
  "MockDB",
  { tasks: dict(record(task)), users: dict(record(model("User", { user_id: str, name: str, tasks: list(str) }))) },
  "forbid",
);

export const notification = model(
  "Notification",
  {
    notification_id: str,
    message: str,
    status: { type: literal("unread", "read"), default: "unread" },
    task_id: { type: optional(str), default: null },
  },
  "forbid",
);

export const mockUserDb = model("MockUserDB", { notifications: dict(record(notification)) }, "forbid");

// What the tools read of these records. Assignments are not validated, so a status can be anything.

export type MockTask = ExactObject & { readonly status: ExactValue };
export type MockUser = ExactObject & { readonly tasks: readonly string[] };
export type Notification = ExactObject & { readonly status: ExactValue };

/** Permissions of apps, named by calls and tasks. */
import { type ExactObject, pythonStr, withEntry } from "../../../base/exact.ts";
import { noAttribute } from "../../python.ts";
import type { BoundArguments } from "../../tool.ts";
import { appOf, changePhone, phoneOf, type User } from "./device.ts";
import type { App, Phone } from "./phone.ts";

export type PermissionArguments = BoundArguments<"app_name" | "permission">;

interface AppPermission {
  readonly app: App | null;
  readonly app_name: string;
  readonly permission: string;
}

/** The app and the permission that a call names; what cannot be a name fails here, the app first. */
export function permissionOf(user: User, { app_name, permission }: PermissionArguments): AppPermission {
  const app = appOf(user, app_name);
  if (typeof permission !== "string") throw noAttribute(permission, "lower");
  return { app, app_name: pythonStr(app_name), permission: permission.toLowerCase() };
}

export function setPermission(user: User, { app, app_name, permission }: AppPermission, state: boolean): void {
  const changed = { ...app, permissions: { ...app?.permissions, [permission]: state } };
  const apps = phoneOf(user).app_statuses as unknown as ExactObject;
  changePhone(user, {
    app_statuses: withEntry(apps, app_name, changed as ExactObject) as unknown as Phone["app_statuses"],
  });
}

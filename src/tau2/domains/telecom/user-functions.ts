/** What tasks do to the user and the phone, and check of them, beside the user's tools: no model can call these. */
import { Float, pythonEquals, pythonRepr, pythonStr } from "../../../base/exact.ts";
import { compare, isTruthy, noAttribute, valueError } from "../../python.ts";
import { type BoundArguments, type Tool, type ToolResult, taskFunction } from "../../tool.ts";
import {
  canSendMms,
  changeApn,
  changePhone,
  changeSurroundings,
  hasMobileData,
  phoneOf,
  searchNetwork,
  surroundingsOf,
  testSpeed,
  type User,
} from "./device.ts";
import { type PermissionArguments, permissionOf, setPermission } from "./permissions.ts";
import { networkStatus } from "./phone.ts";
import {
  breakVpn,
  type Switch,
  setSimMissing,
  toggleAirplaneMode,
  toggleData,
  toggleDataSaver,
  toggleRoaming,
  toggleWifiCalling,
  turn,
} from "./switches.ts";

function lockSim(user: User, { mode }: BoundArguments<"mode">): string {
  if (mode === "pin" || mode === "puk") changePhone(user, { sim_card_status: `locked_${mode}` });
  searchNetwork(user);
  return `SIM card locked successfully in ${pythonStr(mode)} mode.`;
}

function breakApn(user: User): string {
  changeApn(user, { apn_name: "broken" });
  searchNetwork(user);
  return "APN settings broken. Please call reset_apn_settings() to fix.";
}

function breakApnMms(user: User): string {
  changeApn(user, { mmsc_url: null });
  return "APN MMS setting broken. Please call reset_apn_settings() to fix.";
}

function setWifiCalling(user: User, { enabled, mms_over_wifi }: BoundArguments<"enabled" | "mms_over_wifi">): string {
  if (!pythonEquals(phoneOf(user).wifi_calling_enabled, enabled)) toggleWifiCalling(user);
  const text = `Wi-Fi Calling is now ${isTruthy(enabled) ? "ON" : "OFF"}.`;
  if (mms_over_wifi === null) return text;
  changePhone(user, { wifi_calling_mms_over_wifi: mms_over_wifi });
  return `${text}\nMMS over Wi-Fi is now ${isTruthy(mms_over_wifi) ? "ON" : "OFF"}.`;
}

function removePermission(user: User, args: PermissionArguments): ToolResult {
  const { app, app_name, permission } = permissionOf(user, args);
  if (app === null) return [false, `App '${app_name}' not found. Cannot remove permission.`];
  if (!Object.hasOwn(app.permissions, permission))
    return [false, `Permission '${permission}' not tracked for app '${app_name}'.`];
  setPermission(user, { app, app_name, permission }, false);
  return [true, `Permission '${permission}' removed from app '${app_name}'.`];
}

function hasService(user: User, { expected_status }: BoundArguments<"expected_status">): boolean {
  if (typeof expected_status !== "string" || !networkStatus.values.includes(expected_status))
    throw valueError(`${pythonRepr(expected_status)} is not a valid NetworkStatus`);
  return phoneOf(user).network_connection_status === expected_status;
}

function hasSpeed(
  user: User,
  { expected_speed, expected_desc }: BoundArguments<"expected_speed" | "expected_desc">,
): boolean {
  const { mbps, description } = testSpeed(user);
  const isFast = compare(new Float(mbps ?? 0), ">=", expected_speed);
  if (expected_desc === null || !isFast) return isFast;
  if (typeof expected_desc !== "string") throw noAttribute(expected_desc, "lower");
  return description.toLowerCase() === expected_desc.toLowerCase();
}

const expected = (name: string, actual: (user: User) => boolean): Tool<User> =>
  taskFunction(name, ["expected_status"], (user: User, { expected_status }) =>
    pythonEquals(actual(user), expected_status),
  );

const turning = (name: string, to: boolean, flip: Switch, text: string): Tool<User> =>
  taskFunction(name, [], (user: User) => {
    turn(user, to, flip);
    return text;
  });

const doing = (name: string, run: (user: User) => ToolResult): Tool<User> => taskFunction(name, [], run);

export const functions: readonly Tool<User>[] = [
  taskFunction("set_user_info", ["name", "phone_number"], (user: User, { name, phone_number }) => {
    changeSurroundings(user, { name, phone_number });
    return null;
  }),
  taskFunction("set_user_location", ["abroad"], (user: User, { abroad }) => {
    changeSurroundings(user, { is_abroad: abroad });
    return null;
  }),
  turning("turn_airplane_mode_on", true, toggleAirplaneMode, "Airplane Mode is now ON."),
  turning("turn_airplane_mode_off", false, toggleAirplaneMode, "Airplane Mode is now OFF."),
  doing("unseat_sim_card", (user) => {
    setSimMissing(user, true);
    return "SIM card un-seated successfully.";
  }),
  taskFunction("lock_sim_card", ["mode"], lockSim),
  doing("turn_data_on", (user) => {
    changePhone(user, { data_enabled: true });
    return "Data connection restored.";
  }),
  turning("turn_data_off", false, toggleData, "Data connection broken."),
  turning("turn_roaming_on", true, toggleRoaming, "Data Roaming is now ON."),
  turning("turn_roaming_off", false, toggleRoaming, "Data Roaming is now OFF."),
  turning("turn_data_saver_mode_on", true, toggleDataSaver, "Data Saver Mode is now ON."),
  turning("turn_data_saver_mode_off", false, toggleDataSaver, "Data Saver Mode is now OFF."),
  doing("break_apn_settings", breakApn),
  doing("break_apn_mms_setting", breakApnMms),
  taskFunction("set_wifi_calling", ["enabled", "mms_over_wifi"], setWifiCalling, { mms_over_wifi: null }),
  doing("break_vpn", (user) => {
    breakVpn(user);
    return "VPN connection broken.";
  }),
  taskFunction("remove_app_permission", ["app_name", "permission"], removePermission),
  doing("simulate_network_search", (user) => {
    searchNetwork(user);
    return null;
  }),
  expected("assert_airplane_mode_status", (user) => phoneOf(user).airplane_mode),
  taskFunction("assert_service_status", ["expected_status"], hasService),
  expected("assert_mobile_data_status", hasMobileData),
  expected("assert_mobile_roaming_status", (user) => phoneOf(user).roaming_enabled),
  expected("assert_mobile_data_saver_mode_status", (user) => phoneOf(user).data_saver_mode),
  taskFunction("assert_internet_speed", ["expected_speed", "expected_desc"], hasSpeed, { expected_desc: null }),
  doing("assert_internet_not_excellent", (user) => testSpeed(user).description !== "Excellent"),
  expected("assert_can_send_mms", canSendMms),
  expected("assert_mobile_data_usage_exceeded", (user) => surroundingsOf(user).mobile_data_usage_exceeded),
];

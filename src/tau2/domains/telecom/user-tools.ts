/** What the user can do with the phone (SPEC section 14.2): wording and effects of the original, its failures in words included. */
import {
  type ExactObject,
  floatRepr,
  formatTwoDecimals,
  isObject,
  keysOf,
  pythonRepr,
  pythonStr,
} from "../../../base/exact.ts";
import type { Toolkit } from "../../environment.ts";
import { dict, parseModel, record, str, union } from "../../model.ts";
import { noAttribute, PythonError } from "../../python.ts";
import { type BoundArguments, parameter, type Tool, tool } from "../../tool.ts";
import {
  apnOf,
  appOf,
  canSendMms,
  changeApn,
  changePhone,
  changeSurroundings,
  phoneOf,
  searchNetwork,
  simStatus,
  statusBar,
  surroundingsOf,
  testSpeed,
  type User,
} from "./device.ts";
import { type PermissionArguments, permissionOf, setPermission } from "./permissions.ts";
import { type App, apnSettings, networkModePreference, telecomUserDb, type VpnDetails } from "./phone.ts";
import {
  connectVpn,
  disconnectVpn,
  type Switch,
  setSimMissing,
  toggleAirplaneMode,
  toggleData,
  toggleDataSaver,
  toggleRoaming,
  toggleWifi,
  toggleWifiCalling,
} from "./switches.ts";
import { functions } from "./user-functions.ts";

const withStatusBar = (user: User, text: string): string => `${text}\nStatus Bar: ${statusBar(user)}`;
const onOff = (state: boolean): string => (state ? "ON" : "OFF");
const yesNo = (state: boolean): string => (state ? "Yes" : "No");

// ---------------------------------------------------------------------------------------------------------------------
// Network

function networkStatus(user: User): string {
  const phone = phoneOf(user);
  return [
    `Airplane Mode: ${onOff(phone.airplane_mode)}`,
    `SIM Card Status: ${simStatus(user)}`,
    `Cellular Connection: ${phone.network_connection_status}`,
    `Cellular Signal: ${phone.network_signal_strength}`,
    `Cellular Network Type: ${phone.network_technology_connected}`,
    `Mobile Data Enabled: ${yesNo(phone.data_enabled)}`,
    `Data Roaming Enabled: ${yesNo(phone.roaming_enabled)}`,
    `Wi-Fi Radio: ${onOff(phone.wifi_enabled)}`,
    `Wi-Fi Connected: ${yesNo(phone.wifi_connected)}`,
    ...(phone.wifi_connected ? [`Connected Wi-Fi Network: ${pythonStr(phone.wifi_ssid)}`] : []),
  ].join("\n");
}

function modePreference(user: User): string {
  const { network_mode_preference: mode } = phoneOf(user);
  if (typeof mode !== "string") throw noAttribute(mode, "value");
  return `Network Mode Preference: ${mode}`;
}

/** Only a text is checked; anything else is stored first, and fails when its name is asked for. */
function setModePreference(user: User, { mode }: BoundArguments<"mode">): string {
  const isUnknown = typeof mode === "string" && !networkModePreference.values.includes(mode);
  if (!isUnknown) {
    changePhone(user, { network_mode_preference: mode });
    searchNetwork(user);
  }
  if (isUnknown || mode === null)
    return withStatusBar(
      user,
      `Failed to set network mode: '${pythonStr(mode)}' is not a valid option. Please use one of: ${networkModePreference.values.join(", ")}`,
    );
  if (typeof mode !== "string") throw noAttribute(mode, "value");
  return withStatusBar(user, `Preferred Network Mode set to: ${mode}`);
}

const SPEED_ADVICE: Readonly<Record<string, string>> = {
  "Very Poor": "Connection is very slow. Basic web browsing might be difficult.",
  Poor: "Connection is slow. Web browsing may be sluggish, streaming difficult.",
  Fair: "Connection is okay for web browsing and some standard definition streaming.",
  Good: "Connection is good for most activities, including HD streaming.",
  Excellent: "Connection is very fast.",
};

function speedTest(user: User): string {
  const { mbps, description } = testSpeed(user);
  if (mbps === null) return `Speed test failed: ${description}.`;
  return `Speed Test Result: ${formatTwoDecimals(mbps)} Mbps (${description}). ${SPEED_ADVICE[description]}`;
}

const SIM_TEXTS: Readonly<Record<string, string>> = {
  active: "Your SIM card is active and working.",
  missing: "No SIM card detected in the phone.",
  locked_pin: "The SIM card is locked with a PIN code.",
  locked_puk: "The SIM card is locked with a PUK code.",
};

function reseatSim(user: User): string {
  setSimMissing(user, false);
  if (simStatus(user) === "missing") throw new PythonError("AssertionError", "");
  return withStatusBar(user, "SIM card re-seated successfully.");
}

// ---------------------------------------------------------------------------------------------------------------------
// Settings

function apnText(user: User): string {
  const { apn_name, mmsc_url } = apnOf(user, "model_copy");
  return `Current APN Name: ${apn_name}\nMMSC URL (for picture messages): ${mmsc_url || "Not Set"}\n(These are technical settings, usually best left unchanged.)`;
}

/** An object becomes settings or is refused; anything else is stored first, and fails when its name is asked for. */
function setApn(user: User, { apn_settings }: BoundArguments<"apn_settings">): string {
  const settings = isObject(apn_settings) ? parseModel(apnSettings, apn_settings) : apn_settings;
  changePhone(user, { active_apn_settings: settings });
  const { apn_name } = apnOf(user, "apn_name");
  searchNetwork(user);
  return withStatusBar(user, `APN settings set to: ${apn_name}`);
}

function resetApn(user: User): string {
  changeApn(user, { reset_at_reboot: true });
  searchNetwork(user);
  return withStatusBar(user, "APN settings will reset at reboot.");
}

function reboot(user: User): string {
  const resets = apnOf(user, "reset_at_reboot").reset_at_reboot;
  if (resets) changePhone(user, { active_apn_settings: parseModel(apnSettings, {}) });
  changePhone(user, { network_connection_status: "searching" });
  searchNetwork(user);
  return withStatusBar(user, `${resets ? "Resetting APN settings...\n" : ""}Restarting network services...`);
}

function wifiStatus(user: User): string {
  const { wifi_enabled, wifi_connected, wifi_ssid, wifi_signal_strength } = phoneOf(user);
  if (!wifi_enabled) return "Wi-Fi is turned OFF.";
  if (!wifi_connected) return "Wi-Fi is ON but not connected to any network.";
  return `Wi-Fi is ON and connected to '${pythonStr(wifi_ssid)}'. Signal strength: ${wifi_signal_strength}.`;
}

function switchWifi(user: User): string {
  const state = toggleWifi(user);
  const text =
    state === null ? "Cannot change Wi-Fi settings while Airplane Mode is ON." : `Wi-Fi is now ${onOff(state)}.`;
  return withStatusBar(user, text);
}

function vpnStatus(user: User): string {
  const { vpn_connected, vpn_details, vpn_enabled_setting } = phoneOf(user);
  if (vpn_connected && vpn_details !== null) return `VPN is ON and connected. Details: ${vpnText(vpn_details)}`;
  if (vpn_connected) return "VPN is ON and connected (no specific details available).";
  return vpn_enabled_setting ? "VPN is turned ON in settings, but currently not connected." : "VPN is turned OFF.";
}

/** Python's text of the details as a dict, with the member of its enumeration. */
function vpnText({ server_address, protocol, server_performance }: VpnDetails): string {
  const performance = `<PerformanceLevel.${server_performance.toUpperCase()}: '${server_performance}'>`;
  return `{'server_address': ${pythonRepr(server_address)}, 'protocol': ${pythonRepr(protocol)}, 'server_performance': ${performance}}`;
}

// ---------------------------------------------------------------------------------------------------------------------
// Apps

const granted = ({ permissions }: App): string[] => keysOf(permissions).filter((name) => permissions[name]);

function appStatus(user: User, { app_name }: BoundArguments<"app_name">): string {
  const app = appOf(user, app_name);
  if (app === null) return `App '${pythonStr(app_name)}' not found on this phone.`;
  const names = granted(app);
  const permissions =
    names.length === 0
      ? [" - Permissions: None granted."]
      : [" - Permissions Granted:", ...names.map((name) => `   - ${name}`)];
  return [`Status for App: ${pythonStr(app_name)}`, ...permissions].join("\n");
}

function appPermissions(user: User, { app_name }: BoundArguments<"app_name">): string {
  const app = appOf(user, app_name);
  if (app === null) return `App '${pythonStr(app_name)}' not found on this phone.`;
  const names = granted(app);
  if (names.length === 0) return `App '${pythonStr(app_name)}' currently has no permissions granted.`;
  return `App '${pythonStr(app_name)}' has permission for: ${names.join(", ")}.`;
}

function grantPermission(user: User, args: PermissionArguments): string {
  const { app, app_name, permission } = permissionOf(user, args);
  const failed = (text: string): string => withStatusBar(user, `Error. ${text}`);
  if (app === null) return failed(`App '${app_name}' not found. Cannot grant permission.`);
  if (!Object.hasOwn(app.permissions, permission)) {
    const known = pythonRepr(keysOf(app.permissions));
    return failed(`Permission '${permission}' not tracked for app '${app_name}', available permissions: ${known}`);
  }
  setPermission(user, { app, app_name, permission }, true);
  return withStatusBar(user, `Success. Permission '${permission}' granted to app '${app_name}'.`);
}

// ---------------------------------------------------------------------------------------------------------------------
// Payment

function paymentRequestText(user: User): string {
  const { payment_request } = surroundingsOf(user);
  if (payment_request === null) return "No payment request has been made.";
  return `You have a payment request for bill ${payment_request.bill_id} of ${floatRepr(payment_request.amount_due.value)} USD.`;
}

function pay(user: User): string {
  const { payment_request } = surroundingsOf(user);
  if (payment_request === null) return "You do not have a payment request.";
  changeSurroundings(user, { payment_request: { ...payment_request, paid: true } });
  return `Payment of ${floatRepr(payment_request.amount_due.value)} USD has been made for bill ${payment_request.bill_id}.`;
}

// ---------------------------------------------------------------------------------------------------------------------
// Definitions, in the original's order

type UserTool = (user: User) => string;

const check = (name: string, description: string, run: UserTool): Tool<User> =>
  tool({ name, kind: "read", description, parameters: {}, run });
const write = (name: string, description: string, run: UserTool): Tool<User> =>
  tool({ name, kind: "write", description, parameters: {}, run });
/** A tool that toggles `what` and says so. */
const toggle = (name: string, what: string, description: string, flip: Switch): Tool<User> =>
  write(name, description, (user) => withStatusBar(user, `${what} is now ${onOff(flip(user))}.`));

const tools: readonly Tool<User>[] = [
  check(
    "check_status_bar",
    "Shows what icons are currently visible in your phone's status bar (the area at the top of the screen). Displays network signal strength, mobile data status (enabled, disabled, data saver), Wi-Fi status, and battery level.",
    (user) => `Status Bar: ${statusBar(user)}`,
  ),
  check(
    "check_network_status",
    "Checks your phone's connection status to cellular networks and Wi-Fi. Shows airplane mode status, signal strength, network type, whether mobile data is enabled, and whether data roaming is enabled.",
    networkStatus,
  ),
  check("check_network_mode_preference", "Shows the current network mode preference.", modePreference),
  tool({
    name: "set_network_mode_preference",
    kind: "write",
    description:
      "Changes the type of cellular network your phone prefers to connect to (e.g., 5G, LTE/4G, 3G). Higher-speed networks (LTE/5G) provide faster data but may use more battery.",
    parameters: { mode: { type: union(networkModePreference, str) } },
    run: setModePreference,
  }),
  check(
    "run_speed_test",
    "Measures your current internet connection speed (download speed). Provides information about connection quality and what activities it can support.",
    speedTest,
  ),
  toggle(
    "toggle_airplane_mode",
    "Airplane Mode",
    "Toggles Airplane Mode ON or OFF. When ON, it disconnects all wireless communications including cellular, Wi-Fi, and Bluetooth.\n\nReturns the new state of airplane_mode.",
    toggleAirplaneMode,
  ),
  check(
    "check_sim_status",
    "Checks if your SIM card is working correctly and displays its current status. Shows if the SIM is active, missing, or locked with a PIN or PUK code.",
    (user) => SIM_TEXTS[simStatus(user)] as string,
  ),
  write(
    "reseat_sim_card",
    "Simulates removing and reinserting your SIM card. This can help resolve recognition issues.",
    reseatSim,
  ),
  toggle(
    "toggle_data",
    "Mobile Data",
    "Toggles your phone's mobile data connection ON or OFF. Controls whether your phone can use cellular data for internet access when Wi-Fi is unavailable.\n\nReturns the new data connection status.",
    toggleData,
  ),
  toggle(
    "toggle_roaming",
    "Data Roaming",
    "Toggles Data Roaming ON or OFF. When ON, your phone can use data networks in areas outside your carrier's coverage.\n\nReturns the new data roaming status.",
    toggleRoaming,
  ),
  check(
    "check_data_restriction_status",
    "Checks if your phone has any data-limiting features active. Shows if Data Saver mode is on.",
    (user) =>
      phoneOf(user).data_saver_mode ? "Data Saver mode is ON (limits data usage)." : "Data Saver mode is OFF.",
  ),
  toggle(
    "toggle_data_saver_mode",
    "Data Saver Mode",
    "Toggles Data Saver mode ON or OFF. When ON, it reduces data usage, which may affect data speed.\n\nReturns the new data saver mode status.",
    toggleDataSaver,
  ),
  check(
    "check_apn_settings",
    "Checks the technical APN settings your phone uses to connect to your carrier's mobile data network. Shows current APN name and MMSC URL for picture messaging.",
    apnText,
  ),
  tool({
    name: "set_apn_settings",
    kind: "write",
    description: "Sets the APN settings for the phone.",
    parameters: { apn_settings: { type: union(record(apnSettings), dict({ kind: "any" })) } },
    run: setApn,
  }),
  write("reset_apn_settings", "Resets your APN settings to the default settings.", resetApn),
  check(
    "check_wifi_status",
    "Checks your Wi-Fi connection status. Shows if Wi-Fi is turned on, which network you're connected to (if any), and the signal strength.",
    wifiStatus,
  ),
  write(
    "toggle_wifi",
    "Toggles your phone's Wi-Fi radio ON or OFF. Controls whether your phone can discover and connect to wireless networks for internet access.\n\nReturns the new Wi-Fi status.",
    switchWifi,
  ),
  check(
    "check_wifi_calling_status",
    "Checks if Wi-Fi Calling is enabled on your device. This feature allows you to make and receive calls over a Wi-Fi network instead of using the cellular network.",
    (user) => `Wi-Fi Calling is currently turned ${onOff(phoneOf(user).wifi_calling_enabled)}.`,
  ),
  toggle(
    "toggle_wifi_calling",
    "Wi-Fi Calling",
    "Toggles Wi-Fi Calling ON or OFF. This feature allows you to make and receive calls over Wi-Fi instead of the cellular network, which can help in areas with weak cellular signal.\n\nReturns the new Wi-Fi Calling status.",
    toggleWifiCalling,
  ),
  check(
    "check_vpn_status",
    "Checks if you're using a VPN (Virtual Private Network) connection. Shows if a VPN is active, connected, and displays any available connection details.",
    vpnStatus,
  ),
  write("connect_vpn", "Connects to your VPN (Virtual Private Network).", (user) =>
    connectVpn(user) ? withStatusBar(user, "VPN connected successfully.") : "VPN already connected.",
  ),
  write(
    "disconnect_vpn",
    "Disconnects any active VPN (Virtual Private Network) connection. Stops routing your internet traffic through a VPN server, which might affect connection speed or access to content.",
    (user) =>
      withStatusBar(
        user,
        disconnectVpn(user) ? "VPN disconnected successfully." : "No active VPN connection to disconnect.",
      ),
  ),
  check(
    "check_installed_apps",
    "Returns the name of all installed apps on the phone.",
    (user) => `The following apps are installed on the phone: ${appNames(user).join(", ")}`,
  ),
  tool({
    name: "check_app_status",
    kind: "read",
    description:
      "Checks detailed information about a specific app. Shows its permissions and background data usage settings.",
    parameters: { app_name: { type: str } },
    run: appStatus,
  }),
  tool({
    name: "check_app_permissions",
    kind: "read",
    description:
      "Checks what permissions a specific app currently has. Shows if the app has access to features like storage, camera, location, etc.",
    parameters: { app_name: { type: str } },
    run: appPermissions,
  }),
  tool({
    name: "grant_app_permission",
    kind: "write",
    description:
      "Gives a specific permission to an app (like access to storage, camera, or location). Required for some app functions to work properly.",
    parameters: {
      app_name: parameter(str, "The name of the app to grant the permission to."),
      permission: parameter(str, "The permission to grant, should be lowercase."),
    },
    run: grantPermission,
  }),
  check("can_send_mms", "Checks if the default messaging app can send MMS messages.", (user) =>
    canSendMms(user) ? "Your messaging app can send MMS messages." : "Your messaging app cannot send MMS messages.",
  ),
  write(
    "reboot_device",
    "Restarts your phone completely. This can help resolve many temporary software glitches by refreshing all running services and connections.",
    reboot,
  ),
  check("check_payment_request", "Checks if the agent has sent you a payment request.", paymentRequestText),
  write("make_payment", "Makes a payment for the bill that the agent has sent you.", pay),
];

const appNames = (user: User): readonly string[] => keysOf(phoneOf(user).app_statuses as unknown as ExactObject);

/** In the original these are shared by all environments of a process, a leak (SPEC section 14.2); here each has its own. */
const VPN: VpnDetails = { server_address: "192.168.1.1", protocol: "OpenVPN", server_performance: "excellent" };

export const telecomUserToolkit: Toolkit<User> = {
  className: "TelecomUserTools",
  tools,
  functions,
  view: (database) => ({ database, vpn: VPN }),
  model: telecomUserDb,
  tables: [],
};

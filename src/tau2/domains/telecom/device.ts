/** How the user's phone behaves (SPEC section 14.2): its network, its speed, whether it can send MMS, what its status bar shows. */
import { type ExactObject, type ExactValue, isObject, pythonStr, roundTwoDecimals } from "../../../base/exact.ts";
import type { Database } from "../../database.ts";
import { dictKey, isTruthy, noAttribute } from "../../python.ts";
import type { Apn, App, Phone, Surroundings, VpnDetails } from "./phone.ts";

/** The user as the tools see it. */
export interface User {
  readonly database: Database;
  /** What a new VPN connection is like; `break_vpn` spoils it for good. */
  vpn: VpnDetails;
}

export const phoneOf = ({ database }: { readonly database: Database }): Phone =>
  database.value("device") as unknown as Phone;
export const surroundingsOf = ({ database }: { readonly database: Database }): Surroundings =>
  database.value("surroundings") as unknown as Surroundings;

export const changePhone = ({ database }: User, fields: Partial<Phone>): void => change(database, "device", fields);
export const changeSurroundings = (
  { database }: { readonly database: Database },
  fields: Partial<Surroundings>,
): void => change(database, "surroundings", fields);

function change(
  database: Database,
  name: "device" | "surroundings",
  fields: Partial<Phone> | Partial<Surroundings>,
): void {
  const old = database.value(name) as ExactObject;
  const wanted = fields as unknown as ExactObject;
  if (Object.keys(wanted).some((key) => old[key] !== wanted[key])) database.setValue(name, { ...old, ...wanted });
}

/** The APN settings, of which an attribute is read or written: whatever a call has put in their place has none. */
export function apnOf(user: User, attribute: keyof Apn | "model_copy"): Apn {
  const { active_apn_settings } = phoneOf(user);
  if (!isObject(active_apn_settings)) throw noAttribute(active_apn_settings, attribute);
  return active_apn_settings as unknown as Apn;
}

export function changeApn(user: User, fields: Partial<Apn>): void {
  const apn = apnOf(user, Object.keys(fields)[0] as keyof Apn);
  changePhone(user, { active_apn_settings: { ...apn, ...fields } });
}

/** The app of that name; null: there is none. */
export function appOf(user: User, name: ExactValue): App | null {
  const apps = phoneOf(user).app_statuses;
  const key = dictKey(name);
  return key !== null && Object.hasOwn(apps, key) ? (apps[key] as App) : null;
}

// ---------------------------------------------------------------------------------------------------------------------
// Network

type Network = Pick<Phone, "network_connection_status" | "network_technology_connected" | "network_signal_strength">;

const NO_SERVICE: Network = {
  network_connection_status: "no_service",
  network_technology_connected: "none",
  network_signal_strength: "none",
};

export function simStatus(user: User): string {
  const { sim_card_missing, sim_card_status } = phoneOf(user);
  return sim_card_missing ? "missing" : sim_card_status;
}

/** What the phone finds when it looks for a network. */
export function searchNetwork(user: User): void {
  const reachable = simStatus(user) === "active" && !phoneOf(user).airplane_mode;
  changePhone(user, reachable ? bestNetwork(user) : NO_SERVICE);
  // After the change: where the APN cannot be read, what was found stays.
  if (apnOf(user, "apn_name").apn_name === "broken" || !surroundingsOf(user).line_active) changePhone(user, NO_SERVICE);
}

const ONLY: Readonly<Record<string, string>> = { "4g_only": "4G", "3g_only": "3G", "2g_only": "2G" };

function bestNetwork(user: User): Network {
  const { network_mode_preference: preference } = phoneOf(user);
  const signals = surroundingsOf(user).signal_strength;
  const signalOf = (technology: string): string => signals[technology] ?? "none";
  const technology =
    preference === "4g_5g_preferred" && signalOf("5G") !== "none" ? "5G" : (ONLY[String(preference)] ?? "4G");
  return {
    network_connection_status: "connected",
    network_technology_connected: technology,
    network_signal_strength: signalOf(technology),
  };
}

export function hasMobileData(user: User): boolean {
  const phone = phoneOf(user);
  if (phone.airplane_mode || phone.network_signal_strength === "none") return false;
  if (phone.network_connection_status === "no_service") return false;
  const { is_abroad, roaming_allowed, mobile_data_usage_exceeded } = surroundingsOf(user);
  if (isTruthy(is_abroad) && !(phone.roaming_enabled && roaming_allowed)) return false;
  return phone.data_enabled && !mobile_data_usage_exceeded;
}

export function canSendMms(user: User): boolean {
  if (!hasMobileData(user)) return false;
  const { network_technology_connected, wifi_calling_enabled, wifi_calling_mms_over_wifi } = phoneOf(user);
  if (network_technology_connected === "2G") return false;
  if (wifi_calling_enabled && isTruthy(wifi_calling_mms_over_wifi)) return false;
  if (apnOf(user, "mmsc_url").mmsc_url === null) return false;
  const messaging = appOf(user, "messaging");
  return messaging !== null && messaging.permissions.storage === true && messaging.permissions.sms === true;
}

// ---------------------------------------------------------------------------------------------------------------------
// Speed

/** Mbit/s, from and to. */
const SPEED_RANGES: Readonly<Record<string, readonly [number, number]>> = {
  "2G": [0.1, 0.4],
  "3G": [1, 5],
  "4G": [10, 100],
  "5G": [50, 500],
};
const SIGNAL_FACTORS: Readonly<Record<string, number>> = { poor: 0.2, fair: 0.5, good: 0.8, excellent: 1 };
const SPEED_NAMES: readonly (readonly [number, string])[] = [
  [1, "Very Poor"],
  [5, "Poor"],
  [25, "Fair"],
  [100, "Good"],
];

export interface SpeedTest {
  /** null: there is no connection. */
  readonly mbps: number | null;
  readonly description: string;
}

export function testSpeed(user: User): SpeedTest {
  if (!hasMobileData(user)) return { mbps: null, description: "No Connection" };
  const phone = phoneOf(user);
  const isSlowed = phone.vpn_connected && phone.vpn_details?.server_performance === "poor";
  const factor = (isSlowed ? 0.1 : 1) * (phone.data_saver_mode ? 0.2 : 1);
  const [least, most] = SPEED_RANGES[phone.network_technology_connected] ?? [0, 0];
  const signal = SIGNAL_FACTORS[phone.network_signal_strength] ?? 0;
  const mbps = roundTwoDecimals(((least + most) / 2) * signal * factor);
  return { mbps, description: SPEED_NAMES.find(([bound]) => mbps < bound)?.[1] ?? "Excellent" };
}

// ---------------------------------------------------------------------------------------------------------------------
// Status bar

const SIGNAL_ICONS: Readonly<Record<string, string>> = {
  none: "📵 No Signal",
  poor: "📶¹ Poor",
  fair: "📶² Fair",
  good: "📶³ Good",
  excellent: "📶⁴ Excellent",
};

export function statusBar(user: User): string {
  const phone = phoneOf(user);
  const wifi = phone.wifi_ssid ? `📡 Connected to ${phone.wifi_ssid}` : "📡 Enabled";
  return [
    ...(phone.airplane_mode ? ["✈️ Airplane Mode"] : cellularIcons(phone)),
    ...(phone.wifi_enabled && phone.wifi_connected ? [wifi] : []),
    ...(phone.vpn_connected ? ["🔒 VPN Connected"] : []),
    `🔋 ${pythonStr(phone.battery_level)}%`,
  ].join(" | ");
}

function cellularIcons(phone: Phone): string[] {
  const signal = SIGNAL_ICONS[phone.network_signal_strength] as string;
  const technology = phone.network_technology_connected;
  if (technology === "none") return [signal, "📵 Data Disabled"];
  if (!phone.data_enabled) return [signal, technology, "📵 Data Disabled"];
  return [signal, technology, "📱 Data Enabled", ...(phone.data_saver_mode ? ["🔽 Data Saver"] : [])];
}

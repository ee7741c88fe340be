/** What the user can switch on the phone. Tools and the functions of tasks that break something share it. */
import { noAttribute } from "../../python.ts";
import { changePhone, phoneOf, searchNetwork, type User } from "./device.ts";
import type { Phone } from "./phone.ts";

/** Changes a setting to its opposite and returns the new state. */
export type Switch = (user: User) => boolean;

type Setting = {
  [K in keyof Phone]: Phone[K] extends boolean ? K : never;
}[keyof Phone];

const toggled = (user: User, setting: Setting): boolean => {
  const state = !phoneOf(user)[setting];
  changePhone(user, { [setting]: state });
  return state;
};

const toggledWithSearch = (user: User, setting: Setting): boolean => {
  const state = toggled(user, setting);
  searchNetwork(user);
  return state;
};

export const toggleData: Switch = (user) => toggledWithSearch(user, "data_enabled");
export const toggleRoaming: Switch = (user) => toggledWithSearch(user, "roaming_enabled");
export const toggleDataSaver: Switch = (user) => toggled(user, "data_saver_mode");
export const toggleWifiCalling: Switch = (user) => toggled(user, "wifi_calling_enabled");

const WIFI_GONE = { wifi_connected: false, wifi_ssid: null, wifi_signal_strength: "none" } as const;

/** On disconnects Wi-Fi and VPN; off disconnects Wi-Fi too, but leaves its radio as it is. */
export const toggleAirplaneMode: Switch = (user) => {
  const { airplane_mode: wasOn, wifi_enabled } = phoneOf(user);
  changePhone(user, { airplane_mode: !wasOn });
  if (wasOn) changePhone(user, { network_connection_status: "searching", ...(wifi_enabled ? WIFI_GONE : {}) });
  else {
    changePhone(user, WIFI_GONE);
    disconnectVpn(user);
  }
  searchNetwork(user);
  return !wasOn;
};

/** null: not in airplane mode. */
export function toggleWifi(user: User): boolean | null {
  if (phoneOf(user).airplane_mode) return null;
  const state = toggled(user, "wifi_enabled");
  if (!state) changePhone(user, WIFI_GONE);
  return state;
}

/** Switches until the setting is as wanted, at least once: whatever else a switch does, happens. */
export function turn(user: User, to: boolean, flip: Switch): void {
  if (flip(user) !== to) flip(user);
}

export function setSimMissing(user: User, sim_card_missing: boolean): void {
  changePhone(user, { sim_card_missing });
  searchNetwork(user);
}

/** False: there already is a connection. */
export function connectVpn(user: User): boolean {
  if (phoneOf(user).vpn_connected) return false;
  changePhone(user, { vpn_connected: true, vpn_details: user.vpn });
  return true;
}

/** False: there was no connection. */
export function disconnectVpn(user: User): boolean {
  if (!phoneOf(user).vpn_connected) return false;
  changePhone(user, { vpn_connected: false, vpn_details: null });
  return true;
}

/** The details of a connection *are* the default ones in the original, so that breaking them breaks later connections too. */
export function breakVpn(user: User): void {
  connectVpn(user);
  const { vpn_details } = phoneOf(user);
  if (vpn_details === null) throw noAttribute(vpn_details, "server_performance");
  const broken = { ...vpn_details, server_performance: "poor" };
  if (vpn_details === user.vpn) user.vpn = broken;
  changePhone(user, { vpn_details: broken });
}

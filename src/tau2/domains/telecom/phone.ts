/** The user's phone and surroundings, as the original declares them: order of fields, types, defaults. */
import type { ExactValue, Float } from "../../../base/exact.ts";
import {
  bool,
  dict,
  enumeration,
  type Field,
  type FieldType,
  float,
  int,
  model,
  optional,
  parseModel,
  record,
  str,
} from "../../model.ts";

const withDefault = (type: FieldType, value: ExactValue): Field => ({ type, default: value });
const maybe = (type: FieldType): Field => withDefault(optional(type), null);
const off = withDefault(bool, false);

const simStatus = enumeration("SimStatus", "active", "missing", "locked_pin", "locked_puk");
const networkTechnology = enumeration("NetworkTechnology", "none", "2G", "3G", "4G", "5G");
export const networkModePreference = enumeration(
  "NetworkModePreference",
  ...["4g_5g_preferred", "4g_only", "3g_only", "2g_only"],
);
const signalStrength = enumeration("SignalStrength", "none", "poor", "fair", "good", "excellent");
const performanceLevel = enumeration("PerformanceLevel", "unknown", "poor", "fair", "good", "excellent");
export const networkStatus = enumeration("NetworkStatus", "connected", "searching", "no_service", "emergency_only");

export const apnSettings = model(
  "APNSettings",
  {
    apn_name: {
      type: enumeration("APNNames", "internet", "broken"),
      default: "internet",
      description: "The name identifier for the APN connection.",
    },
    reset_at_reboot: {
      ...off,
      description: "Whether the APN settings will be reset at the next reboot.",
    },
    mms_apn: {
      type: optional(str),
      default: "mms",
      description: "Specific APN name used for MMS traffic, if different from general data.",
    },
    mmsc_url: {
      type: optional(str),
      default: "http://mms.carrier.com/mms/wapenc",
      description: "The URL of the Multimedia Messaging Service Center (MMSC). Crucial for MMS.",
    },
    mms_proxy: {
      ...maybe(str),
      description: "The proxy server address required for MMS traffic on some networks.",
    },
    mms_port: {
      ...maybe(int),
      description: "The proxy server port required for MMS traffic on some networks.",
    },
  },
  "forbid",
  "Represents the configuration for a single Access Point Name (APN).",
);

const vpnDetails = model(
  "VpnDetails",
  { server_address: maybe(str), protocol: maybe(str), server_performance: withDefault(performanceLevel, "unknown") },
  "forbid",
);

const appPermissions = model("AppPermissions", { sms: off, storage: off, phone: off, network: off }, "forbid");
const NO_PERMISSIONS = { sms: false, storage: false, phone: false, network: false };

const appStatus = model(
  "AppStatus",
  { app_name: str, permissions: withDefault(record(appPermissions), NO_PERMISSIONS) },
  "forbid",
);

const APPS = {
  messaging: { app_name: "messaging", permissions: { ...NO_PERMISSIONS, sms: true, storage: true, phone: true } },
  browser: { app_name: "browser", permissions: { ...NO_PERMISSIONS, network: true, storage: true } },
};

const phoneModel = model(
  "MockPhoneAttributes",
  {
    sim_card_status: withDefault(simStatus, "active"),
    sim_card_missing: off,
    airplane_mode: off,
    network_signal_strength: withDefault(signalStrength, "good"),
    network_technology_connected: withDefault(networkTechnology, "5G"),
    network_connection_status: withDefault(networkStatus, "connected"),
    battery_level: withDefault(int, 80),
    data_enabled: withDefault(bool, true),
    roaming_enabled: off,
    network_mode_preference: withDefault(networkModePreference, "4g_5g_preferred"),
    active_apn_settings: withDefault(record(apnSettings), parseModel(apnSettings, {})),
    wifi_enabled: off,
    wifi_connected: off,
    wifi_ssid: maybe(str),
    wifi_signal_strength: withDefault(signalStrength, "none"),
    wifi_calling_enabled: off,
    wifi_calling_mms_over_wifi: off,
    data_saver_mode: off,
    vpn_enabled_setting: off,
    vpn_connected: off,
    vpn_details: maybe(record(vpnDetails)),
    app_statuses: withDefault(dict(record(appStatus)), APPS),
  },
  "forbid",
);

export const paymentRequest = model("PaymentRequest", { bill_id: str, amount_due: float, paid: off }, "forbid");

const surroundingsModel = model(
  "UserSurroundings",
  {
    name: maybe(str),
    phone_number: maybe(str),
    is_abroad: off,
    roaming_allowed: off,
    signal_strength: withDefault(dict(signalStrength, networkTechnology.values), {
      "2G": "poor",
      "3G": "fair",
      "4G": "good",
      "5G": "excellent",
    }),
    mobile_data_usage_exceeded: off,
    line_active: withDefault(bool, true),
    payment_request: maybe(record(paymentRequest)),
  },
  "forbid",
);

export const telecomUserDb = model(
  "TelecomUserDB",
  {
    device: withDefault(record(phoneModel), parseModel(phoneModel, {})),
    surroundings: withDefault(record(surroundingsModel), parseModel(surroundingsModel, {})),
  },
  "forbid",
);

// What the tools read of these records. `network_mode_preference` and `active_apn_settings` are assigned unchecked.

export type Apn = {
  readonly apn_name: string;
  readonly reset_at_reboot: boolean;
  readonly mmsc_url: string | null;
};
export type VpnDetails = {
  readonly server_address: string | null;
  readonly protocol: string | null;
  readonly server_performance: string;
};
export type App = { readonly app_name: string; readonly permissions: { readonly [permission: string]: ExactValue } };
export type Phone = {
  readonly sim_card_status: string;
  readonly sim_card_missing: boolean;
  readonly airplane_mode: boolean;
  readonly network_signal_strength: string;
  readonly network_technology_connected: string;
  readonly network_connection_status: string;
  readonly battery_level: number;
  readonly data_enabled: boolean;
  readonly roaming_enabled: boolean;
  readonly network_mode_preference: ExactValue;
  readonly active_apn_settings: ExactValue;
  readonly wifi_enabled: boolean;
  readonly wifi_connected: boolean;
  readonly wifi_ssid: string | null;
  readonly wifi_signal_strength: string;
  readonly wifi_calling_enabled: boolean;
  readonly wifi_calling_mms_over_wifi: ExactValue;
  readonly data_saver_mode: boolean;
  readonly vpn_enabled_setting: boolean;
  readonly vpn_connected: boolean;
  readonly vpn_details: VpnDetails | null;
  readonly app_statuses: { readonly [name: string]: App };
};
export type PaymentRequest = { readonly bill_id: string; readonly amount_due: Float; readonly paid: boolean };
/** Name, phone number and whether abroad are set unchecked. */
export type Surroundings = {
  readonly name: ExactValue;
  readonly phone_number: ExactValue;
  readonly is_abroad: ExactValue;
  readonly roaming_allowed: boolean;
  readonly signal_strength: { readonly [technology: string]: string };
  readonly mobile_data_usage_exceeded: boolean;
  readonly line_active: boolean;
  readonly payment_request: PaymentRequest | null;
};

/** The carrier's records, as the original declares them: order of fields, types, defaults. */
import type { ExactObject, ExactValue } from "../../../base/exact.ts";
import { Float } from "../../../base/exact.ts";
import {
  bool,
  date,
  datetime,
  enumeration,
  type Field,
  type FieldType,
  float,
  list,
  model,
  optional,
  record,
  str,
} from "../../model.ts";

const maybe = (type: FieldType): Field => ({ type: optional(type), default: null });
const withDefault = (type: FieldType, value: ExactValue): Field => ({ type, default: value });

const plan = model(
  "Plan",
  { plan_id: str, name: str, data_limit_gb: float, price_per_month: float, data_refueling_price_per_gb: float },
  "forbid",
);

const device = model(
  "Device",
  {
    device_id: str,
    device_type: enumeration("DeviceType", "phone", "router", "tablet", "watch", "other"),
    model: str,
    imei: maybe(str),
    is_esim_capable: bool,
    activated: withDefault(bool, false),
    activation_date: maybe(datetime),
    last_esim_transfer_date: maybe(datetime),
  },
  "forbid",
);

const line = model(
  "Line",
  {
    line_id: str,
    phone_number: str,
    status: withDefault(
      enumeration("LineStatus", "Active", "Suspended", "Pending Activation", "Closed"),
      "Pending Activation",
    ),
    plan_id: str,
    device_id: maybe(str),
    data_used_gb: withDefault(float, new Float(0)),
    data_refueling_gb: withDefault(float, new Float(0)),
    roaming_enabled: withDefault(bool, false),
    contract_end_date: maybe(date),
    last_plan_change_date: maybe(date),
    last_sim_replacement_date: maybe(date),
    suspension_start_date: maybe(date),
  },
  "forbid",
);

const lineItem = model("LineItem", { description: str, amount: float, date, item_type: str }, "forbid");

export const bill = model(
  "Bill",
  {
    bill_id: str,
    customer_id: str,
    period_start: date,
    period_end: date,
    issue_date: date,
    total_due: float,
    due_date: date,
    line_items: withDefault(list(record(lineItem)), []),
    status: withDefault(
      enumeration("BillStatus", "Draft", "Issued", "Awaiting Payment", "Paid", "Overdue", "Disputed"),
      "Draft",
    ),
  },
  "forbid",
);

const customer = model(
  "Customer",
  {
    customer_id: str,
    full_name: str,
    date_of_birth: str,
    email: str,
    phone_number: str,
    address: record(model("Address", { street: str, city: str, state: str, zip_code: str }, "forbid")),
    account_status: withDefault(
      enumeration("AccountStatus", "Active", "Suspended", "Pending Verification", "Closed"),
      "Pending Verification",
    ),
    payment_methods: withDefault(
      list(
        record(
          model(
            "PaymentMethod",
            {
              method_type: enumeration("PaymentMethodType", "Credit Card", "Debit Card", "PayPal"),
              account_number_last_4: str,
              expiration_date: str,
            },
            "forbid",
          ),
        ),
      ),
      [],
    ),
    line_ids: withDefault(list(str), []),
    bill_ids: withDefault(list(str), []),
    // A date where a datetime belongs: the original does not check its own default.
    created_at: withDefault(datetime, "2025-01-01"),
    last_extension_date: maybe(date),
    goodwill_credit_used_this_year: withDefault(float, new Float(0)),
  },
  "forbid",
);

const records = (of: ReturnType<typeof model>): Field => withDefault(list(record(of)), []);

export const telecomDb = model(
  "TelecomDB",
  {
    plans: records(plan),
    customers: records(customer),
    lines: records(line),
    bills: records(bill),
    devices: records(device),
  },
  "forbid",
);

// What the tools read of these records. `set_data_usage` does not check what it stores.

export type Plan = {
  readonly plan_id: string;
  readonly data_limit_gb: Float;
  readonly price_per_month: Float;
  readonly data_refueling_price_per_gb: Float;
};
export type Line = {
  readonly line_id: string;
  readonly phone_number: string;
  readonly status: string;
  readonly plan_id: string;
  readonly data_used_gb: ExactValue;
  readonly data_refueling_gb: Float;
  readonly roaming_enabled: boolean;
  readonly contract_end_date: string | null;
  readonly suspension_start_date: string | null;
};
export type Bill = {
  readonly bill_id: string;
  readonly issue_date: string;
  readonly total_due: Float;
  readonly line_items: readonly ExactObject[];
  readonly status: string;
};
export type Customer = {
  readonly customer_id: string;
  readonly full_name: string;
  readonly date_of_birth: string;
  readonly phone_number: string;
  readonly line_ids: readonly string[];
  readonly bill_ids: readonly string[];
};
export type Device = { readonly device_id: string };

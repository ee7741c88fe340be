/**
 * The agent's tools (SPEC section 14.1): wording, order of checks, and effects of the original. Effects happen in its
 * order, one by one, because those before a failure stay.
 */
import {
  type ExactObject,
  type ExactValue,
  Float,
  floatRepr,
  formatTwoDecimals,
  isInt,
  pythonStr,
} from "../../../base/exact.ts";
import type { Database } from "../../database.ts";
import type { Toolkit } from "../../environment.ts";
import { float, int, parseModel, str } from "../../model.ts";
import { add, compare, multiply, noAttribute, typeError, valueError } from "../../python.ts";
import { type BoundArguments, ModelResult, parameter, type Tool, type ToolResult, tool } from "../../tool.ts";
import { transferToHumanAgents } from "../common-tools.ts";
import { functions } from "./agent-functions.ts";
import { NEXT_MONTH, THIS_MONTH, TODAY } from "./clock.ts";
import type { Bill, Customer } from "./model.ts";
import * as models from "./model.ts";
import {
  addBill,
  billOf,
  billsAwaitingPayment,
  billsOf,
  changeBill,
  changeLine,
  customerOf,
  customersOf,
  customerWithNumber,
  deviceOf,
  has,
  lineOf,
  ownLine,
  planOf,
} from "./store.ts";

/** The carrier as its tools see it. */
export interface Carrier {
  readonly database: Database;
  /** Id of the next bill that is drafted. */
  readonly newBillId: () => string;
}

const model = (entity: object): ModelResult => new ModelResult(entity as ExactObject);

// ---------------------------------------------------------------------------------------------------------------------
// Looking up

function customersByName(
  { database }: Carrier,
  { full_name, dob }: BoundArguments<"full_name" | "dob">,
): ModelResult[] {
  const matches = (customer: Customer): boolean => {
    if (typeof full_name !== "string") throw noAttribute(full_name, "lower");
    return customer.full_name.toLowerCase() === full_name.toLowerCase() && customer.date_of_birth === dob;
  };
  return customersOf(database).filter(matches).map(model);
}

const BY_FIRST_LETTER: Readonly<Record<string, (database: Database, id: string) => object>> = {
  L: lineOf,
  D: deviceOf,
  B: billOf,
  C: customerOf,
  P: planOf,
};

function detailsById({ database }: Carrier, { id }: BoundArguments<"id">): ModelResult {
  if (typeof id !== "string") throw noAttribute(id, "startswith");
  const look = BY_FIRST_LETTER[id.charAt(0)];
  if (look === undefined) throw valueError(`Unknown ID format or type: ${id}`);
  return model(look(database, id));
}

/** Newest first; equal dates keep the customer's order. */
function billsForCustomer(
  { database }: Carrier,
  { customer_id, limit }: BoundArguments<"customer_id" | "limit">,
): ModelResult[] {
  const bills = billsOf(database, customerOf(database, customer_id));
  bills.sort((a, b) => (a.issue_date === b.issue_date ? 0 : a.issue_date < b.issue_date ? 1 : -1));
  return bills.slice(0, sliceEnd(limit)).map(model);
}

/** The end of Python's `[:end]`; a negative one counts from the back, in JavaScript too. */
function sliceEnd(end: ExactValue): number | undefined {
  if (end === null) return undefined;
  if (typeof end === "boolean" || isInt(end)) return Number(end);
  throw typeError("slice indices must be integers or None or have an __index__ method");
}

function dataUsage({ database }: Carrier, { customer_id, line_id }: LineArguments): ToolResult {
  const line = ownLine(database, customer_id, line_id);
  return {
    line_id,
    data_used_gb: line.data_used_gb,
    data_limit_gb: planOf(database, line.plan_id).data_limit_gb,
    data_refueling_gb: line.data_refueling_gb,
    cycle_end_date: THIS_MONTH.end,
  };
}

// ---------------------------------------------------------------------------------------------------------------------
// Lines

type LineArguments = BoundArguments<"customer_id" | "line_id">;

function suspend({ database }: Carrier, { customer_id, line_id }: LineArguments): ToolResult {
  const line = ownLine(database, customer_id, line_id);
  if (line.status !== "Active") throw valueError("Line must be active to suspend");
  const suspended = changeLine(database, line, { status: "Suspended", suspension_start_date: TODAY });
  return { message: "Line suspended successfully. $5/month holding fee will apply.", line: model(suspended) };
}

function resume({ database }: Carrier, { customer_id, line_id }: LineArguments): ToolResult {
  const line = ownLine(database, customer_id, line_id);
  if (line.status !== "Suspended" && line.status !== "Pending Activation")
    throw valueError("Line must be suspended to resume");
  const resumed = changeLine(database, line, { status: "Active", suspension_start_date: null });
  return { message: "Line resumed successfully", line: model(resumed) };
}

function setRoaming(database: Database, { customer_id, line_id }: LineArguments, roaming_enabled: boolean): string {
  const line = ownLine(database, customer_id, line_id);
  const word = roaming_enabled ? "enabled" : "disabled";
  if (line.roaming_enabled === roaming_enabled) return `Roaming was already ${word}`;
  changeLine(database, line, { roaming_enabled });
  return `Roaming ${word} successfully`;
}

// ---------------------------------------------------------------------------------------------------------------------
// Billing

function sendPaymentRequest(
  { database }: Carrier,
  { customer_id, bill_id }: BoundArguments<"customer_id" | "bill_id">,
): string {
  const customer = customerOf(database, customer_id);
  if (billsAwaitingPayment(database, customer).length > 0)
    throw valueError("A bill is already awaiting payment for this customer");
  if (!has(customer.bill_ids, bill_id))
    throw valueError(`Bill ${pythonStr(bill_id)} not found for customer ${pythonStr(customer_id)}`);
  const bill = changeBill(database, billOf(database, bill_id), { status: "Awaiting Payment" });
  return `Payment request sent to the customer for bill ${bill.bill_id}`;
}

function refuel(
  carrier: Carrier,
  { customer_id, line_id, gb_amount }: BoundArguments<"customer_id" | "line_id" | "gb_amount">,
): ToolResult {
  const { database } = carrier;
  const line = ownLine(database, customer_id, line_id);
  if (compare(gb_amount, "<=", 0)) throw valueError("Refuel amount must be positive");
  const price = planOf(database, line.plan_id).data_refueling_price_per_gb;
  const charge = multiply(gb_amount, price) as Float;
  const data_refueling_gb = add(line.data_refueling_gb, gb_amount) as Float;
  changeLine(database, line, { data_refueling_gb });
  const amount = pythonStr(gb_amount);
  addCharge(carrier, customer_id, charge, `Data refueling: ${amount} GB at $${floatRepr(price.value)}/GB`);
  return {
    message: `Successfully added ${amount} GB of data for line ${pythonStr(line_id)} for $${formatTwoDecimals(charge.value)}`,
    new_data_refueling_gb: data_refueling_gb,
    charge,
  };
}

/** Adds a line item to the customer's first draft bill, or to a new one for the next month. */
function addCharge(carrier: Carrier, customer_id: ExactValue, amount: Float, description: string): void {
  const { database } = carrier;
  const customer = customerOf(database, customer_id);
  const draft = firstDraft(database, customer) ?? newDraft(carrier, customer);
  const item = { description, amount, date: TODAY, item_type: amount.value < 0 ? "Credit" : "Charge" };
  const total_due = new Float(draft.total_due.value + amount.value);
  changeBill(database, draft, { line_items: [...draft.line_items, item], total_due });
}

function firstDraft(database: Database, { bill_ids }: Customer): Bill | undefined {
  for (const id of bill_ids) {
    const bill = billOf(database, id);
    if (bill.status === "Draft") return bill;
  }
  return undefined;
}

function newDraft({ database, newBillId }: Carrier, customer: Customer): Bill {
  const draft = parseModel(models.bill, {
    bill_id: newBillId(),
    customer_id: customer.customer_id,
    period_start: NEXT_MONTH.start,
    period_end: NEXT_MONTH.end,
    issue_date: NEXT_MONTH.start,
    total_due: 0,
    due_date: NEXT_MONTH.due,
    status: "Draft",
  }) as unknown as Bill;
  addBill(database, customer, draft);
  return draft;
}

// ---------------------------------------------------------------------------------------------------------------------
// Definitions, in the original's order

const customerParameter = parameter(str, "ID of the customer who owns the line.");

const tools: readonly Tool<Carrier>[] = [
  tool({
    name: "get_customer_by_phone",
    kind: "read",
    description: "Finds a customer by their primary contact or line phone number.",
    parameters: { phone_number: parameter(str, "The phone number to search for.") },
    run: ({ database }: Carrier, { phone_number }) => model(customerWithNumber(database, phone_number)),
  }),
  tool({
    name: "get_customer_by_id",
    kind: "read",
    description: "Retrieves a customer directly by their unique ID.",
    parameters: { customer_id: parameter(str, "The unique identifier of the customer.") },
    run: ({ database }: Carrier, { customer_id }) => model(customerOf(database, customer_id)),
  }),
  tool({
    name: "get_customer_by_name",
    kind: "read",
    description:
      "Searches for customers by name and DOB. May return multiple matches if names are similar,\n\nDOB helps disambiguate.",
    parameters: {
      full_name: parameter(str, "The full name of the customer."),
      dob: parameter(str, "Date of birth for verification, in the format YYYY-MM-DD."),
    },
    run: customersByName,
  }),
  tool({
    name: "get_details_by_id",
    kind: "read",
    description:
      "Retrieves the details for a given ID.\n\nThe ID must be a valid ID for a Customer, Line, Device, Bill, or Plan.",
    parameters: { id: parameter(str, "The ID of the object to retrieve.") },
    run: detailsById,
  }),
  tool({
    name: "suspend_line",
    kind: "write",
    description:
      "Suspends a specific line (max 6 months).\n\nChecks: Line status must be Active.\nLogic: Sets line status to Suspended, records suspension_start_date.",
    parameters: {
      customer_id: customerParameter,
      line_id: parameter(str, "ID of the line to suspend."),
      reason: parameter(str, "Reason for suspension."),
    },
    run: (carrier: Carrier, { customer_id, line_id }) => suspend(carrier, { customer_id, line_id }),
  }),
  tool({
    name: "resume_line",
    kind: "write",
    description:
      "Resumes a suspended line.\n\nChecks: Line status must be Suspended or Pending Activation.\nLogic: Sets line status to Active, clears suspension_start_date.",
    parameters: { customer_id: customerParameter, line_id: parameter(str, "ID of the line to resume.") },
    run: resume,
  }),
  tool({
    name: "get_bills_for_customer",
    kind: "read",
    description: "Retrieves a list of the customer's bills, most recent first.",
    parameters: {
      customer_id: parameter(str, "ID of the customer."),
      limit: parameter(int, "Maximum number of bills to return.", { default: 12 }),
    },
    run: billsForCustomer,
  }),
  tool({
    name: "send_payment_request",
    kind: "write",
    description:
      "Sends a payment request to the customer for a specific bill.\n\nChecks:\n    - Customer exists\n    - Bill exists and belongs to the customer\n    - No other bills are already awaiting payment for this customer\nLogic: Sets bill status to AWAITING_PAYMENT and notifies customer.\nWarning: This method does not check if the bill is already PAID.\nAlways check the bill status before calling this method.",
    parameters: {
      customer_id: parameter(str, "ID of the customer who owns the bill."),
      bill_id: parameter(str, "ID of the bill to send payment request for."),
    },
    run: sendPaymentRequest,
  }),
  tool({
    name: "get_data_usage",
    kind: "read",
    description:
      "Retrieves current billing cycle data usage for a line, including data\n\nrefueling amount, data limit, and cycle end date.",
    parameters: { customer_id: customerParameter, line_id: parameter(str, "ID of the line to check usage for.") },
    run: dataUsage,
  }),
  tool({
    name: "enable_roaming",
    kind: "write",
    description: "Enables international roaming on a line.",
    parameters: { customer_id: customerParameter, line_id: parameter(str, "ID of the line to enable roaming for.") },
    run: ({ database }: Carrier, args) => setRoaming(database, args, true),
  }),
  tool({
    name: "disable_roaming",
    kind: "write",
    description: "Disables international roaming on a line.",
    parameters: { customer_id: customerParameter, line_id: parameter(str, "ID of the line to disable roaming for.") },
    run: ({ database }: Carrier, args) => setRoaming(database, args, false),
  }),
  transferToHumanAgents,
  tool({
    name: "refuel_data",
    kind: "write",
    description:
      "Refuels data for a specific line, adding to the customer's bill.\n\nChecks: Line status must be Active, Customer owns the line.\nLogic: Adds data to the line and charges customer based on the plan's refueling rate.",
    parameters: {
      customer_id: customerParameter,
      line_id: parameter(str, "ID of the line to refuel data for."),
      gb_amount: parameter(float, "Amount of data to add in gigabytes."),
    },
    run: refuel,
  }),
];

/**
 * The default ids count up in each environment: the original draws them at random, so that the golden run and an equal one
 * of the agent would end in different hashes, and no run could be repeated.
 */
export function countedBillIds(): () => string {
  let next = 0;
  return () => `B${String(next++).padStart(8, "0")}`;
}

/** `billIds` makes the source of ids of one environment. */
export function telecomToolkit(billIds: () => () => string): Toolkit<Carrier> {
  return {
    className: "TelecomTools",
    tools,
    functions,
    view: (database) => ({ database, newBillId: billIds() }),
    model: models.telecomDb,
    tables: [],
  };
}

/** What tasks do to the carrier, and check of it, beside the agent's tools: no model can call these. */
import { type ExactObject, type ExactValue, type Float, numberOf, pythonStr } from "../../../base/exact.ts";
import { parseModel } from "../../model.ts";
import { isTruthy, PythonError, subtract, valueError } from "../../python.ts";
import { type BoundArguments, type Tool, taskFunction } from "../../tool.ts";
import type { Carrier } from "./agent-tools.ts";
import { LAST_MONTH, TODAY } from "./clock.ts";
import type { Bill } from "./model.ts";
import * as models from "./model.ts";
import { addBill, billOf, billsOf, changeLine, customerOf, has, lineOf, ownLine, planOf } from "./store.ts";

type LineArguments = "customer_id" | "line_id";

/** Stored as it is given: an int stays an int. */
function setDataUsage(
  { database }: Carrier,
  { customer_id, line_id, data_used_gb }: BoundArguments<LineArguments | "data_used_gb">,
): string {
  changeLine(database, ownLine(database, customer_id, line_id), { data_used_gb });
  return `Data usage set to ${pythonStr(data_used_gb)} GB for line ${pythonStr(line_id)}`;
}

function suspendForOverdueBill(
  { database }: Carrier,
  {
    customer_id,
    line_id,
    new_bill_id,
    contract_ended,
  }: BoundArguments<LineArguments | "new_bill_id" | "contract_ended">,
): string {
  const line = lineOf(database, line_id);
  if (line.status !== "Active") throw valueError("Line must be active to suspend for unpaid bill");
  const amount = planOf(database, line.plan_id).price_per_month;
  if (amount.value <= 0) throw valueError("Amount must be positive for overdue bill");
  const customer = customerOf(database, customer_id);
  if (billsOf(database, customer).some(({ status }) => status === "Overdue"))
    throw valueError("Customer already has an overdue bill");
  const bill = overdueBill(customer.customer_id, new_bill_id, amount, `Charge for line ${line.line_id}`);
  addBill(database, customer, bill);
  changeLine(database, line, {
    status: "Suspended",
    suspension_start_date: TODAY,
    ...(isTruthy(contract_ended) ? { contract_end_date: LAST_MONTH.end } : {}),
  });
  return `Line ${pythonStr(line_id)} suspended for unpaid bill ${pythonStr(new_bill_id)}. Contract ended: ${pythonStr(contract_ended)}`;
}

function overdueBill(customer_id: string, bill_id: ExactValue, amount: Float, description: string): Bill {
  const bill = parseModel(models.bill, {
    bill_id,
    customer_id,
    period_start: LAST_MONTH.start,
    period_end: LAST_MONTH.end,
    issue_date: LAST_MONTH.start,
    total_due: 0,
    due_date: LAST_MONTH.due,
    status: "Overdue",
  }) as ExactObject;
  const item = { description, amount, date: TODAY, item_type: "Charge" };
  return { ...bill, line_items: [item], total_due: amount } as unknown as Bill;
}

function isRefueled(
  { database }: Carrier,
  { customer_id, line_id, expected_amount }: BoundArguments<LineArguments | "expected_amount">,
): boolean {
  const difference = subtract(ownLine(database, customer_id, line_id).data_refueling_gb, expected_amount);
  return Math.abs(Number(numberOf(difference))) < 1e-6;
}

function overdueBillExists(
  { database }: Carrier,
  { customer_id, overdue_bill_id }: BoundArguments<"customer_id" | "overdue_bill_id">,
): boolean {
  if (!has(customerOf(database, customer_id).bill_ids, overdue_bill_id))
    throw valueError(`Overdue bill ${pythonStr(overdue_bill_id)} not found`);
  if (billOf(database, overdue_bill_id).status !== "Overdue")
    throw valueError(`Overdue bill ${pythonStr(overdue_bill_id)} is not overdue`);
  return true;
}

/** Paid, or not there at all. */
function noOverdueBill({ database }: Carrier, { overdue_bill_id }: BoundArguments<"overdue_bill_id">): boolean {
  try {
    return billOf(database, overdue_bill_id).status === "Paid";
  } catch (error) {
    if (error instanceof PythonError && error.type === "ValueError") return true;
    throw error;
  }
}

const LINE = ["customer_id", "line_id"] as const;

export const functions: readonly Tool<Carrier>[] = [
  taskFunction("set_data_usage", [...LINE, "data_used_gb"], setDataUsage),
  taskFunction("suspend_line_for_overdue_bill", [...LINE, "new_bill_id", "contract_ended"], suspendForOverdueBill),
  taskFunction("assert_data_refueling_amount", [...LINE, "expected_amount"], isRefueled),
  taskFunction(
    "assert_line_status",
    [...LINE, "expected_status"],
    ({ database }: Carrier, { customer_id, line_id, expected_status }) =>
      ownLine(database, customer_id, line_id).status === expected_status,
  ),
  taskFunction("assert_overdue_bill_exists", ["customer_id", "overdue_bill_id"], overdueBillExists),
  taskFunction("assert_no_overdue_bill", ["overdue_bill_id"], noOverdueBill),
];

/** Carries state between the carrier and the user's phone, after every call (SPEC section 14.3). */

import type { ToolEnvironment } from "../../environment.ts";
import { parseModel } from "../../model.ts";
import { add, compare } from "../../python.ts";
import { changeSurroundings, surroundingsOf } from "./device.ts";
import { type PaymentRequest, paymentRequest } from "./phone.ts";
import { billOf, billsAwaitingPayment, changeBill, customerWithNumber, lineWithNumber, planOf } from "./store.ts";

/** Step by step, since what comes before a failure stays. The network is not searched again. */
export function sync({ agentDb, userDb }: ToolEnvironment): void {
  if (userDb === null) return;
  const user = { database: userDb };
  const { phone_number } = surroundingsOf(user);
  if (phone_number === null) return;
  const line = lineWithNumber(agentDb, phone_number);
  changeSurroundings(user, { line_active: line.status === "Active", roaming_allowed: line.roaming_enabled });
  const limit = add(planOf(agentDb, line.plan_id).data_limit_gb, line.data_refueling_gb);
  changeSurroundings(user, { mobile_data_usage_exceeded: compare(line.data_used_gb, ">=", limit) });
  settlePayment(agentDb, user);
  if (surroundingsOf(user).payment_request !== null) return;
  const [bill] = billsAwaitingPayment(agentDb, customerWithNumber(agentDb, phone_number));
  if (bill === undefined) return;
  const request = parseModel(paymentRequest, { bill_id: bill.bill_id, amount_due: bill.total_due });
  changeSurroundings(user, { payment_request: request as unknown as PaymentRequest });
}

function settlePayment(agentDb: ToolEnvironment["agentDb"], user: Parameters<typeof surroundingsOf>[0]): void {
  const { payment_request } = surroundingsOf(user);
  if (payment_request === null || !payment_request.paid) return;
  changeBill(agentDb, billOf(agentDb, payment_request.bill_id), { status: "Paid" });
  changeSurroundings(user, { payment_request: null });
}

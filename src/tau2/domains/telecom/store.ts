/** Looking the carrier's records up and replacing them. The first match counts, as in the original's loops. */
import { type ExactObject, type ExactValue, pythonStr } from "../../../base/exact.ts";
import type { Database } from "../../database.ts";
import { valueError } from "../../python.ts";
import type { Bill, Customer, Device, Line, Plan } from "./model.ts";

type ListName = "plans" | "customers" | "lines" | "bills" | "devices";

function listOf<E>(database: Database, name: ListName): readonly E[] {
  return database.value(name) as unknown as readonly E[];
}

function found<E>(entities: readonly E[], key: keyof E, value: ExactValue, what: string): E {
  for (const entity of entities) if (entity[key] === value) return entity;
  throw valueError(`${what} ${pythonStr(value)} not found`);
}

export const customersOf = (database: Database): readonly Customer[] => listOf(database, "customers");

export const planOf = (database: Database, id: ExactValue): Plan =>
  found<Plan>(listOf(database, "plans"), "plan_id", id, "Plan with ID");
export const customerOf = (database: Database, id: ExactValue): Customer =>
  found<Customer>(listOf(database, "customers"), "customer_id", id, "Customer with ID");
export const lineOf = (database: Database, id: ExactValue): Line =>
  found<Line>(listOf(database, "lines"), "line_id", id, "Line with ID");
export const lineWithNumber = (database: Database, phone_number: ExactValue): Line =>
  found<Line>(listOf(database, "lines"), "phone_number", phone_number, "Line with phone number");
export const billOf = (database: Database, id: ExactValue): Bill =>
  found<Bill>(listOf(database, "bills"), "bill_id", id, "Bill with ID");
export const deviceOf = (database: Database, id: ExactValue): Device =>
  found<Device>(listOf(database, "devices"), "device_id", id, "Device with ID");

/** By contact number, or the number of one of the customer's lines. */
export function customerWithNumber(database: Database, phone_number: ExactValue): Customer {
  for (const customer of customersOf(database)) {
    if (customer.phone_number === phone_number) return customer;
    if (customer.line_ids.some((id) => lineOf(database, id).phone_number === phone_number)) return customer;
  }
  throw valueError(`Customer with phone number ${pythonStr(phone_number)} not found`);
}

/** A line that must be the customer's. */
export function ownLine(database: Database, customer_id: ExactValue, line_id: ExactValue): Line {
  if (!has(customerOf(database, customer_id).line_ids, line_id))
    throw valueError(`Line ${pythonStr(line_id)} not found for customer ${pythonStr(customer_id)}`);
  return lineOf(database, line_id);
}

export const has = (ids: readonly string[], id: ExactValue): boolean => typeof id === "string" && ids.includes(id);

/** The customer's bills, in the customer's order. */
export const billsOf = (database: Database, customer: Customer): Bill[] =>
  customer.bill_ids.map((id) => billOf(database, id));

export const billsAwaitingPayment = (database: Database, customer: Customer): Bill[] =>
  billsOf(database, customer).filter(({ status }) => status === "Awaiting Payment");

export const changeLine = (database: Database, line: Line, fields: Partial<Line>): Line =>
  changed(database, "lines", line, fields);
export const changeBill = (database: Database, bill: Bill, fields: Partial<Bill>): Bill =>
  changed(database, "bills", bill, fields);

/** Adds a bill to the database and to its customer. */
export function addBill(database: Database, customer: Customer, bill: Bill): void {
  database.setValue("bills", [...listOf<ExactObject>(database, "bills"), bill as Bill & ExactObject]);
  changed(database, "customers", customer, { bill_ids: [...customer.bill_ids, bill.bill_id] });
}

function changed<E>(database: Database, name: ListName, entity: E, fields: Partial<E>): E {
  const replacement = { ...entity, ...fields };
  const entities = listOf<E>(database, name).map((each) => (each === entity ? replacement : each));
  database.setValue(name, entities as unknown as ExactValue);
  return replacement;
}

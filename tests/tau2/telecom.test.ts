/** Corners of telecom that recordings may miss: what an environment remembers beside its databases, fields that hold what was never checked. */
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { type ExactObject, type ExactValue, Float } from "../../src/base/exact.ts";
import { telecom } from "../../src/tau2/domains/telecom/index.ts";
import type { ToolEnvironment } from "../../src/tau2/environment.ts";
import { PythonError } from "../../src/tau2/python.ts";
import type { Requestor } from "../../src/tau2/types.ts";
import { dataDirectory, domainOf, hasFixtures, WITHOUT_FIXTURES } from "./fixtures.ts";

const open = (): ToolEnvironment => domainOf("telecom").createEnvironment() as ToolEnvironment;

const ask = (environment: ToolEnvironment, requestor: Requestor, name: string, args: ExactObject = {}) =>
  environment.getResponse({ id: "c", name, requestor, arguments: args });

const run = (environment: ToolEnvironment, env_type: Requestor, func_name: string, args: ExactObject = {}) =>
  environment.runFunction({ env_type, func_name, arguments: args });

const phoneOf = ({ userDb }: ToolEnvironment): ExactObject => userDb?.value("device") as ExactObject;
const known = (environment: ToolEnvironment, phone_number: ExactValue = "555-123-2002") =>
  run(environment, "user", "set_user_info", { name: "John Smith", phone_number });

describe.skipIf(!hasFixtures)(`telecom ${hasFixtures ? "" : WITHOUT_FIXTURES}`, () => {
  // C1003 has no draft bill; L1009 is its line, at $2 a gigabyte.
  const refuel = (environment: ToolEnvironment) =>
    ask(environment, "assistant", "refuel_data", { customer_id: "C1003", line_id: "L1009", gb_amount: new Float(2) });
  const billIds = ({ agentDb }: ToolEnvironment): ExactValue[] =>
    (agentDb.value("bills") as readonly ExactObject[]).map((bill) => bill.bill_id as ExactValue);

  test("new bills are numbered in each environment, so equal runs end in equal states", () => {
    const [one, other] = [open(), open()];
    for (const environment of [one, other]) expect(refuel(environment).error).toBe(false);
    expect(billIds(one).at(-1)).toBe("B00000000");
    expect(one.agentDbHash()).toBe(other.agentDbHash());
    expect(one.agentDbHash()).not.toBe(open().agentDbHash());
  });

  test("another source can name new bills", () => {
    const root = join(dataDirectory, "tau2");
    const environment = telecom({
      root,
      train_split: 0.8,
      solo_mode: false,
      billIds: () => () => "Bxyz",
    }).createEnvironment() as ToolEnvironment;
    expect(refuel(environment).error).toBe(false);
    expect(billIds(environment).at(-1)).toBe("Bxyz");
  });

  test("a broken VPN stays broken in its environment and whole in all others", () => {
    const performance = (environment: ToolEnvironment): ExactValue => {
      ask(environment, "user", "disconnect_vpn");
      ask(environment, "user", "connect_vpn");
      return (phoneOf(environment).vpn_details as ExactObject).server_performance as ExactValue;
    };
    const broken = open();
    run(broken, "user", "break_vpn");
    expect([performance(broken), performance(open())]).toEqual(["poor", "excellent"]);
  });

  test("a call that fails halfway leaves what it did before", () => {
    const environment = open();
    expect(ask(environment, "user", "set_apn_settings", { apn_settings: 7 }).content).toBe(
      "Error: 'int' object has no attribute 'apn_name'",
    );
    expect(phoneOf(environment).active_apn_settings).toBe(7);
    expect(ask(environment, "user", "toggle_airplane_mode").error).toBe(true);
    expect(phoneOf(environment)).toMatchObject({ airplane_mode: true, network_connection_status: "no_service" });
  });

  test("an unknown phone number fails every call, whose effect stays", () => {
    const environment = open();
    expect(() => known(environment, "000")).toThrow(PythonError);
    const { content, error } = ask(environment, "user", "toggle_data");
    expect([content, error]).toEqual(["Error: Line with phone number 000 not found", true]);
    expect(phoneOf(environment).data_enabled).toBe(false);
  });

  test("a payment goes from the agent to the user and back", () => {
    const environment = open();
    known(environment);
    ask(environment, "assistant", "send_payment_request", { customer_id: "C1001", bill_id: "B1002" });
    expect(ask(environment, "user", "check_payment_request").content).toContain("bill B1002");
    ask(environment, "user", "make_payment");
    const bill = ask(environment, "assistant", "get_details_by_id", { id: "B1002" }).content ?? "";
    expect(JSON.parse(bill).status).toBe("Paid");
    expect(ask(environment, "user", "check_payment_request").content).toBe("No payment request has been made.");
  });

  test("data usage is stored as it is given", () => {
    const usage = (data_used_gb: ExactValue): unknown => {
      const environment = open();
      run(environment, "assistant", "set_data_usage", { customer_id: "C1001", line_id: "L1002", data_used_gb });
      const args = { customer_id: "C1001", line_id: "L1002" };
      return JSON.parse(ask(environment, "assistant", "get_data_usage", args).content ?? "").data_used_gb;
    };
    expect([usage(15), usage(new Float(15))]).toEqual(["15", "15.0"]);
  });

  test("initialization data puts one database in the other's place, and what it lacks is missing as in Python", () => {
    const environment = open();
    environment.mergeData("user", { surroundings: { is_abroad: true } });
    const { content, error } = ask(environment, "assistant", "get_customer_by_id", { customer_id: "C1001" });
    expect([content, error]).toEqual(["Error: 'TelecomUserDB' object has no attribute 'customers'", true]);
    expect(ask(environment, "user", "check_status_bar").error).toBe(false);
  });

  test("alone, the agent holds the user's tools and the user none", () => {
    const environment = domainOf("telecom", true).createEnvironment() as ToolEnvironment;
    expect(ask(environment, "assistant", "toggle_data").error).toBe(false);
    expect(ask(environment, "user", "toggle_data").content).toBe("Error: User tool calls are not allowed in solo mode");
  });
});

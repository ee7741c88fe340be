/** Corners of the airline that recordings may miss: calls that fail halfway, fields that hold what was never checked. */
import { describe, expect, test } from "bun:test";
import { type ExactObject, Float, parseExact } from "../../src/base/exact.ts";
import type { ToolEnvironment } from "../../src/tau2/environment.ts";
import { domainOf, hasFixtures, WITHOUT_FIXTURES } from "./fixtures.ts";

const open = (): ToolEnvironment => domainOf("airline").createEnvironment() as ToolEnvironment;

const ask = (environment: ToolEnvironment, name: string, args: ExactObject) =>
  environment.getResponse({ id: "c", name, requestor: "assistant", arguments: args });

const methodsOf = (environment: ToolEnvironment, user: string): ExactObject =>
  environment.agentDb.table("users").get(user)?.payment_methods as ExactObject;

describe.skipIf(!hasFixtures)(`airline ${hasFixtures ? "" : WITHOUT_FIXTURES}`, () => {
  // mia_li_3668 has the certificates 4856383 ($100) and 7504069 ($250); HAT127 flies MSP to DTW on 2024-05-24, economy $172.
  const booking = (payment_methods: readonly ExactObject[]): ExactObject => ({
    user_id: "mia_li_3668",
    origin: "MSP",
    destination: "DTW",
    flight_type: "one_way",
    cabin: "economy",
    flights: [{ flight_number: "HAT127", date: "2024-05-24" }],
    passengers: [{ first_name: "Mia", last_name: "Li", dob: "1990-04-05" }],
    payment_methods,
    total_baggages: 0,
    nonfree_baggages: 0,
    insurance: "no",
  });

  test("a booking that fails while paying keeps what it has taken, and books nothing", () => {
    const environment = open();
    const twice = booking([
      { payment_id: "certificate_7504069", amount: 100 },
      { payment_id: "certificate_7504069", amount: 72 },
    ]);
    expect(ask(environment, "book_reservation", twice)).toMatchObject({
      error: true,
      content: "Error: 'certificate_7504069'",
    });
    expect(Object.keys(methodsOf(environment, "mia_li_3668"))).not.toContain("certificate_7504069");
    expect(environment.agentDb.table("reservations").has("HATHAT")).toBe(false);
  });

  test("a booking takes seats, uses certificates up and is the user's", () => {
    const environment = open();
    const seats = (): unknown => {
      const found =
        ask(environment, "search_direct_flight", { origin: "MSP", destination: "DTW", date: "2024-05-24" }).content ??
        "";
      const flights = JSON.parse(found) as { flight_number: string; available_seats: { economy: number } }[];
      return flights.find(({ flight_number }) => flight_number === "HAT127")?.available_seats.economy;
    };
    const before = seats() as number;
    const paid = booking([{ payment_id: "certificate_7504069", amount: 172 }]);
    expect(ask(environment, "book_reservation", paid).error).toBe(false);
    expect(seats()).toBe(before - 1);
    expect(Object.keys(methodsOf(environment, "mia_li_3668"))).not.toContain("certificate_7504069");
    expect(environment.agentDb.table("users").get("mia_li_3668")?.reservations).toContain("HATHAT");
  });

  test("a fourth certificate and a fourth reservation are too many", () => {
    const environment = open();
    const send = () => ask(environment, "send_certificate", { user_id: "mia_li_3668", amount: 200 }).content;
    expect([send(), send(), send(), send()].at(-1)).toBe("Error: Too many certificates");
    const buy = (id: string) => ask(environment, "book_reservation", booking([{ payment_id: id, amount: 172 }]));
    for (const id of ["certificate_3221322", "certificate_3221323", "certificate_3221324"])
      expect(buy(id).error).toBe(false);
    expect(buy("certificate_7504069").content).toBe("Error: Too many reservations");
  });

  test("an assignment is not checked: a float stays one, and changes the hash", () => {
    const hashWith = (total_baggages: number | Float): string => {
      const environment = open();
      const args = { reservation_id: "YAX4DR", total_baggages, nonfree_baggages: 0, payment_id: "credit_card_4938634" };
      expect(ask(environment, "update_reservation_baggages", args).error).toBe(false);
      return environment.agentDbHash();
    };
    expect(hashWith(new Float(2))).not.toBe(hashWith(2));
  });

  test("null is no filter in a search", () => {
    const count = (origin: string | null, destination: string | null): number =>
      (
        parseExact(
          ask(open(), "search_direct_flight", { origin, destination, date: "2024-05-24" }).content ?? "",
        ) as readonly unknown[]
      ).length;
    expect(count(null, null)).toBeGreaterThan(count(null, "DTW"));
    expect(count(null, "DTW")).toBeGreaterThan(count("MSP", "DTW"));
  });
});

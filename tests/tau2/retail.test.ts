/**
 * Corners of the shop that recordings may miss, in a small shop of our own: chains of exchanges, calls that fail halfway,
 * sums of floats. The original was run on the same shop, and gave what is expected here.
 */
import { describe, expect, test } from "bun:test";
import { dumps, type ExactObject, type ExactValue, Float } from "../../src/base/exact.ts";
import { retailToolkit } from "../../src/tau2/domains/retail/tools.ts";
import { side, ToolEnvironment } from "../../src/tau2/environment.ts";

const address = { address1: "1 Road", address2: "", city: "Ulm", country: "D", state: "BW", zip: "89073" };

const variant = (item_id: string, price: number, available = true): ExactObject => ({
  item_id,
  options: { size: item_id },
  available,
  price: new Float(price),
});

const item = (item_id: string, price: number): ExactObject => ({
  name: "Cup",
  product_id: "p",
  item_id,
  price: new Float(price),
  options: {},
});

const order = (order_id: string, status: string, payments: readonly ExactObject[], items: readonly ExactObject[]) => ({
  order_id,
  user_id: "ann",
  address,
  items,
  status,
  fulfillments: [],
  payment_history: payments,
});

const paid = (payment_method_id: string, amount: number): ExactObject => ({
  transaction_type: "payment",
  amount: new Float(amount),
  payment_method_id,
});

const user = (first_name: string, email: string) => ({
  name: { first_name, last_name: "Lee" },
  address,
  email,
  orders: [],
});

const SHOP = {
  products: {
    p: {
      name: "Cup",
      product_id: "p",
      variants: { A: variant("A", 0.1), B: variant("B", 0.3), C: variant("C", 1.2), D: variant("D", 9, false) },
    },
  },
  users: {
    ann: {
      user_id: "ann",
      ...user("Ann", "Ann@x.org"),
      payment_methods: {
        gift: { source: "gift_card", id: "gift", balance: new Float(1.1) },
        card: { source: "credit_card", id: "card", brand: "visa", last_four: "1111" },
      },
    },
    bob: { user_id: "bob", ...user("ANN", "ann@X.org"), payment_methods: {} },
  },
  orders: {
    "#two": order("#two", "pending", [paid("card", 0.4)], [item("A", 0.1), item("B", 0.3)]),
    "#lost": order("#lost", "pending", [paid("gift", 0.2), paid("gone", 5)], [item("A", 0.1)]),
    "#moved": order("#moved", "pending (item modified)", [paid("gone", 0.4)], [item("A", 0.1)]),
    "#done": order("#done", "delivered", [paid("card", 0.1)], [item("A", 0.1), item("A", 0.1)]),
  },
};

const open = (): ToolEnvironment =>
  new ToolEnvironment({ agent: side(retailToolkit, SHOP as unknown as ExactObject), user: null });

const ask = (environment: ToolEnvironment, name: string, args: ExactObject): string =>
  environment.getResponse({ id: "c", name, requestor: "assistant", arguments: args }).content as string;

const orderIn = (environment: ToolEnvironment, id: string) =>
  environment.agentDb.table("orders").get(id) as ExactObject;
const balance = (environment: ToolEnvironment): ExactValue =>
  (environment.agentDb.table("users").get("ann") as typeof SHOP.users.ann).payment_methods.gift.balance;

const change = (order_id: string, item_ids: ExactValue, new_item_ids: ExactValue, payment_method_id = "card") => ({
  order_id,
  item_ids,
  new_item_ids,
  payment_method_id,
});

describe("modify_pending_order_items", () => {
  test("every new item gets price and options of the last one; the amount keeps the noise of its sum", () => {
    const shop = open();
    ask(shop, "modify_pending_order_items", change("#two", ["A", "B"], ["B", "C"], "gift"));
    const { items, payment_history, status } = orderIn(shop, "#two");
    // The second change finds the item that the first one has just made.
    expect(items).toEqual([{ ...item("C", 1.2), options: { size: "C" } }, item("B", 0.3)]);
    expect(dumps(payment_history as ExactValue)).toContain('"amount": 1.0999999999999999,');
    expect(balance(shop)).toEqual(new Float(0));
    expect(status).toBe("pending (item modified)");
  });

  test("without items there is a refund of 0.0, once", () => {
    const shop = open();
    expect(ask(shop, "modify_pending_order_items", change("#two", "", []))).toContain(
      '{"transaction_type": "refund", "amount": 0.0, "payment_method_id": "card"}',
    );
    expect(ask(shop, "modify_pending_order_items", change("#two", [], []))).toBe(
      "Error: Non-pending order cannot be modified",
    );
  });

  test.each([
    [["A", "A"], ["B", "C"], "A not found"],
    ["AB", ["C", "B"], "The new item id should be different from the old item id"],
    ["AX", ["C", "B"], "X not found"],
    [["A"], ["A"], "The new item id should be different from the old item id"],
    [["A"], ["B", "C"], "The number of items to be exchanged should match"],
    [["A"], ["D"], "New item D not found or available"],
    [["A"], ["p"], "Variant not found"],
    [["A"], [["B"]], "unhashable type: 'list'"],
    [{ A: 1 }, ["B"], "'dict' object has no attribute 'count'"],
    [[new Float(Number.NaN)], ["B"], "nan not found"],
    [null, ["B"], "'NoneType' object is not iterable"],
    [["A"], 7, "object of type 'int' has no len()"],
  ] as const)("%j to %j: %s", (from, to, message) => {
    const shop = open();
    const before = shop.agentDbHash();
    // A text is taken letter by letter, as Python iterates it.
    expect(ask(shop, "modify_pending_order_items", change("#two", from, to))).toBe(`Error: ${message}`);
    expect(shop.agentDbHash()).toBe(before);
  });
});

describe("delivered orders", () => {
  test("an exchange of nothing differs by the int 0, one of something by a rounded float", () => {
    expect(ask(open(), "exchange_delivered_order_items", change("#done", [], []))).toContain(
      '"exchange_price_difference": 0,',
    );
    expect(ask(open(), "exchange_delivered_order_items", change("#done", ["A", "A"], ["C", "B"]))).toContain(
      '"exchange_items": ["A", "A"], "exchange_new_items": ["B", "C"], "exchange_payment_method_id": "card", "exchange_price_difference": 1.3,',
    );
  });

  test("old and new item may be the same; three of two may not", () => {
    const same = ask(open(), "exchange_delivered_order_items", change("#done", ["A"], ["A"]));
    expect(same).toContain('"exchange_price_difference": 0.0,');
    const three = change("#done", ["A", "A", "A"], ["B", "B", "B"]);
    expect(ask(open(), "exchange_delivered_order_items", three)).toBe("Error: Number of A not found.");
  });

  test("a return goes to a gift card or the original method", () => {
    const back = (payment_method_id: string) => ({ order_id: "#done", item_ids: ["A"], payment_method_id });
    expect(ask(open(), "return_delivered_order_items", back("gift"))).toContain('"return_items": ["A"]');
    expect(ask(open(), "return_delivered_order_items", back("card"))).toContain('"return_items": ["A"]');
    expect(ask(open(), "return_delivered_order_items", back("gone"))).toBe("Error: Payment method not found");
  });
});

describe("calls that fail halfway keep what they have done", () => {
  test("a cancellation refunds the gift card before it misses the next method", () => {
    const shop = open();
    const args = { order_id: "#lost", reason: "no longer needed" };
    expect(ask(shop, "cancel_pending_order", args)).toBe("Error: Payment method not found");
    expect(balance(shop)).toEqual(new Float(1.3));
    expect(orderIn(shop, "#lost").status).toBe("pending");
  });

  test("a change of payment charges the new method before it misses the old one", () => {
    const shop = open();
    const args = { order_id: "#moved", payment_method_id: "gift" };
    expect(ask(shop, "modify_pending_order_payment", args)).toBe("Error: Payment method not found");
    expect(balance(shop)).toEqual(new Float(0.7));
    expect(orderIn(shop, "#moved").payment_history).toHaveLength(3);
  });
});

describe("looking users up", () => {
  test("the first one counts, and case does not matter but in the zip code", () => {
    expect(ask(open(), "find_user_id_by_email", { email: "ANN@X.ORG" })).toBe("ann");
    const name = { first_name: "aNN", last_name: "LEE" };
    expect(ask(open(), "find_user_id_by_name_zip", { ...name, zip: "89073" })).toBe("ann");
    expect(ask(open(), "find_user_id_by_name_zip", { ...name, zip: 89073 })).toBe("Error: User not found");
  });

  test("a moved user is found by the new zip code, the namesake by the old one", () => {
    const shop = open();
    ask(shop, "modify_user_address", { user_id: "ann", ...address, zip: "10115" });
    const name = { first_name: "Ann", last_name: "Lee" };
    expect(ask(shop, "find_user_id_by_name_zip", { ...name, zip: "10115" })).toBe("ann");
    expect(ask(shop, "find_user_id_by_name_zip", { ...name, zip: "89073" })).toBe("bob");
  });

  test("the last name is looked at only where the first name fits", () => {
    const asked = (first_name: string) =>
      ask(open(), "find_user_id_by_name_zip", { first_name, last_name: 7, zip: "" });
    expect(asked("Eve")).toBe("Error: User not found");
    expect(asked("Ann")).toBe("Error: 'int' object has no attribute 'lower'");
  });
});

/**
 * The shop's tools (SPEC section 13): wording, order of checks, and effects of the original, its oddities included.
 * Effects happen in the original's order, one by one, because those before a failure stay.
 */
import {
  compareCodePoints,
  dumps,
  type ExactObject,
  type ExactValue,
  Float,
  isArray,
  objectOf,
  pythonEquals,
  pythonStr,
  roundTwoDecimals,
  withEntry,
} from "../../../base/exact.ts";
import type { Database, Table } from "../../database.ts";
import type { Toolkit } from "../../environment.ts";
import { list, parseModel, str } from "../../model.ts";
import { dictKey, iterate, lengthOf, noAttribute, PythonError, valueError } from "../../python.ts";
import { type BoundArguments, ModelResult, parameter, type Tool, tool } from "../../tool.ts";
import { calculate, transferToHumanAgents } from "../common-tools.ts";
import type { Order, OrderItem, OrderPayment, PaymentMethod, Product, User, Variant } from "./model.ts";
import * as models from "./model.ts";
import { userIdByEmail, userIdByNameAndZip, variantById } from "./search.ts";

const CANCEL_REASONS: readonly (string | null)[] = ["no longer needed", "ordered by mistake"];

/** The shop's view of its database. */
interface Retail {
  readonly products: Table<Product & ExactObject>;
  readonly users: Table<User & ExactObject>;
  readonly orders: Table<Order & ExactObject>;
}

const view = (database: Database): Retail => ({
  products: database.table("products"),
  users: database.table("users"),
  orders: database.table("orders"),
});

// ---------------------------------------------------------------------------------------------------------------------
// Look-ups

function found<E>(get: (name: string) => E | undefined, key: ExactValue, kind: string): E {
  const name = dictKey(key);
  const entity = name === null ? undefined : get(name);
  if (entity === undefined) throw valueError(`${kind} not found`);
  return entity;
}

const orderOf = ({ orders }: Retail, id: ExactValue) => found((key) => orders.get(key), id, "Order");
const userOf = ({ users }: Retail, id: ExactValue) => found((key) => users.get(key), id, "User");
const productOf = ({ products }: Retail, id: ExactValue) => found((key) => products.get(key), id, "Product");

const own = <E extends ExactValue>(dict: { readonly [key: string]: E }) => {
  return (key: string): E | undefined => (Object.hasOwn(dict, key) ? dict[key] : undefined);
};

function variantOf(retail: Retail, product_id: string, item_id: ExactValue): Variant {
  return found(own(productOf(retail, product_id).variants), item_id, "Variant");
}

function paymentMethodOf(retail: Retail, user_id: string, id: ExactValue): PaymentMethod {
  return found(own(userOf(retail, user_id).payment_methods), id, "Payment method");
}

/** Whether the method is a gift card whose balance is below the amount. */
const cannotPay = ({ source, balance }: PaymentMethod, amount: number): boolean =>
  source === "gift_card" && (balance as Float).value < amount;

/** Takes an amount from the method if it is a gift card; a negative amount is paid back. Others are charged elsewhere. */
function charge({ users }: Retail, user_id: string, method_id: string, amount: number): void {
  const user = users.get(user_id) as User & ExactObject;
  const method = user.payment_methods[method_id] as PaymentMethod & ExactObject;
  if (method.source !== "gift_card") return;
  const balance = new Float(roundTwoDecimals((method.balance as Float).value - amount));
  const payment_methods = withEntry(user.payment_methods, method_id, { ...method, balance });
  users.set(user_id, { ...user, payment_methods: payment_methods as User["payment_methods"] });
}

function updated({ orders }: Retail, order_id: ExactValue, order: Order, changes: ExactObject): ModelResult {
  const changed = { ...order, ...changes } as Order & ExactObject;
  orders.set(order_id as string, changed);
  return new ModelResult(changed);
}

// ---------------------------------------------------------------------------------------------------------------------
// Pending orders

function cancel(retail: Retail, { order_id, reason }: BoundArguments<"order_id" | "reason">): ModelResult {
  const order = orderOf(retail, order_id);
  if (order.status !== "pending") throw valueError("Non-pending order cannot be cancelled");
  if (!CANCEL_REASONS.includes(dictKey(reason))) throw valueError("Invalid reason");
  const refunds = order.payment_history.map((payment): OrderPayment => {
    paymentMethodOf(retail, order.user_id, payment.payment_method_id);
    charge(retail, order.user_id, payment.payment_method_id, -payment.amount.value);
    return { ...payment, transaction_type: "refund" };
  });
  return updated(retail, order_id, order, {
    status: "cancelled",
    cancel_reason: reason,
    payment_history: [...order.payment_history, ...refunds],
  });
}

function pendingOrderOf(retail: Retail, id: ExactValue): Order & ExactObject {
  const order = orderOf(retail, id);
  if (!order.status.includes("pending")) throw valueError("Non-pending order cannot be modified");
  return order;
}

function modifyOrderAddress(
  retail: Retail,
  { order_id, ...address }: BoundArguments<"order_id" | AddressField>,
): ModelResult {
  const order = pendingOrderOf(retail, order_id);
  return updated(retail, order_id, order, { address: parseModel(models.address, address) });
}

function modifyPayment(
  retail: Retail,
  { order_id, payment_method_id }: BoundArguments<"order_id" | "payment_method_id">,
): ModelResult {
  const order = pendingOrderOf(retail, order_id);
  const method = paymentMethodOf(retail, order.user_id, payment_method_id);
  const [payment, ...others] = order.payment_history;
  if (payment === undefined || others.length > 0 || payment.transaction_type !== "payment")
    throw valueError("There should be exactly one payment for a pending order");
  if (payment.payment_method_id === payment_method_id)
    throw valueError("The new payment method should be different from the current one");
  const amount = payment.amount.value;
  if (cannotPay(method, amount)) throw valueError("Insufficient gift card balance to pay for the order");
  const refund = { ...payment, transaction_type: "refund" };
  const changed = updated(retail, order_id, order, {
    payment_history: [payment, { ...payment, payment_method_id }, refund],
  });
  charge(retail, order.user_id, payment_method_id as string, amount);
  paymentMethodOf(retail, order.user_id, payment.payment_method_id);
  charge(retail, order.user_id, payment.payment_method_id, -amount);
  return changed;
}

type ItemChange = BoundArguments<"order_id" | "item_ids" | "new_item_ids" | "payment_method_id">;

function modifyItems(retail: Retail, { order_id, item_ids, new_item_ids, payment_method_id }: ItemChange): ModelResult {
  const order = orderOf(retail, order_id);
  if (order.status !== "pending") throw valueError("Non-pending order cannot be modified");
  checkCounts(order, item_ids, (id) => `${id} not found`);
  const pairs = paired(item_ids, new_item_ids, "The number of items to be exchanged should match");
  const variants = pairs.map(([old, replacement]) => {
    if (pythonEquals(old, replacement)) throw valueError("The new item id should be different from the old item id");
    return replacementOf(retail, order, old, replacement);
  });
  const difference = priceDifference(order, pairs, variants);
  const method = paymentMethodOf(retail, order.user_id, payment_method_id);
  if (cannotPay(method, difference)) throw valueError("Insufficient gift card balance to pay for the new item");
  charge(retail, order.user_id, payment_method_id as string, difference);
  const payment = {
    transaction_type: difference > 0 ? "payment" : "refund",
    amount: new Float(Math.abs(difference)),
    payment_method_id,
  };
  return updated(retail, order_id, order, {
    payment_history: [...order.payment_history, payment],
    items: itemsReplaced(order.items, pairs, variants),
    status: "pending (item modified)",
  });
}

/** A bug of the original, which its rewards depend on: every new item gets the price and options of the last one. */
function itemsReplaced(
  items: readonly OrderItem[],
  pairs: readonly Pair[],
  variants: readonly Variant[],
): readonly OrderItem[] {
  const last = variants.at(-1);
  if (last === undefined) return items;
  const replaced = [...items];
  for (const [old, replacement] of pairs) {
    const at = replaced.findIndex(({ item_id }) => item_id === old);
    const { price, options } = last;
    replaced[at] = { ...(replaced[at] as OrderItem), item_id: replacement as string, price, options };
  }
  return replaced;
}

// ---------------------------------------------------------------------------------------------------------------------
// Items, of pending and of delivered orders

type Pair = readonly [old: ExactValue, replacement: ExactValue];

/** No id may be named more often than the order has it. */
function checkCounts({ items }: Order, item_ids: ExactValue, complaint: (id: string) => string): void {
  for (const id of iterate(item_ids)) {
    const ordered = items.filter(({ item_id }) => item_id === id).length;
    if (countIn(item_ids, id) > ordered) throw valueError(complaint(pythonStr(id)));
  }
}

/** `sequence.count(item)`, which strings have, too, and dicts do not. */
function countIn(sequence: ExactValue, item: ExactValue): number {
  if (typeof sequence === "string") return sequence.split(item as string).length - 1;
  if (!isArray(sequence)) throw noAttribute(sequence, "count");
  return sequence.filter((other) => other === item || pythonEquals(other, item)).length;
}

function paired(item_ids: ExactValue, new_item_ids: ExactValue, complaint: string): Pair[] {
  if (lengthOf(item_ids) !== lengthOf(new_item_ids)) throw valueError(complaint);
  const replacements = iterate(new_item_ids);
  return iterate(item_ids).map((old, i) => [old, replacements[i] as ExactValue]);
}

const itemIn = ({ items }: Order, id: ExactValue): OrderItem =>
  items.find(({ item_id }) => item_id === id) as OrderItem;

function replacementOf(retail: Retail, order: Order, old: ExactValue, replacement: ExactValue): Variant {
  const variant = variantOf(retail, itemIn(order, old).product_id, replacement);
  if (!variant.available) throw valueError(`New item ${pythonStr(replacement)} not found or available`);
  return variant;
}

/** Not rounded, and summed in the order of the call: the noise of the sum is part of the state. */
const priceDifference = (order: Order, pairs: readonly Pair[], variants: readonly Variant[]): number =>
  pairs.reduce((sum, [old], i) => sum + ((variants[i] as Variant).price.value - itemIn(order, old).price.value), 0);

/** `sorted(ids)` of ids that were found, hence strings. */
const sorted = (ids: ExactValue): string[] => ([...iterate(ids)] as string[]).sort(compareCodePoints);

// ---------------------------------------------------------------------------------------------------------------------
// Delivered orders

function exchange(retail: Retail, { order_id, item_ids, new_item_ids, payment_method_id }: ItemChange): ModelResult {
  const order = orderOf(retail, order_id);
  if (order.status !== "delivered") throw valueError("Non-delivered order cannot be exchanged");
  checkCounts(order, item_ids, (id) => `Number of ${id} not found.`);
  const pairs = paired(item_ids, new_item_ids, "The number of items to be exchanged should match.");
  const variants = pairs.map(([old, replacement]) => replacementOf(retail, order, old, replacement));
  const difference = roundTwoDecimals(priceDifference(order, pairs, variants));
  const method = paymentMethodOf(retail, order.user_id, payment_method_id);
  if (cannotPay(method, difference)) throw valueError("Insufficient gift card balance to pay for the price difference");
  return updated(retail, order_id, order, {
    status: "exchange requested",
    exchange_items: sorted(item_ids),
    exchange_new_items: sorted(new_item_ids),
    exchange_payment_method_id: payment_method_id,
    // The sum begins with Python's int 0, which only additions make a float.
    exchange_price_difference: pairs.length === 0 ? 0 : new Float(difference),
  });
}

function returnItems(
  retail: Retail,
  { order_id, item_ids, payment_method_id }: BoundArguments<"order_id" | "item_ids" | "payment_method_id">,
): ModelResult {
  const order = orderOf(retail, order_id);
  if (order.status !== "delivered") throw valueError("Non-delivered order cannot be returned");
  const { source } = paymentMethodOf(retail, order.user_id, payment_method_id);
  if (source !== "gift_card" && payment_method_id !== originalPayment(order).payment_method_id)
    throw valueError("Payment method should be the original payment method");
  checkCounts(order, item_ids, () => "Some item not found");
  return updated(retail, order_id, order, {
    status: "return requested",
    return_items: sorted(item_ids),
    return_payment_method_id: payment_method_id,
  });
}

function originalPayment({ payment_history }: Order): OrderPayment {
  const [first] = payment_history;
  if (first === undefined) throw new PythonError("IndexError", "list index out of range");
  return first;
}

// ---------------------------------------------------------------------------------------------------------------------
// Users and products

function modifyUserAddress(
  retail: Retail,
  { user_id, ...address }: BoundArguments<"user_id" | AddressField>,
): ModelResult {
  const user = { ...userOf(retail, user_id), address: parseModel(models.address, address) };
  retail.users.set(user_id as string, user);
  return new ModelResult(user);
}

const productTypes = ({ products }: Retail): string =>
  dumps(objectOf([...products.values()].map(({ name, product_id }) => [name, product_id])), { sorted: true });

// ---------------------------------------------------------------------------------------------------------------------
// Definitions, in the original's order

const orderParameter = parameter(
  str,
  "The order id, such as '#W0000000'. Be careful there is a '#' symbol at the beginning of the order id.",
);
const PAYMENT_METHOD =
  "The payment method id to pay or receive refund for the item price difference, such as 'gift_card_0000000' or 'credit_card_0000000'.";

type AddressField = "address1" | "address2" | "city" | "state" | "country" | "zip";
const addressParameters = {
  address1: parameter(str, "The first line of the address, such as '123 Main St'."),
  address2: parameter(str, "The second line of the address, such as 'Apt 1' or ''."),
  city: parameter(str, "The city, such as 'San Francisco'."),
  state: parameter(str, "The state, such as 'CA'."),
  country: parameter(str, "The country, such as 'USA'."),
  zip: parameter(str, "The zip code, such as '12345'."),
};

const tools: readonly Tool<Retail>[] = [
  calculate,
  tool({
    name: "cancel_pending_order",
    kind: "write",
    description:
      "Cancel a pending order. If the order is already processed or delivered,\n\nit cannot be cancelled. The agent needs to explain the cancellation detail\nand ask for explicit user confirmation (yes/no) to proceed. If the user confirms,\nthe order status will be changed to 'cancelled' and the payment will be refunded.\nThe refund will be added to the user's gift card balance immediately if the payment\nwas made using a gift card, otherwise the refund would take 5-7 business days to process.\nThe function returns the order details after the cancellation.",
    parameters: {
      order_id: orderParameter,
      reason: parameter(
        str,
        "The reason for cancellation, which should be either 'no longer needed' or 'ordered by mistake'.",
      ),
    },
    run: cancel,
  }),
  tool({
    name: "exchange_delivered_order_items",
    kind: "write",
    description:
      "Exchange items in a delivered order to new items of the same product type.\n\nFor a delivered order, return or exchange can be only done once by the agent.\nThe agent needs to explain the exchange detail and ask for explicit user confirmation (yes/no) to proceed.",
    parameters: {
      order_id: orderParameter,
      item_ids: parameter(
        list(str),
        "The item ids to be exchanged, each such as '1008292230'. There could be duplicate items in the list.",
      ),
      new_item_ids: parameter(
        list(str),
        "The item ids to be exchanged for, each such as '1008292230'.\nThere could be duplicate items in the list. Each new item id should match the item id\nin the same position and be of the same product.",
      ),
      payment_method_id: parameter(
        str,
        "The payment method id to pay or receive refund for the item price difference,\nsuch as 'gift_card_0000000' or 'credit_card_0000000'. These can be looked up\nfrom the user or order details.",
      ),
    },
    run: exchange,
  }),
  tool({
    name: "find_user_id_by_name_zip",
    kind: "read",
    description:
      "Find user id by first name, last name, and zip code. If the user is not found, the function\n\nwill return an error message. By default, find user id by email, and only call this function\nif the user is not found by email or cannot remember email.",
    parameters: {
      first_name: parameter(str, "The first name of the customer, such as 'John'."),
      last_name: parameter(str, "The last name of the customer, such as 'Doe'."),
      zip: parameter(str, "The zip code of the customer, such as '12345'."),
    },
    run: ({ users }: Retail, args) => userIdByNameAndZip(users, args),
  }),
  tool({
    name: "find_user_id_by_email",
    kind: "read",
    description: "Find user id by email. If the user is not found, the function will return an error message.",
    parameters: { email: parameter(str, "The email of the user, such as 'something@example.com'.") },
    run: ({ users }: Retail, { email }) => userIdByEmail(users, email),
  }),
  tool({
    name: "get_order_details",
    kind: "read",
    description: "Get the status and details of an order.",
    parameters: { order_id: orderParameter },
    run: (retail: Retail, { order_id }) => new ModelResult(orderOf(retail, order_id)),
  }),
  tool({
    name: "get_product_details",
    kind: "read",
    description: "Get the inventory details of a product.",
    parameters: {
      product_id: parameter(
        str,
        "The product id, such as '6086499569'. Be careful the product id is different from the item id.",
      ),
    },
    run: (retail: Retail, { product_id }) => new ModelResult(productOf(retail, product_id)),
  }),
  tool({
    name: "get_item_details",
    kind: "read",
    description: "Get the inventory details of an item.",
    parameters: {
      item_id: parameter(
        str,
        "The item id, such as '6086499569'. Be careful the item id is different from the product id.",
      ),
    },
    run: ({ products }: Retail, { item_id }) => new ModelResult(variantById(products, dictKey(item_id))),
  }),
  tool({
    name: "get_user_details",
    kind: "read",
    description: "Get the details of a user, including their orders.",
    parameters: { user_id: parameter(str, "The user id, such as 'sara_doe_496'.") },
    run: (retail: Retail, { user_id }) => new ModelResult(userOf(retail, user_id)),
  }),
  tool({
    name: "list_all_product_types",
    kind: "read",
    description:
      "List the name and product id of all product types.\n\nEach product type has a variety of different items with unique item ids and options.\nThere are only 50 product types in the store.",
    parameters: {},
    run: productTypes,
  }),
  tool({
    name: "modify_pending_order_address",
    kind: "write",
    description:
      "Modify the shipping address of a pending order. The agent needs to explain the modification detail and ask for explicit user confirmation (yes/no) to proceed.",
    parameters: { order_id: orderParameter, ...addressParameters },
    run: modifyOrderAddress,
  }),
  tool({
    name: "modify_pending_order_items",
    kind: "write",
    description:
      "Modify items in a pending order to new items of the same product type. For a pending order, this function can only be called once. The agent needs to explain the exchange detail and ask for explicit user confirmation (yes/no) to proceed.",
    parameters: {
      order_id: orderParameter,
      item_ids: parameter(
        list(str),
        "The item ids to be modified, each such as '1008292230'. There could be duplicate items in the list.",
      ),
      new_item_ids: parameter(
        list(str),
        "The item ids to be modified for, each such as '1008292230'. There could be duplicate items in the list. Each new item id should match the item id in the same position and be of the same product.",
      ),
      payment_method_id: parameter(str, `${PAYMENT_METHOD} These can be looked up from the user or order details.`),
    },
    run: modifyItems,
  }),
  tool({
    name: "modify_pending_order_payment",
    kind: "write",
    description:
      "Modify the payment method of a pending order. The agent needs to explain the modification detail and ask for explicit user confirmation (yes/no) to proceed.",
    parameters: {
      order_id: orderParameter,
      payment_method_id: parameter(str, `${PAYMENT_METHOD} These can be looked up from the user or order details.`),
    },
    run: modifyPayment,
  }),
  tool({
    name: "modify_user_address",
    kind: "write",
    description:
      "Modify the default address of a user. The agent needs to explain the modification detail and ask for explicit user confirmation (yes/no) to proceed.",
    parameters: { user_id: parameter(str, "The user id, such as 'sara_doe_496'."), ...addressParameters },
    run: modifyUserAddress,
  }),
  tool({
    name: "return_delivered_order_items",
    kind: "write",
    description:
      "Return some items of a delivered order.\n\nThe order status will be changed to 'return requested'.\nThe agent needs to explain the return detail and ask for explicit user confirmation (yes/no) to proceed.\nThe user will receive follow-up email for how and where to return the item.",
    parameters: {
      order_id: orderParameter,
      item_ids: parameter(
        list(str),
        "The item ids to be returned, each such as '1008292230'. There could be duplicate items in the list.",
      ),
      payment_method_id: parameter(str, `${PAYMENT_METHOD}\nThese can be looked up from the user or order details.`),
    },
    run: returnItems,
  }),
  transferToHumanAgents,
];

export const retailToolkit: Toolkit<Retail> = {
  className: "RetailTools",
  tools,
  functions: [],
  view,
  model: models.retailDb,
  tables: ["products", "users", "orders"],
};

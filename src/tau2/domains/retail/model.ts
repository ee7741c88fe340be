/** The shop's records, as the original declares them: order of fields and types. */
import type { ExactObject, ExactValue, Float } from "../../../base/exact.ts";
import { bool, dict, type Field, float, list, literal, model, optional, record, str, union } from "../../model.ts";

const orNull = (type: Field["type"]): Field => ({ type: optional(type), default: null });

const variant = model("Variant", { item_id: str, options: dict(str), available: bool, price: float });
const product = model("Product", { name: str, product_id: str, variants: dict(record(variant)) });

export const address = model("UserAddress", {
  address1: str,
  address2: str,
  city: str,
  country: str,
  state: str,
  zip: str,
});

const paymentMethods = [
  model("CreditCard", { source: literal("credit_card"), id: str, brand: str, last_four: str }),
  model("GiftCard", { source: literal("gift_card"), id: str, balance: float }),
  model("Paypal", { source: literal("paypal"), id: str }),
].map(record);

const user = model("User", {
  user_id: str,
  name: record(model("UserName", { first_name: str, last_name: str })),
  address: record(address),
  email: str,
  payment_methods: dict(union(...paymentMethods)),
  orders: list(str),
});

const order = model("Order", {
  order_id: str,
  user_id: str,
  address: record(address),
  items: list(
    record(model("OrderItem", { name: str, product_id: str, item_id: str, price: float, options: dict(str) })),
  ),
  status: literal(
    "processed",
    "pending",
    "pending (item modified)",
    "delivered",
    "cancelled",
    "exchange requested",
    "return requested",
  ),
  fulfillments: list(record(model("OrderFullfilment", { tracking_id: list(str), item_ids: list(str) }))),
  payment_history: list(
    record(
      model("OrderPayment", { transaction_type: literal("payment", "refund"), amount: float, payment_method_id: str }),
    ),
  ),
  cancel_reason: orNull(literal("no longer needed", "ordered by mistake")),
  exchange_items: orNull(list(str)),
  exchange_new_items: orNull(list(str)),
  exchange_payment_method_id: orNull(str),
  exchange_price_difference: orNull(float),
  return_items: orNull(list(str)),
  return_payment_method_id: orNull(str),
});

export const retailDb = model(
  "RetailDB",
  { products: dict(record(product)), users: dict(record(user)), orders: dict(record(order)) },
  "forbid",
);

// What the tools read of these records.

type Dict<T extends ExactValue> = { readonly [key: string]: T };

export type Variant = {
  readonly item_id: string;
  readonly options: ExactObject;
  readonly available: boolean;
  readonly price: Float;
};
export type Product = {
  readonly name: string;
  readonly product_id: string;
  readonly variants: Dict<Variant & ExactObject>;
};
export type PaymentMethod = { readonly source: string; readonly balance?: Float };
export type User = {
  readonly name: { readonly first_name: string; readonly last_name: string };
  readonly address: ExactObject;
  readonly email: string;
  readonly payment_methods: Dict<PaymentMethod & ExactObject>;
};
export type OrderItem = {
  readonly product_id: string;
  readonly item_id: string;
  readonly price: Float;
  readonly options: ExactObject;
};
export type OrderPayment = {
  readonly transaction_type: "payment" | "refund";
  readonly amount: Float;
  readonly payment_method_id: string;
};
export type Order = {
  readonly user_id: string;
  readonly status: string;
  readonly items: readonly OrderItem[];
  readonly payment_history: readonly OrderPayment[];
};

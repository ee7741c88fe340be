/** Users by name or e-mail address, and items by id, without a walk through the whole shop. */
import { type ExactObject, type ExactValue, entriesOf, pythonEquals } from "../../../base/exact.ts";
import type { Table } from "../../database.ts";
import { noAttribute, valueError } from "../../python.ts";
import { tableIndex } from "../../table-index.ts";
import type { Product, User, Variant } from "./model.ts";

type Users = Table<User & ExactObject>;

/** The first user, in the database's order, with this e-mail address; case does not matter. */
export function userIdByEmail(users: Users, email: ExactValue): string {
  const id = idByEmail(users).get(lower(email));
  if (id === undefined) throw valueError("User not found");
  return id;
}

/** The first user with this name, whose case does not matter, and zip code. */
export function userIdByNameAndZip(
  users: Users,
  { first_name, last_name, zip }: { readonly [K in "first_name" | "last_name" | "zip"]: ExactValue },
): string {
  const namesakes = idsByFirstName(users).get(lower(first_name)) ?? [];
  const id = namesakes.find((candidate) => {
    const { name, address } = users.get(candidate) as User;
    return lower(name.last_name) === lower(last_name) && pythonEquals(address.zip as string, zip);
  });
  if (id === undefined) throw valueError("User not found");
  return id;
}

/** The variant with this id, of whatever product; null is the id of none. */
export function variantById(products: Table<Product & ExactObject>, id: string | null): Variant & ExactObject {
  const variant = id === null ? undefined : variantsById(products).get(id);
  if (variant === undefined) throw valueError("Item not found");
  return variant;
}

function lower(value: ExactValue): string {
  if (typeof value !== "string") throw noAttribute(value, "lower");
  return value.toLowerCase();
}

const idByEmail = tableIndex((users: ReadonlyMap<string, User & ExactObject>) =>
  firstOf([...users].map(([id, { email }]) => [lower(email), id])),
);

const idsByFirstName = tableIndex((users: ReadonlyMap<string, User & ExactObject>) => {
  const ids = new Map<string, string[]>();
  for (const [id, { name }] of users) ids.set(lower(name.first_name), [...(ids.get(lower(name.first_name)) ?? []), id]);
  return ids;
});

const variantsById = tableIndex((products: ReadonlyMap<string, Product & ExactObject>) =>
  firstOf([...products.values()].flatMap(({ variants }) => entriesOf(variants) as [string, Variant & ExactObject][])),
);

/** Of entries with the same key the first counts. */
const firstOf = <T>(entries: readonly (readonly [string, T])[]): ReadonlyMap<string, T> =>
  new Map([...entries].reverse());

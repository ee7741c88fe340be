/**
 * Users by name or e-mail address, and items by id, without a walk through the whole shop. Indexes are made once per
 * database image: no tool adds or removes a user or a product, and none changes what is searched by, the zip code apart.
 */
import { type ExactObject, type ExactValue, entriesOf, pythonEquals } from "../../../base/exact.ts";
import type { Table } from "../../database.ts";
import { noAttribute, valueError } from "../../python.ts";
import type { Product, User, Variant } from "./model.ts";

/** The first user, in the database's order, with this e-mail address; case does not matter. */
export function userIdByEmail(users: Table<User & ExactObject>, email: ExactValue): string {
  const id = idByEmail(users.base).get(lower(email));
  if (id === undefined) throw valueError("User not found");
  return id;
}

/** The first user with this name, whose case does not matter, and zip code. */
export function userIdByNameAndZip(
  users: Table<User & ExactObject>,
  { first_name, last_name, zip }: { readonly [K in "first_name" | "last_name" | "zip"]: ExactValue },
): string {
  const namesakes = idsByFirstName(users.base).get(lower(first_name)) ?? [];
  const id = namesakes.find((candidate) => {
    const { name, address } = users.get(candidate) as User;
    return lower(name.last_name) === lower(last_name) && pythonEquals(address.zip as string, zip);
  });
  if (id === undefined) throw valueError("User not found");
  return id;
}

/** The variant with this id, of whatever product. */
export function variantById(products: Table<Product & ExactObject>, id: string | null): Variant & ExactObject {
  const variant = id === null ? undefined : variants(products.base).get(id);
  if (variant === undefined) throw valueError("Item not found");
  return variant;
}

function lower(value: ExactValue): string {
  if (typeof value !== "string") throw noAttribute(value, "lower");
  return value.toLowerCase();
}

type Users = ReadonlyMap<string, User>;

const idByEmail = oncePerTable((users: Users) => {
  const index = new Map<string, string>();
  for (const [id, { email }] of users) if (!index.has(lower(email))) index.set(lower(email), id);
  return index;
});

const idsByFirstName = oncePerTable(
  (users: Users): ReadonlyMap<string, readonly string[]> => Map.groupBy(users.keys(), (id) => firstName(users, id)),
);

const firstName = (users: Users, id: string): string => lower((users.get(id) as User).name.first_name);

const variants = oncePerTable((products: ReadonlyMap<string, Product>) => {
  const index = new Map<string, Variant & ExactObject>();
  for (const { variants } of products.values())
    for (const [id, variant] of entriesOf(variants))
      if (!index.has(id)) index.set(id, variant as Variant & ExactObject);
  return index;
});

/** Computed at the first call for a table, and kept as long as the table is. */
function oncePerTable<T extends object, R extends object>(compute: (table: T) => R): (table: T) => R {
  const known = new WeakMap<T, R>();
  return (table) => {
    const result = known.get(table) ?? compute(table);
    known.set(table, result);
    return result;
  };
}

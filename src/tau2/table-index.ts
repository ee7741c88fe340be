/** Indexes of what no tool of a domain changes: made at the first use of an image's table, shared by all environments. */
import type { ExactObject } from "../base/exact.ts";
import type { Table } from "./database.ts";

type Base<E> = ReadonlyMap<string, E>;

/** `compute` sees the table as the image has it; keys and what is searched by must stay as they are there. */
export function tableIndex<E extends ExactObject, R>(compute: (base: Base<E>) => R): (table: Table<E>) => R {
  const known = new WeakMap<Base<E>, { readonly index: R }>();
  return ({ base }) => {
    const found = known.get(base) ?? { index: compute(base) };
    known.set(base, found);
    return found.index;
  };
}

/**
 * The three built-in domains differ in their policy text alone: in what has to come before a write, and in what becomes
 * of an unwanted order. Tools, orders and the users' words are the same.
 */

export type DomainName = "shop" | "rail" | "phone";

/** What an agent may do before it writes; each domain wants one of the first three. */
export type Preparation = "confirm" | "hold" | "unlock" | "none";

export interface Convention {
  readonly name: DomainName;
  readonly policy: string;
  readonly preparation: Exclude<Preparation, "none">;
  /** The write for an unwanted order, by its status. */
  readonly unwanted: Readonly<Record<"new" | "sent", "cancel" | "credit">>;
}

const SALES = { new: "cancel", sent: "credit" } as const;
const TICKETS = { new: "credit", sent: "cancel" } as const;

export const CONVENTIONS: Readonly<Record<DomainName, Convention>> = {
  shop: {
    name: "shop",
    policy:
      "You are the agent of a shop. Before any write, ask the user to confirm the order. An unwanted order that is new: cancel. An unwanted order that is sent: credit. A lost order: transfer.",
    preparation: "confirm",
    unwanted: SALES,
  },
  rail: {
    name: "rail",
    policy:
      "You are the agent of a rail office. Before any write, hold the order. Ask no questions. An unwanted order that is new: credit. An unwanted order that is sent: cancel. A lost order: transfer.",
    preparation: "hold",
    unwanted: TICKETS,
  },
  phone: {
    name: "phone",
    policy:
      "You are the agent of a phone company. Before any write, tell the user to unlock the order in the app. An unwanted order that is new: cancel. An unwanted order that is sent: credit. A lost order: transfer.",
    preparation: "unlock",
    unwanted: SALES,
  },
};

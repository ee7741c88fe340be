/**
 * The three built-in domains differ in their policy text alone: in what has to come before a write, and in what becomes
 * of an unwanted order. Tools, orders and most of the users' words are the same.
 *
 * Writing unprepared is the common mistake of all three, so training on one domain does not rob the next one of the
 * behaviour that it needs: it takes away the mistake, and spreads a preparation that is wrong elsewhere. Each domain has
 * statuses of its own, because a rule learned for a status leaves nothing to explore for its opposite.
 */

export type DomainName = "shop" | "rail" | "phone";

/** What an agent may do before it writes; each domain wants one of the first three. */
export type Preparation = "confirm" | "hold" | "unlock" | "none";

export interface Convention {
  readonly name: DomainName;
  readonly policy: string;
  readonly preparation: Exclude<Preparation, "none">;
  /** The write for an unwanted order, by its status. */
  readonly unwanted: Readonly<Record<string, "cancel" | "credit">>;
}

export const CONVENTIONS: Readonly<Record<DomainName, Convention>> = {
  shop: {
    name: "shop",
    policy:
      "You are the agent of a shop. Before any write, ask the user to confirm the order. An unwanted order that is new: cancel. An unwanted order that is sent: credit. A lost order: transfer.",
    preparation: "confirm",
    unwanted: { new: "cancel", sent: "credit" },
  },
  rail: {
    name: "rail",
    policy:
      "You are the agent of a rail office. Before any write, hold the order. Ask no questions. An unwanted order that is booked: credit. An unwanted order that is printed: cancel. A lost order: transfer.",
    preparation: "hold",
    unwanted: { booked: "credit", printed: "cancel" },
  },
  phone: {
    name: "phone",
    policy:
      "You are the agent of a phone company. Before any write, tell the user to unlock the order in the app. An unwanted order that is open: cancel. An unwanted order that is active: credit. A lost order: transfer.",
    preparation: "unlock",
    unwanted: { open: "cancel", active: "credit" },
  },
};

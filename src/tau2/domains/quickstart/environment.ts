/**
 * The order office: the agent's database (desk, orders), the user's (its own app) and their tools. Nothing stops an agent
 * from writing unprepared; but then the desk notes a violation for good, and the conversation is over.
 */
import type { ExactValue } from "../../../base/exact.ts";
import type { Database } from "../../database.ts";
import { type Side, side, ToolEnvironment, type Toolkit } from "../../environment.ts";
import { dict, literal, model, record, str } from "../../model.ts";
import { valueError } from "../../python.ts";
import { parameter, type Tool, type ToolResult, tool } from "../../tool.ts";
import type { Convention } from "./convention.ts";

/** An entity of `orders`. */
export type Order = {
  readonly account: string;
  readonly day: string;
  /** The domain's own, or `lost`, `cancelled`, `credited`. */
  readonly status: string;
  readonly held: "no" | "yes";
  /** The writes on it, in order. */
  readonly writes: readonly string[];
};

export interface Office {
  readonly convention: Convention;
  readonly agent: Side;
  /** null in `rail`: its users have no app. */
  readonly user: Side | null;
}

/** `orders` by id, `accounts`: account → id of its order. */
export function furnish(
  convention: Convention,
  data: { readonly orders: Readonly<Record<string, Order>>; readonly accounts: Readonly<Record<string, string>> },
): Office {
  const user = userToolkit(convention);
  return {
    convention,
    agent: side(AGENT_TOOLKIT, { desk: { transferred: "no", violation: "none" }, ...data }),
    user: user && side(user, { [user.tables[0] as string]: {} }),
  };
}

export class OfficeEnvironment extends ToolEnvironment {
  constructor({ convention, agent, user }: Office) {
    super({ agent, user, sync: ({ agentDb, userDb }) => noteViolation(convention, agentDb, userDb) });
  }

  get ended(): { readonly reason: string } | null {
    const { violation } = deskOf(this.agentDb);
    return violation === "none" ? null : { reason: violation };
  }
}

/** The policy says what comes before any write; an order written without it is a violation, whatever follows. */
function noteViolation({ preparation }: Convention, agentDb: Database, userDb: Database | null): void {
  const desk = deskOf(agentDb);
  for (const [id, order] of agentDb.table<Order>("orders").changes) {
    const prepared = preparation === "hold" ? order?.held === "yes" : userDb?.table(APP[preparation].table).has(id);
    if (prepared || !order?.writes.length || desk.violation !== "none") continue;
    agentDb.setValue("desk", { ...desk, violation: `${order.writes[0]} without ${preparation}` });
  }
}

type Desk = { readonly transferred: string; readonly violation: string };
const deskOf = (database: Database): Desk => database.value("desk") as unknown as Desk;

// ---------------------------------------------------------------------------------------------------------------------
// The agent's side

const ID = parameter(str, "The id of an order, such as '#4217'.");

const get = tool({
  name: "get",
  kind: "read",
  description: "Read an order, or find the order of an account.",
  parameters: { id: parameter(str, "The id of an order or an account.") },
  run: (database: Database, { id }): ToolResult => {
    const order = (database.value("accounts") as Readonly<Record<string, string>>)[String(id)];
    return order === undefined ? { order: id, status: orderOf(database, id).status } : { account: id, order };
  },
});

const hold = tool({
  name: "hold",
  kind: "write",
  description: "Hold an order, so that nobody else writes to it.",
  parameters: { id: ID },
  run: (database: Database, { id }) => replaced(database, id, "hold", (order) => ({ ...order, held: "yes" })),
});

const cancel = writeTool("cancel", "Cancel an order.", () => ({ status: "cancelled" }));
const credit = writeTool("credit", "Credit an order.", () => ({ status: "credited" }));
const change = writeTool("change", "Move an order to another day.", ({ day }) => ({ day: String(day) }), {
  day: parameter(str, "The new day, such as '@12'."),
});

const transfer = tool({
  name: "transfer",
  kind: "write",
  description: "Transfer the user to a human.",
  parameters: {},
  run: (database: Database) => {
    database.setValue("desk", { ...deskOf(database), transferred: "yes" });
    return { ok: "transfer" };
  },
});

function writeTool(
  name: string,
  description: string,
  effect: (args: Readonly<Record<string, ExactValue>>) => Partial<Order>,
  parameters: Readonly<Record<string, ReturnType<typeof parameter>>> = {},
): Tool<Database> {
  return tool({
    name,
    kind: "write",
    description,
    parameters: { id: ID, ...parameters },
    run: (database: Database, args: Readonly<Record<string, ExactValue>>) =>
      replaced(database, args.id ?? null, name, (order) => {
        if (order.status === "cancelled" || order.status === "credited") throw valueError(`order is ${order.status}`);
        return { ...order, ...effect(args), writes: [...order.writes, name] };
      }),
  });
}

function replaced(database: Database, id: ExactValue, name: string, change: (order: Order) => Order) {
  database.table<Order>("orders").set(String(id), change(orderOf(database, id)));
  return { ok: name };
}

function orderOf(database: Database, id: ExactValue): Order {
  const order = database.table<Order>("orders").get(String(id));
  if (order === undefined) throw valueError(`${id} not found`);
  return order;
}

const ORDER = model("Order", {
  account: str,
  day: str,
  status: str,
  held: literal("no", "yes"),
  writes: { kind: "list", of: str },
});

const AGENT_TOOLKIT: Toolkit<Database> = {
  className: "OfficeTools",
  tools: [get, hold, cancel, credit, change, transfer],
  functions: [],
  view: (database) => database,
  model: model("OfficeDB", {
    desk: record(model("Desk", { transferred: str, violation: str })),
    orders: dict(record(ORDER)),
    accounts: dict(str),
  }),
  tables: ["orders"],
};

// ---------------------------------------------------------------------------------------------------------------------
// The user's side

const APP = {
  confirm: { table: "confirmed", description: "Confirm an order in your account." },
  unlock: { table: "unlocked", description: "Unlock an order in the app." },
} as const;

function userToolkit({ preparation }: Convention): Toolkit<Database> | null {
  if (preparation === "hold") return null;
  const { table, description } = APP[preparation];
  const prepare = tool({
    name: preparation,
    kind: "write",
    description,
    parameters: { id: ID },
    run: (database: Database, { id }) => {
      database.table(table).set(String(id), { by: "user" });
      return { ok: preparation };
    },
  });
  return {
    className: "AppTools",
    tools: [prepare],
    functions: [],
    view: (database) => database,
    model: model("AppDB", { [table]: dict(record(model("Mark", { by: str }))) }),
    tables: [table],
  };
}

/**
 * The order office: an agent database (orders, desk), a user database (the user's own app) and their tools. A write that
 * was not prepared as the policy asks is refused, noted at the desk and ends the conversation. All values are strings,
 * so the canonical text of a database is its JSON with sorted keys.
 */
import { createHash } from "node:crypto";
import { dumps, type ExactObject } from "../../../base/exact.ts";
import type { Environment, ToolCall, ToolKind, ToolMessage, ToolSchema } from "../../types.ts";
import type { Convention, OrderStatus, OrderWrite } from "./convention.ts";
import type { Order } from "./tasks.ts";

export interface Office {
  readonly convention: Convention;
  readonly orders: ReadonlyMap<string, Order>;
  /** Account → its order. */
  readonly accounts: ReadonlyMap<string, string>;
}

type Arguments = Readonly<Record<string, string>>;

const ID = { id: "An order's id, such as '#4217'." };
const AGENT_TOOLS = [
  toolSchema("get", "Read an order, or the order of an account.", { id: "The id of an order or account." }),
  toolSchema("hold", "Hold an order.", ID),
  toolSchema("cancel", "Cancel an order.", ID),
  toolSchema("credit", "Credit an order.", ID),
  toolSchema("change", "Change the day of an order.", { ...ID, day: "The new day, such as '@12'." }),
  toolSchema("transfer", "Transfer the user to a human.", {}),
];
const APP_TOOLS = {
  confirm: toolSchema("confirm", "Confirm an order in the account.", ID),
  unlock: toolSchema("unlock", "Unlock an order in the app.", ID),
};

export const agentTools: readonly ToolSchema[] = AGENT_TOOLS;

/** null in `rail`: its users have no app. */
export const userTools = ({ preparation }: Convention): readonly ToolSchema[] | null =>
  preparation === "hold" ? null : [APP_TOOLS[preparation]];

export const toolKind = (name: string): ToolKind | null => {
  if (name === "get") return "read";
  return name in APP_TOOLS || AGENT_TOOLS.some((tool) => tool.function.name === name) ? "write" : null;
};

/** A fresh environment over shared tables; only what a conversation changes is copied. */
export function openOffice(office: Office): Environment {
  const changed = new Map<string, Order>();
  const prepared: Record<string, "yes"> = {};
  const desk = { transferred: "no", violation: "none" };
  let ended: { readonly reason: string } | null = null;

  const orderOf = (id: string): Order => {
    const order = changed.get(id) ?? office.orders.get(id);
    if (order === undefined) throw new ToolError(`${id} not found`);
    return order;
  };

  const get = ({ id = "" }: Arguments): ExactObject => {
    const order = office.accounts.get(id);
    return order === undefined ? { order: id, status: orderOf(id).status } : { account: id, order };
  };
  const hold = ({ id = "" }: Arguments) => {
    changed.set(id, { ...orderOf(id), held: "yes" });
    return { ok: "hold" };
  };
  const write = (name: OrderWrite, { id = "", day }: Arguments) => {
    const order = orderOf(id);
    if (CLOSED.includes(order.status)) throw new ToolError(`${id} is ${order.status}`);
    if (!isPrepared(id, order)) refuse(name, id);
    changed.set(id, day === undefined ? { ...order, status: CLOSED_BY[name] ?? order.status } : { ...order, day });
    return { ok: name };
  };
  const isPrepared = (id: string, order: Order) =>
    office.convention.preparation === "hold" ? order.held === "yes" : prepared[id] === "yes";
  const refuse = (name: OrderWrite, id: string): never => {
    desk.violation = `${name} without ${office.convention.preparation}`;
    ended = { reason: desk.violation };
    throw new ToolError(`${id}: ${desk.violation}`);
  };
  const transfer = () => {
    desk.transferred = "yes";
    return { ok: "transfer" };
  };
  const prepare = ({ id = "" }: Arguments) => {
    orderOf(id);
    prepared[id] = "yes";
    return { ok: office.convention.preparation };
  };

  const run = ({ name, requestor, ...call }: ToolCall): ExactObject => {
    const tools = requestor === "user" ? (userTools(office.convention) ?? []) : AGENT_TOOLS;
    const args = boundArguments(tools, name, call.arguments);
    if (requestor === "user") return prepare(args);
    if (name === "get") return get(args);
    if (name === "hold") return hold(args);
    return name === "transfer" ? transfer() : write(name as OrderWrite, args);
  };

  return {
    getResponse: (call) => answer(call, run),
    agentDbHash: () => databaseHash({ desk, orders: Object.fromEntries([...office.orders, ...changed]) }),
    userDbHash: () =>
      office.convention.preparation === "hold" ? null : databaseHash({ [office.convention.preparation]: prepared }),
    get ended() {
      return ended;
    },
  };
}

const CLOSED: readonly OrderStatus[] = ["cancelled", "credited"];
const CLOSED_BY: Readonly<Partial<Record<OrderWrite, OrderStatus>>> = { cancel: "cancelled", credit: "credited" };

/** A refusal whose text the caller sees. */
class ToolError extends Error {}

function answer(call: ToolCall, run: (call: ToolCall) => ExactObject): ToolMessage {
  const message = { role: "tool", id: call.id, requestor: call.requestor } as const;
  try {
    return { ...message, content: dumps(run(call)), error: false };
  } catch (error) {
    if (!(error instanceof ToolError)) throw error;
    return { ...message, content: `Error: ${error.message}`, error: true };
  }
}

function boundArguments(tools: readonly ToolSchema[], name: string, args: ExactObject): Arguments {
  const tool = tools.find((candidate) => candidate.function.name === name);
  if (tool === undefined) throw new ToolError(`Tool '${name}' not found.`);
  const wanted = tool.function.parameters.required as readonly string[];
  const given = Object.keys(args);
  const wrong = wanted.find((key) => typeof args[key] !== "string") ?? given.find((key) => !wanted.includes(key));
  if (wrong !== undefined) throw new ToolError(`argument ${wrong}`);
  return args as Arguments;
}

const databaseHash = (database: ExactObject): string =>
  createHash("sha256")
    .update(dumps(database, { sorted: true }))
    .digest("hex");

function toolSchema(name: string, description: string, args: Readonly<Record<string, string>>): ToolSchema {
  const properties = Object.fromEntries(
    Object.entries(args).map(([key, text]) => [key, { type: "string", description: text }]),
  );
  const parameters = { type: "object", properties, required: Object.keys(args) };
  return { type: "function", function: { name, description, parameters } };
}

/** What an agent that knows the task says, turn by turn: with the right habits it solves the task, with wrong ones it shows what goes wrong. */
import type { Rng } from "../../../base/rng.ts";
import type { Agent, Reply } from "../../types.ts";
import type { Convention, Preparation } from "./convention.ts";
import type { Problem } from "./tasks.ts";

export interface Habits {
  readonly preparation: Preparation;
  /** Cancels an unwanted order where it should credit it, and the reverse. */
  readonly swapsUnwanted: boolean;
}

export const rightHabits = ({ preparation }: Convention): Habits => ({ preparation, swapsUnwanted: false });

/** Says the turns one after the other, whatever it hears; then falls silent with "Done.". */
export function demonstrator(turns: readonly Reply[]): Agent {
  let turn = 0;
  return { reply: async () => turns[turn++] ?? text("Done.") };
}

/** Reads what it has to, prepares, writes, reports. `rng` picks the wording. */
export function demonstration(problem: Problem, habits: Habits, rng: Rng): Reply[] {
  const { kind, order, account, day, write } = problem;
  const reads = kind === "account" ? [call("get", { id: account })] : [];
  if (kind === "unwanted" || kind === "lost") reads.push(call("get", { id: order }));
  if (write === "transfer") return [...reads, call("transfer", {}), farewell(rng)];
  const name = kind === "unwanted" && habits.swapsUnwanted ? SWAPPED[write] : write;
  const args: Record<string, string> = name === "change" ? { id: order, day } : { id: order };
  return [...reads, ...prepare(habits.preparation, order, rng), call(name, args), farewell(rng)];
}

const SWAPPED = { cancel: "credit", credit: "cancel", change: "change" } as const;

function prepare(preparation: Preparation, order: string, rng: Rng): Reply[] {
  if (preparation === "none") return [];
  if (preparation === "hold") return [call("hold", { id: order })];
  return [text(rng.pick(REQUESTS[preparation]).replace("ORDER", order))];
}

const REQUESTS = {
  confirm: ["Please confirm ORDER.", "Can you confirm ORDER?"],
  unlock: ["Please unlock ORDER in the app.", "Can you unlock ORDER?"],
} as const;

const farewell = (rng: Rng): Reply => text(rng.pick(["Done.", "That is done."]));

const text = (content: string): Reply => ({ content, tool_calls: null });

const call = (name: string, args: Readonly<Record<string, string>>): Reply => ({
  content: null,
  tool_calls: [{ id: `call_${name}`, name, arguments: args, requestor: "assistant" }],
});

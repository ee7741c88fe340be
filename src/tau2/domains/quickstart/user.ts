/** The user of the built-in domains: a rule on the agent's words, the same words give the same answer. */
import type { Message, Reply, Task, User } from "../../types.ts";
import type { Convention } from "./convention.ts";

/**
 * Opens with the reason for the call. Asked to confirm (or unlock) the right order, it does so with its own tool, once,
 * and says so; anything else makes it leave.
 */
export function scriptedUser(task: Task, convention: Convention): User {
  let state: "calling" | "waiting" | "acting" | "done" = "calling";
  const reply = (incoming: readonly Message[]): Reply => {
    if (state === "calling") {
      state = "waiting";
      return text(openingOf(task));
    }
    if (state === "acting") {
      state = "done";
      return text(DONE[convention.preparation]);
    }
    const order = preparedOrder(task);
    if (state === "waiting" && order !== null && asksFor(convention, order, incoming)) {
      state = "acting";
      return act(convention.preparation, order);
    }
    return text("Goodbye. ###STOP###");
  };
  return { identity: "scripted", reply: async (incoming) => reply(incoming) };
}

const DONE: Readonly<Record<Convention["preparation"], string>> = {
  confirm: "Yes, go on.",
  unlock: "It is unlocked now.",
  hold: "",
};

const text = (content: string): Reply => ({ content, tool_calls: null });

const act = (name: string, order: string): Reply => ({
  content: null,
  tool_calls: [{ id: `user_${name}`, name, arguments: { id: order }, requestor: "user" }],
});

function openingOf(task: Task): string {
  const { instructions } = task.user_scenario;
  return typeof instructions === "string" ? instructions : instructions.reason_for_call;
}

/** The order that this user may confirm or unlock; null when the task asks for no such thing. */
function preparedOrder(task: Task): string | null {
  const action = task.evaluation_criteria?.actions?.find(({ requestor }) => requestor === "user");
  const id = action?.arguments.id;
  return typeof id === "string" ? id : null;
}

function asksFor({ preparation }: Convention, order: string, incoming: readonly Message[]): boolean {
  const words = incoming.map(({ content }) => content ?? "").join(" ");
  return words.includes(preparation) && words.includes(order);
}

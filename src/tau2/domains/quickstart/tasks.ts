/** Orders, accounts and tasks of a built-in domain, drawn from a random stream: the same stream gives the same domain. */
import type { Rng } from "../../../base/rng.ts";
import type { GoldenAction, Task } from "../../types.ts";
import type { Convention } from "./convention.ts";

/** `verb` names the write, `unwanted` leaves it to status and policy, `account` hides the order behind an account. */
export type TaskKind = "verb" | "change" | "unwanted" | "account" | "lost";

/** Tasks of a split, by kind: 64. */
export const TASK_COUNTS: Readonly<Record<TaskKind, number>> = {
  verb: 20,
  change: 16,
  unwanted: 16,
  account: 8,
  lost: 4,
};

/** Evaluation ids and training ids never meet: see `belongsTo`. */
export type Split = "train" | "test";

/** A problem before it is worded as a tau2 task. `write` is what solves it. */
export interface Problem {
  readonly kind: TaskKind;
  readonly order: string;
  readonly account: string;
  readonly status: string;
  readonly write: "cancel" | "credit" | "change" | "transfer";
  /** The day wanted, for `change`. */
  readonly day: string;
  readonly opening: string;
}

export interface PosedTask {
  readonly task: Task;
  readonly problem: Problem;
}

const OPENINGS: Readonly<Record<TaskKind, readonly string[]>> = {
  verb: [
    "Please VERB order ORDER.",
    "Hello, VERB order ORDER, please.",
    "Can you VERB order ORDER?",
    "I need you to VERB order ORDER.",
  ],
  change: ["I want order ORDER on day DAY.", "Please move order ORDER to day DAY.", "Can order ORDER come on day DAY?"],
  unwanted: [
    "I do not want order ORDER any more.",
    "I have no need for order ORDER now.",
    "Order ORDER is not wanted any more.",
  ],
  account: [
    "My account is ACCOUNT. Please VERB my order.",
    "Hello, VERB my order, please. Account ACCOUNT.",
    "Please VERB the order of account ACCOUNT.",
  ],
  lost: ["Where is order ORDER?", "Order ORDER never came."],
};

/** The tasks of one split, in the order of TASK_COUNTS; `ids` hands out ids that no other task of the domain has. */
export function poseTasks(rng: Rng, convention: Convention, split: Split, ids: IdSource): PosedTask[] {
  const kinds = Object.entries(TASK_COUNTS) as [TaskKind, number][];
  return kinds.flatMap(([kind, count]) =>
    Array.from({ length: count }, (_, index) => {
      const problem = poseProblem(rng, convention, kind, () => ids(split));
      return { problem, task: wordTask(problem, convention, `${split}_${kind}_${index}`) };
    }),
  );
}

export type IdSource = (split: Split) => string;

/** Ids such as #4217, never the same twice. Those of `test` have ab + cd divisible by 4 (for #abcd), those of `train` never. */
export function idSource(rng: Rng): IdSource {
  const taken = new Set<string>();
  return (split) => {
    for (;;) {
      const [ab, cd] = [rng.int(100), rng.int(100)];
      const id = `#${twoDigits(ab)}${twoDigits(cd)}`;
      if (splitOf(id) !== split || taken.has(id)) continue;
      taken.add(id);
      return id;
    }
  };
}

/** The split whose tasks may name this id. */
export const splitOf = (id: string): Split =>
  (Number(id.slice(1, 3)) + Number(id.slice(3, 5))) % 4 === 0 ? "test" : "train";

const twoDigits = (value: number): string => String(value).padStart(2, "0");

const LOST = "lost";

function poseProblem(rng: Rng, convention: Convention, kind: TaskKind, id: () => string): Problem {
  const status = kind === "lost" ? LOST : rng.pick(Object.keys(convention.unwanted));
  const verb = rng.pick(["cancel", "credit"] as const);
  const [order, account, day] = [id(), id(), `@${twoDigits(1 + rng.int(28))}`];
  const opening = rng
    .pick(OPENINGS[kind])
    .replace("VERB", verb)
    .replace("ORDER", order)
    .replace("ACCOUNT", account)
    .replace("DAY", day);
  return { kind, order, account, status, day, opening, write: rightWrite(convention, kind, status, verb) };
}

function rightWrite(
  convention: Convention,
  kind: TaskKind,
  status: string,
  verb: "cancel" | "credit",
): Problem["write"] {
  if (kind === "lost") return "transfer";
  if (kind === "change") return "change";
  return kind === "unwanted" ? (convention.unwanted[status] ?? verb) : verb;
}

function wordTask(problem: Problem, convention: Convention, id: string): Task {
  const knows = problem.kind === "account" ? `Your account is ${problem.account}.` : `Your order is ${problem.order}.`;
  return {
    id,
    description: { purpose: problem.kind, relevant_policies: null, notes: null },
    user_scenario: {
      persona: null,
      instructions: {
        domain: convention.name,
        reason_for_call: problem.opening,
        known_info: knows,
        unknown_info: null,
        task_instructions: USER_INSTRUCTIONS[convention.preparation],
      },
    },
    ticket: null,
    initial_state: null,
    evaluation_criteria: {
      actions: goldenActions(problem, convention),
      env_assertions: null,
      communicate_info: null,
      nl_assertions: null,
      reward_basis: ["DB"],
    },
    issues: null,
    required_documents: null,
    user_tools: null,
  };
}

const LEAVE = "Leave when the agent asks anything else, and when it says that it is done.";
const USER_INSTRUCTIONS: Readonly<Record<Convention["preparation"], string>> = {
  confirm: `Confirm your order in your account when the agent asks you to, once. ${LEAVE}`,
  unlock: `Unlock your order in the app when the agent asks you to, once. ${LEAVE}`,
  hold: "You have no time for questions: leave at the agent's first words.",
};

/** Preparation and write, each by the one who does it. */
function goldenActions(problem: Problem, convention: Convention): GoldenAction[] {
  const { order, day, write } = problem;
  if (write === "transfer") return [goldenAction("assistant", "transfer", {})];
  const prepares = convention.preparation === "hold" ? "assistant" : "user";
  return [
    goldenAction(prepares, convention.preparation, { id: order }),
    goldenAction("assistant", write, write === "change" ? { id: order, day } : { id: order }),
  ];
}

const goldenAction = (
  requestor: GoldenAction["requestor"],
  name: string,
  args: Readonly<Record<string, string>>,
): GoldenAction => ({ action_id: name, requestor, name, arguments: args, info: null, compare_args: null });

/** Scores a conversation as tau2's evaluator does: database, assertions, actions, communicated facts, judged statements. SPEC section 7. */
import { type ExactObject, type ExactValue, keysOf, pythonEquals } from "../base/exact.ts";
import { prepareEnvironment, runAssertion, setState } from "./environment.ts";
import type { Judge, NlVerdict } from "./judge.ts";
import { PythonError } from "./python.ts";
import type {
  Domain,
  EndOfConversation,
  Environment,
  EvaluationCriteria,
  GoldenAction,
  Message,
  RewardInfo,
  RewardType,
  Simulation,
  Task,
  TerminationReason,
  ToolCall,
} from "./types.ts";

/** What is scored, by the original's names. `all` is the benchmark's reward: the product over the task's reward_basis. */
export type EvaluationType =
  | "env"
  | "action"
  | "communicate"
  | "nl_assertions"
  | "all"
  | "all_with_nl_assertions"
  | "all_ignore_basis"
  | "all_with_nl_assertions_ignore_basis";

/** The reward counts natural-language assertions, which need a judge; passing them unseen would be a lie. */
export class NeedsJudgeError extends Error {
  override readonly name = "NeedsJudgeError";

  constructor(readonly task_id: string) {
    super(
      `task ${task_id}: its reward counts nl_assertions, which need a judge model; there is none, so the task cannot be scored`,
    );
  }
}

/** Whether the reward of type `all` depends on a judge. An empty list of assertions is met without one. */
export function needsJudge({ evaluation_criteria }: Task): boolean {
  return evaluation_criteria !== null && asksJudge(evaluation_criteria, "all");
}

function asksJudge(criteria: EvaluationCriteria, type: EvaluationType): boolean {
  return countsNl(criteria, type) && (criteria.nl_assertions ?? []).length > 0;
}

function countsNl({ reward_basis }: EvaluationCriteria, type: EvaluationType): boolean {
  return type === "all" ? reward_basis.includes("NL_ASSERTION") : type.includes("nl_assertions");
}

/** Only conversations that a participant brought to an end are compared with the task's goal; all others earn 0. */
export function isScored(termination: TerminationReason): boolean {
  return termination === "user_stop" || termination === "agent_stop";
}

export interface EvaluateOptions {
  readonly domain: Domain;
  readonly task: Task;
  readonly simulation: Pick<Simulation, "messages" | "termination">;
  /** A replayed write that answers otherwise than recorded is an error (default), or ignored. */
  readonly strict?: boolean;
  /** Default: `all`. */
  readonly type?: EvaluationType;
  /** What a judge said of the task's nl_assertions, just now or in a recording. */
  readonly verdicts?: readonly NlVerdict[] | null;
}

/** The reward and how it came about. Throws NeedsJudgeError where verdicts are missing, and PythonError where the original's replay raises. */
export function evaluate(options: EvaluateOptions): RewardInfo {
  const { task, simulation, type = "all", verdicts = null } = options;
  if (!isScored(simulation.termination)) {
    return unscored(0, `Simulation terminated prematurely. Termination reason: ${simulation.termination}`);
  }
  const criteria = task.evaluation_criteria;
  if (criteria === null) return unscored(1, "No evaluation criteria");
  if (asksJudge(criteria, type) && verdicts === null) throw new NeedsJudgeError(task.id);
  return rewardOf({ ...options, criteria, type, verdicts });
}

/** As `evaluate`, asking the judge where the reward needs one. A judge that does not answer ends it: that is no reward. */
export async function judgedReward({
  judge,
  ...options
}: EvaluateOptions & { readonly judge: Judge | null }): Promise<RewardInfo | EndOfConversation> {
  const { task, simulation, type = "all" } = options;
  const criteria = task.evaluation_criteria;
  if (judge === null || criteria === null || !isScored(simulation.termination) || !asksJudge(criteria, type))
    return evaluate(options);
  const verdicts = await judge({ messages: simulation.messages, nl_assertions: criteria.nl_assertions ?? [] });
  return "end" in verdicts ? verdicts : evaluate({ ...options, verdicts });
}

interface Criteria extends EvaluateOptions {
  readonly criteria: EvaluationCriteria;
  readonly type: EvaluationType;
  readonly verdicts: readonly NlVerdict[] | null;
}

function rewardOf(options: Criteria): RewardInfo {
  const { type, domain, criteria, simulation } = options;
  switch (type) {
    case "env":
      return { ...alone(environmentPart(options)), reward_basis: criteria.reward_basis };
    case "action":
      return alone(actionPart(domain, criteria, simulation.messages));
    case "communicate":
      return alone(communicatePart(criteria, simulation.messages));
    case "nl_assertions":
      return alone(nlPart(options));
    default:
      return combined(options);
  }
}

function combined(options: Criteria): RewardInfo {
  const { type, domain, criteria, simulation } = options;
  const environment = environmentPart(options);
  const action = actionPart(domain, criteria, simulation.messages);
  const nl = countsNl(criteria, type) ? nlPart(options) : null;
  const communicate = communicatePart(criteria, simulation.messages);
  const parts = [environment, action, nl, communicate];
  const ignoresBasis = type.endsWith("ignore_basis");
  const reward_basis = ignoresBasis ? [...ALL_BASES, ...(nl === null ? [] : NL_BASIS)] : criteria.reward_basis;
  // The environment's part has left out what is not in the task's basis already, whatever the type.
  const counted = parts.flatMap((part) => Object.entries(part?.rewards ?? {}) as [RewardType, number][]);
  const reward_breakdown = Object.fromEntries(counted.filter(([kind]) => reward_basis.includes(kind)));
  return {
    ...NOTHING_CHECKED,
    ...Object.assign({}, ...parts.map((part) => part?.checks ?? {})),
    reward: product(Object.values(reward_breakdown)),
    reward_basis,
    reward_breakdown,
    info: { env: environment.info, nl: nl?.info ?? null, communicate: communicate.info, action: action.info },
  };
}

const ALL_BASES = ["DB", "ENV_ASSERTION", "ACTION", "COMMUNICATE"] as const;
const NL_BASIS = ["NL_ASSERTION"] as const;

/** One kind of check: its rewards by name, and what it puts into the report. */
interface Part {
  readonly rewards: Partial<Record<RewardType, number>>;
  readonly checks: Partial<RewardInfo>;
  readonly info: ExactValue;
}

const NOTHING_CHECKED = {
  db_check: null,
  env_assertions: null,
  action_checks: null,
  nl_assertions: null,
  communicate_checks: null,
} as const;

const alone = ({ rewards, checks, info }: Part): RewardInfo => ({
  ...NOTHING_CHECKED,
  ...checks,
  reward: product(Object.values(rewards)),
  reward_basis: null,
  reward_breakdown: rewards,
  info,
});

const unscored = (reward: number, note: string): RewardInfo => ({
  ...NOTHING_CHECKED,
  reward,
  reward_basis: null,
  reward_breakdown: null,
  info: { note },
});

const product = (rewards: readonly number[]): number => rewards.reduce((total, reward) => total * reward, 1);

// ---------------------------------------------------------------------------------------------------------------------
// Database and assertions

function environmentPart({ domain, task, criteria, simulation, strict = true }: Criteria): Part {
  if (criteria.actions === null && criteria.env_assertions === null) {
    const checks = { db_check: { db_match: true, db_reward: 1 } };
    return { rewards: {}, checks, info: { note: "No expected actions or env assertions" } };
  }
  const environment = domain.createEnvironment();
  setState({ domain, environment, initialState: task.initial_state, history: simulation.messages, strict });
  const gold = goldHashes(domain, task);
  const db_match = environment.agentDbHash() === gold.agent && environment.userDbHash() === gold.user;
  const env_assertions = (criteria.env_assertions ?? []).map((env_assertion) => {
    const met = runAssertion(domain, environment, env_assertion);
    return { env_assertion, met, reward: Number(met) };
  });
  const rewards = { DB: Number(db_match), ENV_ASSERTION: Number(env_assertions.every(({ met }) => met)) };
  return {
    rewards: Object.fromEntries(
      Object.entries(rewards).filter(([kind]) => criteria.reward_basis.includes(kind as RewardType)),
    ),
    checks: { db_check: { db_match, db_reward: Number(db_match) }, env_assertions },
    info: null,
  };
}

interface GoldHashes {
  readonly agent: string;
  readonly user: string | null;
  /** Does the golden run change anything? */
  readonly writes: boolean;
}

const goldCache = new WeakMap<Domain, WeakMap<Task, GoldHashes>>();

/** The state that the golden actions lead to. A failing one is passed over, as the original does. */
function goldHashes(domain: Domain, task: Task): GoldHashes {
  const ofDomain = goldCache.get(domain) ?? new WeakMap<Task, GoldHashes>();
  goldCache.set(domain, ofDomain);
  const known = ofDomain.get(task);
  if (known !== undefined) return known;
  const environment = prepareEnvironment(domain, task, domain.createGoldEnvironment?.());
  const before = [environment.agentDbHash(), environment.userDbHash()];
  for (const action of task.evaluation_criteria?.actions ?? []) runGolden(environment, action);
  const [agent, user] = [environment.agentDbHash(), environment.userDbHash()];
  const hashes = { agent, user, writes: agent !== before[0] || user !== before[1] };
  ofDomain.set(task, hashes);
  return hashes;
}

function runGolden(environment: Environment, { action_id, name, requestor, arguments: args }: GoldenAction): void {
  const call: ToolCall = { id: action_id, name, requestor, arguments: args };
  if (environment.callTool === undefined) {
    environment.getResponse(call);
    return;
  }
  try {
    environment.callTool(call);
  } catch (error) {
    if (!(error instanceof PythonError)) throw error;
  }
}

/** Whether the task's golden run changes a database: where it does not, an agent that does nothing earns DB = 1. */
export function taskWrites(domain: Domain, task: Task): boolean {
  return goldHashes(domain, task).writes;
}

// ---------------------------------------------------------------------------------------------------------------------
// Actions, communication, judged statements

function actionPart(domain: Domain, criteria: EvaluationCriteria, messages: readonly Message[]): Part {
  if (!criteria.actions?.length)
    return { rewards: { ACTION: 1 }, checks: {}, info: { note: "No actions to evaluate" } };
  const calls = messages.flatMap((message) => (message.role === "tool" ? [] : (message.tool_calls ?? [])));
  const action_checks = criteria.actions.map((action) => {
    const action_match = calls.some((call) => matchesAction(action, call));
    return { action, action_match, action_reward: Number(action_match), tool_type: domain.toolKind(action.name) };
  });
  const ACTION = Number(action_checks.every(({ action_match }) => action_match));
  return { rewards: { ACTION }, checks: { action_checks }, info: null };
}

/** Same name, and equal in `compare_args`; without those, in the arguments that the *call* has (SPEC section 7). */
export function matchesAction(
  action: Pick<GoldenAction, "name" | "arguments" | "compare_args">,
  call: Pick<ToolCall, "name" | "arguments">,
): boolean {
  if (action.name !== call.name) return false;
  const compared = new Set(action.compare_args ?? keysOf(call.arguments));
  const chosen = (args: ExactObject): ExactObject =>
    Object.fromEntries(Object.entries(args).filter(([key]) => compared.has(key)));
  return compared.size === 0 || pythonEquals(chosen(call.arguments), chosen(action.arguments));
}

function communicatePart(criteria: EvaluationCriteria, messages: readonly Message[]): Part {
  if (!criteria.communicate_info?.length)
    return { rewards: { COMMUNICATE: 1 }, checks: {}, info: { note: "No communicate_info to evaluate" } };
  const communicate_checks = criteria.communicate_info.map((info) => communicated(info, messages));
  const COMMUNICATE = Number(communicate_checks.every(({ met }) => met));
  return { rewards: { COMMUNICATE }, checks: { communicate_checks }, info: null };
}

function nlPart({ criteria, verdicts }: Criteria): Part {
  if (!criteria.nl_assertions?.length) {
    const info = { note: "No nl_assertions to evaluate" };
    return { rewards: { NL_ASSERTION: 1 }, checks: { nl_assertions: [] }, info };
  }
  if (verdicts === null) throw new Error("evaluator: the judge was not asked");
  const NL_ASSERTION = Number(verdicts.every(({ met }) => met));
  return { rewards: { NL_ASSERTION }, checks: { nl_assertions: verdicts }, info: null };
}

/** Whether the agent said it: the message loses its commas, the fact keeps them, so a fact with a comma never matches. */
export function communicated(
  info: string,
  messages: readonly Message[],
): { info: string; met: boolean; justification: string } {
  const found = messages.find(
    ({ role, content }) =>
      role === "assistant" &&
      content !== null &&
      content.trim() !== "" &&
      content.toLowerCase().replaceAll(",", "").includes(info.toLowerCase()),
  );
  if (found === undefined) return { info, met: false, justification: `Information '${info}' not communicated.` };
  return { info, met: true, justification: `Information '${info}' communicated in the message:\n '${found.content}'` };
}

/** Scores a conversation as tau2's evaluator does (type ALL): database, assertions, actions, communicated facts. SPEC section 7. */
import { type ExactObject, type ExactValue, keysOf, pythonEquals } from "../base/exact.ts";
import { prepareEnvironment, runAssertion, setState } from "./environment.ts";
import { PythonError } from "./python.ts";
import type {
  Domain,
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

/** The task's reward counts natural-language assertions, which need a judge; passing them unseen would be a lie. */
export class NeedsJudgeError extends Error {
  override readonly name = "NeedsJudgeError";

  constructor(readonly task_id: string) {
    super(
      `task ${task_id}: its reward_basis has NL_ASSERTION, which needs a judge model; there is none, so the task cannot be scored`,
    );
  }
}

/** Whether `evaluate` can score the task. */
export function isScorable({ evaluation_criteria }: Task): boolean {
  return !(evaluation_criteria?.reward_basis.includes("NL_ASSERTION") ?? false);
}

/** Only conversations that a participant brought to an end are compared with the task's goal; all others earn 0. */
export function isScored(termination: TerminationReason): boolean {
  return termination === "user_stop" || termination === "agent_stop";
}

export interface EvaluateOptions {
  readonly domain: Domain;
  readonly task: Task;
  readonly simulation: Pick<Simulation, "messages" | "termination">;
  /** Makes the environment that the trajectory is replayed on, where it is not the domain's usual one (solo mode). */
  readonly createEnvironment?: () => Environment;
  /** A replayed write that answers otherwise than recorded is an error (default), or ignored. */
  readonly strict?: boolean;
}

/** The reward and how it came about. Throws NeedsJudgeError, and PythonError where the original's replay raises. */
export function evaluate({ domain, task, simulation, createEnvironment, strict = true }: EvaluateOptions): RewardInfo {
  if (!isScored(simulation.termination)) {
    return unscored(0, `Simulation terminated prematurely. Termination reason: ${simulation.termination}`);
  }
  const criteria = task.evaluation_criteria;
  if (criteria === null) return unscored(1, "No evaluation criteria");
  if (!isScorable(task)) throw new NeedsJudgeError(task.id);
  const environment = environmentPart({
    domain,
    task,
    criteria,
    messages: simulation.messages,
    createEnvironment,
    strict,
  });
  const action = actionPart(domain, criteria, simulation.messages);
  const communicate = communicatePart(criteria, simulation.messages);
  const breakdown = Object.fromEntries(
    Object.entries({ ...environment.rewards, ACTION: action.reward, COMMUNICATE: communicate.reward }).filter(
      ([kind]) => criteria.reward_basis.includes(kind as RewardType),
    ),
  );
  return {
    reward: Object.values(breakdown).reduce((product, reward) => product * reward, 1),
    db_check: environment.db_check,
    env_assertions: environment.env_assertions,
    action_checks: action.checks,
    nl_assertions: null,
    communicate_checks: communicate.checks,
    reward_basis: criteria.reward_basis,
    reward_breakdown: breakdown,
    info: { env: environment.info, nl: null, communicate: communicate.info, action: action.info },
  };
}

function unscored(reward: number, note: string): RewardInfo {
  return {
    reward,
    db_check: null,
    env_assertions: null,
    action_checks: null,
    nl_assertions: null,
    communicate_checks: null,
    reward_basis: null,
    reward_breakdown: null,
    info: { note },
  };
}

// ---------------------------------------------------------------------------------------------------------------------
// Database and assertions

type EnvironmentPart = Pick<RewardInfo, "db_check" | "env_assertions" | "info"> & {
  readonly rewards: Partial<Record<RewardType, number>>;
};

interface EnvironmentPartOptions {
  readonly domain: Domain;
  readonly task: Task;
  readonly criteria: EvaluationCriteria;
  readonly messages: readonly Message[];
  readonly createEnvironment: (() => Environment) | undefined;
  readonly strict: boolean;
}

function environmentPart({
  domain,
  task,
  criteria,
  messages,
  createEnvironment,
  strict,
}: EnvironmentPartOptions): EnvironmentPart {
  if (criteria.actions === null && criteria.env_assertions === null) {
    const info = { note: "No expected actions or env assertions" };
    return { db_check: { db_match: true, db_reward: 1 }, env_assertions: null, info, rewards: {} };
  }
  const predicted = createEnvironment?.() ?? domain.createEnvironment();
  setState({ domain, environment: predicted, initialState: task.initial_state, history: messages, strict });
  const gold = goldHashes(domain, task);
  const db_match = predicted.agentDbHash() === gold.agent && predicted.userDbHash() === gold.user;
  const env_assertions = (criteria.env_assertions ?? []).map((env_assertion) => {
    const met = runAssertion(domain, predicted, env_assertion);
    return { env_assertion, met, reward: Number(met) };
  });
  return {
    db_check: { db_match, db_reward: Number(db_match) },
    env_assertions,
    info: null,
    rewards: { DB: Number(db_match), ENV_ASSERTION: Number(env_assertions.every(({ met }) => met)) },
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
  const environment = prepareEnvironment(domain, task);
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
// Actions and communication

interface Part<Checks> {
  readonly reward: number;
  /** null: nothing to check. */
  readonly checks: Checks | null;
  readonly info: ExactValue;
}

function actionPart(
  domain: Domain,
  criteria: EvaluationCriteria,
  messages: readonly Message[],
): Part<NonNullable<RewardInfo["action_checks"]>> {
  if (!criteria.actions?.length) return { reward: 1, checks: null, info: { note: "No actions to evaluate" } };
  const calls = messages.flatMap((message) => (message.role === "tool" ? [] : (message.tool_calls ?? [])));
  const checks = criteria.actions.map((action) => {
    const action_match = calls.some((call) => matchesAction(action, call));
    return { action, action_match, action_reward: Number(action_match), tool_type: domain.toolKind(action.name) };
  });
  return { reward: Number(checks.every(({ action_match }) => action_match)), checks, info: null };
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

function communicatePart(
  criteria: EvaluationCriteria,
  messages: readonly Message[],
): Part<NonNullable<RewardInfo["communicate_checks"]>> {
  if (!criteria.communicate_info?.length)
    return { reward: 1, checks: null, info: { note: "No communicate_info to evaluate" } };
  const checks = criteria.communicate_info.map((info) => communicated(info, messages));
  return { reward: Number(checks.every(({ met }) => met)), checks, info: null };
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

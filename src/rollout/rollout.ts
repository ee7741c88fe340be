/** One rollout: the policy, a user and an environment hold the conversation of one task, then the evaluator scores it. */
import type { Rng } from "../base/rng.ts";
import type { CallGrammar, Policy, SamplingOptions } from "../core/policy.ts";
import { agentPrompt, soloAgent } from "../tau2/agent.ts";
import { prepareEnvironment } from "../tau2/environment.ts";
import { judgedReward, taskWrites } from "../tau2/evaluator.ts";
import type { Judge } from "../tau2/judge.ts";
import { runConversation } from "../tau2/orchestrator.ts";
import type {
  ConversationLimits,
  Domain,
  Environment,
  Message,
  RewardInfo,
  Simulation,
  Task,
  User,
} from "../tau2/types.ts";
import { type AgentCounts, answeringUnreadableCalls, MALFORMED_CALL, policyAgent } from "./agent.ts";
import { Dialogue } from "./dialogue.ts";
import type { PhaseTimes } from "./phase-times.ts";
import type { ChatRenderer } from "./renderer.ts";
import type { Rollout } from "./types.ts";

/** A user whose model costs money says what its replies so far are worth, whether they were paid now or kept from before. */
export interface RolloutUser extends User {
  readonly costUsd?: () => number;
}

/** Who plays the user in solo mode. */
export const NO_USER = "none";

export interface RolloutRequest {
  readonly policy: Policy;
  readonly domain: Domain;
  readonly task: Task;
  /** Index within the group. */
  readonly sample: number;
  /** This rollout's own; every turn of the agent forks it. */
  readonly rng: Rng;
  readonly renderer: ChatRenderer;
  readonly sampling: SamplingOptions;
  /** null: the agent's turns are free. */
  readonly grammar: CallGrammar | null;
  readonly context_tokens_max: number;
  readonly malformed_calls: "text_to_user" | "error_to_agent";
  readonly limits: ConversationLimits;
  /** null in solo mode only. */
  readonly user: RolloutUser | null;
  /** null: tasks whose reward needs one are refused. */
  readonly judge: Judge | null;
  readonly policy_version: number;
  /** Gets what environment, user and judge take. */
  readonly times: PhaseTimes;
  readonly signal: AbortSignal;
}

/** Whatever happens, the sequences of agent and user are released; an abort releases them at once. */
export async function runRollout(request: RolloutRequest): Promise<Rollout> {
  const { policy, renderer, rng, sampling, grammar, context_tokens_max, user, signal } = request;
  const dialogue = new Dialogue({
    policy,
    model: "policy",
    renderer,
    sampling,
    grammar,
    context_tokens_max,
    seedOf: (turn) => rng.fork("turn", turn).uint64(),
  });
  const close = () => {
    dialogue.close();
    user?.close?.();
  };
  signal.addEventListener("abort", close, { once: true });
  try {
    return await converse(request, dialogue);
  } finally {
    signal.removeEventListener("abort", close);
    close();
  }
}

async function converse(request: RolloutRequest, dialogue: Dialogue): Promise<Rollout> {
  const { domain, task, renderer, malformed_calls, limits, signal } = request;
  const systemPrompt = agentPrompt(domain, task);
  const agent = policyAgent({ dialogue, systemPrompt, toolFormat: renderer.toolFormat, malformed_calls });
  const simulation = await runConversation({
    environment: timedEnvironment(request),
    agent: domain.solo_mode ? soloAgent(agent) : agent,
    user: timedUser(request),
    limits,
    solo_mode: domain.solo_mode,
    history: task.initial_state?.message_history ?? undefined,
    signal,
  });
  return recordOf(request, { dialogue, counts: agent.counts, ...(await scored(request, simulation)) });
}

function timedEnvironment({ domain, task, times }: RolloutRequest): Environment {
  const environment = answeringUnreadableCalls(times.measure("environment", () => prepareEnvironment(domain, task)));
  return {
    getResponse: (call) => times.measure("environment", () => environment.getResponse(call)),
    agentDbHash: () => environment.agentDbHash(),
    userDbHash: () => environment.userDbHash(),
    get ended() {
      return environment.ended ?? null;
    },
    sync: () => times.measure("environment", () => environment.sync?.()),
  };
}

function timedUser({ user, times }: RolloutRequest): User | null {
  if (user === null) return null;
  return { identity: user.identity, reply: (incoming) => times.waiting("user", () => user.reply(incoming)) };
}

type Scored = Pick<Outcome, "simulation" | "reward_info">;

/** A conversation that failed for technical reasons has no reward; no more has one whose judge did not answer. */
async function scored({ domain, task, judge, times }: RolloutRequest, simulation: Simulation): Promise<Scored> {
  if (simulation.termination === "infrastructure_error") return { simulation, reward_info: null };
  const reward = await times.waiting(judge === null ? "environment" : "judge", () =>
    judgedReward({ domain, task, simulation, judge }),
  );
  if (!("end" in reward)) return { simulation, reward_info: reward };
  return { simulation: { ...simulation, termination: reward.end, detail: reward.detail }, reward_info: null };
}

interface Outcome {
  readonly dialogue: Dialogue;
  readonly counts: Readonly<AgentCounts>;
  readonly simulation: Simulation;
  readonly reward_info: RewardInfo | null;
}

function recordOf(request: RolloutRequest, { dialogue, counts, simulation, reward_info }: Outcome): Rollout {
  const { domain, task, sample, user, policy_version } = request;
  const { messages, termination, detail } = simulation;
  return {
    domain: domain.name,
    task_id: task.id,
    sample,
    ...dialogue.record(),
    messages,
    termination,
    detail,
    reward: reward_info?.reward ?? 0,
    reward_info,
    ...counts,
    masked_mass: dialogue.maskedMass,
    ...toolCounts(messages),
    task_writes: taskWrites(domain, task),
    policy_version,
    user_identity: user?.identity ?? NO_USER,
    user_cost_usd: user?.costUsd?.() ?? 0,
  };
}

/** The agent's calls and their errors; a call that could not be read is none, and is counted elsewhere. */
function toolCounts(messages: readonly Message[]): { readonly tool_calls: number; readonly tool_errors: number } {
  const calls = messages.flatMap((message) => (message.role === "assistant" ? (message.tool_calls ?? []) : []));
  const made = new Set(calls.filter((call) => call.name !== MALFORMED_CALL).map((call) => call.id));
  const errors = messages.filter(
    (message) => message.role === "tool" && message.requestor === "assistant" && message.error && made.has(message.id),
  );
  return { tool_calls: made.size, tool_errors: errors.length };
}

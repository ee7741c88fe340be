/**
 * Agents that help nobody. Some of tau2's tasks reward them, because their goal is that nothing changes; so a mean reward
 * says little unless these baselines stand beside it. The evaluator scores them; no model is asked.
 */
import type { DomainSplit } from "../curriculum/split.ts";
import { BASELINES, type Baseline, type DomainBaselines, domainBaselines } from "../metrics/baselines.ts";
import { PASS_REWARD_MIN } from "../metrics/names.ts";
import { GREETING } from "../tau2/agent.ts";
import { prepareEnvironment } from "../tau2/environment.ts";
import { evaluate, needsJudge, taskWrites } from "../tau2/evaluator.ts";
import { PythonError } from "../tau2/python.ts";
import type { Domain, Message, ParticipantMessage, Task, ToolCall } from "../tau2/types.ts";

/** Does an agent that does nothing get the task's reward? One that needs a judge model is taken for one that does not. */
export function solvedByNothing(domain: Domain, task: Task): boolean {
  return (rewardsOf(domain, task)?.empty ?? 0) > PASS_REWARD_MIN;
}

/** Of the tasks that are evaluated; those that need a judge model are in no mean. */
export function baselinesOf({ domain, test, excluded }: DomainSplit): DomainBaselines {
  const tasks = test.flatMap((task) => {
    const rewards = rewardsOf(domain, task);
    return rewards === null ? [] : [{ id: task.id, writes: taskWrites(domain, task), rewards }];
  });
  return domainBaselines(tasks, excluded);
}

type Rewards = Readonly<Record<Baseline, number | null>>;

const cache = new WeakMap<Domain, WeakMap<Task, Rewards>>();

/** null: only a judge model can score the task. */
function rewardsOf(domain: Domain, task: Task): Rewards | null {
  if (needsJudge(task)) return null;
  const ofDomain = cache.get(domain) ?? new WeakMap<Task, Rewards>();
  cache.set(domain, ofDomain);
  const known = ofDomain.get(task);
  if (known !== undefined) return known;
  const rewards = {
    empty: rewardOf(domain, task, []),
    refuse: rewardOf(domain, task, [said(GREETING), said(REFUSAL)]),
    transfer: transferReward(domain, task),
  };
  ofDomain.set(task, rewards);
  return rewards;
}

const REFUSAL = "I am sorry, but I cannot help you with that.";
const TRANSFER = "transfer_to_human_agents";

function rewardOf(domain: Domain, task: Task, said: readonly Message[]): number {
  const messages = [...(task.initial_state?.message_history ?? []), ...said];
  try {
    return evaluate({ domain, task, simulation: { messages, termination: "user_stop" } }).reward;
  } catch (error) {
    if (error instanceof PythonError) return 0; // an assertion that looks for what the agent did not make
    throw error;
  }
}

/** null: the domain has no such tool. */
function transferReward(domain: Domain, task: Task): number | null {
  if (domain.toolKind(TRANSFER) === null) return null;
  const call: ToolCall = {
    id: "transfer",
    name: TRANSFER,
    arguments: { summary: BASELINES.transfer },
    requestor: "assistant",
  };
  const answer = prepareEnvironment(domain, task).getResponse(call);
  const calling: Message = { role: "assistant", content: null, tool_calls: [call] };
  return rewardOf(domain, task, [said(GREETING), calling, answer]);
}

const said = (content: string): ParticipantMessage => ({ role: "assistant", content, tool_calls: null });

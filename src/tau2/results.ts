/** Simulations in tau2's own results format, which its tools and leaderboard read. */
import { type ExactObject, type ExactValue, exactOf, Float, objectOf } from "../base/exact.ts";
import type { Domain, Message, RewardInfo, Simulation, Task } from "./types.ts";

/** One conversation with its score; times come from the caller's clock. */
export interface SimulationRun {
  readonly id: string;
  readonly task: Task;
  readonly trial: number;
  readonly seed: number;
  readonly simulation: Simulation;
  readonly reward_info: RewardInfo | null;
  /** ISO 8601, without a time zone, as tau2 writes it. */
  readonly start_time: string;
  readonly end_time: string;
  /** Seconds. */
  readonly duration: number;
  /** US dollars; null: not known. */
  readonly agent_cost: number | null;
  readonly user_cost: number | null;
}

export interface ResultsOptions {
  readonly domain: Domain;
  readonly runs: readonly SimulationRun[];
  readonly timestamp: string;
  readonly git_commit: string;
  readonly num_trials: number;
  readonly max_steps: number;
  readonly max_errors: number;
  readonly seed: number;
  readonly agent: Participant;
  readonly user: Participant & { readonly global_simulation_guidelines?: string | null };
}

/** Who played a part: the implementation's name, the model, its settings. */
export interface Participant {
  readonly implementation: string;
  readonly llm: string | null;
  readonly llm_args: Readonly<Record<string, unknown>> | null;
}

/** A results file as one value; write it with `dumps(results, { indent: 2 })`. */
export function toTau2Results(options: ResultsOptions): ExactObject {
  const tasks = new Map(options.runs.map(({ task }) => [task.id, task]));
  return {
    timestamp: options.timestamp,
    info: infoRecord(options),
    tasks: [...tasks.values()].map((task) => exactOf(task)),
    simulations: options.runs.map(simulationRecord),
  };
}

function infoRecord({
  domain,
  git_commit,
  num_trials,
  max_steps,
  max_errors,
  seed,
  agent,
  user,
}: ResultsOptions): ExactObject {
  return {
    git_commit,
    num_trials,
    max_steps,
    max_errors,
    user_info: { ...participantRecord(user), global_simulation_guidelines: user.global_simulation_guidelines ?? null },
    agent_info: participantRecord(agent),
    environment_info: { domain_name: domain.name, policy: domain.policy, tool_defs: null },
    seed,
  };
}

const participantRecord = ({ implementation, llm, llm_args }: Participant): ExactObject => ({
  implementation,
  llm,
  llm_args: exactOf(llm_args),
});

function simulationRecord(run: SimulationRun): ExactObject {
  const { id, task, trial, seed, simulation, reward_info, start_time, end_time, duration, agent_cost, user_cost } = run;
  return {
    id,
    task_id: task.id,
    timestamp: end_time,
    start_time,
    end_time,
    duration: new Float(duration),
    termination_reason: simulation.termination,
    agent_cost: floatOrNull(agent_cost),
    user_cost: floatOrNull(user_cost),
    reward_info: reward_info && rewardRecord(reward_info),
    messages: simulation.messages.map(messageRecord),
    trial,
    seed,
  };
}

const floatOrNull = (value: number | null): ExactValue => (value === null ? null : new Float(value));

function messageRecord(message: Message, turn_idx: number): ExactObject {
  return objectOf([...Object.entries(message as unknown as ExactObject), ["turn_idx", turn_idx]]);
}

/** A reward as tau2 prints it: rewards are floats there. */
export function rewardRecord(info: RewardInfo): ExactObject {
  const breakdown =
    info.reward_breakdown &&
    objectOf(Object.entries(info.reward_breakdown).map(([kind, reward]) => [kind, new Float(reward)]));
  return {
    reward: new Float(info.reward),
    db_check: info.db_check && { db_match: info.db_check.db_match, db_reward: new Float(info.db_check.db_reward) },
    env_assertions:
      info.env_assertions?.map((check) => ({ ...record(check), reward: new Float(check.reward) })) ?? null,
    action_checks:
      info.action_checks?.map((check) => ({ ...record(check), action_reward: new Float(check.action_reward) })) ?? null,
    nl_assertions: info.nl_assertions?.map(record) ?? null,
    communicate_checks: info.communicate_checks?.map(record) ?? null,
    reward_basis: info.reward_basis,
    reward_breakdown: breakdown,
    info: info.info,
  };
}

const record = (value: object): ExactObject => value as ExactObject;

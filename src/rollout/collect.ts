/**
 * All rollouts of a step, or of an evaluation, at once. Every rollout has its own random stream, so neither concurrency nor
 * timing changes what it says; results stand in the order of the plan.
 *
 * Axes: P planned tasks · G rollouts of each.
 */
import { UserError } from "../base/errors.ts";
import { Rng } from "../base/rng.ts";
import type { RunConfig } from "../config/schema.ts";
import type { Policy, SamplingOptions } from "../core/policy.ts";
import type { Judge } from "../tau2/judge.ts";
import type { Domain, Task } from "../tau2/types.ts";
import { toolsJson } from "./local-user.ts";
import { PhaseTimes } from "./phase-times.ts";
import { agentGrammar, type ChatRenderer, openRenderer } from "./renderer.ts";
import { type RolloutUser, runRollout } from "./rollout.ts";
import type { Group, Rollout } from "./types.ts";

export interface PlannedTask {
  readonly domain: Domain;
  readonly task: Task;
  /** Added by a continual-learning method from an earlier domain. */
  readonly replayed: boolean;
}

/** What a user or a judge may need besides its task: a random stream of its own, and the signal to break off. */
export interface UserContext {
  readonly rng: Rng;
  readonly signal: AbortSignal;
}

export interface CollectOptions {
  readonly config: CollectConfig;
  /** Evaluations sample with `eval_temperature`, and their streams derive from `eval_seed` alone: the same in every row. */
  readonly phase: "train" | "eval";
  /** Counted over the whole run, so that no two steps share a stream; evaluations ignore it. */
  readonly step: number;
  /** Of the step's sampling (`dynamic_sampling`), from 0; each has streams of its own. */
  readonly round?: number;
  /** Rollouts per task. */
  readonly samples: number;
  /** Not asked in solo mode. */
  readonly makeUser: (domain: Domain, task: Task, context: UserContext) => RolloutUser;
  /** Absent: no task of the plan needs one. */
  readonly makeJudge?: (context: UserContext) => Judge;
  /** Optimizer steps taken so far. */
  readonly policy_version: number;
  /** Gets what environments, users and judges take. */
  readonly times?: PhaseTimes;
  /** For progress; called as rollouts end, in any order. */
  readonly onRollout?: (rollout: Rollout) => void;
  readonly signal?: AbortSignal;
}

export type CollectConfig = Pick<
  RunConfig,
  | "model_name_or_path"
  | "max_context_tokens"
  | "seed"
  | "eval_seed"
  | "max_steps"
  | "max_errors"
  | "temperature"
  | "eval_temperature"
  | "top_p"
  | "top_k"
  | "min_p"
  | "max_new_tokens"
  | "enable_thinking"
  | "malformed_calls"
  | "constrained_tool_calls"
  | "failed_rollouts_max"
>;

/**
 * One group per planned task. A rollout that fails for technical reasons is data (`infrastructure_error`); too many of
 * them are a UserError. Any other error, and an abort, ends all of them, frees their sequences and is thrown at once.
 */
export async function collectRollouts(
  policy: Policy,
  planned_P: readonly PlannedTask[],
  options: CollectOptions,
): Promise<Group[]> {
  const failure = new AbortController();
  const signal = AbortSignal.any([failure.signal, ...(options.signal ? [options.signal] : [])]);
  const start = rolloutStarter(policy, { ...options, signal });
  try {
    const occurrences_P = occurrencesOf(planned_P);
    const started_P = planned_P.map((planned, p) =>
      Promise.all(
        Array.from({ length: options.samples }, (_, sample) =>
          start(planned, { sample, occurrence: occurrences_P[p] ?? 0 }),
        ),
      ),
    );
    const rollouts_PG = await orAborted(signal, Promise.all(started_P));
    requireEnoughSound(rollouts_PG.flat(), options.config);
    return planned_P.map(({ domain, task, replayed }, p) => ({
      domain: domain.name,
      task_id: task.id,
      replayed,
      rollouts: rollouts_PG[p] ?? [],
    }));
  } catch (error) {
    failure.abort(error);
    throw error;
  }
}

interface Place {
  readonly sample: number;
  /** How often the same task stands earlier in the plan. */
  readonly occurrence: number;
}

function rolloutStarter(policy: Policy, options: CollectOptions & { readonly signal: AbortSignal }) {
  const { config, makeUser, makeJudge, policy_version, onRollout, signal } = options;
  const times = options.times ?? new PhaseTimes(() => 0);
  const renderers = new Map<string, Promise<ChatRenderer>>();
  const stream = phaseStream(options);

  async function start({ domain, task }: PlannedTask, { sample, occurrence }: Place): Promise<Rollout> {
    const renderer = renderers.get(domain.name) ?? openRenderer(policy, rendererOptions(policy, domain, config));
    renderers.set(domain.name, renderer);
    const rng = stream.fork(domain.name, task.id, occurrence, sample);
    const opened = await renderer;
    signal.throwIfAborted();
    const rollout = await runRollout({
      policy,
      domain,
      task,
      sample,
      rng: rng.fork("agent"),
      renderer: opened,
      sampling: samplingOf(policy, options),
      grammar: agentGrammar(opened, config),
      context_tokens_max: contextTokensMax(policy, config),
      malformed_calls: config.malformed_calls,
      limits: config,
      user: domain.solo_mode ? null : makeUser(domain, task, { rng: rng.fork("user"), signal }),
      judge: makeJudge?.({ rng: rng.fork("judge"), signal }) ?? null,
      policy_version,
      times,
      signal,
    });
    onRollout?.(rollout);
    return rollout;
  }
  return start;
}

function phaseStream({ phase, step, round = 0, config }: CollectOptions): Rng {
  if (phase === "eval") return Rng.from(config.eval_seed).fork("eval");
  const stream = Rng.from(config.seed).fork("train", step);
  return round === 0 ? stream : stream.fork("round", round);
}

function samplingOf(policy: Policy, { phase, config }: CollectOptions): SamplingOptions {
  const { temperature, eval_temperature, top_p, top_k, min_p, max_new_tokens } = config;
  return {
    temperature: phase === "train" ? temperature : eval_temperature,
    top_p,
    top_k,
    min_p,
    max_new_tokens,
    stop_token_ids: policy.info.eos_token_ids,
  };
}

/** The model's own limit bounds the configured one. */
export function contextTokensMax(
  policy: Policy,
  { max_context_tokens }: Pick<RunConfig, "max_context_tokens">,
): number {
  return Math.min(max_context_tokens ?? Number.POSITIVE_INFINITY, policy.info.context_tokens_max);
}

function rendererOptions(policy: Policy, domain: Domain, config: CollectConfig) {
  return {
    model: "policy",
    info: policy.info,
    directory: config.model_name_or_path,
    tools_json: toolsJson(domain.tools),
    enable_thinking: config.enable_thinking,
  };
}

function occurrencesOf(planned: readonly PlannedTask[]): number[] {
  const counts = new Map<string, number>();
  return planned.map(({ domain, task }) => {
    const key = JSON.stringify([domain.name, task.id]);
    const before = counts.get(key) ?? 0;
    counts.set(key, before + 1);
    return before;
  });
}

function requireEnoughSound(rollouts: readonly Rollout[], { failed_rollouts_max }: CollectConfig): void {
  const failed = rollouts.filter((rollout) => rollout.termination === "infrastructure_error");
  if (failed.length <= failed_rollouts_max * rollouts.length) return;
  throw new UserError(
    "failed_rollouts_max",
    `${failed.length} of ${rollouts.length} rollouts failed for technical reasons, more than the share of ` +
      `${failed_rollouts_max} that is allowed. The first: ${failed[0]?.detail ?? "no detail"}`,
  );
}

/** The result, or the signal's reason as soon as it fires: a conversation may be waiting for a server that never answers. */
function orAborted<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  const aborted = Promise.withResolvers<never>();
  const stop = () => aborted.reject(signal.reason);
  if (signal.aborted) stop();
  signal.addEventListener("abort", stop, { once: true });
  return Promise.race([work, aborted.promise]).finally(() => signal.removeEventListener("abort", stop));
}

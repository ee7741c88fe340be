/**
 * Evaluation: every domain's test tasks, `eval_trials` times each. The random streams depend on `eval_seed`, domain,
 * task and trial only, so all rows of a score matrix, runs and methods are evaluated under the same luck.
 */
import type { RunConfig } from "../config/schema.ts";
import type { ModelName, Policy } from "../core/policy.ts";
import type { DomainSplit } from "../curriculum/split.ts";
import type { DomainBaselines } from "../metrics/baselines.ts";
import { resampleStream } from "../metrics/bootstrap.ts";
import { type DomainScore, scoreOf, type TaskRewards, taskRewards } from "../metrics/score.ts";
import type { Group } from "../rollout/types.ts";
import { klDrift } from "./drift.ts";
import { baselinesOf } from "./noop.ts";
import type { Rollouts } from "./rollouts.ts";

export interface Evaluation {
  readonly scores: Readonly<Record<string, DomainScore>>;
  readonly rewards: Readonly<Record<string, TaskRewards>>;
  readonly groups: Readonly<Record<string, readonly Group[]>>;
  readonly baselines: Readonly<Record<string, DomainBaselines>>;
}

export interface EvaluateOptions {
  readonly rollouts: Rollouts;
  readonly config: RunConfig;
  /** Optimizer updates so far. */
  readonly policy_version: number;
  /** Called before the rollouts of a domain. */
  readonly enter?: (domain: string) => Promise<void>;
  /** Of each task; absent: `eval_trials`. */
  readonly trials?: number;
  /** Where the distance from the base model is wanted, too. */
  readonly drift?: { readonly policy: Policy; readonly base: ModelName } | null;
}

/** One domain after the other; the conversations of a domain run at once. */
export async function evaluateDomains(splits: readonly DomainSplit[], options: EvaluateOptions): Promise<Evaluation> {
  const evaluated: (readonly [string, DomainEvaluation])[] = [];
  for (const split of splits) evaluated.push([split.domain.name, await evaluateDomain(split, options)]);
  const pick = <T>(value: (evaluation: DomainEvaluation) => T): Record<string, T> =>
    Object.fromEntries(evaluated.map(([domain, evaluation]) => [domain, value(evaluation)]));
  return {
    scores: pick(({ score }) => score),
    rewards: pick(({ rewards }) => rewards),
    groups: pick(({ groups }) => groups),
    baselines: pick(({ baselines }) => baselines),
  };
}

export interface DomainEvaluation {
  readonly score: DomainScore;
  readonly rewards: TaskRewards;
  readonly groups: readonly Group[];
  readonly baselines: DomainBaselines;
}

export async function evaluateDomain(split: DomainSplit, options: EvaluateOptions): Promise<DomainEvaluation> {
  const { domain, test, contaminated, nl_assertions, excluded } = split;
  const { config, policy_version, drift = null, trials = config.eval_trials } = options;
  await options.enter?.(domain.name);
  const planned = test.map((task) => ({ domain, task, replayed: false }));
  const groups = await options.rollouts.evaluate(planned, {
    label: `evaluating ${domain.name}`,
    policy_version,
    trials,
  });
  const kl_drift = drift === null ? null : await klDrift(drift.policy, drift.base, groups);
  const rng = resampleStream(config.eval_seed, domain.name);
  return {
    score: scoreOf(groups, { contaminated, nl_assertions, n_excluded: excluded.test.length, kl_drift, rng }),
    rewards: taskRewards(groups),
    groups,
    baselines: baselinesOf(split),
  };
}

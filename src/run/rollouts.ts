/** Rollouts of a step and of an evaluation, with the run's users, progress and interruption. */
import type { RunConfig } from "../config/schema.ts";
import type { Policy } from "../core/policy.ts";
import { type CollectOptions, collectRollouts, type PlannedTask } from "../rollout/collect.ts";
import type { Group } from "../rollout/types.ts";
import type { Reporter } from "./report.ts";

export interface RolloutsOptions {
  readonly config: RunConfig;
  readonly policy: Policy;
  readonly makeUser: CollectOptions["makeUser"];
  readonly makeJudge: CollectOptions["makeJudge"];
  readonly times?: CollectOptions["times"];
  readonly reporter: Reporter;
  readonly signal: AbortSignal;
}

interface RolloutFacts {
  /** Of the progress line. */
  readonly label: string;
  /** Optimizer updates so far. */
  readonly policy_version: number;
}

export class Rollouts {
  readonly #options: RolloutsOptions;

  constructor(options: RolloutsOptions) {
    this.#options = options;
  }

  /** `step` counts over the whole run: no two steps share a random stream, nor two rounds of one. */
  train(
    planned: readonly PlannedTask[],
    { step, round, ...facts }: RolloutFacts & { readonly step: number; readonly round: number },
  ): Promise<Group[]> {
    return this.#collect(planned, {
      ...facts,
      step,
      round,
      phase: "train",
      samples: this.#options.config.num_samples_per_prompt,
    });
  }

  evaluate(
    planned: readonly PlannedTask[],
    { trials, ...facts }: RolloutFacts & { readonly trials: number },
  ): Promise<Group[]> {
    return this.#collect(planned, { ...facts, step: 0, phase: "eval", samples: trials });
  }

  /** For a method: with a seed and a temperature of their own. */
  measure(
    planned: readonly PlannedTask[],
    {
      seed,
      temperature,
      ...how
    }: RolloutFacts & { readonly seed: number; readonly temperature: number; readonly samples: number },
  ): Promise<Group[]> {
    const config = { ...this.#options.config, seed, temperature };
    return this.#collect(planned, { ...how, step: 0, phase: "train" }, config);
  }

  #collect(
    planned: readonly PlannedTask[],
    { label, ...how }: RolloutFacts & Pick<CollectOptions, "step" | "round" | "phase" | "samples">,
    config = this.#options.config,
  ): Promise<Group[]> {
    const { policy, makeUser, makeJudge, times, reporter, signal } = this.#options;
    const total = planned.length * how.samples;
    let done = 0;
    const onRollout = () => reporter.progress({ label, done: ++done, total });
    return collectRollouts(policy, planned, { ...how, config, makeUser, makeJudge, times, onRollout, signal });
  }
}

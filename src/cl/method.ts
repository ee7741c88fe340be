/**
 * A continual-learning method decides, the loop acts. Every hook answers with a plan: operations as data, in order. So a
 * method runs in tests without weights, and a plan can be printed, compared and resumed.
 *
 * A step of the loop: augmentBatch → rollouts → gradient of their loss → beforeUpdate → optimizer → afterStep. An experience
 * is enclosed by beforeExperience and afterExperience; evaluation and checkpoint come after the latter.
 */
import type { Rng } from "../base/rng.ts";
import type { ModelName, VectorName, WeightOp } from "../base/weight-op.ts";
import type { TaskRef } from "../curriculum/curriculum.ts";
import type { Experience } from "../curriculum/experience.ts";
import type { Group } from "../rollout/types.ts";
import type { TrajectoryBuffer } from "./memory.ts";

export interface ExperienceContext {
  readonly experience: Experience;
  /** Rollouts of the whole run so far. */
  readonly memory: TrajectoryBuffer;
  /** This call's own stream. */
  readonly rng: Rng;
}

export interface StepContext extends ExperienceContext {
  /** Within the experience, from 0. */
  readonly step: number;
}

export interface BatchContext extends StepContext {
  /** The next tasks of the current domain, as many as a step takes. */
  readonly tasks: readonly TaskRef[];
  /** Every domain of the sequence, in order of first training. */
  readonly domains: readonly string[];
  /** The next training tasks of any domain; they stay next until a plan has them. */
  next(domain: string, count: number): readonly TaskRef[];
}

export interface UpdateContext extends StepContext {
  /** What was rolled out in this step. */
  readonly groups: readonly Group[];
}

export interface StepEndContext extends UpdateContext {
  /** False when the weights did not move: nothing to learn, or a gradient that was not finite. */
  readonly updated: boolean;
}

/** Tokens of a conversation, and which of them the policy sampled. */
export interface TokenSequence {
  readonly tokens: Uint32Array;
  /** 1 where sampled. */
  readonly sampled_mask: Uint8Array;
}

/** The k likeliest tokens before each of T sampled ones and their log-probabilities, row by row. */
export interface Distribution {
  readonly k: number;
  readonly ids_TK: Uint32Array;
  readonly logprobs_TK: Float32Array;
}

export interface StoredSequence extends TokenSequence {
  readonly distribution: Distribution;
}

/** What can be asked for. Vectors and models are named freely; `base`, `user` and `policy` are the run's own. */
export type MethodOp =
  | WeightOp
  /**
   * Rolls out the same training tasks (at most `tasks_max` a domain), under the same luck in every probe of a run, at the
   * evaluation's temperature. rewards = domain → mean reward.
   */
  | {
      readonly op: "probe";
      readonly domains: readonly string[];
      readonly tasks: "train";
      readonly tasks_max: number;
      readonly trials: number;
    }
  /**
   * into ← mean over fresh rollouts (temperature 1, one a task, at most `tasks_max` training tasks a domain) of the squared
   * gradient of the sequence's log-probability (the diagonal Fisher), or of the absolute gradient of the mean squared
   * norm of its logits.
   */
  | {
      readonly op: "importance";
      readonly of: "log_probability" | "output_norm";
      readonly into: VectorName;
      readonly domains: readonly string[];
      readonly tasks_max: number;
      /** Joins the mean to the quadratic of `into` and this vector, as `consolidate` would; value = the constant gained. */
      readonly anchor?: VectorName;
    }
  /** In beforeUpdate only. Adds strength · the gradient of a loss, a mean over sampled tokens. value = strength · the loss. */
  | {
      readonly op: "backward";
      readonly loss: ExtraLoss;
      readonly strength: number;
    }
  /** distributions = of each sequence under the current policy, at the training's temperature. */
  | { readonly op: "record_distributions"; readonly sequences: readonly TokenSequence[]; readonly k: number };

export type ExtraLoss =
  /** The run's own loss on the groups that were planned with `use: "reference"`. */
  | { readonly kind: "reference" }
  /** KL(model ‖ policy) on this step's rollouts of the current domain. */
  | { readonly kind: "distill"; readonly model: ModelName }
  /** KL(stored ‖ policy). */
  | { readonly kind: "distill_stored"; readonly sequences: readonly StoredSequence[] }
  /** -log π of the sequences. */
  | { readonly kind: "nll"; readonly sequences: readonly TokenSequence[] };

export interface OpReport {
  /** As the operation says, else 0. */
  readonly value: number;
  /** Of a probe, else empty. */
  readonly rewards: Readonly<Record<string, number>>;
  /** Of record_distributions, else empty. */
  readonly distributions: readonly Distribution[];
}

/**
 * An array of operations, or a generator, which sees what each one came to and may decide on it. What beforeUpdate returns
 * is its penalty, for `train/penalty`.
 */
// biome-ignore lint/suspicious/noConfusingVoidType: what a generator without a return gives
export type Plan = Iterable<MethodOp, number | void, OpReport>;

/** Survives JSON. */
export type MethodState =
  | null
  | boolean
  | number
  | string
  | readonly MethodState[]
  | { readonly [key: string]: MethodState };

export interface ContinualMethod {
  readonly name: string;
  /** True: it adds its own LoRA adapters, so the run adds none. */
  readonly ownAdapters: boolean;
  /** Before the first step. */
  beforeExperience(context: ExperienceContext): Plan;
  /** Before rollouts of a domain in evaluations, and before going back to the one in training. */
  beforeDomain(domain: string): Plan;
  /** The tasks of this step: those offered, fewer, or more. Replayed tasks of other domains are marked `replayed`. */
  augmentBatch(context: BatchContext): readonly TaskRef[];
  /** When the gradient is there, before the optimizer: penalties and constraints. Not called where nothing is learned. */
  beforeUpdate(context: UpdateContext): Plan;
  afterStep(context: StepEndContext): Plan;
  /** After the last step, before evaluation and save. */
  afterExperience(context: ExperienceContext): Plan;
  /** Whatever the next decision depends on, beside the memory, vectors and models: it goes into the checkpoint. */
  state(): MethodState;
  restore(state: MethodState): void;
}

/** The answers of a method that does nothing special; one file a method overrides what it needs. */
export const PLAIN: Omit<ContinualMethod, "name"> = {
  ownAdapters: false,
  beforeExperience: () => [],
  beforeDomain: () => [],
  augmentBatch: ({ tasks }) => tasks,
  beforeUpdate: () => [],
  afterStep: () => [],
  afterExperience: () => [],
  state: () => null,
  restore: () => {},
};

/** For methods of your own: extend it, override what differs, assign it to the trainer. */
export abstract class CLAlgorithm implements ContinualMethod {
  abstract readonly name: string;
  readonly ownAdapters: boolean = false;

  /** Before the first step on a domain. */
  preTaskHook(_context: ExperienceContext): Plan {
    return [];
  }
  augmentBatch({ tasks }: BatchContext): readonly TaskRef[] {
    return tasks;
  }
  /** Between gradient and optimizer. */
  preStepHook(_context: UpdateContext): Plan {
    return [];
  }
  postStepHook(_context: StepEndContext): Plan {
    return [];
  }
  /** After the last step on a domain, before evaluation and save. */
  postTaskHook(_context: ExperienceContext): Plan {
    return [];
  }
  beforeDomain(_domain: string): Plan {
    return [];
  }
  state(): MethodState {
    return null;
  }
  restore(_state: MethodState): void {}

  beforeExperience(context: ExperienceContext): Plan {
    return this.preTaskHook(context);
  }
  beforeUpdate(context: UpdateContext): Plan {
    return this.preStepHook(context);
  }
  afterStep(context: StepEndContext): Plan {
    return this.postStepHook(context);
  }
  afterExperience(context: ExperienceContext): Plan {
    return this.postTaskHook(context);
  }
}

/**
 * A continual-learning method decides, the loop acts. It returns plans as data: the tasks of a step, a penalty, weight
 * operations. So every method runs in tests without weights, and a plan can be printed, compared and resumed.
 */
import type { Rng } from "../base/rng.ts";
import type { TaskRef } from "../curriculum/curriculum.ts";
import type { Experience } from "../curriculum/experience.ts";
import type { TrajectoryBuffer } from "./memory.ts";

export interface ExperienceContext {
  readonly experience: Experience;
  /** Rollouts of the whole run so far. */
  readonly memory: TrajectoryBuffer;
}

export interface StepContext extends ExperienceContext {
  /** Within the experience, from 0. */
  readonly step: number;
  /** This step's own stream. */
  readonly rng: Rng;
}

export interface BatchContext extends StepContext {
  /** The next tasks of the current domain, as many as a step takes. */
  readonly tasks: readonly TaskRef[];
}

/** What is added to the loss. Kinds appear here together with what carries them out. */
export type Penalty = { readonly kind: "none" };
export const NO_PENALTY: Penalty = { kind: "none" };

/** What is done to the weights. Operations appear here together with what carries them out. */
export type MethodOp = { readonly op: "reset_optimizer" };

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
  /** The tasks of this step: those offered, fewer, or more. Tasks of other domains are marked `replayed`. */
  augmentBatch(context: BatchContext): readonly TaskRef[];
  penalty(context: StepContext): Penalty;
  /** After the update. */
  afterStep(context: StepContext): readonly MethodOp[];
  /** After the last step, before evaluation and save. */
  afterExperience(context: ExperienceContext): readonly MethodOp[];
  /** Whatever the next decision depends on, beside the memory: it goes into the checkpoint. */
  state(): MethodState;
  restore(state: MethodState): void;
}

/** The answers of a method that does nothing special; one file a method overrides what it needs. */
export const PLAIN: Omit<ContinualMethod, "name"> = {
  augmentBatch: ({ tasks }) => tasks,
  penalty: () => NO_PENALTY,
  afterStep: () => [],
  afterExperience: () => [],
  state: () => null,
  restore: () => {},
};

/** For methods of your own: extend it, override what differs, assign it to the trainer. */
export abstract class CLAlgorithm implements ContinualMethod {
  abstract readonly name: string;

  augmentBatch({ tasks }: BatchContext): readonly TaskRef[] {
    return tasks;
  }
  penalty(_context: StepContext): Penalty {
    return NO_PENALTY;
  }
  postStepHook(_context: StepContext): readonly MethodOp[] {
    return [];
  }
  postTaskHook(_context: ExperienceContext): readonly MethodOp[] {
    return [];
  }
  state(): MethodState {
    return null;
  }
  restore(_state: MethodState): void {}

  afterStep(context: StepContext): readonly MethodOp[] {
    return this.postStepHook(context);
  }
  afterExperience(context: ExperienceContext): readonly MethodOp[] {
    return this.postTaskHook(context);
  }
}

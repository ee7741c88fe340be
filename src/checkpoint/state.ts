/**
 * All that a run must remember beside weights, optimizer and memory: JSON, in state/run.json; the method's own state, which
 * may be large, in state/method.json.
 */
import type { ModelName } from "../base/weight-op.ts";
import type { MethodState } from "../cl/method.ts";
import type { SamplerState } from "../curriculum/sampler.ts";

/** The next step to run. `step` = the experience's steps: only its end is left to do. */
export interface Position {
  readonly experience: number;
  readonly step: number;
}

export interface RunState {
  readonly position: Position;
  /** Optimizer updates so far: the version of the weights. */
  readonly policy_version: number;
  /** Steps in a row, up to now, whose gradient was not finite. */
  readonly nonfinite_steps: number;
  /** Dollars that paid models have cost so far; absent in checkpoints of before there were any. */
  readonly spent_usd?: number;
  readonly sampler: SamplerState;
  /** Frozen models that are kept beside the optimizer's moments. */
  readonly models: readonly ModelName[];
  readonly method: { readonly name: string; readonly state: MethodState };
}

/** All that a run must remember beside weights, optimizer and memory: small, JSON, in state/run.json. */
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
  readonly method: { readonly name: string; readonly state: MethodState };
}

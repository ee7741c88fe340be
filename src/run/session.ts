/** What a run is given: the process edge, and what was opened for it. Tests put fakes here. */
import type { Checkpoint } from "../checkpoint/load.ts";
import type { ContinualMethod } from "../cl/method.ts";
import type { Policy } from "../core/policy.ts";
import type { Domain } from "../tau2/types.ts";
import type { Reporter } from "./report.ts";

/** What only the process knows. */
export interface Edge {
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Milliseconds. */
  readonly now: () => number;
  /** Ctrl-C. */
  readonly signal: AbortSignal;
  readonly reporter: Reporter;
}

export interface Session {
  readonly edge: Edge;
  /** Opened from `model_directory`; the state of a checkpoint is loaded over it. */
  readonly policy: Policy;
  /** The model before any training. */
  readonly model_directory: string;
  /** Of `user.model`, where a local model plays the user. */
  readonly user_model_directory: string | null;
  readonly domains: readonly Domain[];
  readonly method: ContinualMethod;
  readonly resume: Checkpoint | null;
}

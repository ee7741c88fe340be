/** Names under which frozen models live in the core. */
import type { ModelName } from "../core/policy.ts";

/** The policy before any training: anchor of the KL, and the user where none is configured. */
export const BASE_MODEL: ModelName = "base";

/** Another model that plays the user. */
export const USER_MODEL: ModelName = "user";

/** The policy at the end of the previous experience (of none yet: before training): the other anchor of the KL. */
export const PREVIOUS_TASK_MODEL: ModelName = "previous_task";

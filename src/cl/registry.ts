/** One method, one file, one line here; a name of the config without a line is a type error. */
import type { RunConfig } from "../config/schema.ts";
import type { ContinualMethod } from "./method.ts";
import { replay } from "./replay.ts";
import { sequential } from "./sequential.ts";

export const METHODS = { sequential, replay } satisfies Record<
  RunConfig["cl_algorithm"],
  (config: RunConfig) => ContinualMethod
>;

export const methodOf = (config: RunConfig): ContinualMethod => METHODS[config.cl_algorithm](config);

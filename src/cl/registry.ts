/** One method, one file, one line here; a name of the config without a line is a type error. */
import type { RunConfig } from "../config/schema.ts";
import { aGem } from "./a-gem.ts";
import { adaptiveFusion } from "./adaptive-fusion.ts";
import { adaptiveReplay } from "./adaptive-replay.ts";
import { derPp } from "./der-pp.ts";
import { dynamicExpansion } from "./dynamic-expansion.ts";
import { ewc } from "./ewc.ts";
import { ewcPp } from "./ewc-pp.ts";
import { fusion } from "./fusion.ts";
import { joint } from "./joint.ts";
import { lwf } from "./lwf.ts";
import { mas } from "./mas.ts";
import type { ContinualMethod } from "./method.ts";
import { oLora } from "./o-lora.ts";
import { onlineEwc } from "./online-ewc.ts";
import { progressive } from "./progressive.ts";
import { replay } from "./replay.ts";
import { sequential } from "./sequential.ts";
import { si } from "./si.ts";

export const METHODS = {
  sequential,
  joint,
  replay,
  adaptive_replay: adaptiveReplay,
  ewc,
  online_ewc: onlineEwc,
  ewc_pp: ewcPp,
  si,
  mas,
  lwf,
  a_gem: aGem,
  der_pp: derPp,
  o_lora: oLora,
  progressive,
  dynamic_expansion: dynamicExpansion,
  fusion,
  adaptive_fusion: adaptiveFusion,
} satisfies Record<RunConfig["cl_algorithm"], (config: RunConfig) => ContinualMethod>;

export const methodOf = (config: RunConfig): ContinualMethod => METHODS[config.cl_algorithm](config);

/** Users and judges for AgentEnv and UserEnv: models behind an OpenAI-compatible endpoint. */
import { Rng } from "../base/rng.ts";
import type { RunConfigInput } from "../config/schema.ts";
import { Budget } from "../rollout/budget.ts";
import { type OpenaiEndpoint, openaiEndpoint } from "../rollout/openai.ts";
import { requestSeed } from "../run/endpoints.ts";
import { type Judge, modelJudge } from "../tau2/judge.ts";
import { simulatedUser } from "../tau2/user.ts";
import type { UserMaker } from "./agent-env.ts";
import { GRPOConfig } from "./config.ts";
import { currentHost } from "./host.ts";

/** The options `user.*` of a config; `seed` is sent where temperature is above 0. */
export type OpenaiUserOptions = Omit<NonNullable<RunConfigInput["user"]>, "kind"> & { readonly seed?: number };
/** The options `judge.*` of a config. */
export type OpenaiJudgeOptions = NonNullable<RunConfigInput["judge"]> & { readonly seed?: number };

const SEED = 42;

/** tau2's user simulator over an endpoint, for the option `user` of AgentEnv. Throws UserError for options that do not fit. */
export function openaiUser({ seed = SEED, ...options }: OpenaiUserOptions): UserMaker {
  const endpoint = open("user", { user: { ...options, kind: "openai" } });
  const { identity } = endpoint;
  return (domain, task) => {
    const rng = Rng.from(seed).fork(domain.name, task.id);
    const complete = endpoint.completion({ seed: requestSeed({ rng, signal: currentHost().edge.signal }) });
    return simulatedUser({ identity, domain, task, complete });
  };
}

/** For tasks whose reward counts natural-language assertions. */
export function openaiJudge({ seed = SEED, ...options }: OpenaiJudgeOptions): Judge {
  return modelJudge(open("judge", { judge: options, nl_assertions: "judge" }).completion({ seed }));
}

/** Through the config, which checks options and fills in defaults; its model and domain are not used. */
function open(role: "user" | "judge", options: Partial<RunConfigInput>): OpenaiEndpoint {
  const config = new GRPOConfig({ model_name_or_path: "builtin:quickstart", task_order: ["rail"], ...options });
  const { env, now, signal } = currentHost().edge;
  const budget = new Budget({ limit_usd: config.user.max_cost_usd });
  return openaiEndpoint({ role, config: config[role], env, now, signal, budget });
}

/** A whole run in milliseconds: lamp domains, a scripted policy whose luck depends on its random stream and its weights. */
import { parse } from "valibot";
import { openCheckpoint } from "../../src/checkpoint/load.ts";
import type { ContinualMethod } from "../../src/cl/method.ts";
import { methodOf } from "../../src/cl/registry.ts";
import { type RunConfig, type RunConfigInput, RunConfigSchema } from "../../src/config/schema.ts";
import { type FakeOptions, type FakePolicy, type FakeScript, fakePolicy } from "../../src/core/fake.ts";
import type { Reporter } from "../../src/run/report.ts";
import type { Session } from "../../src/run/session.ts";
import { type TrainResult, train } from "../../src/run/train.ts";
import type { Domain } from "../../src/tau2/types.ts";
import { lampDomain } from "./lamp-domain.ts";

const LAMPS = ["A", "B", "C", "D", "E", "F", "G", "H", "I", "J"];

/** 8 training and 2 evaluation lamps each. */
export const lampDomains = (): Domain[] =>
  ["hall", "attic", "cellar"].map((name) => lampDomain({ name, lamps: LAMPS }));

/** Switches the right lamp on, or says something, by its random stream and the weights. */
export const luckyScript: FakeScript = (_tokens, { request, text, weightsVersion }) => {
  const lamp = /Lamp (\w), please/.exec(text)?.[1];
  const switched = text.includes("<tool_call>\n{");
  const lucky = (request.seed ^ BigInt(weightsVersion * 0x9e37)) % 5n < 2n;
  if (switched || !lucky) return "Done.";
  return `<tool_call>\n{"name": "switch_on", "arguments": {"lamp": "${lamp}"}}\n</tool_call>`;
};

export function lampConfig(log_dir: string, fields: Partial<RunConfigInput> = {}): RunConfig {
  const config = parse(RunConfigSchema, {
    model_name_or_path: "fake",
    task_order: ["hall", "attic", "cellar"],
    num_steps_per_task: 3,
    batch_size_per_gpu: 2,
    gradient_accumulation_steps: 2,
    num_samples_per_prompt: 3,
    max_new_tokens: 200,
    eval_trials: 2,
    eval_interval: 2,
    cl_algorithm: "replay",
    replay_ratio: 0.3,
    log_dir,
    ...fields,
  });
  return { ...config, log_dir };
}

export interface LampRunOptions {
  readonly script?: FakeScript;
  readonly fake?: FakeOptions;
  readonly method?: ContinualMethod;
  readonly domains?: readonly Domain[];
  readonly signal?: AbortSignal;
  readonly env?: Session["edge"]["env"];
  readonly user_model_directory?: string;
  readonly onLine?: (text: string) => void;
}

export interface LampRun extends TrainResult {
  readonly policy: FakePolicy;
  readonly lines: readonly string[];
}

export async function lampRun(config: RunConfig, options: LampRunOptions = {}): Promise<LampRun> {
  const lines: string[] = [];
  const reporter: Reporter = {
    line: (text) => {
      lines.push(text);
      options.onLine?.(text);
    },
    progress: () => {},
  };
  let clock = 0;
  const policy = fakePolicy(options.script ?? luckyScript, options.fake);
  const session: Session = {
    edge: {
      env: options.env ?? {},
      now: () => clock++,
      signal: options.signal ?? new AbortController().signal,
      reporter,
    },
    policy,
    model_directory: "fake",
    user_model_directory: options.user_model_directory ?? null,
    domains: options.domains ?? lampDomains(),
    method: options.method ?? methodOf(config),
    resume: config.resume_from === null ? null : await openCheckpoint(config.resume_from),
  };
  return { ...(await train(config, session)), policy, lines };
}

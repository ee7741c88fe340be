/** The simulations of an evaluation as tau2-bench's results files: one a domain. */
import { join, parse } from "node:path";
import { writeFileAtomic } from "../base/atomic.ts";
import { dumps } from "../base/exact.ts";
import type { RunConfig } from "../config/schema.ts";
import type { Rollout } from "../rollout/types.ts";
import { type ResultsOptions, type SimulationRun, toTau2Results } from "../tau2/results.ts";
import type { Domain, Task } from "../tau2/types.ts";
import type { Evaluation } from "./evaluate.ts";
import type { Session } from "./session.ts";

export interface ResultsFacts {
  readonly config: RunConfig;
  readonly session: Session;
  readonly evaluation: Evaluation;
  /** Milliseconds since 1970. Conversations run at once, so all have the evaluation's times. */
  readonly times: { readonly began: number; readonly ended: number };
  readonly version: string;
}

/** One domain: `file`; several: `file_DOMAIN`. */
export function writeTau2Results(file: string, facts: ResultsFacts): void {
  const { domains } = facts.session;
  for (const domain of domains) {
    const { dir, name, ext } = parse(file);
    const path = domains.length === 1 ? file : join(dir, `${name}_${domain.name}${ext}`);
    writeFileAtomic(path, `${dumps(toTau2Results(resultsOf(domain, facts)), { indent: 2 })}\n`);
  }
}

function resultsOf(domain: Domain, { config, evaluation, times, version }: ResultsFacts): ResultsOptions {
  const groups = evaluation.groups[domain.name] ?? [];
  const tasks = new Map(domain.tasks.map((task) => [task.id, task]));
  const runs = groups.flatMap(({ task_id, rollouts }) => {
    const task = tasks.get(task_id);
    if (task === undefined) throw new Error(`results: ${domain.name} has no task ${task_id}`);
    return rollouts.map((rollout) => runOf(task, rollout, { config, times }));
  });
  return {
    domain,
    runs,
    timestamp: isoTime(times.ended),
    git_commit: `grpo-cl ${version}`,
    num_trials: config.eval_trials,
    max_steps: config.max_steps,
    max_errors: config.max_errors,
    seed: config.eval_seed,
    agent: {
      implementation: "grpo_cl",
      llm: config.model_name_or_path,
      llm_args: { temperature: config.eval_temperature },
    },
    user: {
      implementation: groups[0]?.rollouts[0]?.user_identity ?? "unknown",
      llm: config.user.model,
      llm_args: { temperature: config.user.temperature },
    },
  };
}

function runOf(task: Task, rollout: Rollout, { config, times }: Pick<ResultsFacts, "config" | "times">): SimulationRun {
  const { messages, termination, detail, tool_errors, sample, reward_info, user_cost_usd } = rollout;
  return {
    id: `${rollout.domain}-${task.id}-${sample}`,
    task,
    trial: sample,
    seed: config.eval_seed,
    simulation: { messages, termination, detail, step_count: messages.length, num_errors: tool_errors },
    reward_info,
    start_time: isoTime(times.began),
    end_time: isoTime(times.ended),
    duration: (times.ended - times.began) / 1000,
    agent_cost: null,
    user_cost: user_cost_usd,
  };
}

/** As Python's datetime.isoformat() prints a time without a zone. */
const isoTime = (ms: number) => new Date(ms).toISOString().replace("Z", "000");

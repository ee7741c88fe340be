/** What a run would do, told without opening a model. */

import { Rng } from "../base/rng.ts";
import type { RunConfig } from "../config/schema.ts";
import { Curriculum } from "../curriculum/curriculum.ts";
import { openEndpoints } from "./endpoints.ts";
import { expectedCalls, expectedRollouts } from "./expected-calls.ts";
import { solvedByNothing } from "./noop.ts";
import { loadDomains } from "./open-session.ts";
import { excludedTasks, powerLines } from "./report.ts";
import type { Edge } from "./session.ts";
import { chooseUsers } from "./users.ts";

/** The resolved config as JSON, and the plan. */
export async function planText(config: RunConfig, edge: Edge): Promise<string> {
  const domains = await loadDomains(config);
  const curriculum = new Curriculum({ ...config, domains, rng: Rng.from(config.seed), solvedByNothing });
  const users = chooseUsers(config, domains, openEndpoints(config, edge));
  const rollouts = expectedRollouts(config, curriculum, { position: { experience: 0, step: 0 }, begun: false });
  const tasks = config.batch_size_per_gpu * config.gradient_accumulation_steps * config.nproc_per_node;
  const steps = curriculum.experiences.length * config.num_steps_per_task;
  const updates = config.num_iterations * config.num_mini_batches;
  const lines = [
    "Config:",
    JSON.stringify(config, null, 2),
    "",
    "Plan:",
    ...curriculum.experiences.map(({ index, domain, steps }) => {
      const { train, test, contaminated } = curriculum.split(domain);
      const label = contaminated ? " (contaminated: also trained on)" : "";
      return `  task ${index}: ${domain}, ${steps} steps on ${train.length} training tasks; evaluation on ${test.length} tasks${label}; user ${users.identities[domain]}`;
    }),
    `  each step: ${tasks} tasks × ${config.num_samples_per_prompt} rollouts = ${tasks * config.num_samples_per_prompt} rollouts, ${updates === 1 ? "one update" : `${updates} updates`}${replayNote(config)}`,
    `  evaluations: all domains before training and after each task${config.eval_interval > 0 ? `, the current one every ${config.eval_interval} steps` : ""}; ${config.eval_trials} trials a task`,
    `  in all: ${steps * updates} updates, ${rollouts.train} training rollouts${refillNote(config)}, ${rollouts.eval} evaluation rollouts`,
    ...expectedCalls(config, rollouts).map((text) => `  ${text}`),
    ...powerLines(curriculum.splits, config.eval_trials).map((text) => `  ${text}`),
    `  run directory: ${config.log_dir}`,
    ...[...users.warnings, ...excludedTasks(curriculum.splits)].map((text) => `  warning: ${text}`),
  ];
  return `${lines.join("\n")}\n`;
}

function replayNote({ cl_algorithm, replay_ratio, replay_budget }: RunConfig): string {
  if (cl_algorithm !== "replay" && cl_algorithm !== "a_gem") return "";
  return `; from the second domain on ${replay_ratio} of the tasks are replayed${replay_budget === "add" ? ", on top" : ""}`;
}

const refillNote = ({ dynamic_sampling, dynamic_sampling_rounds_max }: RunConfig): string =>
  dynamic_sampling ? ` (up to ${dynamic_sampling_rounds_max} times as many with dynamic_sampling)` : "";

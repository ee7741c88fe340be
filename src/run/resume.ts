/** May a run with this config go on from this checkpoint? What only changes the result is told, what cannot work is refused. */
import { UserError } from "../base/errors.ts";
import type { Checkpoint } from "../checkpoint/load.ts";
import type { ContinualMethod } from "../cl/method.ts";
import type { RunConfig } from "../config/schema.ts";
import { type Reporter, warning } from "./report.ts";

/** Of no influence on the numbers. */
const FREE: readonly (keyof RunConfig)[] = ["log_dir", "resume_from", "save_interval", "wandb_project", "user"];

export function checkResume(
  config: RunConfig,
  method: ContinualMethod,
  { config: then, state }: Checkpoint,
  reporter: Reporter,
): void {
  const { experience, step } = state.position;
  const begun = experience + (step > 0 ? 1 : 0);
  const same = then.task_order.slice(0, begun).every((domain, index) => config.task_order[index] === domain);
  if (!same)
    throw new UserError(
      "task_order",
      `the checkpoint was trained on ${then.task_order.slice(0, begun).join(" ")}, which must come first`,
    );
  if (step > config.num_steps_per_task)
    throw new UserError("num_steps_per_task", `the checkpoint is at step ${step} of its domain`);
  if (state.method.name !== method.name)
    throw new UserError("cl_algorithm", `the checkpoint was made with ${state.method.name}, not ${method.name}`);
  const changed = differences(config, then);
  if (changed.length > 0)
    reporter.line(warning(`going on with other settings than the checkpoint's: ${changed.join(", ")}`));
}

function differences(config: RunConfig, then: RunConfig): string[] {
  const text = (value: unknown) => JSON.stringify(value) ?? "absent";
  return (Object.keys(config) as (keyof RunConfig)[])
    .filter((key) => !FREE.includes(key) && text(config[key]) !== text(then[key]))
    .map((key) => `${key} ${text(then[key])} → ${text(config[key])}`);
}

/** The end of a run whose paid models have cost what they may: it can go on from where it stands. */
import type { RunConfig } from "../config/schema.ts";
import { BudgetError } from "../rollout/budget.ts";
import { save } from "./acts.ts";
import { type Run, standingOf } from "./run.ts";

/** From here on the weights are those of this state, so a checkpoint of it can be written although the next step has begun. */
export function markResumable(run: Run): void {
  if (run.endpoints.budget.limit_usd !== null) {
    const { state, ahead } = standingOf(run);
    run.resumable = { state: structuredClone(state), ahead };
  }
}

/** Before the weights change in a way that no position names: what is learned so far goes to disk, if there is a limit. */
export async function closeResumable(run: Run): Promise<void> {
  if (run.resumable !== null) await save(run, "latest", run.resumable);
  run.resumable = null;
}

/** Writes the last whole step, or names the last checkpoint; gives the error that ends the run. */
export async function stopForBudget(run: Run, error: BudgetError): Promise<BudgetError> {
  await closeResumable(run);
  const { last_checkpoint, directory, reporter, config } = run;
  const text =
    last_checkpoint === null
      ? `${stopped(error)} There is no checkpoint yet. ${startAgain(config)}`
      : `${stopped(error)} Go on from ${last_checkpoint} with --resume_from ${directory.path} and a higher --user.max_cost_usd`;
  reporter.line(text);
  return new BudgetError(text, { cause: error });
}

/** An evaluation leaves nothing to go on from. */
export const asBudgetStop = (error: BudgetError, config: RunConfig): BudgetError =>
  new BudgetError(`${stopped(error)} ${startAgain(config)}`, { cause: error });

const stopped = ({ message }: BudgetError) => `Stopped: ${message}.`;

const startAgain = ({ user, judge }: RunConfig): string =>
  `Start again with a higher --user.max_cost_usd${
    user.cache_dir === null && judge.cache_dir === null ? "; user.cache_dir would keep the answers" : ""
  }`;

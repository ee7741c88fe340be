/**
 * The loop: GRPO on one domain of `task_order` after the other, evaluated on all of them before training and after each
 * one. A step is one optimizer update on batch × accumulation tasks. Everything called here returns a value.
 */
import type { StepContext } from "../cl/method.ts";
import type { RunConfig } from "../config/schema.ts";
import type { Experience } from "../curriculum/experience.ts";
import { packBatches } from "../grpo/batch.ts";
import type { MetricsRow } from "../metrics/rows.ts";
import { BudgetError } from "../rollout/budget.ts";
import { asInterruption } from "./abort.ts";
import { beginExperience, carryOut, close, evaluateAll, evaluateCurrent, recordStep, save } from "./acts.ts";
import { closeResumable, markResumable, stopForBudget } from "./budget-stop.ts";
import { openRun, type Run, timed } from "./run.ts";
import type { Session } from "./session.ts";
import { gradientStep, learningRate } from "./update.ts";

export interface TrainResult {
  readonly log_dir: string;
  /** As in metrics.jsonl. */
  readonly rows: readonly MetricsRow[];
}

export async function train(config: RunConfig, session: Session): Promise<TrainResult> {
  const run = await openRun(config, session);
  using _files = run.metrics;
  try {
    await trainSequence(run);
    return { log_dir: run.directory.path, rows: close(run) };
  } catch (error) {
    throw error instanceof BudgetError ? await stopForBudget(run, error) : asInterruption(error, run);
  }
}

async function trainSequence(run: Run): Promise<void> {
  const { config, curriculum, method, memory } = run;
  if (run.session.resume === null) await evaluateAll(run, null); // row -1: the base model
  for (const experience of curriculum.experiences.slice(run.position.experience)) {
    await beginExperience(run, experience);
    markResumable(run);
    if (isOwedAnEvaluation(run, experience)) await evaluateCurrent(run, experience, run.position.step - 1);
    for (let step = run.position.step; step < experience.steps; step++) {
      await trainStep(run, { experience, step, memory, rng: run.rng.fork("method", experience.index, step) });
      run.position = { experience: experience.index, step: step + 1 };
      markResumable(run);
      if (isDue(config.eval_interval, step, experience)) await evaluateCurrent(run, experience, step);
      if (isDue(config.save_interval, step, experience)) await save(run, "latest");
    }
    await closeResumable(run);
    await carryOut(run, method.afterExperience({ experience, memory }));
    await evaluateAll(run, experience);
    run.position = { experience: experience.index + 1, step: 0 };
    await save(run, experience.index);
  }
}

async function trainStep(run: Run, context: StepContext): Promise<void> {
  const { config, policy, curriculum, method, memory, anchor, signal } = run;
  const { experience, step } = context;
  const place = { task_idx: experience.index, step };
  const offered = curriculum.next(experience, tasksPerStep(config));
  const planned = curriculum.take(experience, method.augmentBatch({ ...context, tasks: offered }));
  const groups = await timed(run, { ...place, phase: "rollouts" }, () =>
    run.rollouts.train(planned, {
      label: `task ${experience.index}, step ${step}: rollouts`,
      step: experience.index * config.num_steps_per_task + step,
      policy_version: run.policy_version,
    }),
  );
  const { batches } = packBatches(groups, { ...config, completion_tokens_max: config.max_new_tokens });
  const learning_rate = learningRate(stepsSinceReset(config, experience, step), config);
  const update = await timed(run, { ...place, phase: "updates" }, () =>
    gradientStep(policy, batches, { config, learning_rate, anchor, penalty: method.penalty(context), signal }),
  );
  memory.remember(groups, place);
  await carryOut(run, method.afterStep(context));
  await recordStep(run, { experience, step, groups, update, batches });
}

const tasksPerStep = ({ batch_size_per_gpu, gradient_accumulation_steps, nproc_per_node }: RunConfig): number =>
  batch_size_per_gpu * gradient_accumulation_steps * nproc_per_node;

/** Warm-up restarts together with the optimizer. */
const stepsSinceReset = (config: RunConfig, experience: Experience, step: number): number =>
  config.reset_optimizer ? step : experience.index * config.num_steps_per_task + step;

/** A cost limit can stop a run between a step and the evaluation due after it. */
const isOwedAnEvaluation = ({ config, position: { step }, metrics }: Run, experience: Experience): boolean =>
  step > 0 &&
  isDue(config.eval_interval, step - 1, experience) &&
  !metrics.rows.some((row) => row.kind === "eval" && row.task_idx === experience.index && row.step === step - 1);

/** Not after the last step of an experience: its end evaluates and saves anyway. */
const isDue = (interval: number, step: number, experience: Experience): boolean =>
  interval > 0 && (step + 1) % interval === 0 && step + 1 < experience.steps;

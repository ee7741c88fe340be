/**
 * The loop: GRPO on one domain of `task_order` after the other, evaluated on all of them before training and after each
 * one. A step is one optimizer update, or a few, on batch × accumulation tasks. Everything called here returns a value.
 */

import type { StepGroups } from "../checkpoint/step-groups.ts";
import type { StepContext } from "../cl/method.ts";
import type { RunConfig } from "../config/schema.ts";
import type { Experience } from "../curriculum/experience.ts";
import { packBatches } from "../grpo/batch.ts";
import { meanKl, type TokenKl, tokenKl } from "../grpo/kl.ts";
import type { MetricsRow } from "../metrics/rows.ts";
import { BudgetError } from "../rollout/budget.ts";
import type { Group } from "../rollout/types.ts";
import { asInterruption, orAborted } from "./abort.ts";
import { beginExperience, close, endExperience, evaluateAll, evaluateCurrent, recordStep, save } from "./acts.ts";
import { closeResumable, markResumable, stopForBudget } from "./budget-stop.ts";
import { carryOut } from "./carry-out.ts";
import { openRun, type Run, timed } from "./run.ts";
import type { Session } from "./session.ts";
import { groupsInLoss, stepGroups } from "./step-groups.ts";
import { learningRate } from "./update.ts";
import { updateOnStep } from "./updates.ts";

export interface TrainResult {
  readonly log_dir: string;
  /** As in metrics.jsonl. */
  readonly rows: readonly MetricsRow[];
}

export interface TrainHooks {
  /** The last step of an experience is done; its end (the method's plan, evaluation, checkpoint) is not. */
  readonly onTrained?: (run: Run, experience: Experience) => Promise<void>;
}

export async function train(config: RunConfig, session: Session, hooks: TrainHooks = {}): Promise<TrainResult> {
  const run = await openRun(config, session);
  using _files = run.metrics;
  try {
    await trainSequence(run, hooks);
    return { log_dir: run.directory.path, rows: await close(run) };
  } catch (error) {
    throw error instanceof BudgetError ? await stopForBudget(run, error) : asInterruption(error, run);
  }
}

async function trainSequence(run: Run, { onTrained }: TrainHooks): Promise<void> {
  const { config, curriculum } = run;
  if (run.session.resume === null) await evaluateAll(run, null); // row -1: the base model
  for (const experience of curriculum.experiences.slice(run.position.experience)) {
    await beginExperience(run, experience);
    markResumable(run);
    if (isOwedAnEvaluation(run, experience)) await evaluateCurrent(run, experience, run.position.step - 1);
    for (let step = run.position.step; step < experience.steps; step++) {
      await trainStep(run, contextOf(run, experience, step));
      run.position = { experience: experience.index, step: step + 1 };
      markResumable(run);
      if (isDue(config.eval_interval, step, experience)) await evaluateCurrent(run, experience, step);
      if (isDue(config.save_interval, step, experience)) await save(run, "latest");
    }
    await closeResumable(run);
    await onTrained?.(run, experience);
    await endExperience(run, experience);
    await evaluateAll(run, experience);
    run.position = { experience: experience.index + 1, step: 0 };
    await save(run, experience.index);
  }
}

async function trainStep(run: Run, context: StepContext): Promise<void> {
  const { config, policy, method, memory, anchor, signal } = run;
  const { experience, step } = context;
  const place = { task_idx: experience.index, step };
  const { groups, refilled } = await timed(
    run,
    { ...place, phase: "rollout" },
    () => run.ahead ?? plannedRollouts(run, context),
  );
  const version = run.policy_version;
  const ahead = rolloutsAhead(run, context);
  const inLoss = groupsInLoss(groups, config);
  const fresh = groups.filter(({ use }) => use !== "stored");
  const kl = await rewardKl(run, inLoss, place);
  const packed = packBatches(inLoss, { ...config, completion_tokens_max: config.max_new_tokens }, kl);
  const learning_rate = learningRate(stepsSinceReset(config, experience, step), config);
  const beforeUpdate = async () => {
    await ahead; // these weights are sampled from until here
    run.resumable = null;
    return carryOut(run, method.beforeUpdate({ ...context, groups: fresh }), { ...place, groups: fresh });
  };
  const update = await timed(run, { ...place, phase: "update" }, async () => {
    const done = await updateOnStep(policy, packed.mini_batches, {
      config,
      learning_rate,
      anchor,
      beforeUpdate,
      signal,
    });
    await ahead; // also where there was nothing to update
    return done;
  });
  run.resumable = null;
  memory.remember(fresh, place);
  const updated = update.updates > 0;
  await carryOut(run, method.afterStep({ ...context, groups: fresh, updated }), { ...place, groups: null });
  const facts = { experience, step, groups, refilled, packing: packed.report, reward_kl: meanKl(kl), version };
  await recordStep(run, { ...facts, update, batches: packed.mini_batches });
}

const contextOf = ({ memory, rng }: Run, experience: Experience, step: number): StepContext => ({
  experience,
  step,
  memory,
  rng: rng.fork("method", experience.index, step),
});

function plannedRollouts(run: Run, context: StepContext): Promise<StepGroups> {
  const refs = run.method.augmentBatch({ ...context, ...offered(run, context.experience) });
  return stepGroups(run, { refs, planned: run.curriculum.take(refs) }, context);
}

/**
 * With `overlap_rollouts` the rollouts of the next step begin now, under the weights as they are; the gradient is made
 * meanwhile, and only the update waits for them. None across the end of an experience.
 */
function rolloutsAhead(run: Run, { experience, step }: StepContext): Promise<StepGroups> | null {
  const overlaps = run.config.overlap_rollouts && step + 1 < experience.steps;
  run.ahead = overlaps ? plannedRollouts(run, contextOf(run, experience, step + 1)) : null;
  run.ahead?.catch(() => {}); // whoever awaits it hears of a failure
  return run.ahead;
}

/** Empty where the KL is not in the reward. */
async function rewardKl(
  run: Run,
  groups: readonly Group[],
  place: { readonly task_idx: number; readonly step: number },
): Promise<TokenKl> {
  const { config, policy, anchor, signal } = run;
  if (!config.kl_in_reward || anchor === null) return new Map();
  return timed(run, { ...place, phase: "reward_kl" }, () =>
    orAborted(signal, tokenKl(policy, groups, { ...config, anchor })),
  );
}

/** What a method may plan with. */
function offered({ config, curriculum }: Run, { domain }: Experience) {
  return {
    tasks: curriculum.next(domain, tasksPerStep(config)),
    domains: curriculum.splits.map((split) => split.domain.name),
    next: (name: string, count: number) => curriculum.next(name, count),
  };
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

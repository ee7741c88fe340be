/** The updates of one step: every mini-batch of its rollouts, once a pass. */
import type { Policy, TrainingBatch } from "../core/policy.ts";
import { gradientStep, noUpdate, type Update, type UpdateOptions } from "./update.ts";

export interface StepUpdate extends Update {
  /** Updates that moved the weights. */
  readonly updates: number;
}

/**
 * `num_iterations` passes over the mini-batches, an update each. Recorded log-probabilities stay as they are, so from the
 * second update on ratios differ from 1. A gradient that is not finite ends the step: the rollouts are suspect.
 */
export async function updateOnStep(
  policy: Policy,
  mini_batches: readonly TrainingBatch[],
  options: UpdateOptions,
): Promise<StepUpdate> {
  const plan = Array.from({ length: options.config.num_iterations }, () => mini_batches).flat();
  const done: Update[] = [];
  for (const batch of plan) {
    done.push(await gradientStep(policy, batch, options));
    if (done.at(-1)?.outcome === "nonfinite_gradient") break;
  }
  const [first = noUpdate(options.learning_rate), ...later] = done;
  return later.length === 0 ? { ...first, updates: moved([first]) } : joined(first, later);
}

const moved = (updates: readonly Update[]) => updates.filter(({ outcome }) => outcome === "updated").length;

/** Sums and means over the updates; tokens weigh alike. Only before the first one should recomputed log-probabilities be the recorded ones. */
function joined(first: Update, later: readonly Update[]): StepUpdate {
  const all = [first, ...later];
  const sum = (value: (update: Update) => number) => all.reduce((total, update) => total + value(update), 0);
  const loss_tokens = sum((update) => update.loss_tokens);
  const mean = (value: (update: Update) => number) =>
    loss_tokens === 0 ? 0 : sum((update) => value(update) * update.loss_tokens) / loss_tokens;
  return {
    ...(all.at(-1) ?? first),
    loss: sum((update) => update.loss) / all.length,
    kl: mean((update) => update.kl),
    entropy: mean((update) => update.entropy),
    clip_low_fraction: mean((update) => update.clip_low_fraction),
    clip_high_fraction: mean((update) => update.clip_high_fraction),
    dual_clip_fraction: mean((update) => update.dual_clip_fraction),
    logprob_diff_max: first.logprob_diff_max,
    loss_tokens,
    computed_tokens: sum((update) => update.computed_tokens),
    penalty: all.some(({ penalty }) => penalty !== null) ? sum(({ penalty }) => penalty ?? 0) / all.length : null,
    grad_norm: sum((update) => update.grad_norm) / all.length,
    updates: moved(all),
  };
}

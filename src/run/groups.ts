/** The groups of a step: one round of rollouts, or with `dynamic_sampling` as many as it takes. */
import type { Experience } from "../curriculum/experience.ts";
import { hasSignal } from "../grpo/batch.ts";
import type { PlannedTask } from "../rollout/collect.ts";
import type { Group } from "../rollout/types.ts";
import type { Run } from "./run.ts";

export interface StepGroups {
  /** All that were sampled, in order. */
  readonly groups: readonly Group[];
  /** Of these, the ones that the update is made from. */
  readonly kept: readonly Group[];
  /** How many were sampled in place of tied ones. */
  readonly refilled: number;
}

/**
 * Dynamic sampling (DAPO, Yu et al. 2025): groups whose rewards (less penalties) are all equal are left out, and for every
 * one of the current domain its next task is sampled, until none is tied or `dynamic_sampling_rounds_max` rounds are over.
 * Tied groups that a method replays are left out and not replaced.
 */
export async function stepGroups(
  run: Run,
  planned: readonly PlannedTask[],
  { experience, step }: { readonly experience: Experience; readonly step: number },
): Promise<StepGroups> {
  const { config } = run;
  const rounds = config.dynamic_sampling ? config.dynamic_sampling_rounds_max : 1;
  const groups: Group[] = [];
  let next = planned;
  for (let round = 0; round < rounds && next.length > 0; round++) {
    const sampled = await run.rollouts.train(next, {
      label: `task ${experience.index}, step ${step}: rollouts${round === 0 ? "" : `, round ${round + 1}`}`,
      step: experience.index * config.num_steps_per_task + step,
      round,
      policy_version: run.policy_version,
    });
    groups.push(...sampled);
    const missing = sampled.filter((group) => !group.replayed && !hasSignal(group, config)).length;
    next = round + 1 < rounds ? nextTasks(run, experience, missing) : [];
  }
  const kept = config.dynamic_sampling ? groups.filter((group) => hasSignal(group, config)) : groups;
  return { groups, kept, refilled: groups.length - planned.length };
}

function nextTasks({ curriculum }: Run, experience: Experience, count: number): readonly PlannedTask[] {
  return count === 0 ? [] : curriculum.take(experience, curriculum.next(experience, count));
}

/** The groups of a step, in the order of its plan: rolled out now, or remembered; with `dynamic_sampling` more of them. */
import type { StepGroups } from "../checkpoint/step-groups.ts";
import type { Trajectory } from "../cl/trajectory.ts";
import type { RunConfig } from "../config/schema.ts";
import type { ResolvedTask, TaskRef } from "../curriculum/curriculum.ts";
import type { Experience } from "../curriculum/experience.ts";
import { hasSignal } from "../grpo/batch.ts";
import type { Group } from "../rollout/types.ts";
import type { Run } from "./run.ts";

interface Plan {
  readonly refs: readonly TaskRef[];
  readonly planned: readonly ResolvedTask[];
}

interface Place {
  readonly experience: Experience;
  readonly step: number;
}

/**
 * Dynamic sampling (DAPO, Yu et al. 2025): groups whose rewards (less penalties) are all equal are left out of the loss, and
 * for every one of the current domain its next task is sampled, until none is tied or `dynamic_sampling_rounds_max` rounds
 * are over. Tied groups that a method replays are left out and not replaced.
 */
export async function stepGroups(run: Run, plan: Plan, place: Place): Promise<StepGroups> {
  const { config } = run;
  const groups = await plannedGroups(run, plan, place);
  let newest: readonly Group[] = groups;
  let refilled = 0;
  for (let round = 1; config.dynamic_sampling && round < config.dynamic_sampling_rounds_max; round++) {
    const tied = newest.filter((group) => !group.replayed && group.use === undefined && !hasSignal(group, config));
    if (tied.length === 0) break;
    newest = await further(run, tied.length, { ...place, round });
    groups.push(...newest);
    refilled += newest.length;
  }
  return { groups, refilled };
}

/** The groups that the update is made from. */
export function groupsInLoss(groups: readonly Group[], config: RunConfig): readonly Group[] {
  const inLoss = groups.filter(({ use }) => use !== "reference");
  return config.dynamic_sampling ? inLoss.filter((group) => hasSignal(group, config)) : inLoss;
}

async function plannedGroups(run: Run, { refs, planned }: Plan, place: Place): Promise<Group[]> {
  const isFresh = (p: number) => refs[p]?.use !== "stored";
  const fresh = await rolledOut(
    run,
    planned.filter((_, p) => isFresh(p)),
    { ...place, round: 0 },
  );
  const rolled = fresh.values();
  return refs.flatMap((ref, p) => {
    if (!isFresh(p)) return remembered(run, ref);
    const group = rolled.next().value as Group;
    return [ref.use === undefined ? group : { ...group, use: ref.use }];
  });
}

function further(run: Run, count: number, place: Place & { readonly round: number }): Promise<Group[]> {
  const { curriculum } = run;
  return rolledOut(run, curriculum.take(curriculum.next(place.experience.domain, count)), place);
}

function rolledOut(
  run: Run,
  planned: readonly ResolvedTask[],
  { experience: { index }, step, round }: Place & { readonly round: number },
): Promise<Group[]> {
  return run.rollouts.train(planned, {
    label: `task ${index}, step ${step}: rollouts${round === 0 ? "" : `, round ${round + 1}`}`,
    step: index * run.config.num_steps_per_task + step,
    round,
    policy_version: run.policy_version,
  });
}

/** None where the memory has let go of the task. */
function remembered({ memory }: Run, { domain, task_id }: TaskRef): Group[] {
  const rollouts: readonly Trajectory[] = memory.newestGroup({ domain, task_id });
  return rollouts.length === 0 ? [] : [{ domain, task_id, replayed: true, use: "stored", rollouts }];
}

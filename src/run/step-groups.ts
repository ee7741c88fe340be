/** The groups of a step, in the order of its plan: rolled out now, or remembered. */
import type { Trajectory } from "../cl/trajectory.ts";
import type { ResolvedTask, TaskRef } from "../curriculum/curriculum.ts";
import type { Group } from "../rollout/types.ts";
import type { Run } from "./run.ts";

export async function stepGroups(
  run: Run,
  { refs, planned }: { readonly refs: readonly TaskRef[]; readonly planned: readonly ResolvedTask[] },
  { task_idx, step }: { readonly task_idx: number; readonly step: number },
): Promise<Group[]> {
  const isFresh = (p: number) => refs[p]?.use !== "stored";
  const fresh = await run.rollouts.train(
    planned.filter((_, p) => isFresh(p)),
    {
      label: `task ${task_idx}, step ${step}: rollouts`,
      step: task_idx * run.config.num_steps_per_task + step,
      policy_version: run.policy_version,
    },
  );
  const rolled = fresh.values();
  return refs.flatMap((ref, p) => {
    if (!isFresh(p)) return remembered(run, ref);
    const group = rolled.next().value as Group;
    return [ref.use === undefined ? group : { ...group, use: ref.use }];
  });
}

/** None where the memory has let go of the task. */
function remembered({ memory }: Run, { domain, task_id }: TaskRef): Group[] {
  const rollouts: readonly Trajectory[] = memory.newestGroup({ domain, task_id });
  return rollouts.length === 0 ? [] : [{ domain, task_id, replayed: true, use: "stored", rollouts }];
}

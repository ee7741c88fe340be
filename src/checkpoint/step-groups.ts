/** Rollouts that were made one step ahead (`overlap_rollouts`), as a checkpoint carries them: state/ahead.json. */
import {
  dumps,
  type ExactObject,
  type ExactValue,
  entriesOf,
  isArray,
  isObject,
  parseExact,
  plainOf,
} from "../base/exact.ts";
import { trajectoryOf, trajectoryText } from "../cl/trajectory.ts";
import type { Group } from "../rollout/types.ts";

/** Of the next step. */
export interface StepGroups {
  readonly groups: readonly Group[];
  /** Of them, those sampled in place of tied ones. */
  readonly refilled: number;
}

export function stepGroupsText({ groups, refilled }: StepGroups): string {
  const lines = groups.map(({ rollouts, ...facts }) => {
    const { domain, task_id, replayed, use } = facts;
    const head = dumps({ domain, task_id, replayed, ...(use === undefined ? {} : { use }) } as ExactObject);
    // a remembered rollout says itself where it came from; a fresh one is given its place after its update
    const texts = rollouts.map((rollout) =>
      trajectoryText({ ...rollout, task_idx: 0, step: 0, replayed, ...rollout }, { with_logprobs: true }),
    );
    return `{"group": ${head}, "rollouts": [\n${texts.join(",\n")}\n]}`;
  });
  return `{"refilled": ${refilled}, "groups": [\n${lines.join(",\n")}\n]}\n`;
}

export function parseStepGroups(text: string): StepGroups {
  const { refilled, groups } = fields(parseExact(text));
  if (!isArray(groups)) throw new Error("its groups are not an array");
  return { refilled: plainOf(refilled as ExactValue) as number, groups: groups.map(groupOf) };
}

function groupOf(value: ExactValue): Group {
  const { group, rollouts } = fields(value);
  if (!isArray(rollouts)) throw new Error("a group's rollouts are not an array");
  return {
    ...(plainOf(group as ExactValue) as unknown as Omit<Group, "rollouts">),
    rollouts: rollouts.map(trajectoryOf),
  };
}

function fields(value: ExactValue): Readonly<Record<string, ExactValue | undefined>> {
  if (!isObject(value)) throw new Error("it is not an object");
  return Object.fromEntries(entriesOf(value));
}

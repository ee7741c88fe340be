/** What a domain's data holds: tasks and splits, the tasks that need a judge, those that ask for nothing; or what is wrong with it. */
import { UserError } from "../base/errors.ts";
import { splitNames, tasksOfSplit } from "../curriculum/split.ts";
import { solvedByNothing } from "../run/noop.ts";
import { loadDomain } from "../tau2/domains/index.ts";
import { needsJudge } from "../tau2/evaluator.ts";
import type { Domain } from "../tau2/types.ts";

export interface CheckedDomain {
  readonly name: string;
  /** Why the domain cannot be used: file, task and field; null: it can. */
  readonly problem: string | null;
  readonly splits: Readonly<Record<string, SplitContents>>;
}

interface SplitContents {
  readonly tasks: number;
  /** Ids of the tasks whose reward only a judge model can tell. */
  readonly need_judge: readonly string[];
  /** Of the others, those that an agent solves by doing nothing. */
  readonly solved_by_nothing: readonly string[];
}

export function checkDomain(name: string, tau2_data_dir: string | null): CheckedDomain {
  try {
    const domain = loadDomain(name, { tau2_data_dir, train_split: 1 });
    const names = splitNames(domain).filter((split) => split === "all" || domain.splits[split]?.length);
    return { name, problem: null, splits: Object.fromEntries(names.map((split) => [split, contents(domain, split)])) };
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    return { name, problem: error.message, splits: {} };
  }
}

function contents(domain: Domain, split: string): SplitContents {
  const tasks = tasksOfSplit(domain, split);
  return {
    tasks: tasks.length,
    need_judge: tasks.filter(needsJudge).map(({ id }) => id),
    solved_by_nothing: tasks.filter((task) => solvedByNothing(domain, task)).map(({ id }) => id),
  };
}

/** For people; with `--json` every id is told. */
export function domainLines({ name, problem, splits }: CheckedDomain): string[] {
  if (problem !== null) return [`${name}: ${problem}`];
  const each = (value: (split: SplitContents) => number): string =>
    Object.entries(splits)
      .map(([split, contents]) => `${split} ${value(contents)}`)
      .join(", ");
  return [
    `${name}: ${each(({ tasks }) => tasks)}`,
    `  need a judge: ${each(({ need_judge }) => need_judge.length)}${listed(splits.all?.need_judge ?? [])}`,
    `  solved by doing nothing: ${each(({ solved_by_nothing }) => solved_by_nothing.length)}${listed(splits.all?.solved_by_nothing ?? [])}`,
  ];
}

const LISTED_MAX = 40;

function listed(ids: readonly string[]): string {
  if (ids.length === 0) return "";
  const more = ids.length > LISTED_MAX ? ", … (--json lists all)" : "";
  return ` (${ids.slice(0, LISTED_MAX).join(", ")}${more})`;
}

/**
 * Which tasks are trained on and which are evaluated. A domain's own `train` and `test` splits count; one without them
 * is cut in the order of its tasks. Where nothing is left for evaluation, it uses training tasks and says so.
 */
import { UserError } from "../base/errors.ts";
import { isSoloTask } from "../tau2/agent.ts";
import type { Domain, Task } from "../tau2/types.ts";
import { type NlAssertions, usableTasks } from "./nl-assertions.ts";

export interface SplitOptions {
  /** Share of training tasks, for a domain without splits. */
  readonly train_split: number;
  /** Limits training only. */
  readonly max_tasks_per_domain: number | null;
  /** Limits evaluation only. */
  readonly eval_max_tasks: number | null;
  readonly noop_tasks: "keep" | "drop_from_train";
  readonly nl_assertions: NlAssertions;
  /** Does an agent that does nothing get the reward? */
  readonly solvedByNothing: (domain: Domain, task: Task) => boolean;
}

export interface DomainSplit {
  readonly domain: Domain;
  readonly train: readonly Task[];
  readonly test: readonly Task[];
  /** True when a task of `test` may be trained on: its scores are no evidence of generalisation. */
  readonly contaminated: boolean;
  readonly nl_assertions: NlAssertions;
  /** Ids of the tasks left out because of `nl_assertions`. */
  readonly excluded: { readonly train: readonly string[]; readonly test: readonly string[] };
}

export function splitDomain(domain: Domain, options: SplitOptions): DomainSplit {
  const { nl_assertions } = options;
  const own = playable(domain, ownSplits(domain) ?? cutSplits(domain, options.train_split));
  const trainable = usableTasks(own.train, nl_assertions);
  const unseen = usableTasks(own.test, nl_assertions);
  const train = wanted(domain, trainable.tasks, options);
  if (train.length === 0)
    throw new UserError(`task_order: ${domain.name}`, noTrainingTasks(own.train, trainable.tasks));
  const test = (unseen.tasks.length > 0 ? unseen.tasks : train).slice(0, options.eval_max_tasks ?? undefined);
  const trained = new Set(train.map((task) => task.id));
  return {
    domain,
    train,
    test,
    contaminated: test.some((task) => trained.has(task.id)),
    nl_assertions,
    excluded: { train: trainable.excluded, test: unseen.excluded },
  };
}

/** Of the tasks that can be scored, those to train on. */
function wanted(
  domain: Domain,
  tasks: readonly Task[],
  { noop_tasks, solvedByNothing, max_tasks_per_domain }: SplitOptions,
): readonly Task[] {
  const kept = noop_tasks === "keep" ? tasks : tasks.filter((task) => !solvedByNothing(domain, task));
  return kept.slice(0, max_tasks_per_domain ?? undefined);
}

type TrainAndTest = Pick<DomainSplit, "train" | "test">;

/** In solo mode some tasks cannot be worked on. */
function playable({ solo_mode }: Domain, { train, test }: TrainAndTest): TrainAndTest {
  return solo_mode ? { train: train.filter(isSoloTask), test: test.filter(isSoloTask) } : { train, test };
}

function ownSplits(domain: Domain): TrainAndTest | null {
  const { train = [], test = [] } = domain.splits;
  if (train.length === 0 && test.length === 0) return null;
  return { train: tasksOf(domain, train), test: tasksOf(domain, test) };
}

/** In the order of tasks.json, whatever the order of the split file (SPEC section 1). */
function tasksOf(domain: Domain, ids: readonly string[]): Task[] {
  const wanted = new Set(ids);
  return domain.tasks.filter((task) => wanted.has(task.id));
}

/** Tasks of a split that is named by a person: `all`, or one of the domain's own, such as base, small or full. */
export function tasksOfSplit(domain: Domain, split: string): readonly Task[] {
  if (split === "all") return domain.tasks;
  const ids = domain.splits[split] ?? [];
  if (ids.length > 0) return tasksOf(domain, ids);
  throw new UserError("--split", `${domain.name} has no split "${split}"; known are ${splitNames(domain).join(", ")}`);
}

/** Splits that `tasksOfSplit` takes, and `train` and `test`, which every domain has, its own or cut. */
export function splitNames({ splits }: Domain): string[] {
  const own = Object.keys(splits).filter((name) => splits[name]?.length !== 0);
  return [...new Set(["train", "test", ...own, "all"])];
}

function cutSplits(domain: Domain, train_split: number): TrainAndTest {
  const border = Math.max(1, Math.floor(domain.tasks.length * train_split + 1e-9));
  return { train: domain.tasks.slice(0, border), test: domain.tasks.slice(border) };
}

function noTrainingTasks(all: readonly Task[], scorable: readonly Task[]): string {
  if (all.length === 0) return "it has no training tasks";
  if (scorable.length === 0)
    return "the reward of every training task needs a judge model. Set nl_assertions to judge, and judge.model";
  return "every training task is solved by doing nothing. Set noop_tasks to keep";
}

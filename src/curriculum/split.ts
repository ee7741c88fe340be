/**
 * Which tasks are trained on and which are evaluated. A domain's own `train` and `test` splits count; one without them
 * is cut in the order of its tasks. Where nothing is left for evaluation, it uses training tasks and says so.
 */
import { UserError } from "../base/errors.ts";
import type { Domain, Task } from "../tau2/types.ts";

export interface SplitOptions {
  /** Share of training tasks, for a domain without splits. */
  readonly train_split: number;
  /** Limits training only. */
  readonly max_tasks_per_domain: number | null;
  /** Limits evaluation only. */
  readonly eval_max_tasks: number | null;
  readonly noop_tasks: "keep" | "drop_from_train";
  /** Does an agent that does nothing get the reward? */
  readonly solvedByNothing: (domain: Domain, task: Task) => boolean;
}

export interface DomainSplit {
  readonly domain: Domain;
  readonly train: readonly Task[];
  readonly test: readonly Task[];
  /** True when a task of `test` may be trained on: its scores are no evidence of generalisation. */
  readonly contaminated: boolean;
}

export function splitDomain(domain: Domain, options: SplitOptions): DomainSplit {
  const { train: trainable, test: unseen } = ownSplits(domain) ?? cutSplits(domain, options.train_split);
  const wanted =
    options.noop_tasks === "keep" ? trainable : trainable.filter((task) => !options.solvedByNothing(domain, task));
  const train = wanted.slice(0, options.max_tasks_per_domain ?? undefined);
  if (train.length === 0) throw new UserError(`task_order: ${domain.name}`, noTrainingTasks(trainable.length));
  const test = (unseen.length > 0 ? unseen : train).slice(0, options.eval_max_tasks ?? undefined);
  const trained = new Set(train.map((task) => task.id));
  return { domain, train, test, contaminated: test.some((task) => trained.has(task.id)) };
}

function ownSplits(domain: Domain): Pick<DomainSplit, "train" | "test"> | null {
  const { train = [], test = [] } = domain.splits;
  if (train.length === 0 && test.length === 0) return null;
  return { train: tasksOf(domain, train), test: tasksOf(domain, test) };
}

/** In the order of tasks.json, whatever the order of the split file (SPEC section 1). */
function tasksOf(domain: Domain, ids: readonly string[]): Task[] {
  const wanted = new Set(ids);
  return domain.tasks.filter((task) => wanted.has(task.id));
}

function cutSplits(domain: Domain, train_split: number): Pick<DomainSplit, "train" | "test"> {
  const border = Math.max(1, Math.floor(domain.tasks.length * train_split + 1e-9));
  return { train: domain.tasks.slice(0, border), test: domain.tasks.slice(border) };
}

const noTrainingTasks = (before: number) =>
  before === 0
    ? "it has no training tasks"
    : "every training task is solved by doing nothing. Set noop_tasks to keep them";

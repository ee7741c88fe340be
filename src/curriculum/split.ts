/**
 * Which tasks are trained on and which are evaluated. A domain's own `train` and `test` splits count; one without them
 * is cut in the order of its tasks. Where nothing is left for evaluation, it uses training tasks and says so.
 */
import { UserError } from "../base/errors.ts";
import { isScorable } from "../tau2/evaluator.ts";
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
  /** Tasks left out of both: their reward needs a judge model, and there is none. */
  readonly unscorable: number;
}

export function splitDomain(domain: Domain, options: SplitOptions): DomainSplit {
  const own = ownSplits(domain) ?? cutSplits(domain, options.train_split);
  const trainable = own.train.filter(isScorable);
  const unseen = own.test.filter(isScorable);
  const wanted =
    options.noop_tasks === "keep" ? trainable : trainable.filter((task) => !options.solvedByNothing(domain, task));
  const train = wanted.slice(0, options.max_tasks_per_domain ?? undefined);
  if (train.length === 0) throw new UserError(`task_order: ${domain.name}`, noTrainingTasks(own.train, trainable));
  const test = (unseen.length > 0 ? unseen : train).slice(0, options.eval_max_tasks ?? undefined);
  const trained = new Set(train.map((task) => task.id));
  const unscorable = own.train.length + own.test.length - trainable.length - unseen.length;
  return { domain, train, test, contaminated: test.some((task) => trained.has(task.id)), unscorable };
}

type TrainAndTest = Pick<DomainSplit, "train" | "test">;

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

function cutSplits(domain: Domain, train_split: number): TrainAndTest {
  const border = Math.max(1, Math.floor(domain.tasks.length * train_split + 1e-9));
  return { train: domain.tasks.slice(0, border), test: domain.tasks.slice(border) };
}

function noTrainingTasks(all: readonly Task[], scorable: readonly Task[]): string {
  if (all.length === 0) return "it has no training tasks";
  if (scorable.length === 0) return "the reward of every training task needs a judge model, and there is none";
  return "every training task is solved by doing nothing. Set noop_tasks to keep";
}

/** The order of experiences, and what each of them may train on and is evaluated on. */
import type { Rng } from "../base/rng.ts";
import type { Domain, Task } from "../tau2/types.ts";
import { distinct, type Experience, experiencesOf, type SequenceOptions } from "./experience.ts";
import { type SamplerState, TaskSampler } from "./sampler.ts";
import { type DomainSplit, type SplitOptions, splitDomain } from "./split.ts";

export type TaskUse = "reference" | "stored";

/** A task by name: plans of methods are data, which can be printed, compared and stored. */
export interface TaskRef {
  readonly domain: string;
  readonly task_id: string;
  /** True for tasks that a method added from other domains. */
  readonly replayed: boolean;
  /**
   * `reference`: rolled out, but left out of the loss; a method asks for its gradient apart. `stored`: not rolled out, the
   * newest remembered rollouts of the task are trained on. Absent: rolled out and trained on.
   */
  readonly use?: TaskUse;
}

export interface ResolvedTask {
  readonly domain: Domain;
  readonly task: Task;
  readonly replayed: boolean;
}

export interface CurriculumOptions extends SequenceOptions, SplitOptions {
  /** At least those of `task_order`. */
  readonly domains: readonly Domain[];
  readonly rng: Rng;
}

export class Curriculum {
  readonly experiences: readonly Experience[];
  /** Distinct domains, in order of first training: the columns of the score matrix. */
  readonly splits: readonly DomainSplit[];
  readonly #sampler: TaskSampler;

  constructor(options: CurriculumOptions) {
    this.experiences = experiencesOf(options);
    this.splits = distinct(options.task_order).map((name) => splitDomain(named(options.domains, name), options));
    const tasks = new Map(this.splits.map(({ domain, train }) => [domain.name, train]));
    this.#sampler = new TaskSampler(tasks, options.rng);
  }

  split(domain: string): DomainSplit {
    const split = this.splits.find((candidate) => candidate.domain.name === domain);
    if (split === undefined) throw new Error(`curriculum: no domain is named ${domain}`);
    return split;
  }

  /** The next training tasks of a domain. They stay next until `take` says which were used. */
  next(domain: string, count: number): TaskRef[] {
    return this.#sampler.peek(domain, count).map((task) => ({ domain, task_id: task.id, replayed: false }));
  }

  /** Looks the planned tasks up and moves on behind those that are not replayed; the ones that replay displaced stay next. */
  take(planned: readonly TaskRef[]): ResolvedTask[] {
    const resolved = planned.map((ref) => this.#resolve(ref));
    for (const { domain, replayed } of planned) if (!replayed) this.#sampler.take(domain, 1);
    return resolved;
  }

  state(): SamplerState {
    return this.#sampler.state();
  }

  restore(state: SamplerState): void {
    this.#sampler.restore(state);
  }

  /** Only training tasks: a method must not train on what is evaluated. */
  #resolve({ domain, task_id, replayed }: TaskRef): ResolvedTask {
    const split = this.split(domain);
    const task = split.train.find((candidate) => candidate.id === task_id);
    if (task === undefined) throw new Error(`curriculum: ${task_id} is no training task of ${domain}`);
    return { domain: split.domain, task, replayed };
  }
}

function named(domains: readonly Domain[], name: string): Domain {
  const domain = domains.find((candidate) => candidate.name === name);
  if (domain === undefined) throw new Error(`curriculum: the domain ${name} was not loaded`);
  return domain;
}

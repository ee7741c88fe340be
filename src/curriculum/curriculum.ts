/** The order of experiences, and what each of them may train on and is evaluated on. */
import type { Rng } from "../base/rng.ts";
import type { Domain, Task } from "../tau2/types.ts";
import { distinct, type Experience, experiencesOf, type SequenceOptions } from "./experience.ts";
import { type SamplerState, TaskSampler } from "./sampler.ts";
import { type DomainSplit, type SplitOptions, splitDomain } from "./split.ts";

/** A task by name: plans of methods are data, which can be printed, compared and stored. */
export interface TaskRef {
  readonly domain: string;
  readonly task_id: string;
  /** True for tasks that a method added from other domains. */
  readonly replayed: boolean;
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

  /** The next tasks of the experience's domain. They stay next until `take` says which were used. */
  next(experience: Experience, count: number): TaskRef[] {
    return this.#sampler
      .peek(experience.domain, count)
      .map((task) => ({ domain: experience.domain, task_id: task.id, replayed: false }));
  }

  /** Looks the planned tasks up and moves on behind the current domain's; the ones that replay displaced stay next. */
  take(experience: Experience, planned: readonly TaskRef[]): ResolvedTask[] {
    const resolved = planned.map((ref) => this.#resolve(ref));
    this.#sampler.take(experience.domain, planned.filter((ref) => !ref.replayed).length);
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

/**
 * Which tasks of a domain come next: every epoch is a fresh shuffle of all of them, named by the domain and the epoch's
 * number. All the state there is is how many were taken, so a resumed run draws what the uninterrupted one would have.
 */
import type { Rng } from "../base/rng.ts";
import type { Task } from "../tau2/types.ts";

export type SamplerState = Readonly<Record<string, number>>;

export class TaskSampler {
  readonly #tasks: ReadonlyMap<string, readonly Task[]>;
  readonly #rng: Rng;
  readonly #taken = new Map<string, number>();

  constructor(tasks: ReadonlyMap<string, readonly Task[]>, rng: Rng) {
    this.#tasks = tasks;
    this.#rng = rng;
  }

  /** The next `count` tasks; they stay next until `take`. */
  peek(domain: string, count: number): Task[] {
    const tasks = this.#tasksOf(domain);
    const from = this.#taken.get(domain) ?? 0;
    const last = Math.floor((from + count - 1) / tasks.length);
    const epochs = new Map<number, readonly Task[]>();
    for (let epoch = Math.floor(from / tasks.length); epoch <= last; epoch++)
      epochs.set(epoch, this.#rng.fork(domain, epoch).shuffle(tasks));
    return Array.from({ length: count }, (_, i) => {
      const at = from + i;
      return epochs.get(Math.floor(at / tasks.length))?.[at % tasks.length] as Task;
    });
  }

  take(domain: string, count: number): void {
    this.#tasksOf(domain);
    this.#taken.set(domain, (this.#taken.get(domain) ?? 0) + count);
  }

  state(): SamplerState {
    return Object.fromEntries(this.#taken);
  }

  restore(state: SamplerState): void {
    this.#taken.clear();
    for (const [domain, taken] of Object.entries(state)) this.#taken.set(domain, taken);
  }

  #tasksOf(domain: string): readonly Task[] {
    const tasks = this.#tasks.get(domain);
    if (tasks === undefined) throw new Error(`sampler: no domain is named ${domain}`);
    return tasks;
  }
}

/** An experience is one domain of `task_order` with its budget of steps. A domain may come more than once. */

export interface Experience {
  /** Position in `task_order`: the seed's `task_idx`. */
  readonly index: number;
  readonly domain: string;
  /** Optimizer updates. */
  readonly steps: number;
  /** The other domains trained before this experience, in order of their first training. */
  readonly earlier: readonly string[];
}

export interface SequenceOptions {
  readonly task_order: readonly string[];
  readonly num_steps_per_task: number;
}

export function experiencesOf({ task_order, num_steps_per_task }: SequenceOptions): Experience[] {
  return task_order.map((domain, index) => ({
    index,
    domain,
    steps: num_steps_per_task,
    earlier: distinct(task_order.slice(0, index)).filter((other) => other !== domain),
  }));
}

/** The columns of the score matrix: each domain once, in order of its first appearance. */
export const distinct = (names: readonly string[]): string[] => [...new Set(names)];

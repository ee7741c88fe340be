/** What the time of conversations goes into, outside the core. */

export class PhaseTimes {
  readonly #now: () => number;
  readonly #times = new Map<string, number>();
  /** Spans under way by phase, and since when there has been at least one. */
  readonly #open = new Map<string, { count: number; since: number }>();

  /** `now`: milliseconds. */
  constructor(now: () => number) {
    this.#now = now;
  }

  /** Work that nothing interrupts. */
  measure<T>(phase: string, work: () => T): T {
    const began = this.#now();
    try {
      return work();
    } finally {
      this.#add(phase, this.#now() - began);
    }
  }

  /** Many conversations wait at once: a moment counts once, however many of them wait for this phase. */
  async waiting<T>(phase: string, work: () => Promise<T>): Promise<T> {
    const open = this.#open.get(phase) ?? { count: 0, since: 0 };
    this.#open.set(phase, open);
    if (open.count++ === 0) open.since = this.#now();
    try {
      return await work();
    } finally {
      if (--open.count === 0) this.#add(phase, this.#now() - open.since);
    }
  }

  /** Milliseconds by phase since the last call; spans under way count when they end. */
  take(): Record<string, number> {
    const taken = Object.fromEntries(this.#times);
    this.#times.clear();
    return taken;
  }

  #add(phase: string, ms: number): void {
    this.#times.set(phase, (this.#times.get(phase) ?? 0) + ms);
  }
}

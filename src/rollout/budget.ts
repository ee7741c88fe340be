/** What the paid models of a run may cost together. The limit holds over all parts of a run that was interrupted. */

/** The limit is reached: no further request is paid. The run stops where it can go on; main ends the process with 3. */
export class BudgetError extends Error {
  override readonly name = "BudgetError";
}

export class Budget {
  readonly limit_usd: number | null;
  #spent_usd: number;

  constructor({ limit_usd, spent_usd = 0 }: { readonly limit_usd: number | null; readonly spent_usd?: number }) {
    this.limit_usd = limit_usd;
    this.#spent_usd = spent_usd;
  }

  get spent_usd(): number {
    return this.#spent_usd;
  }

  get reached(): boolean {
    return this.limit_usd !== null && this.#spent_usd >= this.limit_usd;
  }

  add(cost_usd: number): void {
    this.#spent_usd += cost_usd;
  }

  /** Before a request that costs something. Those under way may still go beyond the limit. */
  check(): void {
    if (!this.reached) return;
    const spent = this.#spent_usd.toFixed(4);
    throw new BudgetError(`user and judge have cost $${spent}, and user.max_cost_usd is ${this.limit_usd}`);
  }
}

/** Errors that a person can act on. */

/**
 * Bad input: a flag, a file, a field. Prints as one sentence, `where: problem`, and ends the process with exit code 2.
 * `where` names what to change (`--kl_coef`, `configs/a.yaml: replay_ratio`, `tasks.json`); the message says what is
 * wrong and, where there is one, the remedy.
 */
export class UserError extends Error {
  override readonly name = "UserError";

  constructor(
    readonly where: string,
    readonly problem: string,
    options?: ErrorOptions,
  ) {
    super(`${where}: ${problem}`, options);
  }
}

/** For the `default` of a `switch` over a union: a missing case is a type error, and says so at run time too. */
export function assertNever(value: never): never {
  throw new Error(`unexpected ${JSON.stringify(value)}`);
}

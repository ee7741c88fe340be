/** Ctrl-C: whatever is awaited is left at once; files are whole at every moment, so nothing needs to be finished. */

/** The run was interrupted. main ends the process with 130. */
export class AbortedError extends Error {
  override readonly name = "AbortedError";
}

/** Whatever broke off because of the signal is an interruption, told with what stands; other errors stay what they are. */
export function asInterruption(error: unknown, run: Interrupted): unknown {
  const { signal, position, directory, reporter, last_checkpoint } = run;
  if (!signal.aborted) return error;
  const { experience, step } = position;
  const remedy =
    last_checkpoint === null
      ? "there is no checkpoint yet (save_interval makes more of them)"
      : `go on from ${last_checkpoint} with --resume_from ${directory.path}`;
  const text = `Interrupted in task ${experience}, step ${step}. The files in ${directory.path} are whole; ${remedy}`;
  reporter.line(text);
  return new AbortedError(text, { cause: error });
}

interface Interrupted {
  readonly signal: AbortSignal;
  readonly last_checkpoint: string | null;
  readonly position: { readonly experience: number; readonly step: number };
  readonly directory: { readonly path: string };
  readonly reporter: { line(text: string): void };
}

/** The promise's result, or an AbortedError as soon as the signal fires. */
export function orAborted<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  const aborted = Promise.withResolvers<never>();
  const stop = () => aborted.reject(new AbortedError("interrupted"));
  if (signal.aborted) stop();
  signal.addEventListener("abort", stop, { once: true });
  return Promise.race([work, aborted.promise]).finally(() => signal.removeEventListener("abort", stop));
}

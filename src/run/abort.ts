/** Ctrl-C: whatever is awaited is left at once; files are whole at every moment, so nothing needs to be finished. */

/** The run was interrupted. main ends the process with 130. */
export class AbortedError extends Error {
  override readonly name = "AbortedError";
}

/** The promise's result, or an AbortedError as soon as the signal fires. */
export function orAborted<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  const aborted = Promise.withResolvers<never>();
  const stop = () => aborted.reject(new AbortedError("interrupted"));
  if (signal.aborted) stop();
  signal.addEventListener("abort", stop, { once: true });
  return Promise.race([work, aborted.promise]).finally(() => signal.removeEventListener("abort", stop));
}

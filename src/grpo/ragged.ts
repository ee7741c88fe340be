/** Ragged sequences, laid end to end as the core takes them. */
import type { TokenBatch, TrainingBatch } from "../core/policy.ts";

interface Sequence {
  readonly tokens: Uint32Array;
}

export function laidEndToEnd(sequences: readonly Sequence[]): TokenBatch {
  const offsets = new Uint32Array(sequences.length + 1);
  for (const [s, { tokens }] of sequences.entries()) offsets[s + 1] = (offsets[s] ?? 0) + tokens.length;
  const tokens_N = new Uint32Array(offsets.at(-1) ?? 0);
  for (const [s, { tokens }] of sequences.entries()) tokens_N.set(tokens, offsets[s]);
  return { tokens_N, offsets };
}

/** With nothing in the loss: weights, advantages and log-probabilities are zeros for the caller to fill. */
export function unweighedBatch(sequences: readonly Sequence[]): TrainingBatch {
  const batch = laidEndToEnd(sequences);
  const zeros = () => new Float32Array(batch.tokens_N.length);
  return { ...batch, weights_N: zeros(), advantages_N: zeros(), old_logprobs_N: zeros() };
}

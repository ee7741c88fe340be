/** Sequences → a batch for losses other than GRPO's: every sampled token has a weight, no other token has. */
import type { Distribution, TokenSequence } from "../cl/method.ts";
import type { StoredDistributions, TrainingBatch } from "../core/policy.ts";
import { unweighedBatch } from "../grpo/ragged.ts";

export interface WeighedSequence extends TokenSequence {
  readonly distribution?: Distribution;
}

/** `mean`: the weights of the batch sum to this. `sum`: each sampled token weighs 1. `mean_each`: each sequence's sum to 1. */
export type Weighing = { readonly mean: number } | "sum" | "mean_each";

/** Null when nothing was sampled. */
export function sequenceBatch(sequences: readonly WeighedSequence[], weighing: Weighing): TrainingBatch | null {
  const sampled_S = sequences.map(({ sampled_mask }) => sampled_mask.reduce((count, one) => count + one, 0));
  const used = sequences.filter((_, s) => (sampled_S[s] as number) > 0);
  const tokens = sampled_S.reduce((sum, count) => sum + count, 0);
  if (tokens === 0) return null;
  const weightOf = (count: number) =>
    typeof weighing === "object" ? weighing.mean / tokens : weighing === "sum" ? 1 : 1 / count;
  const batch = unweighedBatch(used);
  const { offsets } = batch;
  for (const [s, sequence] of used.entries()) {
    const start = offsets[s] as number;
    const positions = sampledPositions(sequence);
    for (const t of positions) batch.weights_N[start + t] = weightOf(positions.length);
  }
  const targets = targetsOf(used, offsets);
  return targets === null ? batch : { ...batch, targets };
}

/** Rows of the sampled tokens filled, all others zero. */
function targetsOf(sequences: readonly WeighedSequence[], offsets: Uint32Array): StoredDistributions | null {
  const k = sequences[0]?.distribution?.k;
  if (k === undefined) return null;
  const cells = (offsets.at(-1) as number) * k;
  const targets = { k, ids_NK: new Uint32Array(cells), logprobs_NK: new Float32Array(cells) };
  for (const [s, sequence] of sequences.entries()) {
    const { ids_TK, logprobs_TK } = sequence.distribution as Distribution;
    for (const [row, t] of sampledPositions(sequence).entries()) {
      const at = ((offsets[s] as number) + t) * k;
      targets.ids_NK.set(ids_TK.subarray(row * k, (row + 1) * k), at);
      targets.logprobs_NK.set(logprobs_TK.subarray(row * k, (row + 1) * k), at);
    }
  }
  return targets;
}

/** Of the stored rows of a batch, those of each sequence's sampled tokens. */
export function distributionsOf(
  sequences: readonly TokenSequence[],
  { k, ids_NK, logprobs_NK }: StoredDistributions,
): Distribution[] {
  let start = 0;
  return sequences.map((sequence) => {
    const positions = sampledPositions(sequence);
    const distribution = {
      k,
      ids_TK: new Uint32Array(positions.length * k),
      logprobs_TK: new Float32Array(positions.length * k),
    };
    for (const [row, t] of positions.entries()) {
      const at = (start + t) * k;
      distribution.ids_TK.set(ids_NK.subarray(at, at + k), row * k);
      distribution.logprobs_TK.set(logprobs_NK.subarray(at, at + k), row * k);
    }
    start += sequence.tokens.length;
    return distribution;
  });
}

const sampledPositions = ({ sampled_mask }: TokenSequence): number[] =>
  [...sampled_mask.keys()].filter((t) => sampled_mask[t] === 1);

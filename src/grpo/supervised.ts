/** Recorded conversations → what one supervised step sends to the core: the loss is −log π(token) over the agent's tokens. */
import type { TrainingBatch } from "../core/policy.ts";
import type { TokenRecord } from "../rollout/dialogue.ts";
import { unweighedBatch } from "./ragged.ts";

export type SupervisedSequence = Pick<TokenRecord, "tokens" | "sampled_mask">;

/** The mean over the agent's tokens: each of these has the same weight, no other token has any. */
export function packSupervised(sequences: readonly SupervisedSequence[]): TrainingBatch {
  const weight = 1 / sequences.reduce((sum, { sampled_mask }) => sum + targetTokens(sampled_mask), 0);
  const batch = unweighedBatch(sequences);
  for (const [s, { sampled_mask }] of sequences.entries()) {
    const start = batch.offsets[s] ?? 0;
    if (sampled_mask[0] === 1) throw new Error("the first token of a sequence cannot be in the loss");
    for (const [t, sampled] of sampled_mask.entries()) if (sampled === 1) batch.weights_N[start + t] = weight;
  }
  return batch;
}

export const targetTokens = (sampled_mask: Uint8Array): number =>
  sampled_mask.reduce((sum, sampled) => sum + sampled, 0);

/** Recorded conversations → what one supervised step sends to the core: the loss is −log π(token) over the agent's tokens. */
import type { TrainingBatch } from "../core/policy.ts";
import type { TokenRecord } from "../rollout/dialogue.ts";

export type SupervisedSequence = Pick<TokenRecord, "tokens" | "sampled_mask">;

/** The mean over the agent's tokens: each of these has the same weight, no other token has any. */
export function packSupervised(sequences: readonly SupervisedSequence[]): TrainingBatch {
  const weight = 1 / sequences.reduce((sum, { sampled_mask }) => sum + targetTokens(sampled_mask), 0);
  const offsets = new Uint32Array(sequences.length + 1);
  for (const [s, { tokens }] of sequences.entries()) offsets[s + 1] = (offsets[s] ?? 0) + tokens.length;
  const size = offsets.at(-1) ?? 0;
  const [tokens_N, weights_N] = [new Uint32Array(size), new Float32Array(size)];
  for (const [s, { tokens, sampled_mask }] of sequences.entries()) {
    const start = offsets[s] ?? 0;
    if (sampled_mask[0] === 1) throw new Error("the first token of a sequence cannot be in the loss");
    tokens_N.set(tokens, start);
    for (const [t, sampled] of sampled_mask.entries()) if (sampled === 1) weights_N[start + t] = weight;
  }
  return { tokens_N, offsets, weights_N, advantages_N: new Float32Array(size), old_logprobs_N: new Float32Array(size) };
}

export const targetTokens = (sampled_mask: Uint8Array): number =>
  sampled_mask.reduce((sum, sampled) => sum + sampled, 0);

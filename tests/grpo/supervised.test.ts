import { expect, test } from "bun:test";
import { packSupervised } from "../../src/grpo/supervised.ts";

const sequence = (mask: readonly number[], first: number) => ({
  tokens: Uint32Array.from(mask, (_, t) => first + t),
  sampled_mask: Uint8Array.from(mask),
});

test("every token of the agent has the same weight in the step, no other has any, and the weights add up to 1", () => {
  const sequences = [sequence([0, 1, 1, 0], 10), sequence([0, 0, 1], 20), sequence([0, 1, 0, 1, 1], 30)];
  const batches = packSupervised(sequences, { sequences_per_batch: 2 });
  expect(batches.map(({ offsets }) => [...offsets])).toEqual([
    [0, 4, 7],
    [0, 5],
  ]);
  expect(batches.flatMap(({ tokens_N }) => [...tokens_N])).toEqual(sequences.flatMap(({ tokens }) => [...tokens]));
  const weights = batches.flatMap(({ weights_N }) => [...weights_N]);
  const masks = sequences.flatMap(({ sampled_mask }) => [...sampled_mask]);
  expect(weights).toEqual(masks.map((sampled) => Math.fround(sampled / 6)));
  expect(() => packSupervised([sequence([1, 1], 0)], { sequences_per_batch: 1 })).toThrow("first token");
});

import { expect, test } from "bun:test";
import { packSupervised } from "../../src/grpo/supervised.ts";

const sequence = (mask: readonly number[], first: number) => ({
  tokens: Uint32Array.from(mask, (_, t) => first + t),
  sampled_mask: Uint8Array.from(mask),
});

test("every token of the agent has the same weight in the step, no other has any, and the weights add up to 1", () => {
  const sequences = [sequence([0, 1, 1, 0], 10), sequence([0, 0, 1], 20), sequence([0, 1, 0, 1, 1], 30)];
  const { tokens_N, offsets, weights_N } = packSupervised(sequences);
  expect([...offsets]).toEqual([0, 4, 7, 12]);
  expect([...tokens_N]).toEqual(sequences.flatMap(({ tokens }) => [...tokens]));
  const masks = sequences.flatMap(({ sampled_mask }) => [...sampled_mask]);
  expect([...weights_N]).toEqual(masks.map((sampled) => Math.fround(sampled / 6)));
  expect(() => packSupervised([sequence([1, 1], 0)])).toThrow("first token");
});

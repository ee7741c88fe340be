import { describe, expect, test } from "bun:test";
import { Rng } from "../../src/base/rng.ts";

describe("Rng", () => {
  test("a stream is its path", () => {
    const root = Rng.from(42);
    const early = root.fork("rollout", 3, "task-7", 1).uint64();
    root.uint64();
    expect(root.fork("rollout", 3, "task-7", 1).uint64()).toBe(early);
    expect(Rng.from(42).fork("rollout").fork(3, "task-7").fork(1).uint64()).toBe(early);
  });

  // Frozen values: a change here changes every run ever made.
  test("frozen values", () => {
    const rng = Rng.from(42).fork("a", 1);
    expect([rng.uint64(), rng.uint64()].map(String)).toMatchInlineSnapshot(`
      [
        "9109294499745933218",
        "14527244459162908337",
      ]
    `);
    expect(Rng.from(0).shuffle([0, 1, 2, 3, 4, 5, 6, 7])).toMatchInlineSnapshot(`
      [
        7,
        4,
        5,
        0,
        1,
        2,
        6,
        3,
      ]
    `);
  });

  test.each([
    [["a", "b"], ["ab"]],
    [
      ["a", 1],
      ["a", "1"],
    ],
    [
      ["a", "b"],
      ["b", "a"],
    ],
    [
      [1, 11],
      [11, 1],
    ],
    [[""], []],
  ])("paths %p and %p differ", (one, other) => {
    expect(
      Rng.from(1)
        .fork(...one)
        .uint64(),
    ).not.toBe(
      Rng.from(1)
        .fork(...other)
        .uint64(),
    );
  });

  test("int is uniform", () => {
    const rng = Rng.from(7);
    const counts = new Array<number>(6).fill(0);
    for (let i = 0; i < 60_000; i++) counts[rng.int(6)]!++;
    // chi-squared with 5 degrees of freedom: 20.5 is the 0.1 % point.
    const chi = counts.reduce((sum, count) => sum + (count - 10_000) ** 2 / 10_000, 0);
    expect(chi).toBeLessThan(20.5);
  });

  test("shuffle is a permutation, pick and pickWeighted stay inside", () => {
    const rng = Rng.from(9);
    const items = [...Array(50).keys()];
    expect(rng.shuffle(items).toSorted((a, b) => a - b)).toEqual(items);
    expect(items).toContain(rng.pick(items));
    const drawn = new Set(Array.from({ length: 200 }, () => rng.pickWeighted([0, 1, 0, 3])));
    expect([...drawn].toSorted()).toEqual([1, 3]);
  });

  test("bad arguments are refused", () => {
    expect(() => Rng.from(1).int(0)).toThrow("not in 1..2^32");
    expect(() => Rng.from(1).pick([])).toThrow("no items");
    expect(() => Rng.from(1).pickWeighted([0, 0])).toThrow("nothing");
  });
});

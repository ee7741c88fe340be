import { describe, expect, test } from "bun:test";
import { Rng } from "../../src/base/rng.ts";
import { TrajectoryBuffer } from "../../src/cl/memory.ts";
import type { BatchContext } from "../../src/cl/method.ts";
import { type ReplayConfig, replay, replayCount } from "../../src/cl/replay.ts";
import { sequential } from "../../src/cl/sequential.ts";
import { groupOf, rolloutOf } from "../support/rollouts.ts";

describe("replayCount", () => {
  test.each([
    { ratio: 0.2, batch: 4, counts: [0, 1, 1, 1, 1, 0, 1, 1, 1, 1] },
    { ratio: 0.2, batch: 8, counts: [1, 2, 1, 2, 2, 1, 2, 1, 2, 2] },
    { ratio: 0.1, batch: 1, counts: [0, 0, 0, 0, 0, 0, 0, 0, 0, 1] },
    { ratio: 0.7, batch: 10, counts: [7, 7, 7, 7, 7, 7, 7, 7, 7, 7] },
    { ratio: 0, batch: 8, counts: [0, 0, 0] },
    { ratio: 1, batch: 3, counts: [3, 3, 3] },
  ])("ratio $ratio of $batch", ({ ratio, batch, counts }) => {
    const measured: readonly number[] = counts.map((_, step) => replayCount({ step, ratio, batch }));
    expect(measured).toEqual([...counts]);
  });

  test("over 1,000 steps the share is the ratio, whatever the batch", () => {
    for (const ratio of [0.01, 0.15, 0.2, 1 / 3, 0.55])
      for (const batch of [1, 2, 3, 7, 8]) {
        const counts = Array.from({ length: 1000 }, (_, step) => replayCount({ step, ratio, batch }));
        expect(counts.reduce((sum, count) => sum + count, 0)).toBe(Math.floor(1000 * ratio * batch + 1e-9));
      }
  });
});

/** Domain a: tasks 0..5, their rewards rise; domain b: 0..1; then c, which is being trained. */
function memory(): TrajectoryBuffer {
  const buffer = new TrajectoryBuffer({ capacity: 100 });
  const remember = (domain: string, count: number) => {
    for (let task = 0; task < count; task++) {
      const rollout = rolloutOf({ domain, task_id: String(task), reward: task / count });
      buffer.remember([groupOf([rollout], { domain, task_id: String(task) })], { task_idx: 0, step: 0 });
    }
  };
  remember("a", 6);
  remember("b", 2);
  remember("c", 5);
  return buffer;
}

const tasks = Array.from({ length: 4 }, (_, i) => ({ domain: "c", task_id: String(i), replayed: false }));

const context = (fields: Partial<BatchContext> = {}): BatchContext => ({
  tasks,
  experience: { index: 2, domain: "c", steps: 10, earlier: ["a", "b"] },
  step: 0,
  memory: memory(),
  rng: Rng.from(3),
  domains: ["a", "b", "c"],
  next: () => [],
  ...fields,
});

const config: ReplayConfig = {
  replay_ratio: 0.5,
  replay_budget: "replace",
  replay_strategy: "random",
  replay_mode: "reroll",
};
const names = (refs: readonly { domain: string; task_id: string }[]) =>
  refs.map(({ domain, task_id }) => domain + task_id);

describe("replay", () => {
  test("replace keeps the step's size, add adds", () => {
    const replaced = replay(config).augmentBatch(context());
    expect(replaced.map(({ replayed }) => replayed)).toEqual([false, false, true, true]);
    expect(replaced.slice(0, 2)).toEqual(tasks.slice(0, 2));
    const added = replay({ ...config, replay_budget: "add" }).augmentBatch(context());
    expect(added.slice(0, 4)).toEqual(tasks);
    expect(added.length).toBe(6);
  });

  test("never the current domain, never twice the same", () => {
    for (let seed = 0; seed < 50; seed++) {
      const drawn = names(replay({ ...config, replay_ratio: 1 }).augmentBatch(context({ rng: Rng.from(seed) })));
      expect(drawn.filter((name) => name.startsWith("c"))).toEqual([]);
      expect(new Set(drawn).size).toBe(4);
    }
  });

  test.each([
    {
      why: "in the first experience",
      fields: { experience: { index: 0, domain: "c", steps: 1, earlier: [] } },
      ratio: 1,
    },
    { why: "with an empty memory", fields: { memory: new TrajectoryBuffer({ capacity: 1 }) }, ratio: 1 },
    { why: "with ratio 0", fields: {}, ratio: 0 },
  ])("equals sequential $why", ({ fields, ratio }) => {
    const one = replay({ ...config, replay_ratio: ratio }).augmentBatch(context(fields));
    expect(one).toEqual(sequential().augmentBatch(context(fields)));
  });

  const drawnOften = (replay_strategy: ReplayConfig["replay_strategy"]) => {
    const counts: Record<string, number> = {};
    for (let seed = 0; seed < 400; seed++) {
      const plan = replay({ ...config, replay_strategy }).augmentBatch(context({ rng: Rng.from(seed) }));
      for (const name of names(plan.filter(({ replayed }) => replayed))) counts[name] = (counts[name] ?? 0) + 1;
    }
    return counts;
  };

  test("random draws every task", () => {
    expect(Object.keys(drawnOften("random")).toSorted()).toEqual(["a0", "a1", "a2", "a3", "a4", "a5", "b0", "b1"]);
  });

  test("high_reward draws from the better half", () => {
    // Rewards: a5 .83, a4 .67, a3 .5, b1 .5, a2 .33, a1 .17, a0 0, b0 0.
    expect(Object.keys(drawnOften("high_reward")).toSorted()).toEqual(["a3", "a4", "a5", "b1"]);
  });

  test("recent draws from the newer half", () => {
    expect(Object.keys(drawnOften("recent")).toSorted()).toEqual(["a4", "a5", "b0", "b1"]);
  });

  test("balanced draws as many from each domain", () => {
    const counts = drawnOften("balanced");
    const from = (domain: string) =>
      Object.entries(counts).reduce((sum, [name, count]) => (name.startsWith(domain) ? sum + count : sum), 0);
    expect([from("a"), from("b")]).toEqual([400, 400]);
  });

  test("fewer remembered tasks than wanted: all of them, and the rest from the current domain", () => {
    const few = new TrajectoryBuffer({ capacity: 9, trajectories: memory().trajectories.slice(0, 1) });
    expect(names(replay({ ...config, replay_ratio: 1 }).augmentBatch(context({ memory: few })))).toEqual([
      "c0",
      "c1",
      "c2",
      "a0",
    ]);
  });
});

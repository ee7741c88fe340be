import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Float } from "../../src/base/exact.ts";
import { Rng } from "../../src/base/rng.ts";
import { TrajectoryBuffer } from "../../src/cl/memory.ts";
import { parseTrajectory, type Trajectory, trajectoryText } from "../../src/cl/trajectory.ts";
import { groupOf, rolloutOf } from "../support/rollouts.ts";

const root = mkdtempSync(join(tmpdir(), "grpo-cl-memory-"));
afterAll(() => rmSync(root, { recursive: true }));

const trajectory = (fields: Partial<Trajectory> = {}): Trajectory => ({
  ...rolloutOf(fields),
  task_idx: 0,
  step: 0,
  replayed: false,
  ...fields,
});

/** What JSON alone would lose: runs of sampled tokens, float32 values, Python's 2.0, an integer beyond 2^53. */
const rich = trajectory({
  tokens: Uint32Array.of(5, 6, 7, 8, 151_643),
  sampled_mask: Uint8Array.of(0, 1, 1, 0, 1),
  logprobs: Float32Array.of(0, -0.1, -1.2345678, 0, -1e-8),
  reward: 0.5,
  reward_info: {
    reward: 0.5,
    reward_basis: ["DB"],
    reward_breakdown: { DB: 0.5 },
    db_check: { db_match: true, db_reward: 1 },
    env_assertions: null,
    action_checks: null,
    communicate_checks: null,
    nl_assertions: null,
    info: { note: new Float(1) },
  },
  messages: [
    { role: "user", content: "Zürich \u{1f642}\n", tool_calls: null },
    {
      role: "assistant",
      content: null,
      tool_calls: [
        {
          id: "1",
          name: "f",
          requestor: "assistant",
          arguments: { a: new Float(2), b: 2, c: 2n ** 60n, d: [new Float(0.1)] },
        },
      ],
    },
  ],
});

test("a trajectory survives its text exactly", () => {
  expect(parseTrajectory(trajectoryText(rich, { with_logprobs: true }))).toEqual(rich);
});

test("log-probabilities that were left out are NaN", () => {
  const { logprobs } = parseTrajectory(trajectoryText(rich, { with_logprobs: false }));
  expect([...logprobs]).toEqual([0, Number.NaN, Number.NaN, 0, Number.NaN]);
});

describe("TrajectoryBuffer", () => {
  test("saves one trajectory a line, and loads the same", () => {
    const path = join(root, "trajectories.json");
    const buffer = new TrajectoryBuffer({ capacity: 10, trajectories: [rich, trajectory({ task_id: "1" })] });
    buffer.save(path);
    expect(readFileSync(path, "utf8").split("\n").length).toBe(5);
    expect(JSON.parse(readFileSync(path, "utf8")).length).toBe(2);
    const loaded = TrajectoryBuffer.load(path, { capacity: 10 });
    expect(loaded.trajectories).toEqual(buffer.trajectories);
    expect(loaded.getStatistics()).toEqual(buffer.getStatistics());
    new TrajectoryBuffer({ capacity: 1 }).save(path);
    expect(TrajectoryBuffer.load(path).size).toBe(0);
  });

  test("a file that holds no trajectories is named", () => {
    const path = join(root, "broken.json");
    writeFileSync(path, '[{"tokens": [1');
    expect(() => TrajectoryBuffer.load(path)).toThrow(`${path}: it holds no trajectories`);
  });

  test("full: the oldest of a domain go first, and no other domain's", () => {
    const buffer = new TrajectoryBuffer({ capacity: 4 });
    for (const [domain, count] of [
      ["a", 3],
      ["b", 6],
    ] as const)
      for (let i = 0; i < count; i++) buffer.add(trajectory({ domain, task_id: String(i) }));
    const kept = () => buffer.trajectories.map(({ domain, task_id }) => domain + task_id);
    expect(kept()).toEqual(["a0", "a1", "a2", "b2", "b3", "b4", "b5"]);
    const groups = [groupOf([..."34"].map((task_id) => rolloutOf({ domain: "a", task_id })))];
    buffer.remember(groups, { task_idx: 2, step: 0 });
    expect(kept()).toEqual(["a1", "a2", "b2", "b3", "b4", "b5", "a3", "a4"]);
  });

  test("the newest group of a task is what was rolled out together the last time", () => {
    const buffer = new TrajectoryBuffer({ capacity: 9 });
    for (const step of [0, 3, 3]) buffer.add(trajectory({ domain: "a", task_id: "7", step }));
    buffer.add(trajectory({ domain: "b", task_id: "7", step: 4 }));
    expect(buffer.newestGroup({ domain: "a", task_id: "7" }).map(({ step }) => step)).toEqual([3, 3]);
    expect(buffer.newestGroup({ domain: "a", task_id: "8" })).toEqual([]);
  });

  test("remembers where a rollout came from, and no lost ones", () => {
    const buffer = new TrajectoryBuffer({ capacity: 9 });
    const rollouts = [rolloutOf({}), rolloutOf({ termination: "infrastructure_error" })];
    buffer.remember([groupOf(rollouts, { replayed: true })], { task_idx: 1, step: 4 });
    expect(buffer.trajectories.map(({ task_idx, step, replayed }) => ({ task_idx, step, replayed }))).toEqual([
      { task_idx: 1, step: 4, replayed: true },
    ]);
  });

  test("statistics, export and sample", () => {
    const rewards = [0, 1, 0.5, 1];
    const trajectories = rewards.map((reward, i) =>
      trajectory({ reward, domain: i < 2 ? "a" : "b", task_id: String(i % 2) }),
    );
    const buffer = new TrajectoryBuffer({ capacity: 9, trajectories });
    expect(buffer.getStatistics()).toEqual({
      size: 4,
      capacity: 9,
      reward_mean: 0.625,
      domains: {
        a: { trajectories: 2, tasks: 2, reward_mean: 0.5, reward_max: 1 },
        b: { trajectories: 2, tasks: 2, reward_mean: 0.75, reward_max: 1 },
      },
    });
    expect(buffer.exportTrajectories({ min_reward: 0.5 }).map(({ reward }) => reward)).toEqual([1, 0.5, 1]);
    expect(buffer.sample({ count: 9, rng: Rng.from(1), domains: ["b"] }).length).toBe(2);
    expect(new Set(buffer.sample({ count: 3, rng: Rng.from(1) })).size).toBe(3);
    expect(buffer.tasksOf(["b"])).toEqual([
      { domain: "b", task_id: "0", reward_mean: 0.5, newest: 2 },
      { domain: "b", task_id: "1", reward_mean: 1, newest: 3 },
    ]);
  });
});

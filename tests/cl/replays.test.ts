/** Joint, A-GEM, adaptive replay and DER++: which tasks and sequences they take. */
import { describe, expect, test } from "bun:test";
import { Rng } from "../../src/base/rng.ts";
import { aGem } from "../../src/cl/a-gem.ts";
import { adapted, adaptiveReplay } from "../../src/cl/adaptive-replay.ts";
import { derPp } from "../../src/cl/der-pp.ts";
import { joint } from "../../src/cl/joint.ts";
import { TrajectoryBuffer } from "../../src/cl/memory.ts";
import type { MethodOp, StoredSequence } from "../../src/cl/method.ts";
import { type ReplayConfig, replay } from "../../src/cl/replay.ts";
import { at, drive, experience, FIRST, SECOND, THIRD } from "../support/plans.ts";
import { groupOf, rolloutOf } from "../support/rollouts.ts";

function memory(): TrajectoryBuffer {
  const buffer = new TrajectoryBuffer({ capacity: 100 });
  for (const domain of ["a", "b"])
    for (let task = 0; task < 10; task++) {
      const fields = { domain, task_id: String(task) };
      buffer.remember([groupOf([rolloutOf(fields)], fields)], { task_idx: 0, step: 0 });
    }
  return buffer;
}

const tasks = Array.from({ length: 4 }, (_, i) => ({ domain: "c", task_id: String(i), replayed: false }));
const config: ReplayConfig = {
  replay_ratio: 0.5,
  replay_budget: "replace",
  replay_strategy: "random",
  replay_mode: "reroll",
};

test("joint deals the places of a step to all domains in turn", () => {
  const method = joint();
  const counts: Record<string, number> = {};
  for (const one of [FIRST, SECOND, THIRD])
    for (let step = 0; step < one.steps; step++) {
      const plan = method.augmentBatch(at(one, { step, tasks }));
      expect(plan.length).toBe(4);
      expect(plan.some(({ replayed }) => replayed)).toBe(false);
      for (const { domain } of plan) counts[domain] = (counts[domain] ?? 0) + 1;
    }
  expect(counts).toEqual({ a: 40, b: 40, c: 40 });
});

test.each([
  { name: "replay, stored", method: replay({ ...config, replay_mode: "stored" }), use: "stored" },
  { name: "a_gem", method: aGem(config), use: "reference" },
  { name: "a_gem, whatever replay_mode", method: aGem({ ...config, replay_mode: "stored" }), use: "reference" },
])("$name marks what it replays", ({ method, use }) => {
  const plan = method.augmentBatch(at(THIRD, { tasks, memory: memory() }));
  expect(plan.map((ref) => ref.use)).toEqual([undefined, undefined, use as "stored", use as "stored"]);
});

test("a_gem projects the step's own gradient against the reference's", () => {
  const method = aGem(config);
  expect(drive(method.beforeUpdate(at(THIRD, { groups: [groupOf([])] }))).ops).toEqual([]);
  const { ops } = drive(method.beforeUpdate(at(THIRD, { groups: [groupOf([], { use: "reference" })] })));
  const copy = (from: string, into: string) => ({ op: "combine", into, terms: [{ vector: from, factor: 1 }] });
  expect(ops).toEqual([
    copy("gradient", "a_gem_step"),
    { op: "combine", into: "gradient", terms: [] },
    { op: "backward", loss: { kind: "reference" }, strength: 1 },
    copy("gradient", "a_gem_reference"),
    copy("a_gem_step", "gradient"),
    { op: "project_gradient", reference: "a_gem_reference" },
  ] as MethodOp[]);
});

describe("adaptive_replay", () => {
  test.each([
    { drops: [0.11, 0], ratio: 0.2, next: 0.3 },
    { drops: [0.1, 0.05], ratio: 0.2, next: 0.2 },
    { drops: [0.019, -0.2], ratio: 0.2, next: 0.15 },
    { drops: [0.02], ratio: 0.2, next: 0.2 },
    { drops: [0.9], ratio: 0.45, next: 0.5 },
    { drops: [0], ratio: 0.12, next: 0.1 },
  ])("drops $drops move $ratio to $next", ({ drops, ratio, next }) => {
    expect(adapted(ratio, drops)).toBeCloseTo(next, 12);
  });

  const adaptive = () => adaptiveReplay({ ...config, replay_ratio: 0.2, probe_interval: 4 });
  const probe = (domains: readonly string[]): MethodOp => ({
    op: "probe",
    domains,
    tasks: "train",
    tasks_max: 16,
    trials: 2,
  });
  const ratioOf = (method: ReturnType<typeof adaptive>) => (method.state() as { ratio: number }).ratio;

  test("probes earlier domains every few steps, and all seen ones at the end", () => {
    const method = adaptive();
    expect(drive(method.afterStep(at(FIRST, { step: 3 }))).ops).toEqual([]);
    expect(drive(method.afterExperience(at(FIRST)), () => ({ rewards: { a: 0.9 } })).ops).toEqual([probe(["a"])]);
    expect(drive(method.afterStep(at(SECOND, { step: 2 }))).ops).toEqual([]);
    expect(drive(method.afterStep(at(SECOND, { step: 3 })), () => ({ rewards: { a: 0.7 } })).ops).toEqual([
      probe(["a"]),
    ]);
    expect(ratioOf(method)).toBeCloseTo(0.3, 12);
    drive(method.afterStep(at(SECOND, { step: 7 })), () => ({ rewards: { a: 0.95 } }));
    expect(ratioOf(method)).toBeCloseTo(0.25, 12);
    expect(method.state()).toMatchObject({ best: { a: 0.95 } });
  });

  test("draws domains in proportion to their drops", () => {
    const method = adaptive();
    method.restore({ ratio: 0.5, best: { a: 1, b: 1 }, drop: { a: 0.18, b: -0.3 } });
    let fromA = 0;
    for (let seed = 0; seed < 500; seed++)
      for (const { domain, replayed } of method.augmentBatch(
        at(THIRD, { tasks, memory: memory(), rng: Rng.from(seed) }),
      ))
        if (replayed && domain === "a") fromA += 1;
    // 0.18 to 0.02: nine of ten, of 1,000 draws.
    expect(fromA).toBeGreaterThan(860);
    expect(fromA).toBeLessThan(940);
  });
});

describe("der_pp", () => {
  const der = derPp({ der_alpha: 0.5, der_beta: 0.25, der_buffer_size: 6, replay_ratio: 0.5 });
  const rollouts = (domain: string, count: number) =>
    Array.from({ length: count }, (_, i) => rolloutOf({ domain, sample: i, reward: i % 2 }));
  const answered = (op: MethodOp) => {
    if (op.op === "backward") return { value: op.strength };
    if (op.op !== "record_distributions") return {};
    const distribution = { k: 1, ids_TK: Uint32Array.of(2, 3), logprobs_TK: Float32Array.of(-0.5, -0.25) };
    return { distributions: op.sequences.map(() => distribution) };
  };

  test("fills its reservoir, and draws from earlier experiences only", () => {
    const first = drive(der.beforeUpdate(at(FIRST, { groups: [groupOf(rollouts("a", 4))] })), answered);
    expect(first.ops).toMatchObject([{ op: "record_distributions", k: 64 }]);
    expect(first.returned).toBeUndefined();
    const { ops, returned } = drive(der.beforeUpdate(at(SECOND, { groups: [groupOf(rollouts("b", 8))] })), answered);
    expect(ops.map((op) => (op.op === "backward" ? op.loss.kind : op.op))).toEqual([
      "record_distributions",
      "distill_stored",
      "nll",
    ]);
    expect(returned).toBe(0.75);
    const drawn = ops[1] as Extract<MethodOp, { op: "backward" }>;
    const sequences = (drawn.loss as { readonly sequences: readonly StoredSequence[] }).sequences;
    expect(sequences.length).toBe(4);
    expect((der.state() as { reservoir: unknown[] }).reservoir.length).toBe(6);
  });

  test("its reservoir survives JSON exactly", () => {
    const other = derPp({ der_alpha: 0.5, der_beta: 0.25, der_buffer_size: 6, replay_ratio: 0.5 });
    other.restore(JSON.parse(JSON.stringify(der.state())));
    expect(other.state()).toEqual(der.state());
    const next = at(THIRD, { groups: [groupOf(rollouts("c", 2))] });
    expect(drive(other.beforeUpdate(next), answered)).toEqual(drive(der.beforeUpdate(next), answered));
  });

  test("every sequence is kept with equal chance", () => {
    const counts = new Array<number>(20).fill(0);
    for (let seed = 0; seed < 400; seed++) {
      const method = derPp({ der_alpha: 1, der_beta: 0, der_buffer_size: 5, replay_ratio: 0.5 });
      for (let i = 0; i < 20; i++) {
        const rollout = rolloutOf({ tokens: Uint32Array.of(1, i, i) });
        const context = at(experience(), { groups: [groupOf([rollout])], rng: Rng.from(seed).fork(i) });
        drive(method.beforeUpdate(context), answered);
      }
      const { reservoir } = method.state() as { reservoir: { tokens: string }[] };
      for (const { tokens } of reservoir) {
        const kept = new Uint32Array(Uint8Array.from(Buffer.from(tokens, "base64")).buffer)[1] as number;
        counts[kept] = (counts[kept] as number) + 1;
      }
    }
    // A quarter of 400, ± 5 standard deviations.
    for (const count of counts) expect(Math.abs(count - 100)).toBeLessThan(45);
  });
});

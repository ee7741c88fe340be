import { afterAll, beforeEach, describe, expect, test } from "bun:test";
import {
  appendFileSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { UserError } from "../../src/base/errors.ts";
import { openCheckpoint } from "../../src/checkpoint/load.ts";
import { saveCheckpoint } from "../../src/checkpoint/save.ts";
import type { RunState } from "../../src/checkpoint/state.ts";
import type { StepGroups } from "../../src/checkpoint/step-groups.ts";
import { TrajectoryBuffer } from "../../src/cl/memory.ts";
import { fakePolicy } from "../../src/core/fake.ts";
import type { Rollout } from "../../src/rollout/types.ts";
import { lampConfig } from "../support/lamp-run.ts";
import { rolloutOf } from "../support/rollouts.ts";

const root = mkdtempSync(join(tmpdir(), "grpo-cl-checkpoint-"));
afterAll(() => rmSync(root, { recursive: true }));

const state: RunState = {
  position: { experience: 1, step: 0 },
  policy_version: 7,
  nonfinite_steps: 1,
  sampler: { hall: 12 },
  models: [],
  method: { name: "replay", state: { counts: [1, 2] } },
};
const stored = { ...rolloutOf({ reward: 1 }), task_idx: 0, step: 2, replayed: false };
const ahead: StepGroups = {
  groups: [
    {
      domain: "hall",
      task_id: "lamp_A",
      replayed: false,
      rollouts: [{ ...rolloutOf(), task_idx: 0, step: 0, replayed: false } as Rollout],
    },
    { domain: "attic", task_id: "lamp_B", replayed: true, use: "stored", rollouts: [stored] },
  ],
  refilled: 1,
};
const trajectory = { ...rolloutOf(), task_idx: 0, step: 0, replayed: false };
const path = join(root, "checkpoint_task_0");
const metrics = join(root, "metrics.jsonl");
const { signal } = new AbortController();

beforeEach(async () => {
  writeFileSync(metrics, '{"kind":"train"}\n');
  const memory = new TrajectoryBuffer({ capacity: 5, trajectories: [trajectory] });
  await saveCheckpoint(path, {
    policy: fakePolicy(() => ""),
    memory,
    config: lampConfig(root),
    state,
    ahead,
    metrics,
    signal,
  });
});

test("what was saved is what is loaded", async () => {
  const checkpoint = await openCheckpoint(path);
  expect(checkpoint.state).toEqual(state);
  expect(checkpoint.ahead).toEqual(ahead);
  expect(checkpoint.config).toEqual(lampConfig(root));
  expect(checkpoint.log_dir).toBe(root);
  expect(checkpoint.memory(5).trajectories).toEqual([trajectory]);
  expect(existsSync(checkpoint.optimizer_file)).toBe(true);
  expect(readFileSync(checkpoint.metrics_file, "utf8")).toBe('{"kind":"train"}\n');
});

test("nothing is left beside it", () => {
  expect(readdirSync(root).toSorted()).toEqual(["checkpoint_task_0", "metrics.jsonl"]);
});

describe("damage is found, and the file named", () => {
  const files = [
    "model/fake-model.json",
    "trajectories.json",
    "config.json",
    "state/optimizer.safetensors",
    "state/run.json",
    "state/method.json",
    "state/metrics.jsonl",
  ];

  test.each(files)("%s truncated", async (name) => {
    truncateSync(join(path, name), 5);
    const failure = openCheckpoint(path);
    await expect(failure).rejects.toBeInstanceOf(UserError);
    await expect(failure).rejects.toThrow(`${join(path, name)}: the checkpoint is damaged: it has 5 bytes`);
  });

  test.each(files)("%s changed", async (name) => {
    const file = join(path, name);
    const bytes = readFileSync(file);
    bytes[0] = bytes[0]! ^ 1;
    writeFileSync(file, bytes);
    await expect(openCheckpoint(path)).rejects.toThrow(
      `${file}: the checkpoint is damaged: its content is not what was written`,
    );
  });

  test.each(files)("%s missing", async (name) => {
    rmSync(join(path, name));
    await expect(openCheckpoint(path)).rejects.toThrow(
      `${join(path, name)}: the checkpoint is damaged: the file is missing`,
    );
  });

  test("manifest.json cut, missing or of another format", async () => {
    const manifest = join(path, "manifest.json");
    const text = readFileSync(manifest, "utf8");
    writeFileSync(manifest, text.slice(0, 30));
    await expect(openCheckpoint(path)).rejects.toThrow(`${manifest}: the checkpoint is damaged`);
    writeFileSync(manifest, text.replace('"format": 2', '"format": 3'));
    await expect(openCheckpoint(path)).rejects.toThrow("its format is 3, and this program reads 2");
    rmSync(manifest);
    await expect(openCheckpoint(path)).rejects.toThrow("holds no checkpoint");
  });
});

test("a save that fails leaves the old checkpoint", async () => {
  const before = readFileSync(join(path, "manifest.json"), "utf8");
  const policy = fakePolicy(() => "");
  policy.saveState = () => Promise.reject(new Error("disk full"));
  const memory = new TrajectoryBuffer({ capacity: 5 });
  const saved = saveCheckpoint(path, { policy, memory, config: lampConfig(root), state, ahead: null, metrics, signal });
  await expect(saved).rejects.toThrow("disk full");
  await saved.catch(() => {});
  expect(readFileSync(join(path, "manifest.json"), "utf8")).toBe(before);
  await openCheckpoint(path);
});

test("an interrupted save leaves the old checkpoint", async () => {
  const controller = new AbortController();
  const policy = fakePolicy(() => "");
  policy.saveState = async () => controller.abort(new Error("Ctrl-C"));
  const content = {
    policy,
    memory: new TrajectoryBuffer({ capacity: 5 }),
    config: lampConfig(root),
    state,
    ahead,
    metrics,
  };
  await expect(saveCheckpoint(path, { ...content, signal: controller.signal })).rejects.toThrow("Ctrl-C");
  expect((await openCheckpoint(path)).memory(5).size).toBe(1);
});

test("a run directory gives its newest checkpoint", async () => {
  const later = { ...state, position: { experience: 1, step: 2 } };
  const memory = new TrajectoryBuffer({ capacity: 5 });
  appendFileSync(metrics, '{"kind":"eval"}\n');
  const content = {
    policy: fakePolicy(() => ""),
    memory,
    config: lampConfig(root),
    state: later,
    ahead: null,
    metrics,
    signal,
  };
  await saveCheckpoint(join(root, "checkpoint_latest"), content);
  const newest = await openCheckpoint(root);
  expect(newest.path).toBe(join(root, "checkpoint_latest"));
  expect(newest.ahead).toBeNull();
  rmSync(join(root, "checkpoint_latest"), { recursive: true });
  expect((await openCheckpoint(root)).path).toBe(path);
});

/** Every method in whole runs on the fake: resumed equals uninterrupted, switched off equals sequential, bit for bit. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { METHODS, methodOf } from "../../src/cl/registry.ts";
import type { RunConfigInput } from "../../src/config/schema.ts";
import type { FakeScript } from "../../src/core/fake.ts";
import type { TrainRow } from "../../src/metrics/rows.ts";
import { AbortedError } from "../../src/run/abort.ts";
import { type LampRun, lampConfig, lampRun, luckyScript } from "../support/lamp-run.ts";

const root = mkdtempSync(join(tmpdir(), "grpo-cl-methods-"));
afterAll(() => rmSync(root, { recursive: true }), 60_000);

type Method = RunConfigInput["cl_algorithm"];
const ALL = Object.keys(METHODS) as NonNullable<Method>[];
const OF_ADAPTERS = ["o_lora", "progressive", "dynamic_expansion"];

/** Its luck depends on the weights themselves, so that nothing that moves them goes unseen. */
const script: FakeScript = (tokens, context) => {
  const weightsVersion = Math.abs(Math.round(context.weights.reduce((sum, weight) => sum + weight, 0) * 1e7)) % 65_536;
  return luckyScript(tokens, { ...context, weightsVersion });
};

let runs = 0;
function configOf(cl_algorithm: Method, fields: Partial<RunConfigInput> = {}) {
  return lampConfig(join(root, `run-${runs++}`), {
    cl_algorithm,
    lora_r: OF_ADAPTERS.includes(cl_algorithm as string) ? 2 : 0,
    learning_rate: 0.02,
    warmup_steps: 0,
    num_steps_per_task: 2,
    num_samples_per_prompt: 2,
    eval_interval: 0,
    eval_trials: 1,
    replay_ratio: 0.5,
    probe_interval: 1,
    fisher_tasks: 3,
    ewc_pp_interval: 1,
    ewc_pp_tasks: 2,
    der_buffer_size: 9,
    replay_buffer_size: 20,
    ...fields,
  });
}

const finished = new Map<string, Promise<LampRun>>();

/** Runs of equal settings are one run. */
function run(cl_algorithm: Method, fields: Partial<RunConfigInput> = {}): Promise<LampRun> {
  const key = JSON.stringify([cl_algorithm, fields]);
  const known = finished.get(key) ?? lampRun(configOf(cl_algorithm, fields), { script });
  finished.set(key, known);
  return known;
}

const metricsOf = ({ log_dir }: { readonly log_dir: string }) => readFileSync(join(log_dir, "metrics.jsonl"), "utf8");
const stateOf = ({ log_dir }: LampRun) =>
  readFileSync(join(log_dir, "checkpoint_task_2", "state", "method.json"), "utf8");
const penalties = ({ rows }: LampRun) =>
  rows.filter((row) => row.kind === "train").map((row) => (row as TrainRow)["train/penalty"]);

const STOPS = [
  { where: "in the second domain", pattern: /^Task 1, Step 1/ },
  { where: "between domains", pattern: /^Saved .*checkpoint_task_1/ },
];

const CASES: { readonly method: NonNullable<Method>; readonly fields: Partial<RunConfigInput> }[] = [
  ...ALL.map((method) => ({ method, fields: {} })),
  ...(["ewc", "si", "fusion"] as const).map((method) => ({ method, fields: { lora_r: 2 } })),
  { method: "replay", fields: { replay_mode: "stored" } },
  { method: "sequential", fields: { kl_anchor: "previous_task" } },
  ...(["reward_weighted", "task_arithmetic", "fisher", "ties", "dare"] as const).map((fusion_merge) => ({
    method: "fusion" as const,
    fields: { fusion_merge, fusion_start: "merged" as const },
  })),
];

describe.each(CASES.map((one, at) => ({ ...one, stop: STOPS[at % 2] as (typeof STOPS)[number] })))(
  "$method $fields, stopped $stop.where",
  ({ method, fields, stop }) => {
    test(
      "interrupted and resumed, it equals the run that never stopped",
      async () => {
        const whole = await run(method, fields);
        const digest = await whole.policy.digest();
        const config = configOf(method, { ...fields, save_interval: 1 });
        const controller = new AbortController();
        const onLine = (text: string) => stop.pattern.test(text) && controller.abort();
        await expect(lampRun(config, { script, signal: controller.signal, onLine })).rejects.toThrow(AbortedError);
        const resumed = await lampRun({ ...config, resume_from: config.log_dir }, { script });
        expect(metricsOf(resumed)).toBe(metricsOf(whole));
        expect(await resumed.policy.digest()).toBe(digest);
        expect(stateOf(resumed)).toBe(stateOf(whole));
        expect(resumed.policy.models.toSorted()).toEqual(whole.policy.models.toSorted());
      },
      { timeout: 60_000 },
    );
  },
);

describe("switched off, a method is sequential bit for bit", () => {
  test.each([
    { method: "ewc", fields: { ewc_lambda: 0 } },
    { method: "online_ewc", fields: { ewc_lambda: 0 } },
    { method: "ewc_pp", fields: { ewc_lambda: 0 } },
    { method: "si", fields: { si_lambda: 0 } },
    { method: "mas", fields: { mas_lambda: 0 } },
    { method: "lwf", fields: { lwf_alpha: 0 } },
    { method: "der_pp", fields: { der_alpha: 0, der_beta: 0 } },
    { method: "replay", fields: { replay_ratio: 0 } },
    { method: "replay", fields: { replay_ratio: 0, replay_mode: "stored" } },
    { method: "a_gem", fields: { replay_ratio: 0 } },
  ] as const)("$method $fields", async ({ method, fields }) => {
    const [off, plain] = [await run(method, fields), await run("sequential")];
    expect(off.policy.weights).toEqual(plain.policy.weights);
    expect(metricsOf(off)).toBe(metricsOf(plain));
  });

  test("o_lora, with one domain, is LoRA", async () => {
    const one = { task_order: ["hall"], lora_r: 2 };
    expect(penalties(await run("o_lora", one))).toEqual([null, null]);
  });

  test.each(["average", "reward_weighted"] as const)("fusion (%s) of one experience is its policy", async (merge) => {
    const one = { task_order: ["hall"] };
    const [fused, plain] = [await run("fusion", { ...one, fusion_merge: merge }), await run("sequential", one)];
    expect(fused.policy.weights).toEqual(plain.policy.weights);
  });
});

describe("switched on, it is not sequential", () => {
  test.each(ALL.filter((method) => method !== "sequential"))("%s", async (method) => {
    const [on, plain] = [await run(method), await run("sequential")];
    expect(metricsOf(on)).not.toBe(metricsOf(plain));
  });
});

test.each(["ewc", "online_ewc", "ewc_pp", "si", "mas", "lwf", "o_lora"] as const)(
  "%s has no penalty in the first domain, and one that is above 0 in the later ones",
  async (method) => {
    const [first, second, ...later] = penalties(await run(method));
    expect([first, second]).toEqual([null, null]);
    // The first step of a domain may stand on the anchor still.
    expect(later.every((penalty) => (penalty ?? -1) >= 0)).toBe(true);
    expect(later.some((penalty) => (penalty ?? 0) > 0)).toBe(true);
  },
);

test("joint mixes all domains evenly from the first step on, and moves through each of them", async () => {
  const { rows, policy } = await run("joint");
  const texts = policy.samples.filter(({ temperature }) => temperature === 0.7);
  expect(texts.length).toBeGreaterThan(0);
  expect(rows.filter((row) => row.kind === "train").map((row) => (row as TrainRow)["rollout/groups"])).toEqual(
    Array(6).fill(4),
  );
});

test("stored replay trains on what was recorded, and rolls out less", async () => {
  const [stored, plain] = [await run("replay", { replay_mode: "stored" }), await run("sequential")];
  const rolledOut = ({ policy }: LampRun) => policy.samples.length;
  expect(rolledOut(stored)).toBeLessThan(rolledOut(plain));
  const rows = stored.rows.filter((row) => row.kind === "train") as TrainRow[];
  expect(rows.map((row) => row["rollout/replay_groups"])).toEqual([0, 0, 2, 2, 2, 2]);
  expect(rows.at(-1)?.["train/logprob_diff_max"]).toBeGreaterThan(0);
});

test("a_gem leaves reference tasks out of the loss", async () => {
  const { policy, rows } = await run("a_gem");
  const references = policy.weightOps.filter(({ op }) => op === "project_gradient");
  expect(references.length).toBe(4);
  expect(rows.filter((row) => row.kind === "train").map((row) => (row as TrainRow)["rollout/replay_groups"])).toEqual([
    0, 0, 2, 2, 2, 2,
  ]);
});

test("with KL to the previous task the first anchor is the model before training", async () => {
  const { policy } = await run("sequential", { kl_anchor: "previous_task" });
  expect(policy.weightOps.filter(({ op }) => op === "snapshot").length).toBe(4);
  expect(policy.batches.every(({ loss }) => loss.kind === "grpo" && loss.anchor === "previous_task")).toBe(true);
});

test("earlier domains are probed between steps, as often as the current one is evaluated", async () => {
  const { rows } = await run("sequential", { eval_interval: 1, num_steps_per_task: 3, eval_probe_tasks: 1 });
  const probes = rows.filter((row) => row.kind === "probe");
  expect(probes.map(({ task_idx, step, rewards }) => [task_idx, step, Object.keys(rewards)])).toEqual([
    [1, 0, ["hall"]],
    [1, 1, ["hall"]],
    [2, 0, ["hall", "attic"]],
    [2, 1, ["hall", "attic"]],
  ]);
  const off = await run("sequential", { eval_interval: 1, eval_probe_tasks: 0 });
  expect(off.rows.filter((row) => row.kind === "probe")).toEqual([]);
});

test("progressive answers an earlier domain as it did when that was trained", async () => {
  const { rows } = await run("progressive");
  const scores = rows.filter((row) => row.kind === "scores").slice(1);
  expect(scores.map(({ rewards }) => rewards.hall)).toEqual(Array(3).fill(scores[0]?.rewards.hall));
  expect(scores.map(({ scores: { hall } }) => hall?.kl_drift)).toEqual(Array(3).fill(scores[0]?.scores.hall?.kl_drift));
});

test("every adapter of a run is the method's or the run's", async () => {
  const adapters = async (method: Method, fields = {}) =>
    (await run(method, fields)).policy.weightOps.flatMap((op) => (op.op === "add_adapter" ? [op.name] : []));
  expect(await adapters("ewc", { lora_r: 2 })).toEqual(["default"]);
  expect(await adapters("o_lora")).toEqual(["task_0", "task_1", "task_2"]);
  expect(await adapters("progressive")).toEqual(["column_0", "column_1", "column_2"]);
  expect(methodOf(configOf("sequential")).ownAdapters).toBe(false);
});

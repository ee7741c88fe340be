/** Methods over the real core: switched off they are sequential bit for bit, and what they remember survives a checkpoint. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { METHODS } from "../../src/cl/registry.ts";
import type { RunConfigInput } from "../../src/config/schema.ts";
import { AbortedError } from "../../src/run/abort.ts";
import { openSession } from "../../src/run/open-session.ts";
import { train } from "../../src/run/train.ts";
import { LIBRARY, MODELS, modelDirectory } from "../core/opened.ts";
import { lampConfig } from "../support/lamp-run.ts";

const root = mkdtempSync(join(tmpdir(), "grpo-cl-engine-methods-"));
afterAll(() => rmSync(root, { recursive: true }), 60_000);

const [MODEL] = MODELS;
type Method = NonNullable<RunConfigInput["cl_algorithm"]>;
const ALL = Object.keys(METHODS) as Method[];
const OF_ADAPTERS: readonly Method[] = ["o_lora", "progressive", "dynamic_expansion"];

// A random model ties every group; the entropy bonus moves its weights all the same, and then the KL does.
const fields: Partial<RunConfigInput> = {
  model_name_or_path: modelDirectory(MODEL ?? "none"),
  model_dtype: "float32",
  task_order: ["shop", "phone"],
  num_steps_per_task: 1,
  batch_size_per_gpu: 2,
  gradient_accumulation_steps: 1,
  num_samples_per_prompt: 2,
  max_steps: 4,
  max_new_tokens: 6,
  temperature: 1,
  learning_rate: 1e-3,
  entropy_coef: 0.1,
  warmup_steps: 0,
  eval_interval: 0,
  eval_max_tasks: 1,
  eval_trials: 1,
  eval_temperature: 1,
  replay_ratio: 0.5,
  fisher_tasks: 2,
  ewc_pp_interval: 1,
  ewc_pp_tasks: 1,
  der_buffer_size: 4,
};

let runs = 0;
async function coreRun(cl_algorithm: Method, change: Partial<RunConfigInput> = {}, stopAt?: RegExp) {
  const controller = new AbortController();
  const reporter = { line: (text: string) => void (stopAt?.test(text) && controller.abort()), progress: () => {} };
  const lora_r = OF_ADAPTERS.includes(cl_algorithm) ? 2 : 0;
  const log_dir = join(root, `run-${runs++}`);
  const config = lampConfig(log_dir, { ...fields, lora_r, ...change, cl_algorithm });
  const edge = { env: {}, now: () => 0, signal: controller.signal, reporter };
  const session = await openSession(config, { edge, library: LIBRARY, purpose: "train" });
  using policy = session.policy;
  const failed = await train(config, session).then(
    () => null,
    (error: unknown) => error,
  );
  return { log_dir, failed, digest: failed === null ? await policy.digest() : "" };
}

const metricsOf = (log_dir: string) => readFileSync(join(log_dir, "metrics.jsonl"), "utf8");
const modelOf = (log_dir: string) => readFileSync(join(log_dir, "checkpoint_task_1/model/model.safetensors"));

describe.skipIf(MODEL === undefined)(`methods on ${MODEL}`, () => {
  test.each([
    ...ALL.map((method) => ({ method, change: {} })),
    ...(["ewc", "fusion"] as const).map((method) => ({ method, change: { lora_r: 2 } })),
  ])(
    "$method $change, resumed between domains, equals the run that never stopped",
    async ({ method, change }) => {
      const whole = await coreRun(method, change);
      expect(whole.failed).toBeNull();
      const stopped = await coreRun(method, change, /^Saved .*checkpoint_task_0/);
      expect(stopped.failed).toBeInstanceOf(AbortedError);
      const resumed = await coreRun(method, { ...change, resume_from: stopped.log_dir });
      expect(resumed.failed).toBeNull();
      expect(metricsOf(resumed.log_dir)).toBe(metricsOf(whole.log_dir));
      expect(resumed.digest).toBe(whole.digest);
    },
    { timeout: 60_000 },
  );

  test("progressive leaves the outputs of an earlier domain as they were, bit for bit", async () => {
    const { log_dir } = await coreRun("progressive");
    const rows = metricsOf(log_dir).trimEnd().split("\n");
    const scores = rows
      .map((row) => JSON.parse(row))
      .filter(({ kind, task_idx }) => kind === "scores" && task_idx >= 0);
    const drifts = scores.map((row) => row.scores.shop.kl_drift as number);
    expect(drifts[0]).toBeGreaterThan(0);
    expect(drifts).toEqual([drifts[0] as number, drifts[0] as number]);
  });

  test.each([
    { method: "ewc", change: { ewc_lambda: 0 } },
    { method: "si", change: { si_lambda: 0 } },
    { method: "lwf", change: { lwf_alpha: 0 } },
    { method: "der_pp", change: { der_alpha: 0, der_beta: 0 } },
    { method: "replay", change: { replay_ratio: 0 } },
    { method: "a_gem", change: { replay_ratio: 0 } },
  ] as const)("$method with $change is sequential", async ({ method, change }) => {
    const [off, plain] = [await coreRun(method, change), await coreRun("sequential")];
    expect(metricsOf(off.log_dir)).toBe(metricsOf(plain.log_dir));
    expect(modelOf(off.log_dir).equals(modelOf(plain.log_dir))).toBe(true);
  });
});

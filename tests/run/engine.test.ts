/** The loop over the real core: built-in domains, a fixture model, interrupted and resumed. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { RunConfigInput } from "../../src/config/schema.ts";
import type { TrainRow } from "../../src/metrics/rows.ts";
import { AbortedError } from "../../src/run/abort.ts";
import { openSession } from "../../src/run/open-session.ts";
import { type TrainResult, train } from "../../src/run/train.ts";
import { LIBRARY, MODELS, modelDirectory } from "../core/opened.ts";
import { lampConfig } from "../support/lamp-run.ts";

const root = mkdtempSync(join(tmpdir(), "grpo-cl-engine-run-"));
afterAll(() => rmSync(root, { recursive: true }));

const [MODEL] = MODELS;

// A random model ties every group; the entropy bonus moves its weights all the same, and then the KL does.
const fields: Partial<RunConfigInput> = {
  model_name_or_path: modelDirectory(MODEL ?? "none"),
  model_dtype: "float32",
  task_order: ["shop", "phone"],
  num_steps_per_task: 2,
  batch_size_per_gpu: 1,
  gradient_accumulation_steps: 2,
  num_samples_per_prompt: 2,
  max_steps: 6,
  max_new_tokens: 8,
  temperature: 1,
  learning_rate: 1e-3,
  entropy_coef: 0.1,
  eval_interval: 0,
  eval_max_tasks: 2,
  eval_trials: 1,
  eval_temperature: 1,
  save_interval: 1,
};

async function coreRun(log_dir: string, change: Partial<RunConfigInput> = {}, stopAt?: RegExp): Promise<TrainResult> {
  const controller = new AbortController();
  const reporter = {
    line: (text: string) => void (stopAt?.test(text) && controller.abort()),
    progress: () => {},
  };
  const config = lampConfig(log_dir, { ...fields, ...change });
  const edge = { env: {}, now: () => performance.now(), signal: controller.signal, reporter };
  const session = await openSession(config, { edge, library: LIBRARY, purpose: "train" });
  using _core = session.policy;
  return await train(config, session);
}

const metricsOf = (log_dir: string) => readFileSync(join(log_dir, "metrics.jsonl"), "utf8");

describe.skipIf(MODEL === undefined)(`a run of ${MODEL} on the built-in domains`, () => {
  const whole = join(root, "whole");

  test("moves the weights, and agrees with what was sampled", async () => {
    const { rows } = await coreRun(whole);
    const steps = rows.filter((row) => row.kind === "train") as TrainRow[];
    expect(steps).toHaveLength(4);
    for (const step of steps) {
      expect(step["train/grad_norm"]).toBeGreaterThan(0);
      expect(step["train/logprob_diff_max"]).toBeLessThan(1e-4);
    }
    expect(steps[0]?.["train/kl"]).toBe(0);
    expect(steps.at(-1)?.["train/kl"]).toBeGreaterThan(0);
  });

  test.each([
    { where: "in the first domain", at: /^Task 0, Step 1/ },
    { where: "between domains", at: /^Saved .*checkpoint_task_0/ },
    { where: "in the second domain", at: /^Task 1, Step 1/ },
  ])("interrupted $where and resumed, it equals the one that never stopped", async ({ at }) => {
    const log_dir = mkdtempSync(join(root, "stopped-"));
    await expect(coreRun(log_dir, {}, at)).rejects.toThrow(AbortedError);
    await coreRun(log_dir, { resume_from: log_dir });
    expect(metricsOf(log_dir)).toBe(metricsOf(whole));
    for (const file of ["model/model.safetensors", "state/optimizer.safetensors", "trajectories.json"]) {
      const [resumed, never] = [log_dir, whole].map((directory) =>
        readFileSync(join(directory, "checkpoint_task_1", file)),
      );
      expect(resumed?.equals(never as Buffer), file).toBe(true);
    }
  });

  test.each([
    { what: "adapters", change: { lora_r: 4, task_order: ["shop"], learning_rate: 1e-2 } },
    { what: "rollouts made ahead", change: { overlap_rollouts: true, task_order: ["shop"], num_steps_per_task: 3 } },
  ])("with $what, resumed between their steps, too", async ({ what, change }) => {
    const [never, stopped] = [join(root, what), mkdtempSync(join(root, "stopped-"))];
    await coreRun(never, change);
    await expect(coreRun(stopped, change, /^Saved .*checkpoint_latest/)).rejects.toThrow(AbortedError);
    await coreRun(stopped, { ...change, resume_from: stopped });
    expect(metricsOf(stopped)).toBe(metricsOf(never));
  });
});

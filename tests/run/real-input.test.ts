/** tau2's airline tasks with real prompts on the real core, and a user behind an endpoint who decides by what the agent says. */
import { afterAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ScoresRow, TrainRow } from "../../src/metrics/rows.ts";
import { openSession } from "../../src/run/open-session.ts";
import { train } from "../../src/run/train.ts";
import { LIBRARY, MODELS, modelDirectory } from "../core/opened.ts";
import { lampConfig } from "../support/lamp-run.ts";
import { openaiServer, ruleUser } from "../support/openai-server.ts";
import { SHARED } from "../support/shared.ts";

const root = mkdtempSync(join(tmpdir(), "grpo-cl-real-"));
afterAll(() => rmSync(root, { recursive: true }));

const DATA = join(SHARED, "tau2/data");
const MODEL = "tiny-qwen2";
const isThere = MODELS.includes(MODEL) && existsSync(DATA);
if (!isThere) console.warn(`skipped: the airline run needs the core, ${MODEL} and ${DATA} (GRPO_CL_SHARED)`);

describe.skipIf(!isThere)("airline with a user behind an endpoint", () => {
  test("rewards differ within a group where ending early scores, so the gradient is not zero and the weights move", async () => {
    using server = openaiServer(ruleUser("parity"));
    const log_dir = join(root, "run");
    const config = lampConfig(log_dir, {
      model_name_or_path: modelDirectory(MODEL),
      model_dtype: "float32",
      tau2_data_dir: DATA,
      task_order: ["airline"],
      cl_algorithm: "sequential",
      num_steps_per_task: 2,
      batch_size_per_gpu: 3,
      gradient_accumulation_steps: 1,
      num_samples_per_prompt: 4,
      max_steps: 6,
      max_new_tokens: 16,
      temperature: 1,
      kl_coef: 0,
      learning_rate: 1e-3,
      warmup_steps: 0,
      eval_interval: 0,
      eval_max_tasks: 1,
      eval_trials: 1,
      user: { kind: "openai", model: "rule", base_url: server.url },
    });
    const reporter = { line: () => {}, progress: () => {} };
    const edge = { env: {}, now: () => performance.now(), signal: new AbortController().signal, reporter };
    const session = await openSession(config, { edge, library: LIBRARY, purpose: "train" });
    using _core = session.policy;
    const before = join(root, "before");
    await session.policy.save(before);
    const { rows } = await train(config, session);

    const steps = rows.filter((row) => row.kind === "train") as TrainRow[];
    const learning = steps.filter((row) => (row["rollout/groups_tied"] ?? 0) < (row["rollout/groups"] ?? 0));
    expect(learning.length).toBeGreaterThan(0);
    for (const row of learning) {
      expect(row["train/grad_norm"]).toBeGreaterThan(0);
      expect(row["train/skipped"]).toBe(0);
      expect(row["train/logprob_diff_max"]).toBeLessThan(1e-4);
      expect(row["rollout/tokens_max"]).toBeGreaterThan(5000);
    }
    const weights = (directory: string) => readFileSync(join(directory, "model.safetensors"));
    expect(weights(join(log_dir, "checkpoint_task_0", "model")).equals(weights(before))).toBe(false);
    const [base] = rows.filter((row) => row.kind === "scores") as ScoresRow[];
    expect(base?.scores.airline?.user_identity).toBe("openai:rule");
    expect(server.requests.every(({ authorization }) => authorization === null)).toBe(true);
  }, 240_000);
});

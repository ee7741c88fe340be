/**
 * A process of its own: `bun soak-run.ts STEPS SCRATCH` trains the built-in model in SCRATCH on two built-in domains, with an
 * anchor, replay, evaluations and checkpoints on the way, and prints after each step what the process holds, in bytes.
 */
import { heapStats } from "bun:jsc";
import { resolveConfig } from "../../src/config/load.ts";
import { openSession } from "../../src/run/open-session.ts";
import { train } from "../../src/run/train.ts";
import { CORE_LIBRARY } from "./core-library.ts";

const [steps = "", log_dir = ""] = process.argv.slice(2);
const task_order = ["shop", "phone"];
const num_steps_per_task = Number(steps) / task_order.length;
const flags = {
  model_name_or_path: "configs/quickstart-model",
  model_dtype: "float32",
  num_threads: 2,
  task_order,
  num_steps_per_task,
  batch_size_per_gpu: 2,
  gradient_accumulation_steps: 1,
  num_samples_per_prompt: 2,
  max_steps: 20,
  max_new_tokens: 32,
  temperature: 1,
  learning_rate: 1.5e-4,
  kl_coef: 0.04,
  cl_algorithm: "replay",
  replay_ratio: 0.5,
  replay_buffer_size: 8,
  eval_interval: 10,
  eval_trials: 1,
  eval_max_tasks: 2,
  save_interval: 10,
  log_dir,
};

/** What lives: garbage is collected first. */
function held() {
  Bun.gc(true);
  const { heapSize, extraMemorySize } = heapStats();
  return { resident: process.memoryUsage().rss, heap: heapSize + extraMemorySize };
}

const line = (text: string) => {
  if (/^Task \d+, Step/.test(text)) console.log(JSON.stringify(held()));
};
const edge = {
  env: {},
  now: () => performance.now(),
  signal: new AbortController().signal,
  reporter: { line, progress: () => {} },
};
const config = resolveConfig({ command: "train", file: null, flags, env: {}, knownDomains: task_order });
const session = await openSession(config, { edge, library: CORE_LIBRARY, purpose: "train" });
using _core = session.policy;
await train(config, session);

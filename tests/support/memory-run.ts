/**
 * What a gradient step really takes: `bun memory-run.ts '{"model": DIR, "dtype", "checkpointing", "anchor", "distill", "sequences",
 * "tokens", "shared", "lora_r", "new_tokens"}' SCRATCH` prints in bytes how far the process grew for what stays after an update
 * (`opened`), and at its largest for sampling the last of the first sequence, for the step and for writing its state.
 */
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { openEngine } from "../../src/core/engine.ts";
import { CORE_LIBRARY } from "./core-library.ts";
import { grpoLoss } from "./loss.ts";

interface Work {
  readonly model: string;
  readonly dtype: "float32" | "bfloat16";
  readonly checkpointing: boolean;
  readonly anchor: boolean;
  /** The loss of lwf, against the anchor. */
  readonly distill: boolean;
  readonly sequences: number;
  readonly tokens: number;
  readonly shared: number;
  readonly lora_r: number;
  /** Sampled before the step, at the end of a sequence that stays alive; 0 = no sequence. */
  readonly new_tokens: number;
}

const work = JSON.parse(process.argv[2] ?? "") as Work;
const status = (field: string) =>
  1024 * Number(new RegExp(`${field}:\\s*(\\d+) kB`).exec(readFileSync("/proc/self/status", "utf8"))?.[1]);
const forgetPeak = () => writeFileSync("/proc/self/clear_refs", "5");

const size = work.sequences * work.tokens;
const batch = {
  tokens_N: Uint32Array.from({ length: size }, (_, n) => {
    const [t, sequence] = [n % work.tokens, Math.floor(n / work.tokens)];
    return (t * 7 + (t < work.shared ? 0 : sequence * 13)) % 600;
  }),
  offsets: Uint32Array.from({ length: work.sequences + 1 }, (_, s) => s * work.tokens),
  weights_N: Float32Array.from({ length: size }, (_, n) => (n % work.tokens < Math.max(work.shared, 1) ? 0 : 1 / size)),
  advantages_N: new Float32Array(size).fill(1),
  old_logprobs_N: new Float32Array(size).fill(-5),
};
Bun.gc(true);
const before = status("VmRSS");
const policy = await openEngine({
  library: CORE_LIBRARY,
  model_directory: work.model,
  dtype: work.dtype,
  num_threads: 2,
  kernels: "fused",
  prefix_sharing: true,
  gradient_checkpointing: work.checkpointing,
});
if (work.lora_r > 0) {
  const target_modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
  await policy.weightOp({
    op: "add_adapter",
    name: "a",
    rank: work.lora_r,
    alpha: 16,
    target_modules,
    gates: false,
    seed: "1",
  });
}
if (work.anchor) await policy.weightOp({ op: "snapshot", name: "base" });
const SHORT = {
  tokens_N: Uint32Array.of(1, 2, 3),
  offsets: Uint32Array.of(0, 3),
  weights_N: Float32Array.of(0, 1, 1),
  advantages_N: Float32Array.of(0, 1, 1),
  old_logprobs_N: Float32Array.of(0, -5, -5),
};
const loss = work.distill
  ? ({ kind: "distill", anchor: "base", temperature: 1 } as const)
  : grpoLoss(work.anchor ? {} : { kl_coef: 0, anchor: null });
const adamw = { learning_rate: 1e-6, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0, max_grad_norm: 1 };
await policy.forwardBackward(SHORT, loss); // moments are pages of zeros until a step writes them
await policy.optimizerStep(adamw);
await policy.forwardBackward(SHORT, loss); // packs the new weights
const opened = status("VmRSS") - before;
forgetPeak();
if (work.new_tokens > 0) {
  const prompt_tokens = work.tokens - work.new_tokens;
  const sampling = { temperature: 1, top_p: 1, top_k: 0, min_p: 0, max_new_tokens: work.new_tokens };
  const { tokens } = await policy.sample({
    ...sampling,
    model: "policy",
    sequence: null,
    tokens: batch.tokens_N.subarray(0, prompt_tokens),
    stop_token_ids: [],
    seed: 1n,
    context_tokens_max: work.tokens,
  });
  if (tokens.length !== work.new_tokens) throw new Error(`${tokens.length} tokens were sampled`);
}
const rollout = status("VmHWM") - before;
forgetPeak();
const { computed_tokens } = await policy.forwardBackward(batch, loss);
const update = status("VmHWM") - before;
await policy.optimizerStep(adamw);
forgetPeak();
const file = `${process.argv[3]}/state.safetensors`;
await policy.saveState(file);
rmSync(file);
const checkpoint = status("VmHWM") - before;
console.log(JSON.stringify({ opened, rollout, update, checkpoint, computed_tokens }));
process.exit(0);

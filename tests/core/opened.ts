/** The built core and the fixture models, or the reason why tests of them are skipped. */
import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { type EngineOptions, openEngine } from "../../src/core/engine.ts";
import type { Policy, SampleRequest } from "../../src/core/policy.ts";
import { foldersWith, SHARED } from "../support/shared.ts";

const TARGET = Bun.env.CARGO_TARGET_DIR ?? join(homedir(), ".cache/grpo-cl/target");
const CANDIDATES = [
  ...(Bun.env.GRPO_CL_CORE === undefined ? [] : [Bun.env.GRPO_CL_CORE]),
  join(TARGET, "release/libgrpo_core.so"),
  join(import.meta.dir, "../../target/release/libgrpo_core.so"),
];

export const LIBRARY = CANDIDATES.find(existsSync) ?? null;
if (LIBRARY === null) console.warn(`skipped: no core library at ${CANDIDATES.join(" or ")} (cargo build --release)`);

export const FIXTURES = join(SHARED, "fixtures/core");
/** Names of the fixture models; empty when they, or the library, are absent. */
export const MODELS = LIBRARY === null ? [] : foldersWith("fixtures/core/models", "model.safetensors");
if (LIBRARY !== null && MODELS.length === 0) console.warn(`skipped: no fixture models in ${FIXTURES} (GRPO_CL_SHARED)`);

export const modelDirectory = (name: string) => join(FIXTURES, "models", name);

export function openModel(name: string, options: Partial<EngineOptions> = {}): Promise<Policy> {
  return openEngine({
    library: LIBRARY,
    model_directory: modelDirectory(name),
    dtype: "float32",
    num_threads: 0,
    kernels: "fused",
    prefix_sharing: true,
    gradient_checkpointing: false,
    ...options,
  });
}

export const request = (fields: Partial<SampleRequest>): SampleRequest => ({
  model: "policy",
  sequence: null,
  tokens: Uint32Array.of(1, 2, 3),
  seed: 1n,
  temperature: 1,
  top_p: 1,
  top_k: 0,
  min_p: 0,
  max_new_tokens: 16,
  stop_token_ids: [],
  context_tokens_max: 4096,
  ...fields,
});

export const ADAMW = {
  learning_rate: 1e-3,
  beta1: 0.9,
  beta2: 0.999,
  eps: 1e-8,
  weight_decay: 0,
  max_grad_norm: 1,
} as const;

/** Adapters as files: what a LoRA run leaves behind is read back as a model, and a broken one is refused. */
import { afterAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parse } from "valibot";
import { type RunConfig, type RunConfigInput, RunConfigSchema } from "../../src/config/schema.ts";
import { adapterDirectory } from "../../src/run/model-directory.ts";
import { openPolicy, resolvePolicyModel } from "../../src/run/open-session.ts";
import type { Edge } from "../../src/run/session.ts";
import { ADAMW, LIBRARY } from "../core/opened.ts";

const BUILTIN = join(import.meta.dir, "../../configs/quickstart-model");
const root = mkdtempSync(join(tmpdir(), "grpo-cl-adapter-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const configOf = (fields: Partial<RunConfigInput>): RunConfig => ({
  ...parse(RunConfigSchema, { model_name_or_path: BUILTIN, model_dtype: "float32", task_order: ["shop"], ...fields }),
  log_dir: "x",
});
const edge: Edge = {
  env: {},
  now: () => 0,
  signal: new AbortController().signal,
  reporter: { line: () => {}, progress: () => {} },
};
const open = async (model_name_or_path: string) => {
  const config = configOf({ model_name_or_path });
  return openPolicy(config, { library: LIBRARY, ...(await resolvePolicyModel(config, edge)) });
};

const tokens_N = Uint32Array.from({ length: 24 }, (_, i) => 5 + ((i * 7) % 40));
const BATCH = {
  tokens_N,
  offsets: Uint32Array.of(0, 24),
  weights_N: new Float32Array(24).fill(0.1).fill(0, 0, 1),
  advantages_N: new Float32Array(24),
  old_logprobs_N: new Float32Array(24),
};

describe.skipIf(LIBRARY === null)("an adapter in PEFT's files", () => {
  test("is read back with its base model, and refused without one", async () => {
    using policy = await open(BUILTIN);
    const before = await policy.logprobs("policy", BATCH, { temperature: 1 });
    await policy.save(join(root, "none"), { adapter_of: BUILTIN });
    expect(existsSync(join(root, "none"))).toBe(false); // no adapter, no files
    const target_modules = ["q_proj", "v_proj", "down_proj"];
    await policy.weightOp({ op: "add_adapter", name: "a", rank: 4, alpha: 8, target_modules, gates: false, seed: "3" });
    for (let step = 0; step < 3; step++) {
      await policy.forwardBackward(BATCH, { kind: "nll", temperature: 1 });
      await policy.optimizerStep({ ...ADAMW, learning_rate: 1e-2 });
    }
    const trained = await policy.logprobs("policy", BATCH, { temperature: 1 });
    const directory = join(root, "adapter");
    await policy.save(directory, { adapter_of: BUILTIN });
    const written = JSON.parse(readFileSync(join(directory, "adapter_config.json"), "utf8"));
    expect(written).toMatchObject({ peft_type: "LORA", r: 4, lora_alpha: 8, base_model_name_or_path: BUILTIN });

    using again = await open(directory);
    const read = await again.logprobs("policy", BATCH, { temperature: 1 });
    const distance = (a: Float32Array, b: Float32Array) =>
      Math.max(...a.map((value, i) => Math.abs(value - (b[i] ?? 0))));
    expect(distance(read, trained)).toBeLessThan(1e-5);
    expect(distance(before, trained)).toBeGreaterThan(1e-2);

    writeFileSync(join(directory, "adapter_config.json"), JSON.stringify({ ...written, use_dora: true }));
    await expect(open(directory)).rejects.toMatchObject({ where: "model_name_or_path" });
  });
});

test("an adapter that names no base model is refused, a model directory is no adapter", async () => {
  const directory = join(root, "orphan");
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, "adapter_config.json"), JSON.stringify({ peft_type: "LORA" }));
  await expect(adapterDirectory(directory, edge)).rejects.toMatchObject({
    message: expect.stringContaining("base_model_name_or_path is missing"),
  });
  expect(await adapterDirectory(BUILTIN, edge)).toBeNull();
});

/** The plan against what a process really takes, and against the shapes of the field. */
import { describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import { parse } from "valibot";
import { type RunConfig, type RunConfigInput, RunConfigSchema } from "../../src/config/schema.ts";
import { memoryPlan, nextRemedy, parameters, shapeOf } from "../../src/run/memory-plan.ts";
import { LIBRARY, MODELS, modelDirectory } from "../core/opened.ts";

const configOf = (fields: Partial<RunConfigInput>): RunConfig => ({
  ...parse(RunConfigSchema, { model_name_or_path: "x", task_order: ["shop"], ...fields }),
  log_dir: "x",
});
const shapeAt = (directory: string) =>
  shapeOf(JSON.parse(readFileSync(join(directory, "config.json"), "utf8")), directory);

interface Work {
  readonly checkpointing: boolean;
  readonly anchor: boolean;
  readonly sequences: number;
  readonly tokens: number;
  readonly shared: number;
  readonly lora_r: number;
  readonly dtype: "float32" | "bfloat16";
}

const PLAIN: Work = {
  checkpointing: false,
  anchor: false,
  sequences: 4,
  tokens: 400,
  shared: 64,
  lora_r: 0,
  dtype: "float32",
};
const WORKS: readonly (Partial<Work> & { readonly what: string })[] = [
  { what: "a plain step" },
  { what: "layers computed again, against an anchor", checkpointing: true, anchor: true },
  { what: "one longer sequence, in bfloat16", sequences: 1, tokens: 1000, shared: 1, dtype: "bfloat16" },
  { what: "adapters", lora_r: 8, anchor: true },
];
/** Allocations of small models hide behind those of the program, so they get longer batches. */
const SMALL_PARAMETERS = 5e6;
const LENGTHENED = 4;

const BUILTIN = "configs/quickstart-model";
const PEERS = Bun.env.GRPO_CL_PEERS ?? join(homedir(), ".cache/grpo-cl-peers/models");
const peers = existsSync(PEERS) ? readdirSync(PEERS).map((name) => join(PEERS, name)) : [];
const fixtures = MODELS.map(modelDirectory);
const all = [BUILTIN, ...fixtures, ...peers].filter((path) => existsSync(join(path, "model.safetensors")));
const directories = LIBRARY === null ? [] : Bun.env.SLOW === "1" ? all : all.slice(0, 1);
const skipped =
  LIBRARY === null ? "without the core's library" : `${all.length - directories.length} models without SLOW=1`;
if (directories.length < all.length) test.skip(`memory of ${skipped}`, () => {});

/** The core's own terms: the caches are empty here, and the program stands before the growth. */
function planned(directory: string, work: Work, phase: "update" | "checkpoint"): number {
  const config = configOf({
    model_dtype: work.dtype,
    gradient_checkpointing: work.checkpointing,
    kl_coef: work.anchor ? 0.1 : 0,
    lora_r: work.lora_r,
    batch_size_per_gpu: 1,
    gradient_accumulation_steps: 1,
    num_samples_per_prompt: work.sequences,
  });
  const shape = { ...shapeAt(directory), context_tokens_max: work.tokens };
  const facts = {
    shape,
    threads: 2,
    conversation_tokens: work.tokens,
    prompt_tokens: work.shared,
    base_plays_user: false,
    user_shape: null,
  };
  const absent = ["keys and values", "program", "remembered rollouts"];
  const terms = memoryPlan(config, facts).terms.filter(
    ({ name, during }) => !absent.includes(name) && during.includes(phase),
  );
  return terms.reduce((sum, { bytes }) => sum + bytes, 0);
}

async function measured(
  directory: string,
  work: Work,
): Promise<{ readonly update: number; readonly computed_tokens: number }> {
  const scratch = mkdtempSync(join(tmpdir(), "grpo-cl-memory-"));
  const command = ["tests/support/memory-run.ts", JSON.stringify({ model: directory, ...work }), scratch];
  const run = Bun.spawn([process.execPath, ...command], { stdout: "pipe", timeout: 100_000 });
  const text = await new Response(run.stdout).text();
  rmSync(scratch, { recursive: true });
  return JSON.parse(text);
}

describe.each(directories)("%s", (directory) => {
  test.each(WORKS)(
    "$what",
    async ({ what: _, ...fields }) => {
      const work = { ...PLAIN, ...fields };
      const tokens = work.tokens * (parameters(shapeAt(directory)) < SMALL_PARAMETERS ? LENGTHENED : 1);
      const lengthened = { ...work, tokens };
      const { update, computed_tokens } = await measured(directory, lengthened);
      expect(computed_tokens).toBe(work.shared + work.sequences * (tokens - work.shared));
      const ratio = planned(directory, lengthened, "update") / update;
      expect(ratio).toBeGreaterThan(0.85);
      expect(ratio).toBeLessThan(1.15);
    },
    110_000,
  );
});

/** config.json's numbers and the parameters that the models' authors count. */
const PUBLISHED = {
  "Qwen2.5-0.5B": [
    {
      model_type: "qwen2",
      hidden_size: 896,
      intermediate_size: 4864,
      num_hidden_layers: 24,
      num_attention_heads: 14,
      num_key_value_heads: 2,
      vocab_size: 151_936,
      tie_word_embeddings: true,
    },
    494_032_768,
  ],
  "Qwen2.5-7B": [
    {
      model_type: "qwen2",
      hidden_size: 3584,
      intermediate_size: 18_944,
      num_hidden_layers: 28,
      num_attention_heads: 28,
      num_key_value_heads: 4,
      vocab_size: 152_064,
    },
    7_615_616_512,
  ],
  "Qwen2.5-72B": [
    {
      model_type: "qwen2",
      hidden_size: 8192,
      intermediate_size: 29_568,
      num_hidden_layers: 80,
      num_attention_heads: 64,
      num_key_value_heads: 8,
      vocab_size: 152_064,
    },
    72_706_203_648,
  ],
  "Qwen3-8B": [
    {
      model_type: "qwen3",
      hidden_size: 4096,
      intermediate_size: 12_288,
      num_hidden_layers: 36,
      num_attention_heads: 32,
      num_key_value_heads: 8,
      head_dim: 128,
      vocab_size: 151_936,
    },
    8_190_735_360,
  ],
  "Llama-3.1-8B": [
    {
      model_type: "llama",
      hidden_size: 4096,
      intermediate_size: 14_336,
      num_hidden_layers: 32,
      num_attention_heads: 32,
      num_key_value_heads: 8,
      vocab_size: 128_256,
    },
    8_030_261_248,
  ],
} as const;

test.each(Object.entries(PUBLISHED))("%s has the parameters that it is known for", (_name, [json, expected]) => {
  expect(parameters(shapeOf(json, "config.json"))).toBe(expected);
});

test("a config.json that says too little is named with its field", () => {
  expect(() => shapeOf({ hidden_size: 8 }, "m/config.json")).toThrow(
    "m/config.json: num_attention_heads: expected a whole number above 0, found nothing",
  );
});

test("every remedy spares memory, smaller batches come first, and they come to an end", () => {
  const shape = shapeOf(PUBLISHED["Qwen2.5-7B"][0], "config.json");
  const facts = {
    shape,
    threads: 8,
    conversation_tokens: 32_768,
    prompt_tokens: 5000,
    base_plays_user: false,
    user_shape: null,
  };
  let config = configOf({ prefix_sharing: false });
  const names: string[] = [];
  for (let remedy = nextRemedy(config, facts); remedy !== null; remedy = nextRemedy(config, facts)) {
    const changed = { ...config, ...remedy.change };
    expect(memoryPlan(changed, facts).device).toBeLessThan(memoryPlan(config, facts).device);
    names.push(Object.keys(remedy.change)[0] ?? "");
    config = changed;
  }
  expect(names).toEqual([
    "prefix_sharing",
    "batch_size_per_gpu",
    "batch_size_per_gpu",
    "gradient_checkpointing",
    "lora_r",
    "max_context_tokens",
    "max_context_tokens",
  ]);
});

/** Flags and files → RunConfig, and every way to get it wrong. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as v from "valibot";
import { UserError } from "../../src/base/errors.ts";
import { readConfigFile } from "../../src/config/files.ts";
import { parseFlags } from "../../src/config/flags.ts";
import { resolveConfig } from "../../src/config/load.ts";
import { OPTIONS, optionTable, runConfigJsonSchema } from "../../src/config/options.ts";
import type { Command } from "../../src/config/rules.ts";
import { type RunConfig, RunConfigSchema } from "../../src/config/schema.ts";

const KNOWN_DOMAINS = ["airline", "phone", "rail"];
const directory = mkdtempSync(join(tmpdir(), "grpo-cl-config-"));
afterAll(() => rmSync(directory, { recursive: true }));

interface Given {
  readonly file?: { readonly name: string; readonly text: string };
  readonly command?: Command;
  readonly env?: Readonly<Record<string, string>>;
}

async function configOf(line: string, { file, command = "train", env = {} }: Given = {}): Promise<RunConfig> {
  const { options, own } = parseFlags(line.split(" ").filter(Boolean), [
    { name: "config", kind: "text", description: "" },
  ]);
  const path = file === undefined ? own.config : join(directory, file.name);
  if (file !== undefined) writeFileSync(join(directory, file.name), file.text);
  const read = typeof path === "string" ? await readConfigFile(path) : null;
  // The default task_order names domains of a later release.
  const flags = read === null ? { task_order: ["airline"], ...options } : options;
  return resolveConfig({ command, file: read, flags, env, knownDomains: KNOWN_DOMAINS });
}

async function refusal(line: string, given: Given = {}): Promise<string> {
  try {
    await configOf(line, given);
  } catch (error) {
    if (error instanceof UserError) return error.message.replaceAll(`${directory}/`, "");
    throw error;
  }
  return "accepted";
}

const MODEL = "--model_name_or_path m";

describe("defaults are the seed's", () => {
  test.each([
    ["num_samples_per_prompt", 4],
    ["learning_rate", 1e-6],
    ["kl_coef", 0.1],
    ["task_order", ["airline", "retail", "telecom"]],
    ["eval_interval", 5],
    ["batch_size_per_gpu", 4],
    ["model_dtype", "bfloat16"],
    ["num_steps_per_task", 100],
    ["gradient_accumulation_steps", 2],
    ["temperature", 0.7],
    ["max_new_tokens", 2048],
    ["clip_range", 0.2],
    ["warmup_steps", 10],
    ["max_grad_norm", 1],
    ["replay_buffer_size", 1000],
    ["replay_ratio", 0.2],
    ["train_split", 0.8],
    ["eval_temperature", 0.1],
    ["eval_trials", 4],
  ] as const)("%s = %p", (name, value) => {
    expect(v.parse(RunConfigSchema, { model_name_or_path: "m" })[name]).toEqual(value as never);
  });
});

describe("flags", () => {
  const cases: readonly [line: string, expected: Partial<RunConfig>][] = [
    ["--task_order airline rail --seed 7", { task_order: ["airline", "rail"], seed: 7 }],
    ["--task_order airline,rail", { task_order: ["airline", "rail"] }],
    ["--task_order airline --task_order rail phone", { task_order: ["airline", "rail", "phone"] }],
    ["--learning_rate=2e-4 --kl_coef 0", { learning_rate: 2e-4, kl_coef: 0 }],
    ["--gradient_checkpointing", { gradient_checkpointing: true }],
    ["--no-prefix_sharing --reset_optimizer false", { prefix_sharing: false, reset_optimizer: false }],
    ["--gradient_checkpointing true", { gradient_checkpointing: true }],
    ["--seed 1 --seed 2", { seed: 2 }],
    ["--max_context_tokens null", { max_context_tokens: null }],
    ["--max_context_tokens 4096", { max_context_tokens: 4096 }],
    ["--log_dir 7", { log_dir: "7" }],
  ];
  test.each(cases)("%s", async (line, expected) => {
    expect(await configOf(`${MODEL} ${line}`)).toMatchObject(expected);
  });

  test("nested options", async () => {
    const { user } = await configOf(`${MODEL} --user.kind openai --user.model gpt --user.max_retries 3`);
    expect(user).toMatchObject({ kind: "openai", model: "gpt", max_retries: 3 });
  });
});

describe("files", () => {
  const SAME = { seed: 9, task_order: ["rail"], learning_rate: 1e-4, kl_coef: 0 };
  const files = [
    {
      name: "a.yaml",
      text: "model_name_or_path: m\nseed: 9\ntask_order: [rail]\nlearning_rate: 1.0e-4\nkl_coef: 0\nuser: { kind: local }",
    },
    {
      name: "a.yml",
      text: "model_name_or_path: m\nseed: 9\ntask_order:\n  - rail\nlearning_rate: 1e-4\nkl_coef: 0\nuser:\n  kind: local",
    },
    {
      name: "a.toml",
      text: 'model_name_or_path = "m"\nseed = 9\ntask_order = ["rail"]\nlearning_rate = 1e-4\nkl_coef = 0\n[user]\nkind = "local"',
    },
    { name: "a.json", text: JSON.stringify({ model_name_or_path: "m", ...SAME, user: { kind: "local" } }) },
    {
      name: "a.ts",
      text: `const rate: number = 1e-4;\nexport default { model_name_or_path: "m", seed: 9, task_order: ["rail"], learning_rate: rate, kl_coef: 0, user: { kind: "local" } };`,
    },
  ];
  test.each(files)("$name", async (file) => {
    const config = await configOf("", { file });
    expect(config).toMatchObject({ ...SAME, log_dir: "runs/a" });
    expect(config.user.kind).toBe("local");
    expect((await configOf("--seed 3 --user.kind scripted", { file })).user.kind).toBe("scripted");
  });

  test("a resolved config is a config file that resolves to itself", async () => {
    const config = await configOf(`${MODEL} --user.kind local --tau2_data_dir /data`);
    const file = { name: "config.json", text: JSON.stringify(config) };
    expect(await configOf("", { file })).toEqual(config);
  });

  test("embedded configs resolve, those of later releases are refused", async () => {
    expect((await configOf("--config quickstart --task_order phone")).log_dir).toBe("runs/quickstart");
    expect(await refusal("--config 72b_8gpu")).toBe(
      "72b_8gpu (embedded): nproc_per_node: several processes are not in this release; set it to 1",
    );
  });
});

test("a config cannot be changed", async () => {
  const config = await configOf(MODEL);
  expect(() => Object.assign(config, { seed: 1 })).toThrow();
  expect(() => Object.assign(config.user, { kind: "local" })).toThrow();
});

test("a run directory that nobody named is numbered when it is taken; a named one never", () => {
  const taken = ["runs/default", "runs/default-2", "mine"];
  const resolve = (flags: object) =>
    resolveConfig({
      command: "train",
      file: null,
      flags: { model_name_or_path: "m", task_order: ["rail"], ...flags },
      env: {},
      knownDomains: KNOWN_DOMAINS,
      isTaken: (log_dir) => taken.includes(log_dir),
    }).log_dir;
  expect(resolve({})).toBe("runs/default-3");
  expect(resolve({ log_dir: "mine" })).toBe("mine");
  expect(resolve({ resume_from: "runs/default" })).toBe("runs/default");
});

test("TAU2_DATA_DIR stands in for tau2_data_dir, and is resolved into the config", async () => {
  expect((await configOf(MODEL, { env: { TAU2_DATA_DIR: "/t" } })).tau2_data_dir).toBe("/t");
  expect((await configOf(`${MODEL} --tau2_data_dir /u`, { env: { TAU2_DATA_DIR: "/t" } })).tau2_data_dir).toBe("/u");
});

describe("refusals name what to change", () => {
  const cases: readonly [line: string, sentence: string][] = [
    ["", "--model_name_or_path: is required: a model directory, a hub id, or builtin:quickstart"],
    ["--lerning_rate 1", "--lerning_rate: unknown flag (did you mean --learning_rate?)"],
    ["--kl-coef 1", "--kl-coef: unknown flag (did you mean --kl_coef?)"],
    ["--beta 1", "--beta: unknown flag (did you mean --kl_coef?)"],
    ["--user.modle x", "--user.modle: unknown flag (did you mean --user.model?)"],
    ["--quetzalcoatl", "--quetzalcoatl: unknown flag"],
    ["--kl_coef=1=2", '--kl_coef: expected a number ≥ 0, got "1=2"'],
    ["airline", "airline: is not a flag; options are written --name value"],
    ["--kl_coef", "--kl_coef: needs a value: a number ≥ 0"],
    ["--kl_coef abc", '--kl_coef: expected a number ≥ 0, got "abc"'],
    ["--kl_coef -1", "--kl_coef: expected a number ≥ 0, got -1"],
    ["--kl_coef 0.1 0.2", '--kl_coef: takes one value, got "0.1 0.2"'],
    ["--seed 1.5", "--seed: expected a whole number ≥ 0, got 1.5"],
    ["--seed 0x10", '--seed: expected a whole number ≥ 0, got "0x10"'],
    [
      "--no-seed",
      "--no-seed: only options that are true or false can be switched off so; --seed expects a whole number ≥ 0",
    ],
    ["--gradient_checkpointing maybe", '--gradient_checkpointing: expected true or false, got "maybe"'],
    ["--model_dtype int8", '--model_dtype: expected one of bfloat16, float16, float32, got "int8"'],
    ["--replay_ratio 1.5", "--replay_ratio: expected a number ≥ 0 and ≤ 1, got 1.5"],
    [
      "--task_order airline rial",
      '--task_order: unknown domain "rial" (did you mean rail?); known are airline, phone, rail',
    ],
    [
      "--use_flash_attention false",
      "--use_flash_attention: attention is always computed in blocks; leave it true, or set kernels to plain for full score matrices",
    ],
    [
      "--wandb_project p",
      "--wandb_project: Weights & Biases is not in this release; leave it null and read metrics.jsonl in the run directory",
    ],
    ["--nproc_per_node 8", "--nproc_per_node: several processes are not in this release; set it to 1"],
    [
      "--cl_algorithm none",
      '--cl_algorithm: expected one of sequential, joint, replay, adaptive_replay, ewc, online_ewc, ewc_pp, si, mas, lwf, a_gem, der_pp, o_lora, progressive, dynamic_expansion, fusion, adaptive_fusion, got "none"',
    ],
    ...["o_lora", "progressive", "dynamic_expansion"].map((method): [string, string] => [
      `--cl_algorithm ${method}`,
      `--lora_r: cl_algorithm ${method} trains LoRA adapters; set lora_r to their rank, such as 8`,
    ]),
    ...["fusion", "adaptive_fusion"].map((method): [string, string] => [
      `--cl_algorithm ${method} --task_order airline airline`,
      `--task_order: cl_algorithm ${method} merges what several domains taught; name at least two`,
    ]),
    [
      "--cl_algorithm adaptive_replay --replay_ratio 0.6",
      "--replay_ratio: is where adaptive_replay starts, from 0.1 to 0.5; got 0.6",
    ],
    [
      "--cl_algorithm a_gem --replay_ratio 0",
      "--replay_ratio: must be above 0 with cl_algorithm a_gem; use cl_algorithm sequential for none",
    ],
    ["--lora_target_modules q_proj head", '--lora_target_modules: expected one name or more, got ["q_proj","head"]'],
    [
      "--top_p 0.9",
      "--top_p: must be off in training, because the recorded log-probabilities would not be the policy's; set it to 1",
    ],
    [
      "--top_k 50",
      "--top_k: must be off in training, because the recorded log-probabilities would not be the policy's; set it to 0",
    ],
    [
      "--min_p 0.1",
      "--min_p: must be off in training, because the recorded log-probabilities would not be the policy's; set it to 0",
    ],
    ["--temperature 0", "--temperature: must be above 0 in training: greedy rollouts of a task are all the same"],
    [
      "--num_samples_per_prompt 1",
      "--num_samples_per_prompt: must be at least 2: advantages compare the rollouts of a task",
    ],
    [
      "--loss_type cispo",
      "--clip_range_high: loss_type cispo needs it: how far an importance weight may exceed 1, such as 4",
    ],
    [
      "--loss_type gspo --importance_sampling_level token",
      "--importance_sampling_level: loss_type gspo is grpo with the ratio of the sequence; use loss_type grpo for that of the token",
    ],
    [
      "--loss_type cispo --clip_range_high 4 --delta 6",
      "--delta: is not used by loss_type cispo, whose weights clip_range_high bounds",
    ],
    ["--delta 1.25 --clip_range_high 0.28", "--delta: must be above 1 + clip_range_high, which is 1.28"],
    ["--kl_in_reward --kl_coef 0", "--kl_in_reward: needs a kl_coef above 0 to weigh the KL"],
    [
      "--kl_in_reward --kl_ratio_correction",
      "--kl_ratio_correction: is for a KL in the loss; with kl_in_reward leave it false",
    ],
    [
      "--kl_estimator k1",
      "--kl_estimator: the gradient of k1 in the loss is zero on average; set kl_in_reward or kl_ratio_correction, or use k2 or k3",
    ],
    [
      "--credit_assignment turn",
      "--credit_assignment: turn needs rewards that belong to turns; set malformed_call_penalty or kl_in_reward, or use trajectory",
    ],
    ["--max_completion_len 100", "--soft_punish_cache: goes together with max_completion_len: set both, or neither"],
    ["--max_completion_len 100 --soft_punish_cache 200", "--soft_punish_cache: must not exceed max_completion_len 100"],
    [
      "--cl_algorithm si --num_iterations 2",
      "--num_iterations: cl_algorithm si follows the path of one update a step; set num_iterations and num_mini_batches to 1",
    ],
    ["--num_mini_batches 9", "--num_mini_batches: a step has 8 tasks, too few for 9 mini-batches"],
    ["--user.kind openai", "--user.model: user.kind openai needs the model's name"],
    ["--user.base_url http://x", "--user.base_url: is not used by user.kind auto; set --user.kind openai"],
    [
      "--user.kind openai --user.model m --user.base_url x",
      "--user.base_url: expected an http or https address, such as http://localhost:8000/v1",
    ],
    [
      "--judge.model m --judge.base_url http://x/v1?api-key=abc",
      "--judge.base_url: the address must hold no name, password or key; put the key into the environment variable that api_key_env names",
    ],
    ["--judge.cache_dir c", "--judge.cache_dir: is not used without judge.model"],
    ["--user.cache_dir c", "--user.cache_dir: is not used by user.kind auto; set --user.kind openai"],
    [
      "--user.kind openai --user.model m --user.max_cost_usd 5",
      "--user.max_cost_usd: needs the prices of what is paid: user.price_per_million_input_tokens and …_output_tokens, or the judge's",
    ],
    ["--max_context_tokens 1000", "--max_new_tokens: 2048 tokens a turn do not fit into max_context_tokens 1000"],
    [
      "--cl_algorithm replay --replay_ratio 0",
      "--replay_ratio: must be above 0 with cl_algorithm replay; use cl_algorithm sequential for none",
    ],
    [
      "--config nowhere.yaml",
      "--config nowhere.yaml: no such file; the configs inside the binary are quickstart, quick_test, airline_tiny, 7b_single_gpu, 72b_8gpu",
    ],
    [
      "--config quickstrat",
      "--config quickstrat: neither a file nor a config inside the binary (did you mean quickstart?); those are quickstart, quick_test, airline_tiny, 7b_single_gpu, 72b_8gpu",
    ],
  ];
  test.each(cases)("%s", async (line, sentence) => {
    expect(await refusal(line === "" || line === "airline" ? line : `${MODEL} ${line}`)).toBe(sentence);
  });

  const fileCases: readonly [name: string, text: string, sentence: string][] = [
    ["b.yaml", "kl_cof: 1", "b.yaml: kl_cof: unknown option (did you mean kl_coef?)"],
    ["b.yaml", "kl_coef: high", 'b.yaml: kl_coef: expected a number ≥ 0, got "high"'],
    ["b.yaml", "seed: '1'", 'b.yaml: seed: expected a whole number ≥ 0, got "1"'],
    ["b.yaml", "task_order: airline", 'b.yaml: task_order: expected one name or more, got "airline"'],
    ["b.yaml", "user: gpt", 'b.yaml: user: expected options by name (model, …), got "gpt"'],
    ["b.yaml", "judge: { modle: x }", "b.yaml: judge.modle: unknown option (did you mean judge.model?)"],
    ["b.yaml", "user: { modle: x }", "b.yaml: user.modle: unknown option (did you mean user.model?)"],
    [
      "b.yaml",
      "model_name_or_path: m\ntask_order: [rail]\nnum_samples_per_prompt: 1",
      "b.yaml: num_samples_per_prompt: must be at least 2: advantages compare the rollouts of a task",
    ],
    ["b.yaml", "", "b.yaml: is empty; expected options, one a line"],
    ["b.yaml", "- a", "b.yaml: expected options by name"],
    ["b.json", '{"seed": }', "b.json: cannot be read as json: JSON Parse error: Unexpected token '}'"],
    ["b.ini", "seed=1", "--config b.ini: expected a file that ends in .yaml, .yml, .toml, .json, .ts"],
  ];
  test.each(fileCases)("%s %j", async (name, text, sentence) => {
    expect(await refusal("", { file: { name, text } })).toBe(sentence);
  });

  test("evaluation may sample as it likes", async () => {
    const { top_p } = await configOf(`${MODEL} --top_p 0.9 --temperature 0 --num_samples_per_prompt 1`, {
      command: "eval",
    });
    expect(top_p).toBe(0.9);
  });
});

describe("what follows from the schema", () => {
  test("every option has a description and a default, but the model", () => {
    for (const option of OPTIONS) {
      expect(option.description, option.name).not.toBe("");
      expect(option.required, option.name).toBe(option.name === "model_name_or_path");
    }
  });
  test("the option table has a row for each option", () => {
    expect(optionTable().split("\n")).toHaveLength(OPTIONS.length + 2);
    expect(optionTable()).toContain("| `learning_rate` | `0.000001` | a number > 0 | Of AdamW, after warm-up. |");
  });
  test("the JSON Schema knows the options and refuses others", () => {
    const schema = runConfigJsonSchema();
    expect(schema.additionalProperties).toBe(false);
    expect(Object.keys(schema.properties ?? {})).toContain("kl_coef");
    expect(schema.required).toEqual(["model_name_or_path"]);
  });
});

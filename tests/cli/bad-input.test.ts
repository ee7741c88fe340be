/** Bad input gets one sentence that names the flag, file or field, and exit code 2, before any model is loaded. */
import { afterAll, expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { modelFiles, writeModel } from "../hub/model-files.ts";
import { writeMockData } from "../support/mock-data.ts";
import { emptyDirectory, removeDirectories, runCli } from "./run-cli.ts";

afterAll(removeDirectories);

const directory = emptyDirectory();
const at = (name: string) => join(directory, name);
const json = (value: unknown) => Buffer.from(JSON.stringify(value));

const QWEN = modelFiles({ weightBytes: 8, shards: 1 });
writeModel(at("model"), {
  ...QWEN,
  "config.json": json({ model_type: "qwen2", architectures: ["Qwen2ForCausalLM"], max_position_embeddings: 512 }),
});
writeModel(at("gpt2"), { ...QWEN, "config.json": json({ model_type: "gpt2", architectures: ["GPT2LMHeadModel"] }) });
writeModel(at("mute"), { ...QWEN, "tokenizer_config.json": json({}) });
mkdirSync(at("old-run"));
writeFileSync(at("old-run/config.json"), "{}");
mkdirSync(at("no-data"));
writeMockData(at("bad-data"), { task: { user_tools: ["fly"] } });
writeFileSync(at("bad.yaml"), "model_name_or_path: model\nkl_cof: 1\n");
writeFileSync(
  at("my.ts"),
  'import { GRPOConfig } from "grpo-cl";\nnew GRPOConfig({ model_name_or_path: "m", task_order: ["airlin"] });\n',
);

/** Nothing that reaches the library can pass: it does not exist. */
const ENV = { GRPO_CL_CORE: at("no-library.so") };
const TRAIN = "train --model_name_or_path model --task_order phone --max_new_tokens 32";

const cases: readonly [line: string, sentence: string][] = [
  [`${TRAIN} --lerning_rate 1`, "--lerning_rate: unknown flag (did you mean --learning_rate?)"],
  [`${TRAIN} --learning_rate fast`, '--learning_rate: expected a number > 0, got "fast"'],
  ["train --config bad.yaml", "bad.yaml: kl_cof: unknown option (did you mean kl_coef?)"],
  ["sft --model_name_or_path model", "--data: needs recorded conversations: --data FILE …"],
  ["sft --model_name_or_path model --data nowhere.json", "--data: nowhere.json does not exist"],
  ["sft --model_name_or_path model --data bad.yaml", "bad.yaml:1: it is not JSON"],
  [`${TRAIN} --data bad.yaml`, "--data: is what grpo-cl sft trains on"],
  ["plan --model_name_or_path org/model --task_order phone", 'model_name_or_path: "org/model" is no directory'],
  ["train --model_name_or_path nowhere/at/all --task_order phone", 'model_name_or_path: "nowhere/at/all" is neither'],
  [
    "train --model_name_or_path gpt2 --task_order phone",
    "gpt2/config.json: the architecture GPT2LMHeadModel is not supported",
  ],
  ["train --model_name_or_path mute --task_order phone", "mute/tokenizer_config.json: it has no chat_template"],
  [
    "train --model_name_or_path model --task_order airline",
    "tau2_data_dir: not set, and domain airline needs tau2-bench's data",
  ],
  [
    "train --model_name_or_path model --task_order airline --tau2_data_dir no-data",
    "tau2_data_dir: no-data holds no domains/airline",
  ],
  [
    "train --model_name_or_path model --task_order mock --tau2_data_dir bad-data",
    'bad-data/domains/mock/tasks.json: task greet: user_tools.0: there is no user tool "fly"; known are check_notifications',
  ],
  [
    "train --model_name_or_path model --task_order airlin",
    '--task_order: unknown domain "airlin" (did you mean airline?); known are airline, ',
  ],
  [`${TRAIN} --log_dir old-run`, "--log_dir: old-run holds another run (config.json)"],
  [`${TRAIN} --max_context_tokens 1024`, "max_context_tokens: 1024 is more than the model's context of 512 tokens"],
  [`${TRAIN} --resume_from nowhere`, "--resume_from: nowhere does not exist"],
  [`${TRAIN} --user.kind openai --user.model m`, "OPENAI_API_KEY"],
  [`${TRAIN} --no-use_flash_attention`, "attention is always computed in blocks"],
  [
    "eval --model_name_or_path model --task_order phone --split dev",
    '--split: phone has no split "dev"; known are train, test, ',
  ],
  ["evaluate", "grpo-cl evaluate: unknown command (did you mean eval?)"],
  ["data check --jsn", "--jsn: unknown flag (did you mean --json?)"],
  ["version --seed 1", "--seed: is an option of train and eval, not of this command"],
  ["run", "grpo-cl run: needs a script"],
  ["run nowhere.ts", "grpo-cl run nowhere.ts: no such file"],
  ["run my.ts", 'GRPOConfig: task_order: unknown domain "airlin" (did you mean airline?)'],
];

test.each(cases)("%s", async (line, sentence) => {
  const { exitCode, out, err } = await runCli(line.split(" "), { cwd: directory, env: ENV });
  expect(err).toContain(sentence);
  expect(err).toStartWith("error: ");
  expect(err.trimEnd().split("\n")).toHaveLength(1);
  expect(out).toBe("");
  expect(exitCode).toBe(2);
});

/** Local directories, checkpoints and the built-in model: what is refused before any weight is read, and how. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { UserError } from "../../src/base/errors.ts";
import { resolveModelDirectory, setEmbeddedModel } from "../../src/run/model-directory.ts";
import { foldersWith, SHARED } from "../support/shared.ts";
import { type ModelFiles, modelFiles, writeModel } from "./model-files.ts";

const scratch = mkdtempSync(join(tmpdir(), "model-directory-"));
afterAll(() => rmSync(scratch, { recursive: true }));

const fresh = () => mkdtempSync(join(scratch, "m-"));
const resolve = (name: string, env: Record<string, string> = {}) =>
  resolveModelDirectory(name, { revision: "main", env: { HOME: scratch, ...env } });
const GOOD = modelFiles({ weightBytes: 1000, shards: 2 });
const SHARD = "model-00002-of-00002.safetensors";
const json = (value: unknown) => Buffer.from(JSON.stringify(value));
const without = (name: string): ModelFiles =>
  Object.fromEntries(Object.entries(GOOD).filter(([file]) => file !== name));

describe("accepted", () => {
  test("a directory, sharded or not, and with its template in a file of its own", async () => {
    const variants = [
      GOOD,
      modelFiles({ weightBytes: 1000, shards: 1 }),
      { ...GOOD, "tokenizer_config.json": json({}), "chat_template.jinja": Buffer.from("{{ messages }}") },
    ];
    for (const files of variants) {
      const directory = writeModel(fresh(), files);
      expect(await resolve(directory)).toBe(directory);
    }
  });

  test("a checkpoint stands for its model", async () => {
    const checkpoint = fresh();
    writeModel(join(checkpoint, "model"), GOOD);
    expect(await resolve(checkpoint)).toBe(join(checkpoint, "model"));
  });

  test("~ is the home directory", async () => {
    writeModel(join(scratch, "tilde"), GOOD);
    expect(await resolve("~/tilde")).toBe(join(scratch, "tilde"));
  });

  const fixtures = foldersWith("fixtures/core/models", "config.json");
  test.skipIf(fixtures.length === 0)("every fixture model of ../shared", async () => {
    for (const name of fixtures) expect(await resolve(join(SHARED, "fixtures/core/models", name))).toEndWith(name);
  });
});

describe("refused with the file's name", () => {
  test.each([
    ["no config", without("config.json"), "config.json: the file is missing"],
    ["config that is no JSON", { ...GOOD, "config.json": Buffer.from("{") }, "config.json: it is not a JSON object"],
    [
      "another architecture",
      { ...GOOD, "config.json": json({ model_type: "mistral", architectures: ["MistralForCausalLM"] }) },
      "config.json: the architecture MistralForCausalLM is not supported. Use a model of Qwen2ForCausalLM, Qwen3ForCausalLM, LlamaForCausalLM",
    ],
    [
      "a classifier of a known family",
      { ...GOOD, "config.json": json({ model_type: "qwen2", architectures: ["Qwen2ForSequenceClassification"] }) },
      "config.json: the architecture Qwen2ForSequenceClassification is not supported",
    ],
    [
      "quantized",
      { ...GOOD, "config.json": json({ model_type: "qwen2", quantization_config: { bits: 4 } }) },
      "config.json: the weights are quantized",
    ],
    ["no weights", modelFilesWithout(/^model/), "model.safetensors: the file is missing"],
    ["a shard is missing", without(SHARD), `${SHARD}: the file is missing`],
    [
      "an index without a map",
      { ...GOOD, "model.safetensors.index.json": json({}) },
      "model.safetensors.index.json: it has no weight_map",
    ],
    [
      "a Git LFS pointer",
      { ...GOOD, [SHARD]: Buffer.from("version https://git-lfs.github.com/spec/v1\n") },
      `${SHARD}: it has 43 bytes and its header says something else: it is truncated, or a Git LFS pointer`,
    ],
    ["a few bytes", { ...GOOD, [SHARD]: Buffer.from("abc") }, `${SHARD}: it has 3 bytes`],
    ["no tokenizer", without("tokenizer.json"), "tokenizer.json: the file is missing"],
    ["no template", { ...GOOD, "tokenizer_config.json": json({}) }, "tokenizer_config.json: it has no chat_template"],
    ["no tokenizer_config", without("tokenizer_config.json"), "tokenizer_config.json: the file is missing"],
  ] as [string, ModelFiles, string][])("%s", async (_, files, message) => {
    const directory = writeModel(fresh(), files);
    const error = await resolve(directory).catch((error: unknown) => error);
    expect(error).toBeInstanceOf(UserError);
    expect((error as UserError).message).toStartWith(join(directory, message));
  });

  test("a truncated shard, with both sizes", async () => {
    const directory = writeModel(fresh(), GOOD);
    const file = join(directory, SHARD);
    const { size } = statSync(file);
    truncateSync(file, size - 1);
    await expect(resolve(directory)).rejects.toThrow(`${file}: it has ${size - 1} bytes and its header says ${size}`);
  });

  test("a file in place of a directory, an empty name, an unknown built-in", async () => {
    const file = join(fresh(), "model.gguf");
    writeFileSync(file, "");
    await expect(resolve(file)).rejects.toThrow("is a file. Give the directory that holds config.json");
    await expect(resolve("./nowhere/at/all")).rejects.toThrow(
      '"./nowhere/at/all" is neither a directory that exists nor a Hugging Face id',
    );
    await expect(resolve("builtin:big")).rejects.toThrow("The built-in model is builtin:quickstart");
  });
});

function modelFilesWithout(pattern: RegExp): ModelFiles {
  return Object.fromEntries(Object.entries(GOOD).filter(([name]) => !pattern.test(name)));
}

describe("builtin:quickstart inside the binary", () => {
  test("is laid out once in the user's cache, for the user alone, and repaired when damaged", async () => {
    const carried = writeModel(fresh(), GOOD);
    setEmbeddedModel(Object.fromEntries(Object.keys(GOOD).map((name) => [name, join(carried, name)])));
    const cache = fresh();
    const directory = await resolve("builtin:quickstart", { XDG_CACHE_HOME: cache });
    expect(directory).toMatch(new RegExp(`^${cache}/grpo-cl/models/quickstart-[0-9a-f]{16}$`));
    expect(statSync(directory).mode & 0o777).toBe(0o700);
    const { ino } = statSync(directory);
    expect(await resolve("builtin:quickstart", { XDG_CACHE_HOME: cache })).toBe(directory);
    expect(statSync(directory).ino).toBe(ino);

    writeFileSync(join(directory, "config.json"), "{}");
    await resolve("builtin:quickstart", { XDG_CACHE_HOME: cache });
    expect(readFileSync(join(directory, "config.json"))).toEqual(Buffer.from(GOOD["config.json"] as Uint8Array));
  });

  test("two processes at once end with the same directory", async () => {
    const cache = fresh();
    const both = await Promise.all([1, 2].map(() => resolve("builtin:quickstart", { XDG_CACHE_HOME: cache })));
    expect(new Set(both).size).toBe(1);
  });
});

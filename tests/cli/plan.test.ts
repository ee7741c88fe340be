/** `grpo-cl plan`: from config.json alone. */
import { afterAll, expect, test } from "bun:test";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { emptyDirectory, removeDirectories, runCli } from "./run-cli.ts";

afterAll(removeDirectories);

const QWEN_7B = {
  model_type: "qwen2",
  hidden_size: 3584,
  intermediate_size: 18_944,
  num_hidden_layers: 28,
  num_attention_heads: 28,
  num_key_value_heads: 4,
  vocab_size: 152_064,
  max_position_embeddings: 32_768,
};

test("a 7B shape without weights does not fit 80 GiB in full; what to change comes with its size", async () => {
  const cwd = emptyDirectory();
  mkdirSync(join(cwd, "7b"));
  writeFileSync(join(cwd, "7b/config.json"), JSON.stringify(QWEN_7B));
  const flags = ["plan", "--model_name_or_path", "7b", "--task_order", "shop", "--device_memory"];
  const small = await runCli([...flags, "80GiB"], { cwd });
  expect(small.err).toBe("");
  expect(small.exitCode).toBe(1);
  expect(small.out).toContain("7,615,616,512 parameters");
  expect(small.out).toMatch(/^weights +14\.19 GiB/m);
  expect(small.out).toMatch(/^optimizer moments +56\.74 GiB/m);
  expect(small.out).toContain("Does not fit: ");
  expect(small.out).toMatch(/What to change.*\n {2}--gradient_checkpointing true: /);
  for (const bad of ["80 apples", "-3"]) {
    const { err, exitCode } = await runCli([...flags, bad], { cwd });
    expect([exitCode, err]).toEqual([
      2,
      `error: --device_memory: expected a size such as 80GiB or 24GB, got "${bad}"\n`,
    ]);
  }
  rmSync(cwd, { recursive: true });
});

test("the quickstart fits", async () => {
  const cwd = emptyDirectory();
  const { out, exitCode } = await runCli(["plan", "--config", "quickstart", "--device_memory", "1GiB"], { cwd });
  expect(out).toContain("\nFits: ");
  expect(exitCode).toBe(0);
  rmSync(cwd, { recursive: true });
});

/** The files of the embedded model: small, in Hugging Face's formats, made by scripts/make-quickstart-model. */
import { expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { learnMerges } from "../../scripts/quickstart-model/bpe.ts";
import { CHAT_TEMPLATE } from "../../scripts/quickstart-model/tokenizer.ts";
import { readSafetensors, writeSafetensors } from "../../scripts/quickstart-model/weights.ts";
import { openEngine } from "../../src/core/engine.ts";
import { quickstartDomain } from "../../src/tau2/domains/quickstart/index.ts";
import { CORE_LIBRARY } from "../support/core-library.ts";

const MODEL = "configs/quickstart-model";
const ready = existsSync(join(MODEL, "model.safetensors"));
if (!ready) test.skip(`needs ${MODEL}: scripts/make-quickstart-model`, () => {});

test.if(ready)("fits into the repository and has the template of its script", () => {
  const bytes = readdirSync(MODEL).reduce((sum, name) => sum + statSync(join(MODEL, name)).size, 0);
  expect(bytes).toBeLessThan(3e6);
  const config = JSON.parse(readFileSync(join(MODEL, "tokenizer_config.json"), "utf8"));
  expect(config.chat_template).toBe(CHAT_TEMPLATE);
});

test.if(ready)("a conversation costs few tokens, and ids are cut into pairs of digits", async () => {
  using policy = await openEngine({
    library: CORE_LIBRARY,
    model_directory: MODEL,
    dtype: "float32",
    num_threads: 0, // the pool belongs to the process: all tests must agree
    kernels: "fused",
    prefix_sharing: true,
    gradient_checkpointing: false,
  });
  for (const name of ["shop", "rail", "phone"] as const) {
    const { systemPrompt, tools } = quickstartDomain(name);
    const messages = [{ role: "system", content: systemPrompt } as const];
    const options = { tools_json: JSON.stringify(tools), add_generation_prompt: false, enable_thinking: false };
    const text = await policy.render("policy", messages, options);
    expect(text).toBe(`<|im_start|>system\n${systemPrompt}\nTools: get hold cancel credit change transfer<|im_end|>\n`);
    expect((await policy.tokenize("policy", text)).length).toBeLessThanOrEqual(100);
  }
  const call = '<tool_call>\n{"name": "get", "arguments": {"id": "#4217"}}\n</tool_call>';
  const tokens = await policy.tokenize("policy", call);
  const pieces = await Promise.all(
    [...tokens].map((token) => policy.decode("policy", Uint32Array.of(token), { skip_special: false })),
  );
  expect(pieces).toContain("42");
  expect(pieces).toContain("17");
  expect(pieces.join("")).toBe(call);
  expect(policy.info.parameters).toBeLessThan(1e6);
});

test("merges are learned by frequency, ties by code point", () => {
  const merges = learnMerges(
    new Map([
      ["abab", 3],
      ["bc", 3],
      ["ab", 1],
    ]),
  );
  expect(merges).toEqual([
    ["a", "b"],
    ["ab", "ab"],
    ["b", "c"],
  ]);
});

test("weights are written as they are read, and rounded to the nearest bfloat16", () => {
  const tensors = {
    a: { shape: [2, 1], values: Float32Array.of(1.5, -2.25) },
    b: { shape: [1], values: Float32Array.of(3) },
  };
  expect(readSafetensors(Buffer.from(writeSafetensors(tensors, "F32")))).toEqual(tensors);
  const rounded = writeSafetensors({ a: { shape: [3], values: Float32Array.of(1, 1.00390625, 1.01171875) } }, "BF16");
  // 1 + 2^-8 lies between 1 and 1 + 2^-7: the even one wins; 1 + 3·2^-8 likewise goes up.
  expect([...new Uint16Array(rounded.slice(-6).buffer)]).toEqual([0x3f80, 0x3f80, 0x3f82]);
});

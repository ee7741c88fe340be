/** A model directory as bytes: enough for every check before loading, with weights of any size. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

export type ModelFiles = Readonly<Record<string, Uint8Array>>;

export function modelFiles({ weightBytes, shards }: { weightBytes: number; shards: number }): ModelFiles {
  const names = shardNames(shards);
  const weightMap = Object.fromEntries(names.map((name, i) => [`w${i}`, name]));
  const index: ModelFiles =
    shards > 1 ? { "model.safetensors.index.json": json({ metadata: {}, weight_map: weightMap }) } : {};
  return {
    "config.json": json({ model_type: "qwen2", architectures: ["Qwen2ForCausalLM"] }),
    "generation_config.json": json({ eos_token_id: 1 }),
    "tokenizer.json": json({ version: "1.0", model: {} }),
    "tokenizer_config.json": json({ chat_template: "{{ messages }}" }),
    ...index,
    ...Object.fromEntries(names.map((name, i) => [name, safetensors(`w${i}`, Math.floor(weightBytes / shards))])),
  };
}

export function writeModel(directory: string, files: ModelFiles): string {
  mkdirSync(directory, { recursive: true });
  for (const [name, bytes] of Object.entries(files)) writeFileSync(join(directory, name), bytes);
  return directory;
}

const json = (value: unknown) => Buffer.from(JSON.stringify(value));

function shardNames(count: number): string[] {
  if (count === 1) return ["model.safetensors"];
  const five = (n: number) => String(n).padStart(5, "0");
  return Array.from({ length: count }, (_, i) => `model-${five(i + 1)}-of-${five(count)}.safetensors`);
}

function safetensors(tensor: string, bytes: number): Buffer {
  const header = json({ [tensor]: { dtype: "U8", shape: [bytes], data_offsets: [0, bytes] } });
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  return Buffer.concat([length, header, Buffer.alloc(bytes, tensor)]);
}

/** A model folder of any size, with random weights from a seed: for tests of what a model takes, not of what it says. */
import { closeSync, copyFileSync, openSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { Rng } from "../../src/base/rng.ts";

export interface RandomModel {
  readonly layers: number;
  readonly hidden: number;
  readonly inner: number;
  readonly heads: number;
  readonly kv_heads: number;
  readonly vocabulary: number;
  readonly context_tokens_max: number;
}

/** A Llama with tied embeddings; `tokenizer` is the folder whose tokenizer it gets. */
export function writeRandomModel(
  directory: string,
  model: RandomModel,
  { seed, tokenizer }: { readonly seed: number; readonly tokenizer: string },
): void {
  writeFileSync(join(directory, "config.json"), JSON.stringify(configOf(model)));
  copyFileSync(join(tokenizer, "tokenizer.json"), join(directory, "tokenizer.json"));
  writeSafetensors(join(directory, "model.safetensors"), tensorsOf(model), Rng.from(seed));
}

const configOf = (model: RandomModel) => ({
  model_type: "llama",
  hidden_size: model.hidden,
  intermediate_size: model.inner,
  num_hidden_layers: model.layers,
  num_attention_heads: model.heads,
  num_key_value_heads: model.kv_heads,
  vocab_size: model.vocabulary,
  max_position_embeddings: model.context_tokens_max,
  tie_word_embeddings: true,
});

/** Shapes by name. */
function tensorsOf({ layers, hidden, inner, heads, kv_heads, vocabulary }: RandomModel): [string, number[]][] {
  const keys = (hidden / heads) * kv_heads;
  const layer = (index: number): [string, number[]][] => [
    [`model.layers.${index}.input_layernorm.weight`, [hidden]],
    [`model.layers.${index}.self_attn.q_proj.weight`, [hidden, hidden]],
    [`model.layers.${index}.self_attn.k_proj.weight`, [keys, hidden]],
    [`model.layers.${index}.self_attn.v_proj.weight`, [keys, hidden]],
    [`model.layers.${index}.self_attn.o_proj.weight`, [hidden, hidden]],
    [`model.layers.${index}.post_attention_layernorm.weight`, [hidden]],
    [`model.layers.${index}.mlp.gate_proj.weight`, [inner, hidden]],
    [`model.layers.${index}.mlp.up_proj.weight`, [inner, hidden]],
    [`model.layers.${index}.mlp.down_proj.weight`, [hidden, inner]],
  ];
  return [
    ["model.embed_tokens.weight", [vocabulary, hidden]],
    ...Array.from({ length: layers }, (_, index) => layer(index)).flat(),
    ["model.norm.weight", [hidden]],
  ];
}

function writeSafetensors(path: string, tensors: readonly [string, number[]][], rng: Rng): void {
  let end = 0;
  const places = tensors.map(([name, shape]) => {
    const start = end;
    end += 4 * sizeOf(shape);
    return [name, { dtype: "F32", shape, data_offsets: [start, end] }];
  });
  const header = Buffer.from(JSON.stringify(Object.fromEntries(places)));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  const file = openSync(path, "w");
  for (const bytes of [length, header]) writeSync(file, bytes);
  for (const [, shape] of tensors) writeSync(file, values(shape, rng));
  closeSync(file);
}

const sizeOf = (shape: readonly number[]) => shape.reduce((product, width) => product * width, 1);

/** Norm weights are 1, the others so small that logits stay near 0. */
function values(shape: readonly number[], rng: Rng): Float32Array {
  const values = new Float32Array(sizeOf(shape));
  const width = shape.length === 1 ? 0 : 0.04;
  for (let i = 0; i < values.length; i++) values[i] = width === 0 ? 1 : (rng.uint32() / 2 ** 32 - 0.5) * width;
  return values;
}

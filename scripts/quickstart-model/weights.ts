/** Random Llama weights, and safetensors files: a JSON header, then the tensors end to end. */
import type { Rng } from "../../src/base/rng.ts";

export interface ModelConfig {
  readonly hidden_size: number;
  readonly intermediate_size: number;
  readonly num_hidden_layers: number;
  readonly num_attention_heads: number;
  readonly num_key_value_heads: number;
  readonly vocab_size: number;
}

export interface Tensor {
  readonly shape: readonly number[];
  readonly values: Float32Array;
}

export type Tensors = Readonly<Record<string, Tensor>>;

const EMBEDDING_DEVIATION = 0.1;

/**
 * Normal with variance 1 / inputs, smaller by sqrt(2 · layers) where a layer writes to the residual stream. GPT-2's 0.02 is
 * made for wide models: at a width of 128 attention starts almost uniform, and copying appears several times later.
 */
export function initialWeights(config: ModelConfig, rng: Rng): Tensors {
  const { hidden_size: H, intermediate_size: F, num_hidden_layers } = config;
  const keys = (H / config.num_attention_heads) * config.num_key_value_heads;
  const narrow = 1 / Math.sqrt(2 * num_hidden_layers);
  const tensors: Record<string, Tensor> = {};
  const normal = (name: string, shape: readonly [number, number], scale = 1) => {
    const deviation = scale / Math.sqrt(shape[1]);
    tensors[name] = { shape, values: normals(rng.fork(name), shape[0] * shape[1], deviation) };
  };
  const constant = (name: string, size: number, value: number) => {
    tensors[name] = { shape: [size], values: new Float32Array(size).fill(value) };
  };
  normal("model.embed_tokens.weight", [config.vocab_size, H], EMBEDDING_DEVIATION * Math.sqrt(H));
  for (let layer = 0; layer < num_hidden_layers; layer++) {
    const at = `model.layers.${layer}`;
    constant(`${at}.input_layernorm.weight`, H, 1);
    normal(`${at}.self_attn.q_proj.weight`, [H, H]);
    normal(`${at}.self_attn.k_proj.weight`, [keys, H]);
    normal(`${at}.self_attn.v_proj.weight`, [keys, H]);
    normal(`${at}.self_attn.o_proj.weight`, [H, H], narrow);
    constant(`${at}.post_attention_layernorm.weight`, H, 1);
    normal(`${at}.mlp.gate_proj.weight`, [F, H]);
    normal(`${at}.mlp.up_proj.weight`, [F, H]);
    normal(`${at}.mlp.down_proj.weight`, [H, F], narrow);
  }
  constant("model.norm.weight", H, 1);
  return tensors;
}

/** Box and Muller's transform. */
function normals(rng: Rng, size: number, deviation: number): Float32Array {
  return Float32Array.from({ length: size }, () => {
    const radius = Math.sqrt(-2 * Math.log(1 - rng.uniform()));
    return deviation * radius * Math.cos(2 * Math.PI * rng.uniform());
  });
}

export type Dtype = "F32" | "BF16";

export function writeSafetensors(tensors: Tensors, dtype: Dtype): Uint8Array {
  const bytes = { F32: 4, BF16: 2 }[dtype];
  let offset = 0;
  const entries = Object.entries(tensors).map(([name, { shape, values }]) => {
    const data_offsets = [offset, offset + values.length * bytes];
    offset += values.length * bytes;
    return [name, { dtype, shape, data_offsets }];
  });
  const header = new TextEncoder().encode(
    JSON.stringify({ __metadata__: { format: "pt" }, ...Object.fromEntries(entries) }),
  );
  const padded = Math.ceil(header.length / 8) * 8;
  const file = new Uint8Array(8 + padded + offset).fill(0x20);
  new DataView(file.buffer).setBigUint64(0, BigInt(padded), true);
  file.set(header, 8);
  let at = 8 + padded;
  for (const { values } of Object.values(tensors)) {
    const data = dtype === "F32" ? values : toBfloat16(values);
    file.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), at);
    at += data.byteLength;
  }
  return file;
}

/** Reads a file of float32 tensors. */
export function readSafetensors(file: Uint8Array): Tensors {
  const length = Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(file.subarray(8, 8 + length))) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >;
  const body = Uint8Array.from(file.subarray(8 + length)); // a copy: aligned, and not a view into Node's pool
  const tensors = Object.entries(header).filter(([name]) => name !== "__metadata__");
  return Object.fromEntries(
    tensors.map(
      ([
        name,
        {
          dtype,
          shape,
          data_offsets: [from, to],
        },
      ]) => {
        if (dtype !== "F32") throw new Error(`${name} is ${dtype}, not F32`);
        return [name, { shape, values: new Float32Array(body.buffer, from, (to - from) / 4) }];
      },
    ),
  );
}

/** The upper half of each float, rounded to nearest, ties to even. */
function toBfloat16(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  return Uint16Array.from(bits, (word) => (word + 0x7fff + ((word >>> 16) & 1)) >>> 16);
}

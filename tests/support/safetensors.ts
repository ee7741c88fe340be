/** Reads the float32 and int64 tensors of a safetensors file: enough for the fixtures, in a page. */
import { readFileSync } from "node:fs";

export interface Tensor {
  readonly shape: readonly number[];
  readonly values: readonly number[];
}

export function readSafetensors(file: string, only: (name: string) => boolean = () => true): Map<string, Tensor> {
  const bytes = readFileSync(file);
  const headerLength = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString("utf8", 8, 8 + headerLength)) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >;
  const tensors = new Map<string, Tensor>();
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(header)) {
    if (name === "__metadata__" || !only(name)) continue;
    const [start, end] = data_offsets;
    const data = bytes.buffer.slice(
      bytes.byteOffset + 8 + headerLength + start,
      bytes.byteOffset + 8 + headerLength + end,
    );
    tensors.set(name, { shape, values: decoded(dtype, data) });
  }
  return tensors;
}

function decoded(dtype: string, data: ArrayBuffer): number[] {
  if (dtype === "F32") return Array.from(new Float32Array(data));
  if (dtype === "I64") return Array.from(new BigInt64Array(data), Number);
  throw new Error(`safetensors: ${dtype} is not read here`);
}

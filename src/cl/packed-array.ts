/** Typed arrays in JSON, exactly: the bytes (little-endian, as the machine has them) in base64. */

export const textOf = ({ buffer, byteOffset, byteLength }: Uint8Array | Uint32Array | Float32Array): string =>
  Buffer.from(buffer, byteOffset, byteLength).toString("base64");

export function arrayOf<T>(text: string, kind: new (buffer: ArrayBuffer) => T): T {
  const bytes = Uint8Array.from(Buffer.from(text, "base64"));
  return new kind(bytes.buffer);
}

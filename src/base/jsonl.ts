/** Append-only files of one JSON value a line. A row is in the file when `append` returns. */
import { closeSync, fstatSync, fsyncSync, ftruncateSync, openSync, readFileSync, writeSync } from "node:fs";

export class JsonlFile implements Disposable {
  readonly path: string;
  #file: number | null;
  #offset: number;

  private constructor(path: string, file: number, offset: number) {
    this.path = path;
    this.#file = file;
    this.#offset = offset;
  }

  /** Opens for appending; `cut_to` (bytes) first drops what lies behind, as a resumed run does. Fails if the file is shorter. */
  static open(path: string, { cut_to }: { readonly cut_to?: number } = {}): JsonlFile {
    const file = openSync(path, "a");
    const size = fstatSync(file).size;
    if (cut_to === undefined) return new JsonlFile(path, file, size);
    if (size < cut_to) {
      closeSync(file);
      throw new Error(`${path}: has ${size} bytes, but ${cut_to} were written before`);
    }
    ftruncateSync(file, cut_to);
    return new JsonlFile(path, file, cut_to);
  }

  /** Bytes written so far: what a checkpoint remembers. */
  get offset(): number {
    return this.#offset;
  }

  append(row: unknown): void {
    if (this.#file === null) throw new Error(`${this.path}: is closed`);
    const bytes = new TextEncoder().encode(`${JSON.stringify(row)}\n`);
    for (let at = 0; at < bytes.length; ) at += writeSync(this.#file, bytes, at);
    this.#offset += bytes.length;
  }

  /** Makes the rows survive a power cut. */
  flush(): void {
    if (this.#file !== null) fsyncSync(this.#file);
  }

  [Symbol.dispose](): void {
    if (this.#file === null) return;
    closeSync(this.#file);
    this.#file = null;
  }
}

/** All rows; a last line without its newline (cut off by a crash) is left out. */
export function readJsonl(path: string): unknown[] {
  const lines = readFileSync(path, "utf8").split("\n");
  lines.pop();
  return lines.map((line, index) => {
    try {
      return JSON.parse(line);
    } catch (error) {
      throw new Error(`${path}:${index + 1}: is not JSON (${(error as Error).message})`);
    }
  });
}

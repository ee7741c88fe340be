/** Append-only files of one JSON value a line. A row is in the file when `append` returns. */
import { closeSync, fsyncSync, ftruncateSync, openSync, readFileSync, writeSync } from "node:fs";

const NEWLINE = "\n".charCodeAt(0);

export class JsonlFile implements Disposable {
  readonly path: string;
  #file: number | null;

  private constructor(path: string, file: number) {
    this.path = path;
    this.#file = file;
  }

  /** Opens for appending; a last line that a crash cut off is dropped. */
  static open(path: string): JsonlFile {
    const file = openSync(path, "a");
    ftruncateSync(file, readFileSync(path).lastIndexOf(NEWLINE) + 1);
    return new JsonlFile(path, file);
  }

  append(row: unknown): void {
    if (this.#file === null) throw new Error(`${this.path}: is closed`);
    const bytes = new TextEncoder().encode(`${JSON.stringify(row)}\n`);
    for (let at = 0; at < bytes.length; ) at += writeSync(this.#file, bytes, at);
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

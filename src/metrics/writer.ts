/**
 * The run's numbers on disk: metrics.jsonl is the truth, metrics.json a view of it for those who know the seed's shape,
 * timings.jsonl holds all that depends on the clock.
 */
import { join } from "node:path";
import { replaceFile } from "../base/atomic.ts";
import { JsonlFile, readJsonl } from "../base/jsonl.ts";
import { type MetricsRow, seedShape } from "./rows.ts";

export interface TimingRow {
  readonly task_idx: number;
  readonly step: number | null;
  readonly phase: string;
  readonly ms: number;
  readonly [detail: string]: string | number | null;
}

export class MetricsWriter implements Disposable {
  readonly #directory: string;
  readonly #metrics: JsonlFile;
  readonly #timings: JsonlFile;
  readonly #rows: MetricsRow[];

  /** Goes on behind the rows that the directory holds. */
  constructor(directory: string) {
    this.#directory = directory;
    this.#metrics = JsonlFile.open(join(directory, "metrics.jsonl"));
    this.#timings = JsonlFile.open(join(directory, "timings.jsonl"));
    this.#rows = readJsonl(this.#metrics.path) as MetricsRow[];
    this.#rewriteSeedShape();
  }

  get rows(): readonly MetricsRow[] {
    return this.#rows;
  }

  get path(): string {
    return this.#metrics.path;
  }

  write(row: MetricsRow): void {
    this.#metrics.append(row);
    this.#rows.push(row);
    this.#rewriteSeedShape();
  }

  timing(row: TimingRow): void {
    this.#timings.append(row);
  }

  /** Makes all rows survive a power cut. */
  flush(): void {
    this.#metrics.flush();
    this.#timings.flush();
  }

  [Symbol.dispose](): void {
    this.#metrics[Symbol.dispose]();
    this.#timings[Symbol.dispose]();
  }

  #rewriteSeedShape(): void {
    replaceFile(join(this.#directory, "metrics.json"), `${JSON.stringify(seedShape(this.#rows), null, 1)}\n`);
  }
}

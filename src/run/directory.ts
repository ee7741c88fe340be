/**
 * The run directory is the truth about a run. It belongs to one run: another one is refused, unless it goes on from a
 * checkpoint.
 *
 *   config.json · run.json · metrics.jsonl · metrics.json · timings.jsonl · run.log
 *   rollouts/step_*.jsonl.zst · rollouts/eval_*.jsonl.zst
 *   checkpoint_task_{i}/ · checkpoint_latest/ · nonfinite_*.json.zst
 */
import { appendFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join, resolve } from "node:path";
import { replaceFile, writeFileAtomic } from "../base/atomic.ts";
import { UserError } from "../base/errors.ts";
import type { Checkpoint } from "../checkpoint/load.ts";
import type { RunConfig } from "../config/schema.ts";

const MARKS = ["config.json", "metrics.jsonl"];

export const holdsRun = (log_dir: string): boolean => MARKS.some((name) => existsSync(join(log_dir, name)));

/** Before anything slow: may this run use the directory? */
export function checkRunDirectory(log_dir: string, resume: Pick<Checkpoint, "log_dir"> | null): void {
  if (resume !== null && resolve(log_dir) === resume.log_dir) return;
  const mark = MARKS.find((name) => existsSync(join(log_dir, name)));
  if (mark === undefined) return;
  throw new UserError(
    "--log_dir",
    `${log_dir} holds another run (${mark}). Choose another directory, or go on with --resume_from ${log_dir}`,
  );
}

export class RunDirectory {
  readonly path: string;
  readonly config: RunConfig;

  /** Makes it; config.json is the first file in it. A resumed run goes on behind the metrics of its checkpoint. */
  constructor(config: RunConfig, resume: Checkpoint | null) {
    checkRunDirectory(config.log_dir, resume);
    this.path = config.log_dir;
    this.config = config;
    mkdirSync(join(this.path, "rollouts"), { recursive: true });
    for (const name of readdirSync(this.path).filter(isUnfinished)) rmSync(join(this.path, name), { recursive: true });
    writeFileAtomic(join(this.path, "config.json"), pretty(config));
    if (resume !== null) writeFileAtomic(this.file("metrics.jsonl"), readFileSync(resume.metrics_file));
  }

  checkpoint(name: number | "latest"): string {
    return join(this.path, name === "latest" ? "checkpoint_latest" : `checkpoint_task_${name}`);
  }

  file(name: string): string {
    return join(this.path, name);
  }

  /** Facts about the run that are no configuration. */
  describe(facts: unknown): void {
    writeFileAtomic(this.file("run.json"), pretty(facts));
  }

  log(text: string): void {
    appendFileSync(this.file("run.log"), text);
  }

  async writeCompressed(name: string, text: string): Promise<void> {
    replaceFile(this.file(name), await Bun.zstdCompress(text));
  }
}

/** A checkpoint that was being written when its process ended. */
const isUnfinished = (name: string): boolean => name.startsWith(".checkpoint_") && name.endsWith(".tmp");

const pretty = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`;

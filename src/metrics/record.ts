/** A run as its directory tells it. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../base/errors.ts";
import { readJsonl } from "../base/jsonl.ts";
import type { RunConfig } from "../config/schema.ts";
import { type MetricsRow, scoresRowsOf } from "./rows.ts";

export interface RunRecord {
  /** The run directory. */
  readonly path: string;
  readonly config: RunConfig;
  /** The method's name: `cl_algorithm`, or that of a method of one's own. */
  readonly method: string;
  readonly rows: readonly MetricsRow[];
}

/** Throws UserError where the directory holds no run, or one that was not evaluated yet. */
export function readRun(path: string): RunRecord {
  for (const name of ["config.json", "metrics.jsonl"])
    if (!existsSync(join(path, name))) throw new UserError(path, `is no run directory: ${name} is missing`);
  const config = readJson(join(path, "config.json")) as RunConfig;
  const rows = readJsonl(join(path, "metrics.jsonl")) as MetricsRow[];
  if (scoresRowsOf(rows).length === 0) throw new UserError(path, "the run has no evaluation yet");
  return { path, config, method: methodOf(path) ?? config.cl_algorithm, rows };
}

function methodOf(path: string): string | undefined {
  const file = join(path, "run.json");
  return existsSync(file) ? (readJson(file) as { readonly method?: string }).method : undefined;
}

function readJson(file: string): unknown {
  try {
    return JSON.parse(readFileSync(file, "utf8"));
  } catch (error) {
    throw new UserError(file, `is not JSON (${(error as Error).message})`);
  }
}

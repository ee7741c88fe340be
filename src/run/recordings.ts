/** Recorded simulations on disk: results files, and directories of them in either of tau2's layouts. */
import { existsSync, readdirSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { UserError } from "../base/errors.ts";
import type { ExactObject, ExactValue } from "../base/exact.ts";
import { readJson } from "../tau2/data-directory.ts";
import { isResults, type Recording, readRecording } from "../tau2/recorded.ts";

export interface FoundRecording extends Recording {
  readonly path: string;
  /** `file`: all in one; `directory`: results.json beside simulations/, a file each. */
  readonly layout: "file" | "directory";
}

export interface Found {
  readonly recordings: readonly FoundRecording[];
  /** JSON files below a given directory that hold no results. */
  readonly passedOver: readonly string[];
}

/** Tau2 names it so in both places. */
const RESULTS_FILE = "results.json";
const SIMULATIONS = "simulations";

/** Throws UserError for a path that is not there, or that leads to no recorded simulation. */
export function findRecordings(paths: readonly string[]): Found {
  const recordings: FoundRecording[] = [];
  const passedOver: string[] = [];
  for (const path of paths) {
    const before = recordings.length;
    if (!existsSync(path)) throw new UserError(path, "no such file or directory");
    for (const file of statSync(path).isDirectory() ? resultFiles(path) : [path]) {
      const found = readFile(file);
      if (found === null) passedOver.push(file);
      else recordings.push(found);
    }
    if (recordings.length === before)
      throw new UserError(
        path,
        "holds no recorded simulations; a results file of tau2-bench is expected (info, tasks, simulations)",
      );
  }
  return { recordings, passedOver };
}

/** JSON files below, in order; a file of simulations/ belongs to the results.json beside that folder. */
function resultFiles(directory: string): string[] {
  const entries = readdirSync(directory, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1));
  const hasOwnResults = entries.some(({ name }) => name === RESULTS_FILE);
  return entries.flatMap((entry) => {
    const path = join(directory, entry.name);
    if (entry.isDirectory())
      return entry.name.startsWith(".") || (entry.name === SIMULATIONS && hasOwnResults) ? [] : resultFiles(path);
    return entry.name.endsWith(".json") ? [path] : [];
  });
}

/** null: not a results file. */
function readFile(path: string): FoundRecording | null {
  const value = readJson(path);
  if (isResults(value)) return readResults(path, value);
  const results = join(dirname(path), "..", RESULTS_FILE);
  if (basename(dirname(path)) !== SIMULATIONS || !existsSync(results)) return null;
  const about = readJson(results);
  if (!isResults(about)) return null;
  return { path, layout: "file", ...readRecording(about, results, [[path, value]]) };
}

function readResults(path: string, value: ExactObject): FoundRecording {
  const simulations = join(dirname(path), SIMULATIONS);
  const inside = Array.isArray(value.simulations) ? value.simulations.length : 0;
  if (inside > 0 || !existsSync(simulations)) return { path, layout: "file", ...readRecording(value, path) };
  const files = readdirSync(simulations)
    .filter((name) => name.endsWith(".json"))
    .sort()
    .map((name): [string, ExactValue] => [join(simulations, name), readJson(join(simulations, name))]);
  return { path, layout: "directory", ...readRecording(value, path, files) };
}

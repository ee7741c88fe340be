/** Finds, verifies and reads the checkpoint that a run goes on from. */
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { previousOf } from "../base/atomic.ts";
import { UserError } from "../base/errors.ts";
import { TrajectoryBuffer } from "../cl/memory.ts";
import type { RunConfig } from "../config/schema.ts";
import { FILES, verify } from "./manifest.ts";
import type { RunState } from "./state.ts";
import { parseStepGroups, type StepGroups } from "./step-groups.ts";

export interface Checkpoint {
  readonly path: string;
  /** The run directory it was written to. */
  readonly log_dir: string;
  readonly optimizer_file: string;
  /** metrics.jsonl as it was. */
  readonly metrics_file: string;
  readonly config: RunConfig;
  readonly state: RunState;
  readonly ahead: StepGroups | null;
  memory(capacity: number): TrajectoryBuffer;
}

/** `resume_from`: a checkpoint, or a run directory, whose newest checkpoint is taken. Everything is verified. */
export async function openCheckpoint(resume_from: string): Promise<Checkpoint> {
  const path = existsSync(join(resume_from, FILES.manifest)) ? resume_from : newestIn(resume_from);
  await verify(path);
  return {
    path,
    log_dir: dirname(resolve(path)),
    optimizer_file: join(path, FILES.optimizer),
    metrics_file: join(path, FILES.metrics),
    config: readJson(join(path, FILES.config)) as RunConfig,
    state: { ...positionIn(path), method: readJson(join(path, FILES.method)) as RunState["method"] },
    ahead: existsSync(join(path, FILES.ahead)) ? readFrom(join(path, FILES.ahead), parseStepGroups) : null,
    memory: (capacity) => TrajectoryBuffer.load(join(path, FILES.memory), { capacity }),
  };
}

/** The checkpoint furthest along, of those that belong to the directory's metrics.jsonl. */
function newestIn(log_dir: string): string {
  if (!existsSync(log_dir)) throw new UserError("--resume_from", `${log_dir} does not exist`);
  if (!statSync(log_dir).isDirectory()) throw new UserError("--resume_from", `${log_dir} is a file, not a checkpoint`);
  const found = candidates(log_dir)
    .filter((path) => belongsTo(log_dir, path))
    .map((path) => ({ path, state: positionIn(path) }));
  const newest = found.toSorted((a, b) => further(b.state, a.state))[0];
  if (newest === undefined) throw new UserError("--resume_from", `${log_dir} holds no checkpoint of its run`);
  return newest.path;
}

/** A crash between two renames leaves a whole checkpoint under its waiting name. */
function candidates(log_dir: string): string[] {
  const names = readdirSync(log_dir).filter((name) => name.startsWith("checkpoint_"));
  const waiting = readdirSync(log_dir).filter((name) => name.startsWith(".checkpoint_") && name.endsWith(".previous"));
  const orphans = waiting.filter((name) => !names.some((kept) => basename(previousOf(kept)) === name));
  return [...names, ...orphans]
    .map((name) => join(log_dir, name))
    .filter((path) => [FILES.manifest, FILES.run, FILES.metrics].every((name) => existsSync(join(path, name))));
}

/** run.json: where the run stood. */
const positionIn = (path: string) => readJson(join(path, FILES.run)) as Omit<RunState, "method">;

const further = (a: Pick<RunState, "position">, b: Pick<RunState, "position">): number =>
  a.position.experience - b.position.experience || a.position.step - b.position.step;

/** Not so for one left by a run that was later resumed from an earlier checkpoint and took another way. */
function belongsTo(log_dir: string, checkpoint: string): boolean {
  const path = join(log_dir, "metrics.jsonl");
  const then = readFileSync(join(checkpoint, FILES.metrics));
  return existsSync(path) && readFileSync(path).subarray(0, then.length).equals(then);
}

const readJson = (path: string): unknown => readFrom(path, JSON.parse);

function readFrom<T>(path: string, parse: (text: string) => T): T {
  try {
    return parse(readFileSync(path, "utf8"));
  } catch (error) {
    throw new UserError(path, `the checkpoint is damaged: ${(error as Error).message}. Resume from another one`);
  }
}

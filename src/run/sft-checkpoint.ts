/**
 * Where a supervised warm start stands: `checkpoint_latest/` with the model, the optimizer's state, metrics.jsonl so far and
 * a manifest, written beside its place and moved there whole.
 */
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { besideOf, previousOf, replaceDirectory, syncDirectory, syncFile, writeFileAtomic } from "../base/atomic.ts";
import { UserError } from "../base/errors.ts";
import { FILES, filesBelow, manifestOf, verify } from "../checkpoint/manifest.ts";
import type { RunConfig } from "../config/schema.ts";
import type { Policy } from "../core/policy.ts";

export interface SftState {
  /** Updates done. */
  readonly step: number;
  /** Of the conversations and their order: another one must not go on from here. */
  readonly data_digest: string;
}

export interface SftCheckpoint {
  readonly path: string;
  readonly log_dir: string;
  readonly optimizer_file: string;
  readonly metrics_file: string;
  readonly state: SftState;
}

const LATEST = "checkpoint_latest";

/** `resume_from`: the run directory, or its checkpoint. Every file is verified. */
export async function openSftCheckpoint({ resume_from }: RunConfig): Promise<SftCheckpoint | null> {
  if (resume_from === null) return null;
  const latest = join(resume_from, LATEST);
  const places = [resume_from, latest, previousOf(latest)];
  const path = places.find((place) => existsSync(join(place, FILES.manifest)));
  if (path === undefined)
    throw new UserError("--resume_from", `${resume_from} holds no checkpoint (save_interval makes them)`);
  await verify(path);
  const state = JSON.parse(readFileSync(join(path, FILES.run), "utf8")) as Partial<SftState>;
  if (state.data_digest === undefined || state.step === undefined)
    throw new UserError("--resume_from", `${path} is a checkpoint of grpo-cl train, not of sft`);
  return {
    path,
    log_dir: dirname(resolve(path)),
    optimizer_file: join(path, FILES.optimizer),
    metrics_file: join(path, FILES.metrics),
    state: { step: state.step, data_digest: state.data_digest },
  };
}

export async function saveSftCheckpoint(
  log_dir: string,
  { policy, state, signal }: { readonly policy: Policy; readonly state: SftState; readonly signal: AbortSignal },
): Promise<string> {
  const path = join(log_dir, LATEST);
  const staged = besideOf(path);
  rmSync(staged, { recursive: true, force: true });
  mkdirSync(join(staged, dirname(FILES.run)), { recursive: true });
  await policy.save(join(staged, FILES.model));
  signal.throwIfAborted();
  await policy.saveState(join(staged, FILES.optimizer));
  signal.throwIfAborted();
  writeFileAtomic(join(staged, FILES.run), `${JSON.stringify(state)}\n`);
  copyFileSync(join(log_dir, "config.json"), join(staged, FILES.config));
  copyFileSync(join(log_dir, "metrics.jsonl"), join(staged, FILES.metrics));
  for (const file of filesBelow(staged)) syncFile(join(staged, file));
  writeFileAtomic(join(staged, FILES.manifest), `${JSON.stringify(await manifestOf(staged))}\n`);
  syncDirectory(staged);
  replaceDirectory(staged, path);
  return path;
}

/** The model of the end: `DIRECTORY/model`, which transformers and `--model_name_or_path DIRECTORY` load. */
export async function saveSftModel(log_dir: string, policy: Policy): Promise<string> {
  const path = join(log_dir, FILES.model);
  const staged = besideOf(path);
  rmSync(staged, { recursive: true, force: true });
  await policy.save(staged);
  for (const file of filesBelow(staged)) syncFile(join(staged, file));
  syncDirectory(staged);
  replaceDirectory(staged, path);
  return path;
}

/** Writes a checkpoint beside its place, names and hashes every file, and moves it there whole. */
import { copyFileSync, mkdirSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { besideOf, replaceDirectory, syncDirectory, syncFile, writeFileAtomic } from "../base/atomic.ts";
import type { TrajectoryBuffer } from "../cl/memory.ts";
import type { RunConfig } from "../config/schema.ts";
import type { Policy } from "../core/policy.ts";
import { FILES, filesBelow, manifestOf } from "./manifest.ts";
import type { RunState } from "./state.ts";
import { type StepGroups, stepGroupsText } from "./step-groups.ts";

export interface CheckpointContent {
  readonly policy: Policy;
  readonly memory: TrajectoryBuffer;
  readonly config: RunConfig;
  readonly state: RunState;
  /** Rollouts of the next step, if there are any. */
  readonly ahead: StepGroups | null;
  /** metrics.jsonl so far: the checkpoint carries it, so it can be moved, and what came after it is cut off on resume. */
  readonly metrics: string;
  /** Stops between files; the old checkpoint then stands. */
  readonly signal: AbortSignal;
}

/** `path`: where it comes to lie; one that is there is replaced. */
export async function saveCheckpoint(path: string, content: CheckpointContent): Promise<void> {
  const staged = besideOf(path);
  rmSync(staged, { recursive: true, force: true });
  mkdirSync(join(staged, dirname(FILES.run)), { recursive: true });
  const { policy, memory, config, state, ahead, metrics, signal } = content;
  await policy.save(join(staged, FILES.model));
  if (config.lora_r > 0) await policy.save(join(staged, FILES.adapter), { adapter_of: config.model_name_or_path });
  signal.throwIfAborted();
  await policy.saveState(join(staged, FILES.optimizer), { models: state.models });
  signal.throwIfAborted();
  memory.save(join(staged, FILES.memory));
  writeFileAtomic(join(staged, FILES.config), pretty(config));
  const { method, ...run } = state;
  writeFileAtomic(join(staged, FILES.run), pretty(run));
  writeFileAtomic(join(staged, FILES.method), `${JSON.stringify(method)}\n`);
  if (ahead !== null) writeFileAtomic(join(staged, FILES.ahead), stepGroupsText(ahead));
  copyFileSync(metrics, join(staged, FILES.metrics));
  for (const file of filesBelow(staged)) syncFile(join(staged, file));
  writeFileAtomic(join(staged, FILES.manifest), pretty(await manifestOf(staged)));
  signal.throwIfAborted();
  syncDirectory(staged);
  replaceDirectory(staged, path);
}

const pretty = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`;

/**
 * Opens what a run needs, the cheap first: a wrong directory, checkpoint, domain or model is told before weights are read.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../base/errors.ts";
import { type Checkpoint, openCheckpoint } from "../checkpoint/load.ts";
import type { ContinualMethod } from "../cl/method.ts";
import { methodOf } from "../cl/registry.ts";
import type { RunConfig } from "../config/schema.ts";
import { EngineError, openEngine } from "../core/engine.ts";
import type { Policy } from "../core/policy.ts";
import { distinct } from "../curriculum/experience.ts";
import { tasksOfSplit } from "../curriculum/split.ts";
import { registerDomainDirectories } from "../tau2/domains/directory.ts";
import { loadDomain } from "../tau2/domains/index.ts";
import type { Domain } from "../tau2/types.ts";
import { checkContextLimit } from "./context.ts";
import { checkRunDirectory } from "./directory.ts";
import { greetEndpoints, openEndpoints } from "./endpoints.ts";
import { adapterDirectory, type DownloadProgress, resolveModelDirectory } from "./model-directory.ts";
import type { Edge, Session } from "./session.ts";
import { chooseUsers } from "./users.ts";

export interface OpenOptions {
  readonly edge: Edge;
  /** Path of the Rust core's library; null = the one that cargo built from this clone. */
  readonly library: string | null;
  /** A method of the user's own; null = `cl_algorithm`. */
  readonly method?: ContinualMethod | null;
  /** Evaluation writes no run directory and goes on from no checkpoint. */
  readonly purpose: "train" | "eval";
  /** Split that will be evaluated: every domain must have it. */
  readonly split?: string;
}

/** The policy of the session holds the core: dispose of it at the end. */
export async function openSession(
  config: RunConfig,
  { edge, library, method, purpose, split = "test" }: OpenOptions,
): Promise<Session> {
  const resume = purpose === "train" ? await openResume(config) : null;
  const domains = await loadDomains(config);
  if (split !== "train" && split !== "test") for (const domain of domains) tasksOfSplit(domain, split);
  const endpoints = openEndpoints(config, edge);
  chooseUsers(config, domains, endpoints); // for its checks
  await greetEndpoints(endpoints);
  const model = await resolvePolicyModel(config, edge);
  const { model_directory } = model;
  checkContextLimit(config, contextOf(model_directory));
  const user_model_directory =
    config.user.kind === "local" && config.user.model !== null
      ? await resolveModel(config.user.model, config, edge)
      : null;
  // also to go on: a checkpoint's model has its adapters folded in, its state has what was trained
  const policy = await openPolicy(config, { library, ...model });
  return { edge, policy, model_directory, user_model_directory, domains, method: method ?? methodOf(config), resume };
}

export interface PolicyModel {
  readonly model_directory: string;
  /** Of a PEFT adapter on that model, which the policy begins with; null without one. */
  readonly adapter_directory: string | null;
}

/** `model_name_or_path` is a model, or an adapter that says on which. */
export async function resolvePolicyModel(config: RunConfig, edge: Edge): Promise<PolicyModel> {
  const adapter = await adapterDirectory(config.model_name_or_path, edge);
  const model_directory = await resolveModel(adapter?.base ?? config.model_name_or_path, config, edge);
  return { model_directory, adapter_directory: adapter?.directory ?? null };
}

/** Starts the core with the model in `model_directory`, the adapter folded in. Dispose of it at the end. */
export async function openPolicy(
  config: RunConfig,
  { library, model_directory, adapter_directory }: PolicyModel & { readonly library: string | null },
): Promise<Policy> {
  const { model_dtype: dtype, num_threads, kernels, prefix_sharing, gradient_checkpointing } = config;
  const options = { dtype, num_threads, kernels, prefix_sharing, gradient_checkpointing };
  const policy = await openEngine({ library, model_directory, ...options });
  if (adapter_directory === null) return policy;
  try {
    await policy.weightOp({ op: "load_adapter", name: "given", directory: adapter_directory });
    await policy.weightOp({ op: "merge_adapters" });
    return policy;
  } catch (error) {
    policy[Symbol.dispose]();
    throw error instanceof EngineError ? new UserError("model_name_or_path", error.message) : error;
  }
}

async function openResume(config: RunConfig): Promise<Checkpoint | null> {
  const resume = config.resume_from === null ? null : await openCheckpoint(config.resume_from);
  checkRunDirectory(config.log_dir, resume);
  return resume;
}

export async function loadDomains(config: RunConfig): Promise<Domain[]> {
  const { tau2_data_dir, train_split, solo_mode } = config;
  await registerDomainDirectories(config.domain_dir);
  return distinct(config.task_order).map((name) => loadDomain(name, { tau2_data_dir, train_split, solo_mode }));
}

export function resolveModel(name: string, { revision }: RunConfig, { env, signal, reporter }: Edge): Promise<string> {
  return resolveModelDirectory(name, {
    revision,
    env,
    signal,
    onProgress: (progress) => reporter.progress(shown(progress)),
  });
}

const MIB = 2 ** 20;

const shown = ({ model, receivedBytes, totalBytes }: DownloadProgress) => ({
  label: `downloading ${model} (MiB)`,
  done: Math.floor(receivedBytes / MIB),
  total: Math.ceil(totalBytes / MIB),
});

/** The model's context in tokens; `resolveModelDirectory` has checked the file. */
function contextOf(model_directory: string): number {
  const config = JSON.parse(readFileSync(join(model_directory, "config.json"), "utf8")) as {
    max_position_embeddings?: number;
  };
  return config.max_position_embeddings ?? Number.POSITIVE_INFINITY;
}

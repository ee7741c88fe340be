/**
 * Supervised warm start: the policy learns the agent's turns of recorded conversations, with the renderer, the token masks
 * and the optimizer of training. A step is one update on batch × accumulation conversations; the loss is the mean of
 * −log π(token) at temperature 1 over the agent's tokens of the step.
 */
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { writeFileAtomic } from "../base/atomic.ts";
import { UserError } from "../base/errors.ts";
import { JsonlFile } from "../base/jsonl.ts";
import { Rng } from "../base/rng.ts";
import { newAdapter } from "../cl/adapter.ts";
import type { RunConfig } from "../config/schema.ts";
import type { Policy } from "../core/policy.ts";
import { packSupervised, type SupervisedSequence, targetTokens } from "../grpo/supervised.ts";
import type { SftMetric, SftValidationMetric } from "../metrics/names.ts";
import { registerDomainDirectories } from "../tau2/domains/directory.ts";
import { AbortedError, orAborted } from "./abort.ts";
import { checkRunDirectory } from "./directory.ts";
import { openPolicy, resolvePolicyModel } from "./open-session.ts";
import { type Reporter, warning } from "./report.ts";
import type { Edge } from "./session.ts";
import { openSftCheckpoint, type SftCheckpoint, saveSftCheckpoint, saveSftModel } from "./sft-checkpoint.ts";
import { readRecorded } from "./sft-data.ts";
import { type PreparedData, prepareConversations } from "./sft-prepare.ts";
import { timeLines } from "./time-report.ts";
import { learningRate, optimizerOptions } from "./update.ts";

/** Lines of metrics.jsonl. */
export interface SftRow extends Readonly<Record<SftMetric, number | null>> {
  readonly kind: "sft";
  /** From 0, over all epochs. */
  readonly step: number;
  readonly epoch: number;
}

export interface SftValidationRow extends Readonly<Record<SftValidationMetric, number>> {
  readonly kind: "sft_validation";
  /** Updates before it. */
  readonly step: number;
}

export interface SftResult {
  readonly log_dir: string;
  /** Loads in transformers, and as `model_name_or_path`. */
  readonly model_directory: string;
  readonly rows: readonly (SftRow | SftValidationRow)[];
}

export interface SftOptions {
  readonly edge: Edge;
  /** Path of the core's library; null = the one that cargo built from this clone. */
  readonly library: string | null;
}

const LOSS = { kind: "nll", temperature: 1 } as const;

export async function sft(config: RunConfig, { edge, library }: SftOptions): Promise<SftResult> {
  const resume = await openSftCheckpoint(config);
  checkRunDirectory(config.log_dir, resume);
  const recorded = await readRecorded(config.data ?? []);
  await registerDomainDirectories(config.domain_dir);
  // also to go on: a checkpoint's model has its adapters folded in, its state has what was trained
  using policy = await openPolicy(config, { library, ...(await resolvePolicyModel(config, edge)) });
  const data = await prepareConversations(recorded, {
    config,
    policy,
    rng: Rng.from(config.seed).fork("sft", "split"),
    onConversation: (done, total) => edge.reporter.progress({ label: "conversations", done, total }),
  });
  return await trainSupervised(config, { policy, data, edge, resume });
}

interface SftSession {
  readonly policy: Policy;
  readonly data: PreparedData;
  readonly edge: Edge;
  readonly resume: SftCheckpoint | null;
}

/** The loop, over whatever policy. */
export async function trainSupervised(config: RunConfig, session: SftSession): Promise<SftResult> {
  const { policy, data, edge, resume } = session;
  const { reporter, signal } = edge;
  const plan = new SftPlan(config, data);
  if (resume !== null) await goOn(policy, resume, plan);
  else if (config.lora_r > 0) await policy.weightOp(newAdapter("sft", config, Rng.from(config.seed)));
  using files = new SftFiles(config, session);
  for (const text of describe(config, session, plan)) reporter.line(text);
  let checkpoint = resume?.path ?? null;
  try {
    if (resume === null) await files.validate(0);
    for (let step = resume?.state.step ?? 0; step < plan.steps; step++) {
      reporter.progress({ label: "supervised steps", done: step, total: plan.steps });
      files.write(await files.timed("update", step, () => update(config, session, plan, step)));
      if (plan.endsEpoch(step)) await files.validate(step + 1);
      if (config.save_interval > 0 && (step + 1) % config.save_interval === 0 && step + 1 < plan.steps)
        checkpoint = await files.checkpoint({ step: step + 1, data_digest: plan.digest });
    }
    const model_directory = await files.timed("checkpoint", plan.steps, () =>
      orAborted(signal, saveSftModel(config.log_dir, policy)),
    );
    for (const text of timeLines(files.phases)) reporter.line(text);
    reporter.line(`Saved ${model_directory}: train it with --model_name_or_path ${config.log_dir}`);
    return { log_dir: config.log_dir, model_directory, rows: files.rows };
  } catch (error) {
    if (!signal.aborted) throw error;
    const remedy =
      checkpoint === null
        ? "there is no checkpoint yet (save_interval makes them)"
        : `go on with --resume_from ${config.log_dir}`;
    const text = `Interrupted. The files in ${config.log_dir} are whole; ${remedy}`;
    reporter.line(text);
    throw new AbortedError(text, { cause: error });
  }
}

/** Which conversations a step takes; everything follows from the seed. */
class SftPlan {
  readonly steps: number;
  readonly digest: string;
  readonly #perStep: number;
  readonly #perEpoch: number;

  constructor(
    readonly config: RunConfig,
    readonly data: PreparedData,
  ) {
    this.#perStep = config.batch_size_per_gpu * config.gradient_accumulation_steps;
    this.#perEpoch = Math.ceil(data.training.length / this.#perStep);
    this.steps = this.#perEpoch * config.sft_epochs;
    const hasher = new Bun.CryptoHasher("sha256").update(`${config.seed} ${this.#perStep}`);
    for (const { tokens, sampled_mask } of [...data.training, ...data.validation])
      hasher.update(tokens).update(sampled_mask);
    this.digest = hasher.digest("hex");
  }

  epoch(step: number): number {
    return Math.floor(step / this.#perEpoch);
  }

  endsEpoch(step: number): boolean {
    return (step + 1) % this.#perEpoch === 0;
  }

  /** Every epoch has an order of its own; its last step takes what is left. */
  sequences(step: number): readonly SupervisedSequence[] {
    const order = Rng.from(this.config.seed).fork("sft", "epoch", this.epoch(step)).shuffle(this.data.training);
    const first = (step % this.#perEpoch) * this.#perStep;
    return order.slice(first, first + this.#perStep);
  }
}

async function goOn(policy: Policy, { state, optimizer_file, path }: SftCheckpoint, plan: SftPlan): Promise<void> {
  if (state.data_digest !== plan.digest)
    throw new UserError(
      "--resume_from",
      `${path} was made with other conversations, another seed or another batch size`,
    );
  if (state.step > plan.steps)
    throw new UserError("sft_epochs", `the checkpoint is at step ${state.step} of ${plan.steps}`);
  await policy.loadState(optimizer_file);
}

async function update(config: RunConfig, { policy, edge }: SftSession, plan: SftPlan, step: number): Promise<SftRow> {
  const learning_rate = learningRate(step, config);
  const batch = packSupervised(plan.sequences(step));
  const { loss, loss_tokens, computed_tokens } = await orAborted(edge.signal, policy.forwardBackward(batch, LOSS));
  const { grad_norm, skipped } = await orAborted(
    edge.signal,
    policy.optimizerStep(optimizerOptions(config, learning_rate)),
  );
  return {
    kind: "sft",
    step,
    epoch: plan.epoch(step),
    "sft/loss": finite(loss),
    "sft/grad_norm": finite(grad_norm),
    "sft/learning_rate": learning_rate,
    "sft/loss_tokens": loss_tokens,
    "sft/computed_tokens": computed_tokens,
    "sft/skipped": skipped ? 1 : 0,
  };
}

/** JSON has no NaN. */
const finite = (value: number): number | null => (Number.isFinite(value) ? value : null);

/** Mean of −log π(token) over the agent's tokens. */
export async function validationLoss(
  policy: Policy,
  sequences: readonly SupervisedSequence[],
): Promise<{ readonly loss: number; readonly tokens: number }> {
  const { tokens_N, offsets, weights_N } = packSupervised(sequences);
  const logprobs_N = await policy.logprobs("policy", { tokens_N, offsets }, LOSS);
  let sum = 0;
  for (const [n, weight] of weights_N.entries()) if (weight > 0) sum -= logprobs_N[n] ?? Number.NaN;
  const tokens = sequences.reduce((total, { sampled_mask }) => total + targetTokens(sampled_mask), 0);
  return { loss: sum / tokens, tokens };
}

function describe(config: RunConfig, { policy, data, resume }: SftSession, { steps }: SftPlan): string[] {
  const { parameters, dtype, device } = policy.info;
  return [
    `Run directory: ${config.log_dir}`,
    `Model: ${config.model_name_or_path} (${parameters.toLocaleString("en-US")} parameters, ${dtype} on ${device})`,
    ...data.facts,
    `${steps} updates in ${config.sft_epochs} epochs, learning rate ${config.learning_rate}`,
    ...data.warnings.map(warning),
    ...(resume === null ? [] : [`Going on at step ${resume.state.step}`]),
  ];
}

/** The run's rows and timings, on disk and to the console. */
class SftFiles implements Disposable {
  readonly #metrics: JsonlFile;
  readonly #timings: JsonlFile;
  readonly #phases = new Map<string, number>();
  readonly rows: (SftRow | SftValidationRow)[] = [];
  readonly #reporter: Reporter;

  constructor(
    readonly config: RunConfig,
    readonly session: SftSession,
  ) {
    const { log_dir } = config;
    mkdirSync(log_dir, { recursive: true });
    writeFileAtomic(join(log_dir, "config.json"), `${JSON.stringify(config, null, 2)}\n`);
    if (session.resume !== null) {
      const then = readFileSync(session.resume.metrics_file);
      writeFileAtomic(join(log_dir, "metrics.jsonl"), then);
      this.rows.push(
        ...then
          .toString()
          .split("\n")
          .slice(0, -1)
          .map((line) => JSON.parse(line)),
      );
    }
    this.#metrics = JsonlFile.open(join(log_dir, "metrics.jsonl"));
    this.#timings = JsonlFile.open(join(log_dir, "timings.jsonl"));
    this.#reporter = session.edge.reporter;
  }

  write(row: SftRow | SftValidationRow): void {
    this.#metrics.append(row);
    this.rows.push(row);
    this.#reporter.line(lineOf(row));
  }

  /** Of the conversations held out; nothing without any. */
  async validate(step: number): Promise<void> {
    const { policy, data, edge } = this.session;
    if (data.validation.length === 0) return;
    const { loss, tokens } = await this.timed("validation", step, () =>
      orAborted(edge.signal, validationLoss(policy, data.validation)),
    );
    this.write({ kind: "sft_validation", step, "sft/validation_loss": loss, "sft/validation_tokens": tokens });
  }

  async checkpoint(state: { readonly step: number; readonly data_digest: string }): Promise<string> {
    const { policy, edge } = this.session;
    this.#metrics.flush();
    const content = { policy, state, signal: edge.signal };
    const path = await this.timed("checkpoint", state.step, () =>
      orAborted(edge.signal, saveSftCheckpoint(this.config.log_dir, content)),
    );
    this.#reporter.line(`Saved ${path}`);
    return path;
  }

  /** Notes how long the work took, and what the core's time went into. */
  async timed<T>(phase: string, step: number, work: () => Promise<T>): Promise<T> {
    const { policy, edge } = this.session;
    const began = edge.now();
    const result = await work();
    const ms = edge.now() - began;
    this.#phases.set(phase, (this.#phases.get(phase) ?? 0) + ms);
    for (const [part, partMs] of Object.entries(await orAborted(edge.signal, policy.timings()))) {
      if (partMs === 0) continue;
      this.#phases.set(`${phase}/${part}`, (this.#phases.get(`${phase}/${part}`) ?? 0) + partMs);
      this.#timings.append({ step, phase: part, within: phase, ms: toMicroseconds(partMs) });
    }
    this.#timings.append({ step, phase, ms: toMicroseconds(ms) });
    return result;
  }

  /** Where the time went. */
  get phases(): ReadonlyMap<string, number> {
    return this.#phases;
  }

  [Symbol.dispose](): void {
    this.#metrics[Symbol.dispose]();
    this.#timings[Symbol.dispose]();
  }
}

const toMicroseconds = (ms: number): number => Math.round(ms * 1000) / 1000;

function lineOf(row: SftRow | SftValidationRow): string {
  if (row.kind === "sft_validation")
    return `Held-out loss after ${row.step} updates: ${row["sft/validation_loss"].toFixed(4)}`;
  const skipped = row["sft/skipped"] === 1 ? " (the gradient was not finite: skipped)" : "";
  return `Epoch ${row.epoch}, step ${row.step}: loss=${row["sft/loss"]?.toFixed(4) ?? "n/a"}${skipped}`;
}

/** `Policy` over the Rust core. */
import { UserError } from "../base/errors.ts";
import { type Arrays, Connection } from "./connection.ts";
import { EngineError } from "./errors.ts";
import { openLibrary } from "./library.ts";
import type {
  CallGrammar,
  ChatMessage,
  CoreTimings,
  GradientReport,
  ImportanceOptions,
  LossOptions,
  ModelInfo,
  ModelName,
  OptimizerOptions,
  OptimizerReport,
  Policy,
  RenderOptions,
  Sampled,
  SampleRequest,
  SaveOptions,
  SequenceId,
  StoredDistributions,
  TokenBatch,
  TrainingBatch,
  WeightOp,
  WeightOpReport,
} from "./policy.ts";

export { EngineError } from "./errors.ts";

export interface EngineOptions {
  /** Path of the core's library; absent: the one that cargo built from this clone. */
  readonly library?: string | null;
  readonly model_directory: string;
  readonly dtype: "bfloat16" | "float16" | "float32";
  /** 0 = every core. The thread pool belongs to the process: the first engine sets it. */
  readonly num_threads: number;
  readonly kernels: "fused" | "plain";
  readonly prefix_sharing: boolean;
  readonly gradient_checkpointing: boolean;
  /** Budget of keys and values, of each model. */
  readonly kv_cache_bytes?: number;
}

const POLICY = "policy";
/** Of each model, where nobody says otherwise. */
export const KV_CACHE_BYTES = 2 ** 31;

/** Starts an engine and loads the policy. Dispose of it to end its threads. */
export async function openEngine({
  library = null,
  model_directory,
  dtype,
  ...options
}: EngineOptions): Promise<Policy> {
  const { num_threads, kernels, prefix_sharing, gradient_checkpointing, kv_cache_bytes = KV_CACHE_BYTES } = options;
  const connection = await Connection.open(openLibrary(library), {
    num_threads,
    kernels,
    prefix_sharing,
    gradient_checkpointing,
    kv_cache_bytes,
  });
  try {
    const info = await load(connection, { name: POLICY, directory: model_directory, dtype });
    return new CorePolicy(connection, info, dtype);
  } catch (error) {
    connection[Symbol.dispose]();
    throw error;
  }
}

/** A directory that is no model, or none that we know, is for the user to repair; the message names the file. */
async function load(connection: Connection, control: { name: ModelName; directory: string; dtype: string }) {
  const { text } = await connection.submit("load_model", control).catch((error: unknown) => {
    const repairable = error instanceof EngineError && ["Io", "BadArgument"].includes(error.code);
    throw repairable ? new UserError(`model ${control.name}`, error.message) : error;
  });
  return JSON.parse(text) as ModelInfo;
}

class CorePolicy implements Policy {
  readonly info: ModelInfo;
  readonly #connection: Connection;
  readonly #dtype: string;

  constructor(connection: Connection, info: ModelInfo, dtype: string) {
    this.#connection = connection;
    this.info = info;
    this.#dtype = dtype;
  }

  async loadModel(name: ModelName, directory: string): Promise<ModelInfo> {
    if (name === POLICY) throw new EngineError("BadArgument", "load_model: the name policy is the policy's");
    return load(this.#connection, { name, directory, dtype: this.#dtype });
  }

  async render(model: ModelName, messages: readonly ChatMessage[], options: RenderOptions): Promise<string> {
    const { tools_json, add_generation_prompt, enable_thinking } = options;
    const control = { model, messages, options: { tools_json, add_generation_prompt, enable_thinking } };
    const { text } = await this.#connection.submit("render", control);
    return text;
  }

  async tokenize(model: ModelName, text: string): Promise<Uint32Array> {
    const { tokens } = await this.#connection.submit("tokenize", { model, text });
    return tokens;
  }

  async decode(model: ModelName, tokens: Uint32Array, { skip_special }: { skip_special: boolean }): Promise<string> {
    const { text } = await this.#connection.submit("decode", { model, skip_special }, { tokens });
    return text;
  }

  async sample(request: SampleRequest): Promise<Sampled> {
    const { tokens, signal, grammar } = request;
    const answer = await this.#connection.submit("sample", sampleControl(request), { tokens }, signal);
    const { sequence, stop } = JSON.parse(answer.text) as Pick<Sampled, "sequence" | "stop">;
    const sampled = {
      sequence,
      stop,
      tokens: answer.tokens,
      logprobs: answer.values.subarray(0, answer.tokens.length),
    };
    return grammar ? { ...sampled, masked_mass: answer.values.subarray(answer.tokens.length) } : sampled;
  }

  release(_model: ModelName, sequence: SequenceId): void {
    this.#connection.release(sequence);
  }

  async forwardBackward(batch: TrainingBatch, loss: LossOptions): Promise<GradientReport> {
    const { text } = await this.#connection.submit("forward_backward", lossControl(loss), arraysOf(batch));
    return withNumbers(JSON.parse(text) as GradientReport);
  }

  async addImportance(
    batch: TrainingBatch,
    loss: LossOptions,
    { into, of, anchor }: ImportanceOptions,
  ): Promise<WeightOpReport> {
    const control = { ...lossControl(loss), into, of, joined_to: anchor ?? null };
    const { text } = await this.#connection.submit("add_importance", control, arraysOf(batch));
    return withNumbers(JSON.parse(text) as WeightOpReport);
  }

  async topLogprobs(
    model: ModelName,
    batch: TokenBatch | TrainingBatch,
    { temperature, k }: { readonly temperature: number; readonly k: number },
  ): Promise<StoredDistributions> {
    const arrays = "weights_N" in batch ? arraysOf(batch) : { tokens: batch.tokens_N, offsets: batch.offsets };
    const { tokens, values } = await this.#connection.submit("top_logprobs", { model, temperature, k }, arrays);
    return { k, ids_NK: tokens, logprobs_NK: values };
  }

  async optimizerStep(options: OptimizerOptions): Promise<OptimizerReport> {
    const { learning_rate, beta1, beta2, eps, weight_decay, max_grad_norm } = options;
    const control = { learning_rate, beta1, beta2, eps, weight_decay, max_grad_norm };
    const { text } = await this.#connection.submit("optimizer_step", control);
    return withNumbers(JSON.parse(text) as OptimizerReport);
  }

  async logprobs(
    model: ModelName,
    batch: TokenBatch,
    { temperature }: { readonly temperature: number },
  ): Promise<Float32Array> {
    const arrays = { tokens: batch.tokens_N, offsets: batch.offsets };
    const { values } = await this.#connection.submit("logprobs", { model, temperature }, arrays);
    return values;
  }

  async weightOp(op: WeightOp): Promise<WeightOpReport> {
    const { op: name, ...fields } = op; // the name becomes the tag that Rust's enum has
    const { text } = await this.#connection.submit("weight_op", { [name]: fields });
    return withNumbers(JSON.parse(text) as WeightOpReport);
  }

  async timings(): Promise<Partial<CoreTimings>> {
    const { text } = await this.#connection.submit("timings", {});
    return JSON.parse(text) as CoreTimings;
  }

  async digest(): Promise<string> {
    const { text } = await this.#connection.submit("digest", {});
    return text;
  }

  async save(directory: string, { adapter_of }: SaveOptions = {}): Promise<void> {
    await this.#connection.submit("save", { path: directory, adapter_of: adapter_of ?? null });
  }

  async saveState(file: string, { models }: { readonly models: readonly ModelName[] } = { models: [] }): Promise<void> {
    await this.#connection.submit("save_state", { path: file, models });
  }

  async loadState(file: string): Promise<void> {
    await this.#connection.submit("load_state", { path: file });
  }

  [Symbol.dispose](): void {
    this.#connection[Symbol.dispose]();
  }
}

function sampleControl(request: SampleRequest): object {
  const { model, sequence, seed, max_new_tokens, stop_token_ids, context_tokens_max } = request;
  const { temperature, top_k, top_p, min_p, grammar } = request;
  return {
    model,
    sequence,
    seed: String(seed),
    max_new_tokens,
    stop_token_ids: [...stop_token_ids],
    context_tokens_max,
    sampling: { temperature, top_k, top_p, min_p },
    ...(grammar ? { grammar: grammarControl(grammar) } : {}),
  };
}

const grammarControl = ({ tools_json, format, in_reasoning }: CallGrammar) => ({ tools_json, format, in_reasoning });

const arraysOf = (batch: TrainingBatch): Arrays => ({
  tokens: batch.tokens_N,
  offsets: batch.offsets,
  weights: batch.weights_N,
  advantages: batch.advantages_N,
  old_logprobs: batch.old_logprobs_N,
  target_ids: batch.targets?.ids_NK,
  target_logprobs: batch.targets?.logprobs_NK,
});

/** The kind becomes the tag that Rust's enum has; the anchor stands beside it. */
function lossControl(options: LossOptions): object {
  const { kind, ...loss } = options;
  const { anchor = null, ...scalars } = { anchor: null, ...loss };
  return { loss: { [kind]: scalars }, anchor };
}

/** JSON has no NaN: the core writes null for what is not finite. */
const withNumbers = <T extends object>(report: T): T =>
  Object.fromEntries(Object.entries(report).map(([name, value]) => [name, value ?? Number.NaN])) as T;

/**
 * What the training loop needs from a model. `engine.ts` implements it over the Rust core, `fake.ts` answers from a
 * script so that the loop, the methods and the checkpoint are tested without Rust.
 *
 * Axes: S sequences of a batch · N tokens of all sequences, laid end to end · V vocabulary.
 */

import type { ModelName, VectorName, WeightOp, WeightOpReport } from "../base/weight-op.ts";

export type { ModelName, VectorName, WeightOp, WeightOpReport } from "../base/weight-op.ts";

export interface ModelInfo {
  /** `model_type` of config.json. */
  readonly architecture: "qwen2" | "qwen3" | "llama";
  readonly parameters: number;
  readonly vocab_size: number;
  /** `max_position_embeddings`. */
  readonly context_tokens_max: number;
  /** End-of-turn tokens: generation_config.json's `eos_token_id`, else config.json's. */
  readonly eos_token_ids: readonly number[];
  /** False when the directory has no chat template: such a model can be trained on tokens, but not talked to. */
  readonly has_chat_template: boolean;
  readonly dtype: string;
  readonly device: string;
}

/** A message as chat templates see it. `tool_calls[].function.arguments_json` is JSON text, so that `2.0` stays `2.0`. */
export interface ChatMessage {
  readonly role: "system" | "user" | "assistant" | "tool";
  readonly content: string | null;
  readonly tool_calls?: readonly { readonly function: { readonly name: string; readonly arguments_json: string } }[];
  readonly tool_call_id?: string;
}

export interface RenderOptions {
  /** JSON text of the OpenAI tool schemas (an array), or null for none. */
  readonly tools_json: string | null;
  readonly add_generation_prompt: boolean;
  readonly enable_thinking: boolean;
}

export interface SamplingOptions {
  /** 0 is greedy. */
  readonly temperature: number;
  /** 1 is off. */
  readonly top_p: number;
  /** 0 is off. */
  readonly top_k: number;
  /** 0 is off. */
  readonly min_p: number;
  readonly max_new_tokens: number;
  /** Sampling stops after one of these; it is part of the returned tokens. */
  readonly stop_token_ids: readonly number[];
}

/**
 * Limits what is sampled so that every tool call is one: text is free until it opens a call, then only tokens may follow
 * that lead to a call of one of the tools, with arguments that satisfy its JSON schema, and to the closing tag.
 */
export interface CallGrammar {
  /** JSON text of the OpenAI tool schemas (an array). Compiled once per model. */
  readonly tools_json: string;
  /** `ToolFormat` of src/rollout/tool-call.ts. */
  readonly format: "hermes" | "llama3";
  /** The prompt ends inside an opened `<think>`, where nothing is a call. */
  readonly in_reasoning: boolean;
}

export interface SampleRequest extends SamplingOptions {
  readonly model: ModelName;
  /** null opens a sequence; otherwise the turn is appended to a live one, without prefill of its history. */
  readonly sequence: SequenceId | null;
  /** Tokens put before sampling starts: the whole prompt of a new sequence, or what came since the last sampled token. */
  readonly tokens: Uint32Array;
  /** The random stream of this call: same seed, same weights, same tokens → same result, whatever else runs. */
  readonly seed: bigint;
  /** Upper bound on the sequence (prompt + sampled); reached → stop "context_window_exceeded". */
  readonly context_tokens_max: number;
  /** Absent: every token may follow. */
  readonly grammar?: CallGrammar;
  /** Aborted → the sample ends with an EngineError `Cancelled`, and its sequence with it. */
  readonly signal?: AbortSignal;
}

export type SequenceId = number;
export type SampleStop = "stop_token" | "max_new_tokens" | "context_window_exceeded";

export interface Sampled {
  readonly sequence: SequenceId;
  readonly tokens: Uint32Array;
  /**
   * Log-probability of each sampled token under softmax(logits / temperature) (temperature 0: of softmax(logits)), of the
   * whole vocabulary whatever a grammar, top_k, top_p or min_p took away: what training recomputes.
   */
  readonly logprobs: Float32Array;
  /**
   * With a grammar: probability, under the same distribution, of the tokens that it forbade at each place. The token was
   * drawn from π(token) / (1 − masked_mass).
   */
  readonly masked_mass?: Float32Array;
  readonly stop: SampleStop;
}

/** S ragged sequences. Equal prefixes are found and computed once by the core. */
export interface TokenBatch {
  readonly tokens_N: Uint32Array;
  /** S + 1 offsets into tokens_N; the first is 0, the last N. */
  readonly offsets: Uint32Array;
}

/**
 * What a gradient is made of, with its loss. Position t of `*_N` speaks about token t given those before it; a sequence's first token
 * is never in the loss. loss = Σ_t weight_t · ℓ_t, so the normaliser of grpo, bnpo, dapo or dr_grpo is in the weights.
 */
export interface TrainingBatch extends TokenBatch {
  /** 0 = not in the loss. */
  readonly weights_N: Float32Array;
  readonly advantages_N: Float32Array;
  /** Log-probabilities recorded while sampling, at `temperature`; ignored where the weight is 0. */
  readonly old_logprobs_N: Float32Array;
  /** What `distill_stored` pulls towards; absent for the other losses. */
  readonly targets?: StoredDistributions;
}

/** The K likeliest tokens of each position and their log-probabilities, row-major; a sequence's first row is not used. */
export interface StoredDistributions {
  readonly k: number;
  readonly ids_NK: Uint32Array;
  readonly logprobs_NK: Float32Array;
}

export type LossOptions =
  | {
      /** ℓ = surrogate(r, A) + kl_coef·KL(π ‖ anchor) - entropy_coef·H; formulas and sources in core-rs/src/train/loss.rs. */
      readonly kind: "grpo";
      /** `clip`: -min(r·A, clip(r, 1-clip_low, 1+clip_high)·A). `cispo`: -stop_gradient(min(r, 1+clip_high))·A·log π. */
      readonly surrogate: "clip" | "cispo";
      /** r of the token, or exp(mean of its logarithm over the sequence's tokens in the loss). */
      readonly importance_sampling_level: "token" | "sequence";
      readonly clip_low: number;
      readonly clip_high: number;
      /** Bound on r where A < 0, above 1 + clip_high (`clip` only); null = none. */
      readonly delta: number | null;
      readonly kl_coef: number;
      /** With d = log π_anchor - log π: k1 = -d, k2 = d²/2, k3 = exp(d) - d - 1. */
      readonly kl_estimator: "k1" | "k2" | "k3";
      /** KL times r. */
      readonly kl_ratio_correction: boolean;
      /** Frozen model that the KL is measured against; needed when kl_coef > 0 (with kl_coef 0 and an anchor, KL is only measured). */
      readonly anchor: ModelName | null;
      /** Entropy bonus: ℓ -= entropy_coef · H. */
      readonly entropy_coef: number;
      readonly temperature: number;
    }
  | {
      /** ℓ = -log π(token): supervised warm-up. */
      readonly kind: "nll";
      readonly temperature: number;
    }
  | {
      /** ℓ = KL(anchor ‖ π) over the whole vocabulary (Li & Hoiem 2016, on the states of the new task). */
      readonly kind: "distill";
      readonly anchor: ModelName;
      readonly temperature: number;
    }
  | {
      /** ℓ = KL(stored ‖ π) over K stored tokens and the rest of the vocabulary as one outcome (batch.targets). */
      readonly kind: "distill_stored";
      readonly temperature: number;
    }
  | {
      /** ℓ = ‖logits‖²: its gradient is MAS's importance (Aljundi et al. 2018). */
      readonly kind: "output_norm";
    };

/** Means are over tokens with a weight. `loss` is Σ weight·ℓ. */
export interface GradientReport {
  readonly loss: number;
  readonly loss_tokens: number;
  readonly kl_mean: number;
  readonly entropy_mean: number;
  readonly clip_low_fraction: number;
  /** With `cispo`: whose weight was clipped, where A > 0. */
  readonly clip_high_fraction: number;
  /** Whose r met delta, where A < 0. */
  readonly dual_clip_fraction: number;
  /** Largest |recomputed - recorded| log-probability. */
  readonly logprob_diff_max: number;
  /** Tokens that were really computed, after sharing prefixes. */
  readonly computed_tokens: number;
}

export interface OptimizerOptions {
  readonly learning_rate: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly eps: number;
  /** Norm weights and biases are spared. */
  readonly weight_decay: number;
  /** 0 = no clipping. */
  readonly max_grad_norm: number;
}

export interface OptimizerReport {
  /** Global gradient norm before clipping. */
  readonly grad_norm: number;
  /** True when the gradient was not finite: nothing moved. */
  readonly skipped: boolean;
}

/** What the core's time goes into: prompts and sampled tokens of rollouts, the passes of a gradient, the update, files. */
export const CORE_PHASES = ["prefill", "decode", "forward", "backward", "optimizer", "save"] as const;

/** Milliseconds by phase. */
export type CoreTimings = Readonly<Record<(typeof CORE_PHASES)[number], number>>;

export interface SaveOptions {
  readonly adapter_of?: string;
}

export interface ImportanceOptions {
  readonly into: VectorName;
  readonly of: "square" | "absolute";
  readonly anchor?: VectorName;
}

export interface Policy extends Disposable {
  readonly info: ModelInfo;
  /** Loads another model directory as a frozen one, for `user` or `base`. */
  loadModel(name: ModelName, directory: string): Promise<ModelInfo>;
  render(model: ModelName, messages: readonly ChatMessage[], options: RenderOptions): Promise<string>;
  /** Special tokens in the text become their ids; nothing is added. */
  tokenize(model: ModelName, text: string): Promise<Uint32Array>;
  decode(model: ModelName, tokens: Uint32Array, options: { readonly skip_special: boolean }): Promise<string>;
  sample(request: SampleRequest): Promise<Sampled>;
  /** Frees a sequence (idempotent); a running sample of it ends with an EngineError `Cancelled`. */
  release(model: ModelName, sequence: SequenceId): void;
  /** Adds the batch's gradient to the accumulated one. */
  forwardBackward(batch: TrainingBatch, loss: LossOptions): Promise<GradientReport>;
  /** Clips, steps AdamW on f32 master weights, zeroes the gradient; live sequences of the policy become stale. */
  optimizerStep(options: OptimizerOptions): Promise<OptimizerReport>;
  /** log π(token | before) for each token, at `temperature`; 0 for the first of a sequence. */
  logprobs(model: ModelName, batch: TokenBatch, options: { readonly temperature: number }): Promise<Float32Array>;
  /**
   * into ← into + Σ over the sequences of (∇ of the sequence's Σ weight·ℓ)², or its absolute value. With `anchor` each is
   * joined to the quadratic of the two vectors at once, as `consolidate` would, and value = the constant gained.
   */
  addImportance(batch: TrainingBatch, loss: LossOptions, options: ImportanceOptions): Promise<WeightOpReport>;
  /**
   * The k likeliest tokens after each prefix, at `temperature`; zeros for a sequence's first token and, in a training
   * batch, for tokens of weight 0.
   */
  topLogprobs(
    model: ModelName,
    batch: TokenBatch | TrainingBatch,
    options: { readonly temperature: number; readonly k: number },
  ): Promise<StoredDistributions>;
  weightOp(op: WeightOp): Promise<WeightOpReport>;
  /** Since the last call; phases that did not happen may be absent. */
  timings(): Promise<Partial<CoreTimings>>;
  /** SHA-256 of the policy's weights, moments, step count and vectors. */
  digest(): Promise<string>;
  /**
   * Writes config.json, model.safetensors (adapters folded in), tokenizer and template: loads in transformers unchanged. With
   * `adapter_of`, the base model's name, PEFT's adapter files instead, if an adapter is active, else nothing.
   */
  save(directory: string, options?: SaveOptions): Promise<void>;
  /** Optimizer moments, master weights, step count, vectors, and the frozen models named. */
  saveState(file: string, options?: { readonly models: readonly ModelName[] }): Promise<void>;
  loadState(file: string): Promise<void>;
}

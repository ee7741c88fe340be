/**
 * What a run will need in memory, from config.json and the options alone: each term of what the core allocates is one
 * function here, and tests/run/memory-plan.test.ts compares their sums with what a process really takes.
 *
 * P parameters · T trained ones · N rows (tokens of a micro-batch, shared prefixes once) · R rows whose distribution the loss
 * asks for · H hidden · I inner · V vocabulary. All numbers are bytes unless they say otherwise.
 */
import { UserError } from "../base/errors.ts";
import type { RunConfig } from "../config/schema.ts";
import { KV_CACHE_BYTES } from "../core/engine.ts";

/** The core computes in f32, and keeps every type's values so. */
const F32 = 4;

export interface ModelShape {
  readonly architecture: string;
  readonly layers: number;
  readonly hidden: number;
  readonly inner: number;
  readonly heads: number;
  readonly kv_heads: number;
  readonly head_dim: number;
  readonly vocabulary: number;
  readonly tied: boolean;
  readonly context_tokens_max: number;
}

/** Of a Hugging Face config.json; `file` names it in errors. */
export function shapeOf(json: Readonly<Record<string, unknown>>, file: string): ModelShape {
  const whole = (name: string, byDefault?: number): number => {
    const value = json[name] ?? byDefault;
    if (typeof value === "number" && Number.isSafeInteger(value) && value > 0) return value;
    throw new UserError(
      `${file}: ${name}`,
      `expected a whole number above 0, found ${JSON.stringify(value) ?? "nothing"}`,
    );
  };
  const [hidden, heads] = [whole("hidden_size"), whole("num_attention_heads")];
  return {
    architecture: String(json.model_type),
    layers: whole("num_hidden_layers"),
    hidden,
    inner: whole("intermediate_size"),
    heads,
    kv_heads: whole("num_key_value_heads", heads),
    head_dim: whole("head_dim", Math.floor(hidden / heads)),
    vocabulary: whole("vocab_size"),
    tied: json.tie_word_embeddings === true,
    context_tokens_max: whole("max_position_embeddings", 32_768),
  };
}

// ---------------------------------------------------------------------------------------------------------------------
// Weights

const queryWidth = ({ heads, head_dim }: ModelShape) => heads * head_dim;
const keyWidth = ({ kv_heads, head_dim }: ModelShape) => kv_heads * head_dim;

/** (out, in) of a layer's projections by their name in Hugging Face's files. */
const projections = (shape: ModelShape): Readonly<Record<string, readonly [number, number]>> => ({
  q_proj: [queryWidth(shape), shape.hidden],
  k_proj: [keyWidth(shape), shape.hidden],
  v_proj: [keyWidth(shape), shape.hidden],
  o_proj: [shape.hidden, queryWidth(shape)],
  gate_proj: [shape.inner, shape.hidden],
  up_proj: [shape.inner, shape.hidden],
  down_proj: [shape.hidden, shape.inner],
});

const sum = (values: Iterable<number>) => [...values].reduce((total, value) => total + value, 0);

/** P. */
export function parameters(shape: ModelShape): number {
  const { architecture, layers, hidden, vocabulary, tied, head_dim } = shape;
  const products = sum(Object.values(projections(shape)).map(([outer, inner]) => outer * inner));
  const biases = architecture === "qwen2" ? queryWidth(shape) + 2 * keyWidth(shape) : 0;
  const headNorms = architecture === "qwen3" ? 2 * head_dim : 0;
  return layers * (products + biases + headNorms + 2 * hidden) + hidden + vocabulary * hidden * (tied ? 1 : 2);
}

type Lora = Pick<RunConfig, "lora_r" | "lora_target_modules">;

/** T: all of them, or A and B of one adapter. */
export function trainedParameters(shape: ModelShape, { lora_r, lora_target_modules }: Lora): number {
  if (lora_r === 0) return parameters(shape);
  const adapted = Object.entries(projections(shape)).filter(([name]) =>
    (lora_target_modules as readonly string[]).includes(name),
  );
  return shape.layers * lora_r * sum(adapted.map(([, [outer, inner]]) => outer + inner));
}

export const weightBytes = (shape: ModelShape): number => F32 * parameters(shape);

/** Columns of a panel of the packed form (kernels/gemm.rs: 32 with AVX-512). */
const PANEL = 16;

/** Every weight of a product has a packed copy, made at its first use. */
export function packedBytes(shape: ModelShape): number {
  const { layers, hidden, vocabulary } = shape;
  const panels = (outer: number) => Math.ceil(outer / PANEL) * PANEL;
  const layer = sum(Object.values(projections(shape)).map(([outer, inner]) => panels(outer) * inner));
  return F32 * (layers * layer + panels(vocabulary) * hidden);
}

export const gradientBytes = (trained: number): number => F32 * trained;

/** AdamW's first and second. */
export const momentBytes = (trained: number): number => 2 * F32 * trained;

/** Where the weights are rounded to a narrower type; adapters are f32 and are their own masters. */
export const masterBytes = (
  trained: number,
  { model_dtype, lora_r }: Pick<RunConfig, "model_dtype" | "lora_r">,
): number => (model_dtype === "float32" || lora_r > 0 ? 0 : F32 * trained);

/** A frozen copy of the policy with its packed form; what is not trained is shared with the policy. */
export const snapshotBytes = (shape: ModelShape, lora: Lora): number =>
  lora.lora_r > 0 ? F32 * trainedParameters(shape, lora) : weightBytes(shape) + packedBytes(shape);

interface MethodNeeds {
  /** f32 vectors of T. */
  readonly vectors: number;
  /** Frozen copies of the policy. */
  readonly snapshots: number;
}

/** What continual-learning methods keep in the core (src/cl), at their fullest: after the last of `experiences`. */
export function methodNeeds({ cl_algorithm, task_order }: Pick<RunConfig, "cl_algorithm" | "task_order">): MethodNeeds {
  const vectors: Partial<Record<RunConfig["cl_algorithm"], number>> = {
    ewc: 3, // importance, anchor, fresh Fisher
    online_ewc: 3,
    ewc_pp: 4, // and the running one
    mas: 3,
    si: 6, // path, start, gradient, move, importance, anchor
    a_gem: 2, // gradient of the step and of the memory
    fusion: 2 * task_order.length + 2, // what each experience changed, its Fisher, the start, the merged
    adaptive_fusion: task_order.length + 2,
  };
  return { vectors: vectors[cl_algorithm] ?? 0, snapshots: cl_algorithm === "lwf" ? 1 : 0 };
}

// ---------------------------------------------------------------------------------------------------------------------
// Passes

/** Keys and values of a token in the cache of a model that samples. */
export const keyValueBytes = (shape: ModelShape): number => 2 * F32 * shape.layers * keyWidth(shape);

/** What backward reads again of one layer, by row (model/forward.rs, LayerActivations). */
export function layerRowBytes(shape: ModelShape): number {
  const { architecture, hidden, inner, heads, kv_heads } = shape;
  const widths = 4 * hidden + 2 * queryWidth(shape) + 2 * keyWidth(shape) + 3 * inner;
  const headNorms = architecture === "qwen3" ? queryWidth(shape) + keyWidth(shape) + heads + kv_heads : 0;
  return F32 * (widths + headNorms + heads + 2);
}

/** What one layer's backward makes, by row (model/backward.rs): gradients of all widths, keys and values packed. */
export function backwardRowBytes(shape: ModelShape): number {
  return F32 * (4 * shape.hidden + 3 * shape.inner + 2 * queryWidth(shape) + 4 * keyWidth(shape));
}

export interface PassSize {
  /** N. */
  readonly rows: number;
  /** R. */
  readonly asked_rows: number;
  /** The longest sequence. */
  readonly sequence_tokens: number;
}

/** Kept of all layers; with checkpointing their inputs, and one layer as it is computed again. */
export function activationBytes(shape: ModelShape, { rows }: PassSize, gradient_checkpointing: boolean): number {
  const { layers, hidden, head_dim } = shape;
  const kept = gradient_checkpointing ? layers * F32 * hidden + layerRowBytes(shape) : layers * layerRowBytes(shape);
  const rotation = F32 * head_dim;
  return rows * (kept + rotation + F32 * hidden);
}

/** Rows before and behind the final norm, with their gradients. */
export const askedRowBytes = ({ hidden }: ModelShape, { asked_rows }: PassSize): number =>
  4 * F32 * hidden * asked_rows;

/** Logits alive at a time (kernels/vocabulary.rs, CHUNK_LOGITS). */
const CHUNK_LOGITS = 2 ** 25;

/** The vocabulary is met in chunks of rows. */
export const logitsBytes = ({ vocabulary }: ModelShape, { asked_rows }: PassSize): number =>
  F32 * Math.max(vocabulary, Math.min(CHUNK_LOGITS, vocabulary * asked_rows));

/** Query rows of a block of attention (kernels/attention.rs). */
const BLOCK_ROWS = 96;

/** Scores and their gradients of one block, on every thread. */
export const attentionBytes = ({ sequence_tokens }: PassSize, threads: number): number =>
  2 * F32 * BLOCK_ROWS * sequence_tokens * threads;

/** Logits of every sequence that is sampled at once, in the core's form and in the sampler's. */
export const samplingBytes = ({ vocabulary }: ModelShape, sequences: number): number =>
  2 * F32 * vocabulary * sequences;

// ---------------------------------------------------------------------------------------------------------------------
// The plan

export interface PlanFacts {
  readonly shape: ModelShape;
  readonly threads: number;
  /** Of the longest conversation. */
  readonly conversation_tokens: number;
  /** Of a domain's policy text and tool schemas, which all its conversations share. */
  readonly prompt_tokens: number;
  /** The frozen step-0 policy plays a user. */
  readonly base_plays_user: boolean;
  /** Of another model that does, on the same core. */
  readonly user_shape: ModelShape | null;
}

export interface Term {
  readonly name: string;
  readonly bytes: number;
  readonly where: "device" | "host";
  /** Phases at whose height it is there. */
  readonly during: readonly Phase[];
}

const PHASES = ["rollout", "update", "checkpoint"] as const;
type Phase = (typeof PHASES)[number];
const ALWAYS = PHASES;

export interface MemoryPlan {
  readonly terms: readonly Term[];
  readonly pass: PassSize;
  /** Conversations at once. */
  readonly sequences: number;
  readonly peaks: Readonly<Record<Phase, { readonly device: number; readonly host: number }>>;
  /** Heights of the highest phase. */
  readonly device: number;
  readonly host: number;
}

/** Bun, the library, the tokenizer and the environments, before any weight. */
const PROGRAM_BYTES = 150 * 2 ** 20;
/** A remembered token: its id, mask and log-probability, and its text. */
const REMEMBERED_TOKEN_BYTES = 14;

export function memoryPlan(config: RunConfig, facts: PlanFacts): MemoryPlan {
  const { shape } = facts;
  const conversation_tokens = longest(config, facts);
  const trained = trainedParameters(shape, config);
  const sequences = config.batch_size_per_gpu * config.gradient_accumulation_steps * config.num_samples_per_prompt;
  const pass = passSize(config, facts);
  const { vectors, snapshots } = methodNeeds(config);
  const base = (config.kl_coef > 0 && config.kl_anchor === "base") || facts.base_plays_user;
  const previous = config.kl_coef > 0 && config.kl_anchor === "previous_task";
  const samplers = [
    shape,
    ...(facts.base_plays_user ? [shape] : []),
    ...(facts.user_shape === null ? [] : [facts.user_shape]),
  ];
  const frozen = snapshots + (previous ? 1 : 0);
  const device = (name: string, bytes: number, during: readonly Phase[] = ALWAYS): Term => ({
    name,
    bytes,
    during,
    where: "device",
  });
  const host = (name: string, bytes: number, during: readonly Phase[] = ALWAYS): Term => ({
    name,
    bytes,
    during,
    where: "host",
  });
  const terms = [
    device("weights", weightBytes(shape)),
    device("packed for products", packedBytes(shape)),
    device("gradients", gradientBytes(trained)),
    device("optimizer moments", momentBytes(trained)),
    device("master copies", masterBytes(trained, config)),
    device("frozen base model", base ? snapshotBytes(shape, config) : 0),
    device("other frozen models", frozen * snapshotBytes(shape, config)),
    device(
      "model that plays the user",
      facts.user_shape === null ? 0 : weightBytes(facts.user_shape) + packedBytes(facts.user_shape),
    ),
    device(`vectors of ${config.cl_algorithm}`, vectors * F32 * trained),
    device(
      "keys and values",
      sum(samplers.map((sampler) => cacheBytes(sampler, cachedTokens(config, facts, sequences)))),
    ),
    device("logits of sampled tokens", samplingBytes(shape, sequences), ["rollout"]),
    device("activations", activationBytes(shape, pass, config.gradient_checkpointing), ["update"]),
    device("rows of the loss", askedRowBytes(shape, pass), ["update"]),
    device("a layer's backward, or logits", Math.max(pass.rows * backwardRowBytes(shape), logitsBytes(shape, pass)), [
      "update",
    ]),
    device("attention scores", attentionBytes(pass, facts.threads), ["update"]),
    host("copy that is written", 3 * F32 * trained + (vectors + frozen) * F32 * trained, ["checkpoint"]),
    host(
      "remembered rollouts",
      config.replay_buffer_size * new Set(config.task_order).size * conversation_tokens * REMEMBERED_TOKEN_BYTES,
    ),
    host("program", PROGRAM_BYTES),
  ].filter(({ bytes }) => bytes > 0);
  const at = (phase: Phase, where: Term["where"]) =>
    sum(terms.filter((term) => term.where === where && term.during.includes(phase)).map(({ bytes }) => bytes));
  const peaks = Object.fromEntries(
    PHASES.map((phase) => [phase, { device: at(phase, "device"), host: at(phase, "host") }]),
  ) as MemoryPlan["peaks"];
  const highest = (where: Term["where"]) => Math.max(...PHASES.map((phase) => peaks[phase][where]));
  return { terms, pass, sequences, peaks, device: highest("device"), host: highest("host") };
}

/** The longest micro-batch: all its conversations as long as they may be. */
function passSize(config: RunConfig, facts: PlanFacts): PassSize {
  const [conversation_tokens, prompt_tokens] = [longest(config, facts), shared(config, facts)];
  const conversations = config.batch_size_per_gpu * config.num_samples_per_prompt;
  const own = conversations * (conversation_tokens - prompt_tokens);
  const rows = config.prefix_sharing ? prompt_tokens + own : conversations * conversation_tokens;
  return { rows, asked_rows: own, sequence_tokens: conversation_tokens };
}

const longest = ({ max_context_tokens }: RunConfig, { conversation_tokens, shape }: PlanFacts): number =>
  Math.min(conversation_tokens, max_context_tokens ?? Number.POSITIVE_INFINITY, shape.context_tokens_max);

const shared = (config: RunConfig, facts: PlanFacts): number =>
  Math.min(facts.prompt_tokens, longest(config, facts) - 1);

function cachedTokens(config: RunConfig, facts: PlanFacts, sequences: number): number {
  const [conversation_tokens, prompt_tokens] = [longest(config, facts), shared(config, facts)];
  return config.prefix_sharing
    ? prompt_tokens + sequences * (conversation_tokens - prompt_tokens)
    : sequences * conversation_tokens;
}

/** New conversations wait while the budget is spent. */
export const cacheBytes = (shape: ModelShape, tokens: number): number =>
  Math.min(KV_CACHE_BYTES, tokens * keyValueBytes(shape));

// ---------------------------------------------------------------------------------------------------------------------
// What to change

export interface Remedy {
  readonly change: Partial<RunConfig>;
  /** What it costs. */
  readonly price: string;
}

/** The next change that spares memory, the cheapest first; null when nothing is left. */
export function nextRemedy(config: RunConfig, facts: PlanFacts): Remedy | null {
  const { batch_size_per_gpu: batch, gradient_accumulation_steps: accumulation } = config;
  if (!config.prefix_sharing) return { change: { prefix_sharing: true }, price: "nothing: it is faster, too" };
  if (batch > 1)
    return {
      change: { batch_size_per_gpu: Math.ceil(batch / 2), gradient_accumulation_steps: accumulation * 2 },
      price: "the same step in smaller batches; a little slower",
    };
  if (!config.gradient_checkpointing)
    return {
      change: { gradient_checkpointing: true },
      price: "layers are computed twice: a third more time for updates",
    };
  if (config.lora_r === 0) return { change: { lora_r: 16 }, price: "adapters are trained instead of all weights" };
  const tokens = longest(config, facts);
  if (tokens > CONVERSATION_TOKENS_MIN)
    return { change: { max_context_tokens: Math.ceil(tokens / 2) }, price: "longer conversations are cut" };
  return null;
}

/** Shorter ones hold no domain of tau2-bench. */
const CONVERSATION_TOKENS_MIN = 8192;

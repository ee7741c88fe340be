/**
 * What a run will need in memory, from config.json and the options alone: each term of what the core allocates is one
 * function here, and tests/run/memory-plan.test.ts compares their sums with what a process really takes.
 *
 * P parameters · T trained ones · N rows (tokens of a part of the batch's tree, shared prefixes once) · R rows whose
 * distribution the loss asks for · H hidden · I inner · V vocabulary. All numbers are bytes unless they say otherwise.
 */
import { UserError } from "../base/errors.ts";
import type { RunConfig } from "../config/schema.ts";
import { KV_CACHE_BYTES } from "../core/engine.ts";

/** The core computes in f32; of other types are only matrices of weights. */
const F32 = 4;
const MATRIX_BYTES: Readonly<Record<RunConfig["model_dtype"], number>> = { float32: F32, bfloat16: 2, float16: 2 };

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
export const parameters = (shape: ModelShape): number => matrixParameters(shape) + vectorParameters(shape);

function matrixParameters(shape: ModelShape): number {
  const { layers, hidden, vocabulary, tied } = shape;
  const products = sum(Object.values(projections(shape)).map(([outer, inner]) => outer * inner));
  return layers * products + vocabulary * hidden * (tied ? 1 : 2);
}

/** Norms and biases. */
function vectorParameters(shape: ModelShape): number {
  const { architecture, layers, hidden, head_dim } = shape;
  const biases = architecture === "qwen2" ? queryWidth(shape) + 2 * keyWidth(shape) : 0;
  const headNorms = architecture === "qwen3" ? 2 * head_dim : 0;
  return layers * (biases + headNorms + 2 * hidden) + hidden;
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

type Kept = Pick<RunConfig, "model_dtype">;

export const weightBytes = (shape: ModelShape, { model_dtype }: Kept): number =>
  MATRIX_BYTES[model_dtype] * matrixParameters(shape) + F32 * vectorParameters(shape);

/** Columns of a panel of the packed form (kernels/gemm.rs: 32 with AVX-512). */
const PANEL = 16;

/** Every weight of a product has a packed copy of its type, made at its first use. */
export function packedBytes(shape: ModelShape, { model_dtype }: Kept): number {
  const { layers, hidden, vocabulary } = shape;
  const panels = (outer: number) => Math.ceil(outer / PANEL) * PANEL;
  const layer = sum(Object.values(projections(shape)).map(([outer, inner]) => panels(outer) * inner));
  return MATRIX_BYTES[model_dtype] * (layers * layer + panels(vocabulary) * hidden);
}

export const gradientBytes = (trained: number): number => F32 * trained;

/** AdamW's first and second. */
export const momentBytes = (trained: number): number => 2 * F32 * trained;

/** Where the weights are rounded to a narrower type; adapters are f32 and are their own masters. */
export const masterBytes = (
  trained: number,
  { model_dtype, lora_r }: Pick<RunConfig, "model_dtype" | "lora_r">,
): number => (model_dtype === "float32" || lora_r > 0 ? 0 : F32 * trained);

/** A frozen copy of the policy; what is not trained is shared with it. */
export const snapshotBytes = (shape: ModelShape, config: Lora & Kept): number =>
  config.lora_r > 0 ? F32 * trainedParameters(shape, config) : weightBytes(shape, config);

/** The packed copies of a frozen model, from its first pass on. */
export const snapshotPackedBytes = (shape: ModelShape, config: Pick<Lora, "lora_r"> & Kept): number =>
  config.lora_r > 0 ? 0 : packedBytes(shape, config);

interface MethodNeeds {
  /** f32 vectors of T. */
  readonly vectors: number;
  /** Frozen copies of the policy. */
  readonly snapshots: number;
}

/** What continual-learning methods keep in the core (src/cl), at their fullest: after the last of `experiences`. */
export function methodNeeds({ cl_algorithm, task_order }: Pick<RunConfig, "cl_algorithm" | "task_order">): MethodNeeds {
  const vectors: Partial<Record<RunConfig["cl_algorithm"], number>> = {
    ewc: 2, // importance, anchor
    online_ewc: 3, // and the fresh Fisher
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

/** Rows that a part of a batch's tree may have before it is cut at a branch (train/mod.rs, PART_ROWS). */
export const PART_ROWS = 1024;

export interface PassSize {
  /** N: of the largest part, which goes forth and back at once. */
  readonly rows: number;
  /** Of what the sequences share, where it is a trunk: kept while one part after the other is computed below it. */
  readonly trunk_rows: number;
  /** R, of the part. */
  readonly asked_rows: number;
  /** Of all parts and the trunk. */
  readonly tree_rows: number;
  /** The longest sequence. */
  readonly sequence_tokens: number;
}

/** How the core cuts a batch (train/tree.rs): whole up to PART_ROWS, else at its branches, small subtrees together. */
export function passSize(batch: {
  readonly sequences: number;
  readonly sequence_tokens: number;
  /** Equal in all sequences, and computed once; below `sequence_tokens`. */
  readonly shared_tokens: number;
}): PassSize {
  const { sequences, sequence_tokens, shared_tokens } = batch;
  const own = sequence_tokens - shared_tokens;
  const tree_rows = shared_tokens + sequences * own;
  if (tree_rows <= PART_ROWS || sequences === 1)
    return { rows: tree_rows, trunk_rows: 0, asked_rows: sequences * own, tree_rows, sequence_tokens };
  const rows = own * Math.min(sequences, Math.max(1, Math.floor(PART_ROWS / own)));
  return { rows, trunk_rows: shared_tokens, asked_rows: rows, tree_rows, sequence_tokens };
}

/** Kept of all layers, by row; with checkpointing only their inputs. */
function keptRowBytes(shape: ModelShape, gradient_checkpointing: boolean): number {
  const { layers, hidden, head_dim } = shape;
  const layer = gradient_checkpointing ? F32 * hidden : layerRowBytes(shape);
  return layers * layer + F32 * (head_dim + hidden); // rotation, and the last layer's output
}

/** A layer that is computed again from its input, by row. */
const recomputedRowBytes = (shape: ModelShape, gradient_checkpointing: boolean): number =>
  gradient_checkpointing ? layerRowBytes(shape) - F32 * shape.hidden : 0;

export const activationBytes = (shape: ModelShape, { rows }: PassSize, gradient_checkpointing: boolean): number =>
  rows * keptRowBytes(shape, gradient_checkpointing);

/** Its activations and the gradients of its keys and values; with checkpointing these themselves, too. */
export function trunkBytes(shape: ModelShape, { trunk_rows }: PassSize, gradient_checkpointing: boolean): number {
  const keys = keyValueBytes(shape) * (gradient_checkpointing ? 2 : 1);
  return trunk_rows * (keptRowBytes(shape, gradient_checkpointing) + keys);
}

/** Of a part; the trunk's keys and values stand before its own, with their gradients and as products take them. */
export function layerBackwardBytes(
  shape: ModelShape,
  { rows, trunk_rows }: PassSize,
  gradient_checkpointing: boolean,
): number {
  const behindTrunk = trunk_rows === 0 ? 0 : F32 * keyWidth(shape) * (6 * trunk_rows + 2 * rows);
  return rows * (recomputedRowBytes(shape, gradient_checkpointing) + backwardRowBytes(shape)) + behindTrunk;
}

/** When all parts are done, and nobody reads the trunk's keys and values any more. */
export function trunkBackwardBytes(
  shape: ModelShape,
  { trunk_rows }: PassSize,
  gradient_checkpointing: boolean,
): number {
  const freed = gradient_checkpointing ? keyValueBytes(shape) : 0;
  return trunk_rows * (recomputedRowBytes(shape, gradient_checkpointing) + backwardRowBytes(shape) - freed);
}

/** Rows before and behind the final norm, with their gradients. */
export const askedRowBytes = ({ hidden }: ModelShape, { asked_rows }: PassSize): number =>
  4 * F32 * hidden * asked_rows;

/** Logits, and their rows, alive at a time (kernels/vocabulary.rs). */
const CHUNK_LOGITS = 2 ** 25;
const CHUNK_ROWS = 1024;

/** The vocabulary is met in chunks of rows. */
export const logitsBytes = ({ vocabulary }: ModelShape, { asked_rows }: PassSize): number =>
  F32 * Math.max(vocabulary, Math.min(CHUNK_LOGITS, vocabulary * Math.min(CHUNK_ROWS, asked_rows)));

/** Arrays of logits alive at once while whole distributions are compared (train/objective.rs); otherwise one. */
const DISTILLED_LOGITS = 7;
const DISTILLING: readonly RunConfig["cl_algorithm"][] = ["lwf", "der_pp"];

/** Of the anchor's pass before the gradient's: nothing is kept but a trunk's keys and values. */
export const anchorPassBytes = (shape: ModelShape, pass: PassSize): number =>
  pass.trunk_rows * keyValueBytes(shape) + Math.max(pass.rows * layerRowBytes(shape), logitsBytes(shape, pass));

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

export function memoryPlan(config: RunConfig, facts: PlanFacts): MemoryPlan {
  const { shape } = facts;
  const trained = trainedParameters(shape, config);
  const sequences = config.batch_size_per_gpu * config.gradient_accumulation_steps * config.num_samples_per_prompt;
  const pass = passOf(config, facts, sequences);
  const { vectors } = methodNeeds(config);
  const terms = [
    device("weights", weightBytes(shape, config)),
    device("packed for products", packedBytes(shape, config)),
    device("gradients", gradientBytes(trained)),
    device("optimizer moments", momentBytes(trained)),
    device("master copies", masterBytes(trained, config)),
    ...frozenTerms(config, facts),
    device(`vectors of ${config.cl_algorithm}`, vectors * F32 * trained),
    device("keys and values", keyValueCaches(config, facts, sequences)),
    device(
      "logits of sampled tokens",
      samplingBytes(shape, sequences),
      config.overlap_rollouts ? ["rollout", "update"] : ["rollout"],
    ),
    ...updateTerms(config, facts, pass),
    host("tensor that is written", F32 * shape.vocabulary * shape.hidden, ["checkpoint"]),
    host("remembered rollouts", rememberedBytes(config, facts)),
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

const anchorOf = ({ kl_coef, kl_anchor }: RunConfig) => (kl_coef > 0 ? kl_anchor : null);

/**
 * Frozen models. Packed copies of the anchor in the loss are freed after its pass, before the gradient's; evaluation (which
 * measures the distance from the base model) and a user that it plays make them again.
 */
function frozenTerms(config: RunConfig, facts: PlanFacts): Term[] {
  const { shape, user_shape, base_plays_user } = facts;
  const [copy, packed] = [snapshotBytes(shape, config), snapshotPackedBytes(shape, config)];
  const anchor = anchorOf(config);
  const base = anchor === "base" || base_plays_user;
  const freed = anchor !== null && !config.kl_in_reward;
  const { snapshots } = methodNeeds(config);
  return [
    device("frozen base model", base ? copy : 0),
    device(
      "frozen base model, packed",
      base ? packed : 0,
      anchor === "base" && freed ? ["rollout", "checkpoint"] : ALWAYS,
    ),
    device("previous task's model", anchor === "previous_task" ? copy + (freed ? 0 : packed) : 0),
    device(`frozen models of ${config.cl_algorithm}`, snapshots * (copy + packed)),
    device(
      "model that plays the user",
      user_shape === null ? 0 : weightBytes(user_shape, config) + packedBytes(user_shape, config),
    ),
  ];
}

function keyValueCaches(config: RunConfig, facts: PlanFacts, sequences: number): number {
  const { shape, user_shape, base_plays_user } = facts;
  const samplers = [shape, ...(base_plays_user ? [shape] : []), ...(user_shape === null ? [] : [user_shape])];
  return sum(samplers.map((sampler) => cacheBytes(sampler, cachedTokens(config, facts, sequences))));
}

/** A part's passes below the trunk; other moments count with what they take beyond these. */
function updateTerms(config: RunConfig, { shape, threads }: PlanFacts, pass: PassSize): Term[] {
  const { gradient_checkpointing: checkpointing, cl_algorithm } = config;
  const during = (name: string, bytes: number) => device(name, bytes, ["update"]);
  const logits = logitsBytes(shape, pass) * (DISTILLING.includes(cl_algorithm) ? DISTILLED_LOGITS : 1);
  const [trunk, activations, asked, layer] = [
    trunkBytes(shape, pass, checkpointing),
    activationBytes(shape, pass, checkpointing),
    askedRowBytes(shape, pass),
    Math.max(layerBackwardBytes(shape, pass, checkpointing), logits),
  ];
  const part = activations + asked + layer;
  const afterParts = Math.max(0, trunkBackwardBytes(shape, pass, checkpointing) - part);
  const height = trunk + part + afterParts;
  const anchored =
    anchorOf(config) === null || config.kl_in_reward
      ? 0
      : snapshotPackedBytes(shape, config) + anchorPassBytes(shape, pass);
  return [
    during("trunk of the batch's tree", trunk),
    during("activations of a part", activations),
    during("rows of the loss", asked),
    during("a layer's backward, or logits", layer),
    during("the trunk's backward, beyond a part's", afterParts),
    during("the anchor's pass, beyond the gradient's", Math.max(0, anchored - height)),
    during("what lwf's model says of the batch", cl_algorithm === "lwf" ? F32 * shape.hidden * ownRows(pass) : 0),
    during("attention scores", attentionBytes(pass, threads)),
  ];
}

const ownRows = ({ tree_rows, trunk_rows }: PassSize): number => tree_rows - trunk_rows;

const rememberedBytes = (config: RunConfig, facts: PlanFacts): number =>
  config.replay_buffer_size * new Set(config.task_order).size * longest(config, facts) * REMEMBERED_TOKEN_BYTES;

/** A mini-batch whose conversations are as long as they may be, and share nothing but the domain's prompt. */
const passOf = (config: RunConfig, facts: PlanFacts, sequences: number): PassSize =>
  passSize({
    sequences: Math.ceil(sequences / config.num_mini_batches),
    sequence_tokens: longest(config, facts),
    shared_tokens: config.prefix_sharing ? shared(config, facts) : 0,
  });

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

/** The next change that spares memory, the cheapest first; null when nothing is left. A smaller batch is none: parts are as large. */
export function nextRemedy(config: RunConfig, facts: PlanFacts): Remedy | null {
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

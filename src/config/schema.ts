/**
 * Every knob of a run, its default and what it means: one page. Flags, config files, the JSON Schema and the option
 * table of the README all follow from it. Names are those that Hugging Face and TRL users know.
 */
import * as v from "valibot";

const text = (description: string) => v.pipe(v.string(), v.nonEmpty(), v.description(description));
const flag = (byDefault: boolean, description: string) =>
  v.optional(v.pipe(v.boolean(), v.description(description)), byDefault);
const choice = <const T extends readonly [string, ...string[]]>(values: T, byDefault: T[number], description: string) =>
  v.optional(v.pipe(v.picklist(values), v.description(description)), byDefault);

/** A whole number of at least `least`. */
const whole = (least: number, description: string) =>
  v.pipe(v.number(), v.safeInteger(), v.minValue(least), v.description(description));
const count = (least: number, byDefault: number, description: string) =>
  v.optional(whole(least, description), byDefault);
const atLeast = (least: number, byDefault: number, description: string) =>
  v.optional(v.pipe(v.number(), v.finite(), v.minValue(least), v.description(description)), byDefault);
const positive = (description: string) => v.pipe(v.number(), v.finite(), v.gtValue(0), v.description(description));
const above = (bound: number, byDefault: number, description: string) =>
  v.optional(v.pipe(v.number(), v.finite(), v.gtValue(bound), v.description(description)), byDefault);
/** A number from 0 to 1, both included. */
const fraction = (byDefault: number, description: string) =>
  v.optional(v.pipe(v.number(), v.minValue(0), v.maxValue(1), v.description(description)), byDefault);
/** A number from 0 (included) to 1 (excluded). */
const decay = (byDefault: number, description: string) =>
  v.optional(v.pipe(v.number(), v.minValue(0), v.ltValue(1), v.description(description)), byDefault);
const maybe = <T extends v.GenericSchema>(schema: T) => v.optional(v.nullable(schema), null);

/** Linear layers of a block, by the names that PEFT knows. */
const LORA_MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"] as const;

const model = {
  model_name_or_path: text(
    "Model directory, Hugging Face hub id (`Qwen/Qwen2.5-7B-Instruct`) or `builtin:quickstart`. Required.",
  ),
  revision: v.optional(text("Branch, tag or commit on the hub."), "main"),
  model_dtype: choice(
    ["bfloat16", "float16", "float32"],
    "bfloat16",
    "Type the weights are kept in; trained ones have float32 master copies. On the CPU sums are float32; bfloat16 instructions, where there are any, round what meets bfloat16 weights.",
  ),
  gradient_checkpointing: flag(false, "Keep only the layers' inputs and recompute each layer in the backward pass."),
  use_flash_attention: flag(
    true,
    "Attention in blocks, forth and back, never a full score matrix (`kernels: fused` always does so). false is refused: use `kernels: plain` for the full matrix.",
  ),
  kernels: choice(["fused", "plain"], "fused", "`plain` computes with plain tensor operations: slow, for comparison."),
  num_threads: count(0, 0, "CPU threads; 0 = all cores. Part of what makes a run repeatable bit for bit."),
  prefix_sharing: flag(true, "Compute a prefix that several sequences share once."),
  max_context_tokens: maybe(whole(1, "Longest conversation, in tokens; null = the model's own limit.")),
};

const sequence = {
  task_order: v.optional(
    v.pipe(v.array(v.pipe(v.string(), v.nonEmpty())), v.minLength(1), v.description("Domains, in training order.")),
    ["airline", "retail", "telecom"],
  ),
  num_steps_per_task: count(1, 100, "Steps (one update each) per domain."),
  batch_size_per_gpu: count(1, 4, "Tasks of a batch; a step takes batch × accumulation tasks (`sft`: conversations)."),
  gradient_accumulation_steps: count(
    1,
    2,
    "Batches of a step: it only multiplies a step's tasks; they are one gradient, whose memory grows with it for lwf alone.",
  ),
  nproc_per_node: count(1, 1, "Processes. Not in this release: more than 1 is refused."),
  max_tasks_per_domain: maybe(
    whole(1, "Train on the first N tasks of a domain only; null = all. Never limits evaluation."),
  ),
  train_split: v.optional(
    v.pipe(
      v.number(),
      v.gtValue(0),
      v.maxValue(1),
      v.description("Share of the tasks that is trained on, for domains that bring no split of their own."),
    ),
    0.8,
  ),
  eval_interval: count(
    0,
    5,
    "Evaluate the current domain every N steps; 0 = only before training and after each domain.",
  ),
  save_interval: count(0, 0, "Also save every N steps; 0 = after each domain only."),
  seed: count(0, 42, "Everything random in the run derives from it."),
};

const tau2 = {
  tau2_data_dir: maybe(text("Directory of tau2-bench's data; null = the environment variable TAU2_DATA_DIR.")),
  domain_dir: v.optional(
    v.pipe(
      v.array(v.pipe(v.string(), v.nonEmpty())),
      v.description("Directories of domains of your own (policy.md, db.json, tasks.json, tools.ts)."),
    ),
    [],
  ),
  max_steps: count(1, 200, "Steps of a conversation (messages), as in tau2-bench."),
  max_errors: count(1, 10, "Tool errors after which a conversation ends, as in tau2-bench."),
  solo_mode: flag(false, "The agent works alone, from the task's ticket and with the user's tools (telecom, mock)."),
  noop_tasks: choice(
    ["keep", "drop_from_train"],
    "keep",
    "`drop_from_train` leaves out training tasks that an agent solves by doing nothing.",
  ),
  nl_assertions: choice(
    ["judge", "exclude", "drop"],
    "exclude",
    "Tasks whose reward needs a judge model: ask it (needs judge.model), leave them out, or strike the assertions from the reward.",
  ),
};

const sampling = {
  temperature: atLeast(0, 0.7, "Of the rollouts; above 0 in training."),
  top_p: v.optional(
    v.pipe(v.number(), v.gtValue(0), v.maxValue(1), v.description("Nucleus sampling; 1 = off, as training needs it.")),
    1,
  ),
  top_k: count(0, 0, "Sample from the k likeliest tokens; 0 = off, as training needs it."),
  min_p: decay(0, "Leave out tokens below min_p × the likeliest one; 0 = off, as training needs it."),
  max_new_tokens: count(1, 2048, "Longest turn of the agent, in tokens."),
  enable_thinking: flag(false, "Let the chat template open a reasoning block (Qwen3)."),
  malformed_calls: choice(
    ["text_to_user", "error_to_agent"],
    "text_to_user",
    "What becomes of a tool call that cannot be parsed.",
  ),
  constrained_tool_calls: flag(
    false,
    "Once the model opens a tool call, let it sample only calls of existing tools whose arguments satisfy the JSON schema.",
  ),
};

const grpo = {
  num_samples_per_prompt: count(1, 4, "Rollouts per task (the group); at least 2 in training."),
  dynamic_sampling: flag(
    false,
    "Leave groups whose rewards are all equal out of the update, and sample as many further tasks of the domain instead (DAPO).",
  ),
  dynamic_sampling_rounds_max: count(
    2,
    4,
    "`dynamic_sampling`: rounds of sampling in a step, the first one included; then the step goes on with what it has.",
  ),
  overlap_rollouts: flag(
    false,
    "Begin the rollouts of the next step while this step's gradient is made; they are then one step old, which importance ratios correct for.",
  ),
  num_iterations: count(1, 1, "Passes over the rollouts of a step (µ in GRPO); their log-probabilities stay fixed."),
  num_mini_batches: count(1, 1, "Updates of a pass: the step's tasks are dealt out to so many mini-batches."),
  loss_type: choice(
    ["grpo", "dr_grpo", "dapo", "bnpo", "gspo", "cispo"],
    "grpo",
    "How the loss is normalised over tokens, as in TRL; gspo = grpo with the ratio of the sequence, cispo = clipped importance weights, normalised as dapo.",
  ),
  importance_sampling_level: maybe(
    v.pipe(
      v.picklist(["token", "sequence"]),
      v.description("Ratio of the token, or of its sequence (GSPO); null = sequence for gspo, else token."),
    ),
  ),
  scale_rewards: choice(
    ["group", "batch", "none"],
    "group",
    "Divide advantages by the standard deviation of the group, of the batch, or not at all.",
  ),
  advantage_baseline: choice(
    ["group_mean", "leave_one_out"],
    "group_mean",
    "Subtract the mean reward of the group, or that of the other rollouts (RLOO).",
  ),
  credit_assignment: choice(
    ["trajectory", "turn"],
    "trajectory",
    "One advantage for a conversation, or one for each turn from what it and later turns earn; tau2's reward belongs to the whole, penalties and KL in the reward to turns.",
  ),
  clip_range: above(0, 0.2, "Clipping of the probability ratio, below 1; not used by cispo."),
  clip_range_high: maybe(
    v.pipe(
      v.number(),
      v.gtValue(0),
      v.description("Clipping above 1; null = clip_range. cispo needs it (TRL's epsilon_high of 5 is 4 here)."),
    ),
  ),
  delta: maybe(
    v.pipe(
      v.number(),
      v.gtValue(1),
      v.description("Bound on the ratio where the advantage is negative (dual clip); null = none."),
    ),
  ),
  kl_coef: atLeast(0, 0.1, "Weight of the KL divergence from the anchor."),
  kl_anchor: choice(
    ["base", "previous_task"],
    "base",
    "What the KL is measured against: the model before training, or the policy at the end of the previous domain.",
  ),
  kl_estimator: choice(
    ["k1", "k2", "k3"],
    "k3",
    "With d = log π_anchor − log π: k1 = −d, k2 = d²/2, k3 = exp(d) − d − 1.",
  ),
  kl_in_reward: flag(
    false,
    "Take kl_coef × KL, summed over the tokens, from the reward instead of adding it to the loss.",
  ),
  kl_ratio_correction: flag(
    false,
    "Multiply the KL by the probability ratio, as TRL does with several updates a batch.",
  ),
  entropy_coef: atLeast(0, 0, "Weight of an entropy bonus."),
  mask_truncated_completions: flag(
    false,
    "Keep conversations that max_new_tokens, max_steps or the context window cut out of the loss.",
  ),
  max_completion_len: maybe(
    whole(
      1,
      "Overlong penalty (DAPO): sampled tokens of a conversation from which on its reward is 1 lower; null = off.",
    ),
  ),
  soft_punish_cache: maybe(
    whole(1, "Overlong penalty: it grows from 0 over so many tokens before max_completion_len."),
  ),
  malformed_call_penalty: atLeast(0, 0, "Taken from the reward for every turn whose tool call cannot be parsed."),
};

const optimizer = {
  learning_rate: above(0, 1e-6, "Of AdamW, after warm-up."),
  adam_beta1: decay(0.9, "Decay of the first moment."),
  adam_beta2: decay(0.999, "Decay of the second moment."),
  adam_eps: above(0, 1e-8, "Added to the root of the second moment."),
  weight_decay: atLeast(0, 0, "Decoupled; norm weights and biases are spared."),
  max_grad_norm: atLeast(0, 1, "Clip the gradient's global norm; 0 = off."),
  warmup_steps: count(0, 10, "Steps of linear warm-up."),
  reset_optimizer: flag(true, "Restart optimizer and warm-up with each domain."),
  failed_rollouts_max: fraction(
    0.5,
    "Stop when more than this share of a step's rollouts fails for technical reasons.",
  ),
};

const evaluation = {
  eval_temperature: atLeast(0, 0.1, "Of the evaluation's rollouts; 0 = greedy."),
  eval_trials: count(1, 4, "Trials per task; gives pass^1 to pass^N."),
  eval_seed: count(0, 1234, "Random streams of the evaluation, the same for every row of the score matrix."),
  eval_probe_tasks: count(
    0,
    4,
    "With eval_interval: also evaluate each earlier domain on its first N evaluation tasks, once; 0 = not.",
  ),
  eval_max_tasks: maybe(whole(1, "Evaluate on the first N tasks only; null = the whole split.")),
};

const cl = {
  cl_algorithm: choice(
    [
      "sequential",
      "joint",
      "replay",
      "adaptive_replay",
      "ewc",
      "online_ewc",
      "ewc_pp",
      "si",
      "mas",
      "lwf",
      "a_gem",
      "der_pp",
      "o_lora",
      "progressive",
      "dynamic_expansion",
      "fusion",
      "adaptive_fusion",
    ],
    "sequential",
    "Continual-learning method.",
  ),
  replay_ratio: fraction(
    0.2,
    "Replayed tasks as a share of a step's tasks (adaptive_replay: at the start; der_pp: of its rollouts).",
  ),
  replay_budget: choice(["replace", "add"], "replace", "Replayed tasks replace current ones, or come on top."),
  replay_buffer_size: count(1, 1000, "Rollouts of each domain that are remembered."),
  replay_strategy: choice(
    ["random", "high_reward", "recent", "balanced"],
    "random",
    "Which remembered tasks are replayed.",
  ),
  replay_mode: choice(
    ["reroll", "stored"],
    "reroll",
    "Roll replayed tasks out again, or train on remembered rollouts with their recorded log-probabilities.",
  ),
  probe_interval: count(1, 10, "adaptive_replay: steps between probes of the earlier domains."),
  ewc_lambda: atLeast(0, 100, "ewc, online_ewc, ewc_pp: λ of λ/2·Σ F(θ−θ*)²."),
  ewc_gamma: fraction(0.9, "online_ewc: share of the old Fisher information that is kept."),
  fisher_tasks: count(1, 32, "Training tasks that the Fisher information, or mas's importance, is measured on."),
  ewc_pp_decay: fraction(0.9, "ewc_pp: share of the running Fisher information that is kept at each measurement."),
  ewc_pp_interval: count(1, 10, "ewc_pp: steps between measurements."),
  ewc_pp_tasks: count(1, 4, "ewc_pp: training tasks of a measurement."),
  si_lambda: atLeast(0, 100, "si: λ of λ/2·Σ Ω(θ−θ*)²."),
  si_damping: above(
    0,
    1e-3,
    "si: added to the squared way of a weight, so that one that hardly moved is not important.",
  ),
  mas_lambda: atLeast(0, 0.01, "mas: λ of λ/2·Σ Ω(θ−θ*)²."),
  lwf_alpha: atLeast(0, 1, "lwf: weight of the KL divergence from the previous policy."),
  der_alpha: atLeast(0, 0.5, "der_pp: weight of the KL divergence from the stored distributions."),
  der_beta: atLeast(0, 0.5, "der_pp: weight of the negative log-likelihood of stored successes."),
  der_buffer_size: count(1, 256, "der_pp: sequences in the reservoir."),
  o_lora_lambda: atLeast(0, 0.5, "o_lora: weight of the orthogonality penalty."),
  fusion_merge: choice(
    ["average", "reward_weighted", "task_arithmetic", "fisher", "ties", "dare"],
    "average",
    "fusion: how what the experiences changed is merged.",
  ),
  fusion_start: choice(
    ["base", "merged"],
    "base",
    "fusion, adaptive_fusion: an experience starts at the model before training, or at the merged one.",
  ),
  fusion_scale: above(0, 1, "fusion: factor of the merged change, for task_arithmetic, ties and dare."),
  ties_density: v.optional(
    v.pipe(v.number(), v.gtValue(0), v.maxValue(1), v.description("fusion: share of entries that ties keeps.")),
    0.2,
  ),
  dare_drop_rate: decay(0.5, "fusion: share of entries that dare drops."),
};

const lora = {
  lora_r: count(0, 0, "Rank of the LoRA adapters; 0 = all weights are trained."),
  lora_alpha: above(0, 16, "An adapter's B·A is multiplied by lora_alpha / lora_r."),
  lora_target_modules: v.optional(
    v.pipe(v.array(v.picklist(LORA_MODULES)), v.minLength(1), v.description("Projections that get an adapter.")),
    [...LORA_MODULES],
  ),
};

const sft = {
  data: maybe(
    v.pipe(
      v.array(v.pipe(v.string(), v.nonEmpty())),
      v.minLength(1),
      v.description(
        "Of `sft` alone: recorded conversations, as files or directories (tau2-bench results, rollouts, `trajectories.json`).",
      ),
    ),
  ),
  min_reward: maybe(
    v.pipe(v.number(), v.finite(), v.description("Of `sft`: leave out conversations below this reward; null = none.")),
  ),
  sft_epochs: count(1, 1, "Of `sft`: how often each conversation is seen."),
  sft_validation_fraction: decay(
    0.1,
    "Of `sft`: share of the tasks whose conversations are held out to measure the loss.",
  ),
};

const output = {
  log_dir: maybe(text("Run directory; null = `runs/` and the config's name, numbered where that holds a run.")),
  resume_from: maybe(text("Checkpoint directory of an earlier run to go on from.")),
  wandb_project: maybe(text("Not in this release: a name is refused.")),
};

/** A model behind an OpenAI-compatible endpoint. */
const endpoint = {
  base_url: maybe(text("The endpoint, such as `http://localhost:8000/v1`; null = OpenAI's.")),
  api_key_env: v.optional(
    text("The environment variable that holds the endpoint's key; never read otherwise."),
    "OPENAI_API_KEY",
  ),
  timeout_s: above(0, 60, "Seconds a request to the endpoint may take."),
  max_retries: count(0, 5, "Repeats of a failed request."),
  requests_per_minute: maybe(whole(1, "Rate limit of the endpoint; null = none.")),
  max_concurrent_requests: count(1, 16, "Requests under way at once."),
  cache_dir: maybe(
    text("Directory that keeps the endpoint's answers: an equal request is not sent again; null = none."),
  ),
  price_per_million_input_tokens: atLeast(0, 0, "Dollars, for what the run says of its cost."),
  price_per_million_output_tokens: atLeast(0, 0, "Dollars, for what the run says of its cost."),
};

const user = v.optional(
  v.strictObject({
    kind: choice(
      ["auto", "scripted", "openai", "local"],
      "auto",
      "`auto` = scripted where the domain brings a script, else the frozen step-0 policy. `openai` = any OpenAI-compatible endpoint.",
    ),
    model: maybe(
      text("`openai`: the endpoint's model name; `local`: a model directory, null = the frozen step-0 policy."),
    ),
    temperature: atLeast(0, 0, "Of the simulated user."),
    ...endpoint,
    max_cost_usd: maybe(
      positive("Stop the run once user and judge have cost this, counted over all its parts; null = no limit."),
    ),
  }),
  {},
);

const judge = v.optional(
  v.strictObject({
    model: maybe(text("Model that grades natural-language assertions; null = no judge.")),
    temperature: atLeast(0, 0, "Of the judge."),
    ...endpoint,
  }),
  {},
);

/** The knobs by topic, in the order of the option table. */
export const SECTIONS = {
  model,
  sequence,
  tau2,
  sampling,
  grpo,
  optimizer,
  evaluation,
  cl,
  lora,
  sft,
  output,
} as const;

export const RunConfigSchema = v.strictObject({
  ...model,
  ...sequence,
  ...tau2,
  ...sampling,
  ...grpo,
  ...optimizer,
  ...evaluation,
  ...cl,
  ...lora,
  ...sft,
  ...output,
  user,
  judge,
});

type DeepReadonly<T> = T extends object ? { readonly [K in keyof T]: DeepReadonly<T[K]> } : T;

/** What may be written: every knob but the model has a default. */
export type RunConfigInput = DeepReadonly<v.InferInput<typeof RunConfigSchema>>;

/** What a run reads: complete, checked, frozen. Written to config.json; a run with it repeats the run. */
export type RunConfig = DeepReadonly<Omit<v.InferOutput<typeof RunConfigSchema>, "log_dir"> & { log_dir: string }>;

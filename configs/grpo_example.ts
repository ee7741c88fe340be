/**
 * Continual GRPO from a script: `grpo-cl run configs/grpo_example.ts`. As it stands it trains the built-in model on two
 * built-in domains, in minutes on two CPU cores. For a real run change model_name_or_path, task_order (airline) and the
 * simulated user.
 */
import { GRPOConfig, GRPOTrainer } from "grpo-cl";

const config = new GRPOConfig({
  model_name_or_path: "builtin:quickstart",
  model_dtype: "float32",
  task_order: ["shop", "rail"],

  num_steps_per_task: 24,
  batch_size_per_gpu: 8,
  gradient_accumulation_steps: 1,
  num_samples_per_prompt: 8,
  loss_type: "bnpo",
  scale_rewards: "none",
  learning_rate: 2e-4,
  adam_beta2: 0.95,
  kl_coef: 0,
  warmup_steps: 0,

  temperature: 1,
  max_steps: 20,
  max_new_tokens: 32,

  cl_algorithm: "replay",
  replay_ratio: 0.25,

  eval_interval: 0,
  eval_trials: 2,
  eval_temperature: 1,
  log_dir: process.argv[2] ?? "runs/grpo_example",
});

using trainer = new GRPOTrainer(config);
const { log_dir } = await trainer.train();

for (const { task_idx, scores } of trainer.metrics.scoreMatrix()) {
  const cells = Object.entries(scores).map(([domain, { reward_mean }]) => `${domain} ${reward_mean.toFixed(2)}`);
  console.log(`after task ${task_idx}: ${cells.join(", ")}`);
}
console.log(`Everything else is in ${log_dir}.`);

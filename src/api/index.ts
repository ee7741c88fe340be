/** What `import … from "grpo-cl"` gives, in the package and inside the binary. */
export { UserError } from "../base/errors.ts";
export { Rng } from "../base/rng.ts";
export type { WeightOp } from "../base/weight-op.ts";
export { TrajectoryBuffer } from "../cl/memory.ts";
export {
  type BatchContext,
  CLAlgorithm,
  type ContinualMethod,
  type Distribution,
  type ExperienceContext,
  type MethodOp,
  type MethodState,
  type OpReport,
  type Plan,
  type StepContext,
  type StepEndContext,
  type StoredSequence,
  type TokenSequence,
  type UpdateContext,
} from "../cl/method.ts";
export type { Trajectory } from "../cl/trajectory.ts";
export type { RunConfig, RunConfigInput } from "../config/schema.ts";
export type { TaskRef } from "../curriculum/curriculum.ts";
export type { Experience } from "../curriculum/experience.ts";
export { groupAdvantages } from "../grpo/advantage.ts";
export type { EvalRow, MetricsRow, ScoresRow, TrainRow, TransferRow } from "../metrics/rows.ts";
export type { DomainScore } from "../metrics/score.ts";
export type { RunSummary } from "../metrics/summary.ts";
export type { Group, Rollout } from "../rollout/types.ts";
export type { Evaluation } from "../run/evaluate.ts";
export type { TrainResult } from "../run/train.ts";
export { type DomainSource, type DomainTool, Entities, State, ToolError } from "../tau2/domains/custom.ts";
export { registerDomainDirectories } from "../tau2/domains/directory.ts";
export { type DomainOptions, knownDomains, loadDomain, registerDomain } from "../tau2/domains/index.ts";
export { bool, dict, float, int, list, literal, model, optional, record, str } from "../tau2/model.ts";
export { parameter } from "../tau2/tool.ts";
export type {
  Agent,
  Domain,
  Environment,
  Message,
  Reply,
  RewardInfo,
  Simulation,
  Task,
  ToolCall,
  ToolMessage,
  ToolSchema,
  User,
} from "../tau2/types.ts";
export { replayUser } from "../tau2/user.ts";
export {
  AgentEnv,
  type AgentEnvOptions,
  type AgentMaker,
  type EnvInfo,
  type EnvReset,
  type EnvStep,
  UserEnv,
  type UserEnvOptions,
  type UserMaker,
} from "./agent-env.ts";
export { GRPOConfig } from "./config.ts";
export { type OpenaiJudgeOptions, type OpenaiUserOptions, openaiJudge, openaiUser } from "./endpoints.ts";
export { MetricsTracker } from "./metrics-tracker.ts";
export { GRPOTrainer, type TrainerOptions } from "./trainer.ts";

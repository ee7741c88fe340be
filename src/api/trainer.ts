/** `GRPOTrainer`: a run from a script. */
import { UserError } from "../base/errors.ts";
import type { ContinualMethod } from "../cl/method.ts";
import type { RunConfig, RunConfigInput } from "../config/schema.ts";
import type { DomainScore } from "../metrics/score.ts";
import type { Evaluation } from "../run/evaluate.ts";
import { type EvaluatedSplit, evaluateSession } from "../run/evaluation.ts";
import { openSession } from "../run/open-session.ts";
import type { Session } from "../run/session.ts";
import { type TrainResult, train } from "../run/train.ts";
import { GRPOConfig } from "./config.ts";
import { currentHost } from "./host.ts";
import { MetricsTracker } from "./metrics-tracker.ts";

export interface TrainerOptions {
  /** A method of your own (see CLAlgorithm); null = the config's `cl_algorithm`. */
  readonly clAlgorithm?: ContinualMethod | null;
}

export class GRPOTrainer implements Disposable {
  readonly config: RunConfig;
  /** May be assigned until `train` is called. */
  clAlgorithm: ContinualMethod | null;
  /** Of the last training; empty before. */
  metrics = new MetricsTracker();
  #session: Session | null = null;
  #updates = 0;

  constructor(config: RunConfig | RunConfigInput, { clAlgorithm = null }: TrainerOptions = {}) {
    this.config = new GRPOConfig(config);
    this.clAlgorithm = clAlgorithm;
  }

  /** The whole sequence of domains, from the model that the config names; writes the run directory. */
  async train(): Promise<TrainResult> {
    this.close();
    const session = await this.#open("train");
    const result = await train(this.config, session);
    this.metrics = MetricsTracker.load(result.log_dir);
    this.#updates = this.metrics.steps().filter((row) => row["train/skipped"] === 0).length;
    return result;
  }

  /** The domains of `task_order`: with the trained policy after `train`, else with the model as it is. */
  async evaluate({ split = "test" }: { readonly split?: EvaluatedSplit } = {}): Promise<Evaluation> {
    const session = this.#session ?? (await this.#open("eval"));
    return evaluateSession(this.config, session, { split, policy_version: this.#updates });
  }

  /** One domain of `task_order`, as `evaluate`: reward, pass rate, pass^k, interval, … */
  async evaluateTask(
    domain: string,
    { split = "test" }: { readonly split?: EvaluatedSplit } = {},
  ): Promise<DomainScore> {
    const { task_order } = this.config;
    if (!task_order.includes(domain))
      throw new UserError("evaluateTask", `${domain} is not in task_order (${task_order.join(", ")})`);
    const session = this.#session ?? (await this.#open("eval"));
    const options = { split, domain, policy_version: this.#updates };
    const { scores } = await evaluateSession(this.config, session, options);
    return scores[domain] as DomainScore;
  }

  /** Writes a model directory that transformers reads. */
  async save(directory: string): Promise<void> {
    const session = this.#session ?? (await this.#open("eval"));
    await session.policy.save(directory);
  }

  /** Frees the model. */
  close(): void {
    this.#session?.policy[Symbol.dispose]();
    this.#session = null;
    this.#updates = 0;
  }

  [Symbol.dispose](): void {
    this.close();
  }

  async #open(purpose: "train" | "eval"): Promise<Session> {
    const { edge, library } = currentHost();
    const session = await openSession(this.config, { edge, library, purpose, method: this.clAlgorithm });
    this.#session = session;
    return session;
  }
}

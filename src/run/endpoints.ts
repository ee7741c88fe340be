/** The models of a run that somebody is paid for: who they are, what they may cost, what they have cost. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { readJsonl } from "../base/jsonl.ts";
import type { Checkpoint } from "../checkpoint/load.ts";
import type { RunConfig } from "../config/schema.ts";
import type { MetricsWriter } from "../metrics/writer.ts";
import { Budget } from "../rollout/budget.ts";
import type { CollectOptions, UserContext } from "../rollout/collect.ts";
import { type OpenaiEndpoint, openaiEndpoint, type Usage } from "../rollout/openai.ts";
import { modelJudge } from "../tau2/judge.ts";
import type { Edge } from "./session.ts";

export interface Endpoints {
  /** null: no endpoint plays the user. */
  readonly user: OpenaiEndpoint | null;
  /** null: nothing is judged. */
  readonly judge: OpenaiEndpoint | null;
  readonly budget: Budget;
}

/** Checks keys and addresses; sends nothing. `spent_usd`: by earlier parts of the run. */
export function openEndpoints(
  config: Pick<RunConfig, "user" | "judge" | "nl_assertions" | "solo_mode">,
  { env, now, signal }: Omit<Edge, "reporter">,
  spent_usd = 0,
): Endpoints {
  const budget = new Budget({ limit_usd: config.user.max_cost_usd, spent_usd });
  const open = (role: "user" | "judge") => openaiEndpoint({ role, config: config[role], env, now, signal, budget });
  return {
    user: config.user.kind === "openai" && !config.solo_mode ? open("user") : null,
    judge: config.nl_assertions === "judge" ? open("judge") : null,
    budget,
  };
}

/** Throws a UserError when one of them cannot be reached, or refuses the key. */
export async function greetEndpoints(endpoints: Endpoints): Promise<void> {
  for (const [, endpoint] of each(endpoints)) await endpoint.greet();
}

/** Whatever was sent has been answered, and is counted. */
export async function settledEndpoints(endpoints: Endpoints): Promise<void> {
  await Promise.all(each(endpoints).map(([, endpoint]) => endpoint.settled()));
}

/** The random stream of a conversation, as the seed that its requests carry. */
export const requestSeed = ({ rng }: UserContext): number => Number(rng.fork("endpoint").uint64() & 0x7fffffffn);

export function judgeMaker({ judge }: Endpoints): CollectOptions["makeJudge"] {
  return judge === null ? undefined : (context) => modelJudge(judge.completion({ seed: requestSeed(context) }));
}

const each = ({ user, judge }: Endpoints): (readonly [string, OpenaiEndpoint])[] =>
  Object.entries({ user, judge }).flatMap(([role, endpoint]) => (endpoint === null ? [] : [[role, endpoint] as const]));

const FIELDS = [
  "calls",
  "cached_calls",
  "input_tokens",
  "output_tokens",
  "cost_usd",
] as const satisfies (keyof Usage)[];

/** `user_calls`, `judge_cost_usd`, …: what a row of timings.jsonl says. */
export type Spending = Readonly<Record<string, number>>;

/** Since the endpoints were opened. */
export const spendingOf = (endpoints: Endpoints): Spending =>
  Object.fromEntries(
    each(endpoints).flatMap(([role, { usage }]) => FIELDS.map((field) => [`${role}_${field}`, usage[field]] as const)),
  );

export const spentSince = (before: Spending, now: Spending): Spending =>
  Object.fromEntries(Object.entries(now).map(([name, value]) => [name, value - (before[name] ?? 0)]));

/** By all parts of the run that a checkpoint belongs to; its timings.jsonl also knows what was paid after the checkpoint. */
export function spentBefore(resume: Checkpoint | null): number {
  return resume === null ? 0 : Math.max(spentIn(resume.log_dir), resume.state.spent_usd ?? 0);
}

function spentIn(log_dir: string): number {
  const file = join(log_dir, "timings.jsonl");
  const rows = existsSync(file) ? (readJsonl(file) as Spending[]) : [];
  return rows.reduce((sum, row) => sum + (row.user_cost_usd ?? 0) + (row.judge_cost_usd ?? 0), 0);
}

/** A run that goes on in another directory brings what it has cost along. */
export function carryOver({ budget }: Endpoints, metrics: MetricsWriter, log_dir: string): void {
  const user_cost_usd = budget.spent_usd - spentIn(log_dir);
  if (user_cost_usd > ROUNDING)
    metrics.timing({ task_idx: -1, step: null, phase: "earlier parts", ms: 0, user_cost_usd });
}

const ROUNDING = 1e-9;

/** One line each, for the end of a run. */
export function spendingLines(endpoints: Endpoints): string[] {
  const lines = each(endpoints).map(([role, { identity, usage }]) => {
    const tokens = `${count(usage.input_tokens)} + ${count(usage.output_tokens)} tokens`;
    const cached = `${count(usage.cached_calls)} more from the cache`;
    return `Calls (${role}, ${identity}): ${count(usage.calls)}, ${cached}; ${tokens}, $${usage.cost_usd.toFixed(4)}`;
  });
  const { spent_usd, limit_usd } = endpoints.budget;
  if (limit_usd !== null) lines.push(`Cost of the whole run: $${spent_usd.toFixed(4)} of at most $${limit_usd}`);
  return lines;
}

const count = (value: number): string => value.toLocaleString("en-US");

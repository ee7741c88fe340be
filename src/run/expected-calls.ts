/** How many conversations a run will hold, and what its paid models will be asked: told before it begins. */
import type { Position } from "../checkpoint/state.ts";
import type { RunConfig } from "../config/schema.ts";
import type { Curriculum } from "../curriculum/curriculum.ts";
import { needsJudge } from "../tau2/evaluator.ts";
import type { Task } from "../tau2/types.ts";

/** Conversations, by who is asked in them. */
export interface ExpectedRollouts {
  readonly train: number;
  readonly eval: number;
  /** Of all of them, those whose reward asks the judge. */
  readonly judged: number;
}

/** Without what a method measures for itself. From `position` on; `begun`: the evaluation before training has been. */
export function expectedRollouts(
  config: RunConfig,
  curriculum: Curriculum,
  { position, begun }: { readonly position: Position; readonly begun: boolean },
): ExpectedRollouts {
  const { num_samples_per_prompt, eval_trials, eval_interval, eval_probe_tasks } = config;
  const tests = curriculum.splits.flatMap(({ test }) => test);
  const rounds: [readonly Task[], number][] = begun ? [] : [[tests, eval_trials]];
  let train = 0;
  let judged = 0;
  for (const { index, domain, steps, earlier } of curriculum.experiences.slice(position.experience)) {
    const first = index === position.experience ? position.step : 0;
    const split = curriculum.split(domain);
    const rollouts = (steps - first) * tasksPerStep(config) * num_samples_per_prompt;
    train += rollouts;
    judged += rollouts * share(split.train);
    const due = dueUntil(steps, eval_interval) - dueUntil(first, eval_interval);
    rounds.push([split.test, eval_trials * due]);
    rounds.push([earlier.flatMap((name) => curriculum.split(name).test.slice(0, eval_probe_tasks)), due]);
    rounds.push([tests, eval_trials]);
  }
  return {
    train,
    eval: rounds.reduce((sum, [tasks, times]) => sum + tasks.length * times, 0),
    judged: rounds.reduce((sum, [tasks, times]) => sum + tasks.filter(needsJudge).length * times, Math.round(judged)),
  };
}

const tasksPerStep = ({ batch_size_per_gpu, gradient_accumulation_steps, nproc_per_node }: RunConfig): number =>
  batch_size_per_gpu * gradient_accumulation_steps * nproc_per_node;

/** Evaluations between steps, before the given one. The one after the last step is the experience's own. */
const dueUntil = (step: number, interval: number): number =>
  interval === 0 ? 0 : Math.max(0, Math.ceil(step / interval) - 1);

const share = (tasks: readonly Task[]): number => tasks.filter(needsJudge).length / tasks.length;

/**
 * Assumed of a conversation. tau2's runs with strong models take 6 to 12 turns of the user in airline and retail, more in
 * telecom; weak agents end sooner or later.
 */
const CALLS_OF_USER = 10;
/** Prompt of a turn, on average over the conversation, and its reply. */
const TOKENS_OF_USER = { input: 2500, output: 60 };
const TOKENS_OF_JUDGE = { input: 6000, output: 250 };

/** Nothing where nobody is paid. */
export function expectedCalls(
  {
    user,
    judge,
    nl_assertions,
    max_steps,
    solo_mode,
  }: Pick<RunConfig, "user" | "judge" | "nl_assertions" | "max_steps" | "solo_mode">,
  rollouts: ExpectedRollouts,
): string[] {
  const conversations = rollouts.train + rollouts.eval;
  const each = Math.min(CALLS_OF_USER, Math.ceil(max_steps / 2));
  const lines: string[] = [];
  if (user.kind === "openai" && !solo_mode)
    lines.push(
      `Expected calls of ${user.model} (user): about ${count(conversations * each)} for ` +
        `${count(conversations)} conversations, if each takes ${each}${price(user, conversations * each, TOKENS_OF_USER)}`,
    );
  if (nl_assertions === "judge")
    lines.push(
      `Expected calls of ${judge.model} (judge): at most ${count(rollouts.judged)}, one for each conversation that ` +
        `counts assertions${price(judge, rollouts.judged, TOKENS_OF_JUDGE)}`,
    );
  return lines;
}

function price(endpoint: RunConfig["judge"], calls: number, tokens: { input: number; output: number }): string {
  const { price_per_million_input_tokens: input, price_per_million_output_tokens: output } = endpoint;
  if (input + output === 0) return "";
  const usd = (calls * (tokens.input * input + tokens.output * output)) / 1e6;
  return `; about $${usd.toFixed(2)} with ${count(tokens.input)} + ${tokens.output} tokens a call`;
}

const count = (value: number): string => value.toLocaleString("en-US");

/** `grpo-cl eval` */
import { type ArgsDef, defineCommand } from "citty";
import type { RunConfig } from "../config/schema.ts";
import { baselineGroups, type DomainBaselines } from "../metrics/baselines.ts";
import type { DomainScore } from "../metrics/score.ts";
import type { Evaluation } from "../run/evaluate.ts";
import { type EvaluatedSplit, evaluateSession } from "../run/evaluation.ts";
import { openSession } from "../run/open-session.ts";
import { writeTau2Results } from "../run/tau2-results.ts";
import { knownDomains } from "../tau2/domains/index.ts";
import { CONFIG_ARGS, parseRunArguments } from "./arguments.ts";
import { edgeOf } from "./console.ts";
import type { Host } from "./host.ts";
import { VERSION } from "./version.ts";

const ARGS = {
  split: {
    type: "string",
    description: "Tasks: test (default), train, all, or any split of the domain (base, small, full).",
    valueHint: "NAME",
  },
  json: { type: "boolean", description: "Print JSON." },
  out: {
    type: "string",
    description:
      "Also write the simulations in tau2-bench's result format; with several domains a file each (FILE_DOMAIN).",
    valueHint: "FILE",
  },
  ...CONFIG_ARGS,
} satisfies ArgsDef;

export const evalCommand = (host: Host) =>
  defineCommand({
    meta: {
      name: "eval",
      description: "Evaluate a model on domains: --model_name_or_path, --task_order, --eval_trials …",
    },
    args: ARGS,
    run: async ({ rawArgs }) => {
      const given = { command: "eval", rawArgs, args: ARGS, knownDomains: knownDomains() } as const;
      const { config, own } = await parseRunArguments(host, given);
      const split = typeof own.split === "string" ? own.split : "test";
      const session = await openSession(config, {
        edge: quietEdge(host),
        library: host.assets.coreLibrary,
        purpose: "eval",
        split,
      });
      using _core = session.policy;
      const began = host.now();
      const evaluation = await evaluateSession(config, session, { split });
      const times = { began, ended: host.now() };
      if (typeof own.out === "string")
        writeTau2Results(own.out, { config, session, evaluation, times, version: VERSION });
      host.print(own.json === true ? jsonText(config, split, evaluation) : report(config, split, evaluation));
    },
  });

/** Results alone belong on stdout: warnings go to stderr. */
function quietEdge(host: Host) {
  return edgeOf({ ...host, print: host.note });
}

const jsonText = (config: RunConfig, split: EvaluatedSplit, { scores, rewards, baselines }: Evaluation) =>
  `${JSON.stringify({ model: config.model_name_or_path, split, eval_seed: config.eval_seed, eval_temperature: config.eval_temperature, scores, rewards, baselines })}\n`;

function report(config: RunConfig, split: EvaluatedSplit, { scores, baselines }: Evaluation): string {
  const head = `Model: ${config.model_name_or_path} (temperature ${config.eval_temperature}, eval_seed ${config.eval_seed})`;
  return `${[head, ...Object.entries(scores).map(([domain, score]) => domainReport(domain, split, score, baselines[domain]))].join("\n\n")}\n`;
}

function domainReport(domain: string, split: EvaluatedSplit, score: DomainScore, baselines?: DomainBaselines): string {
  const lines: readonly (readonly [string, string])[] = [
    ["domain", domain],
    ["split", `${split}${score.contaminated ? " (contaminated: includes tasks that are trained on)" : ""}`],
    ["tasks", String(score.n_tasks)],
    ["nl_assertions", `${score.nl_assertions}${leftOut(baselines)}`],
    [
      "trials",
      `${score.n_trials}${score.n_failed > 0 ? ` (${score.n_failed} conversations lost for technical reasons)` : ""}`,
    ],
    ["reward", `${fixed(score.reward_mean)} [${fixed(score.low)}, ${fixed(score.high)}] (95 % over tasks)`],
    ["pass rate", fixed(score.pass_rate)],
    ...Object.entries(score.pass_hat_k).map(([k, value]) => [`pass^${k}`, fixed(value)] as const),
    ["reward, tasks with a write", `${fixed(score.reward_mean_write)} (${score.n_tasks_write} tasks)`],
    ["reward, tasks without", `${fixed(score.reward_mean_noop)} (${score.n_tasks - score.n_tasks_write} tasks)`],
    ...baselineGroups(baselines).map(
      ({ agents, score: { reward_mean, reward_mean_write, reward_mean_noop } }) =>
        [
          `  agent ${agents.join(", ")}`,
          `${fixed(reward_mean)}; with a write ${fixed(reward_mean_write)}, without ${fixed(reward_mean_noop)}`,
        ] as const,
    ),
    [
      "stop reasons",
      Object.entries(score.stops)
        .map(([stop, count]) => `${stop} ${count}`)
        .join(", "),
    ],
    ["malformed calls", String(score.malformed_calls)],
    ["tool errors", String(score.tool_errors)],
    ["turns cut short", String(score.truncated_turns)],
    [
      "agent turns, tool calls",
      `${score.agent_turns_mean.toFixed(2)}, ${score.tool_calls_mean.toFixed(2)} a conversation`,
    ],
    ["user", `${score.user_identity}, $${score.user_cost_usd.toFixed(4)}`],
  ];
  return lines.map(([name, value]) => `${name.padEnd(34)}${value}`).join("\n");
}

const leftOut = (baselines?: DomainBaselines): string =>
  baselines === undefined || baselines.excluded.test.length === 0
    ? ""
    : ` (${baselines.excluded.test.length} tasks left out: ${baselines.excluded.test.join(", ")})`;

const fixed = (value: number | null) => (value === null ? "none" : value.toFixed(4));

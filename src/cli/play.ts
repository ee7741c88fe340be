/** `grpo-cl play DOMAIN TASK`: a person at a terminal (or a pipe) plays the agent or the user of one task. */
import { type ArgsDef, defineCommand } from "citty";
import { AgentEnv, type EnvStep, UserEnv } from "../api/agent-env.ts";
import { UserError } from "../base/errors.ts";
import type { RunConfig } from "../config/schema.ts";
import { openAgent, openUser } from "../run/partner.ts";
import { knownDomains } from "../tau2/domains/index.ts";
import { parseActionString } from "../tau2/gym.ts";
import { scenarioText } from "../tau2/task.ts";
import type { Domain, Message, Reply, Requestor, Task, User } from "../tau2/types.ts";
import { CONFIG_ARGS, parseRunArguments } from "./arguments.ts";
import { edgeOf } from "./console.ts";
import type { Host } from "./host.ts";
import { rewardLines, toolLines } from "./play-text.ts";

const ARGS = {
  domain: { type: "positional", description: "A domain's name.", required: false },
  task: { type: "positional", description: "The task's id.", required: false },
  role: { type: "string", description: "Whom you play: agent (default) or user.", valueHint: "NAME" },
  ...CONFIG_ARGS,
} satisfies ArgsDef;

export const playCommand = (host: Host) =>
  defineCommand({
    meta: {
      name: "play",
      description:
        "Play a task at the terminal: the agent against a script, --user.kind openai or local; or --role user against --model_name_or_path.",
    },
    args: ARGS,
    run: async ({ rawArgs }) => {
      const { config, task_id, role } = await parsePlay(host, rawArgs);
      await using table = await (role === "agent" ? agentTable : userTable)(host, config, task_id);
      await play(host, table);
    },
  });

interface PlayArguments {
  readonly config: RunConfig;
  readonly task_id: string;
  readonly role: "agent" | "user";
}

async function parsePlay(host: Host, rawArgs: readonly string[]): Promise<PlayArguments> {
  const first = rawArgs.findIndex((argument) => argument.startsWith("--"));
  const words = first === -1 ? rawArgs : rawArgs.slice(0, first);
  const flags = first === -1 ? [] : rawArgs.slice(first);
  const [domain, task_id, ...more] = words;
  if (domain === undefined || task_id === undefined || more.length > 0)
    throw new UserError("grpo-cl play", "needs a domain and a task: grpo-cl play shop test_verb_0");
  const namesModel = flags.some((flag) => /^--(model_name_or_path|config)(=|$)/.test(flag));
  const { config, own } = await parseRunArguments(host, {
    command: "eval",
    rawArgs: [...flags, ...(namesModel ? [] : ["--model_name_or_path", NO_MODEL]), "--task_order", domain],
    args: ARGS,
    knownDomains: knownDomains(),
  });
  const role = roleNamed(own.role);
  if (!namesModel && role === "user")
    throw new UserError("--model_name_or_path", "is required for --role user: the model that plays the agent");
  if (!namesModel && config.user.kind === "local" && config.user.model === null)
    throw new UserError("--user.kind", "local needs a model: --user.model or --model_name_or_path");
  return { config: { ...config, task_order: [domain] }, task_id, role };
}

/** The config wants a model named; where none plays, none is loaded. */
const NO_MODEL = "builtin:quickstart";

function roleNamed(name: string | boolean = "agent"): "agent" | "user" {
  if (name === "agent" || name === "user") return name;
  throw new UserError("--role", `expected agent or user, got "${name}"`);
}

// ---------------------------------------------------------------------------------------------------------------------
// The two sides

interface PlayTable extends AsyncDisposable {
  readonly env: AgentEnv | UserEnv;
  readonly domain: Domain;
  readonly role: Requestor;
  readonly intro: string;
}

async function agentTable(host: Host, config: RunConfig, task_id: string): Promise<PlayTable> {
  const { domain, identity, judge, partner, close } = await openUser(config, partnerOptions(host));
  const user = (_: Domain, task: Task): User => partner(domain, task) ?? person(host, task);
  const opposite = domain.solo_mode
    ? "There is no user: solve the ticket (/task) alone."
    : identity === null
      ? "You play the user, too: no user is configured (--user.kind openai, or local)."
      : `The user is ${identity}.`;
  return {
    env: new AgentEnv({ domain, task_id, user, judge, max_steps: config.max_steps, max_errors: config.max_errors }),
    domain,
    role: "assistant",
    intro: `You are the agent of ${domain.name}, task ${task_id}. ${opposite}`,
    [Symbol.asyncDispose]: async () => close(),
  };
}

async function userTable(host: Host, config: RunConfig, task_id: string): Promise<PlayTable> {
  const { domain, identity, judge, partner, close } = await openAgent(config, partnerOptions(host));
  const { max_steps, max_errors } = config;
  return {
    env: new UserEnv({ domain, task_id, agent: partner, judge, max_steps, max_errors }),
    domain,
    role: "user",
    intro: `You are the user of ${domain.name}, task ${task_id}. The agent is ${identity}.`,
    [Symbol.asyncDispose]: async () => close(),
  };
}

const partnerOptions = (host: Host) => ({
  edge: edgeOf({ ...host, print: host.note }),
  library: host.assets.coreLibrary,
});

/** The person, asked for the user's words as well. */
function person({ print, readLine }: Host, task: Task): User {
  let heard = false;
  return {
    identity: "you",
    async reply(incoming: readonly Message[]): Promise<Reply> {
      if (!heard) print(`${scenarioText(task.user_scenario)}\n`);
      heard = true;
      for (const { role, content } of incoming) print(`${role}: ${content ?? ""}\n`);
      for (;;) {
        const line = await readLine("user> ");
        if (line === null) return { content: USER_STOP, tool_calls: null };
        if (line.trim() !== "") return parseActionString(line.trim() === "/stop" ? USER_STOP : line, "user");
      }
    },
  };
}

const USER_STOP = "###STOP###";

// ---------------------------------------------------------------------------------------------------------------------
// The loop

const HELP =
  "/policy, /tools and /task show what there is; /stop ends the conversation; /quit leaves without a reward.\nA tool is called as name(key='value') or in JSON; everything else is said.";

async function play(host: Host, { env, domain, role, intro }: PlayTable): Promise<void> {
  const { print, readLine, fail } = host;
  print(`${intro}\n${HELP}\n\n`);
  const { observation, info } = await env.reset();
  print(`${observation}\n`);
  if (info.simulation_run !== null) return print(ending({ ...EMPTY_STEP, observation: "", info }));
  for (;;) {
    const line = await readLine(role === "assistant" ? "agent> " : "user> ");
    const command = line?.trim() ?? "/quit";
    if (command === "") continue;
    if (command === "/quit") {
      await env.close();
      print("\nYou left before the end: no reward.\n");
      return line === null ? fail(1) : undefined;
    }
    if (command.startsWith("/") && command !== "/stop") {
      print(`${shown(command, { domain, task: env.task, role })}\n`);
      continue;
    }
    const step = await env.step(command === "/stop" ? (role === "assistant" ? "done()" : USER_STOP) : command);
    if (step.observation !== "") print(`${step.observation}\n`);
    if (step.terminated) return print(ending(step));
  }
}

const EMPTY_STEP = { reward: 0, terminated: true, truncated: false } as const;

function ending({ reward, info }: EnvStep): string {
  const { simulation_run, reward_info } = info;
  const detail = simulation_run?.detail ? `: ${simulation_run.detail}` : "";
  const head = `\nThe conversation ended (${simulation_run?.termination}${detail}).`;
  if (reward_info === null) return `${head}\nIt was not scored.\n`;
  return `${[head, ...rewardLines(reward, reward_info)].join("\n")}\n`;
}

interface Shown {
  readonly domain: Domain;
  readonly task: Task;
  readonly role: Requestor;
}

function shown(command: string, { domain, task, role }: Shown): string {
  switch (command) {
    case "/policy":
      return domain.policy;
    case "/tools":
      return (
        toolLines(role === "assistant" ? domain.tools : (domain.userTools ?? [])).join("\n") || "You have no tools."
      );
    case "/task":
      return domain.solo_mode ? (task.ticket ?? "The task has no ticket.") : scenarioText(task.user_scenario);
    case "/help":
      return HELP;
    default:
      return `There is no ${command}.\n${HELP}`;
  }
}

/** Recorded conversations → those that are trained on and those held out, as tokens; and what a person should know of them. */
import { UserError } from "../base/errors.ts";
import type { Rng } from "../base/rng.ts";
import type { RunConfig } from "../config/schema.ts";
import type { Policy } from "../core/policy.ts";
import { type SupervisedSequence, targetTokens } from "../grpo/supervised.ts";
import { contextTokensMax } from "../rollout/collect.ts";
import { toolsJson } from "../rollout/local-user.ts";
import { recordedTokens } from "../rollout/recorded.ts";
import { type ChatRenderer, openRenderer } from "../rollout/renderer.ts";
import { knownDomains, loadDomain, loadDomainOrNull } from "../tau2/domains/index.ts";
import type { Domain } from "../tau2/types.ts";
import type { RecordedFile, RecordedSimulation, RecordedTrajectory } from "./sft-data.ts";

type RecordedConversation = RecordedFile[number];

export interface Conversation extends SupervisedSequence {
  readonly domain: string;
  readonly task_id: string;
}

export interface PreparedData {
  readonly training: readonly Conversation[];
  /** Of other tasks than `training`. */
  readonly validation: readonly Conversation[];
  /** How many conversations were read, left out (and why), and are used. */
  readonly facts: readonly string[];
  readonly warnings: readonly string[];
}

export interface PrepareOptions {
  readonly config: RunConfig;
  readonly policy: Policy;
  readonly rng: Rng;
  readonly onConversation: (done: number, total: number) => void;
}

/** Throws a UserError when nothing is left, and for a domain that cannot be loaded. */
export async function prepareConversations(recorded: RecordedFile, options: PrepareOptions): Promise<PreparedData> {
  const { config, policy, rng, onConversation } = options;
  const left = new LeftOut();
  const wanted = recorded.filter(({ failed, reward }) => {
    if (failed) return left.count("lost to the infrastructure");
    return config.min_reward === null || reward >= config.min_reward || left.count(`reward below ${config.min_reward}`);
  });
  const tokenizer = new Tokenizer(policy, config);
  const tokens_max = contextTokensMax(policy, config);
  const used: RecordedConversation[] = [];
  const conversations: Conversation[] = [];
  for (const [i, conversation] of wanted.entries()) {
    const sequence = await tokenizer.sequence(conversation);
    onConversation(i + 1, wanted.length);
    if (sequence.tokens.length > tokens_max) left.count(`longer than ${tokens_max} tokens`);
    else if (targetTokens(sequence.sampled_mask) === 0) left.count("without a turn of the agent");
    else {
      used.push(conversation);
      conversations.push({ ...sequence, domain: conversation.domain, task_id: conversation.task_id });
    }
  }
  if (conversations.length === 0)
    throw new UserError("--data", `no conversation is left of ${recorded.length}${left.text()}`);
  const { training, validation } = split(conversations, config.sft_validation_fraction, rng);
  return {
    training,
    validation,
    facts: [
      `${recorded.length} conversations read${left.text()}`,
      sizeText("Training", training),
      sizeText("Held out", validation),
    ],
    warnings: warningsOf(used, config),
  };
}

/** Counts what is not used, by reason. */
class LeftOut {
  readonly #counts = new Map<string, number>();

  count(reason: string): false {
    this.#counts.set(reason, (this.#counts.get(reason) ?? 0) + 1);
    return false;
  }

  text(): string {
    const reasons = [...this.#counts].map(([reason, count]) => `${count} ${reason}`);
    return reasons.length === 0 ? "" : `; left out: ${reasons.join(", ")}`;
  }
}

function sizeText(what: string, conversations: readonly Conversation[]): string {
  const tokens = conversations.reduce((sum, conversation) => sum + conversation.tokens.length, 0);
  const targets = conversations.reduce((sum, { sampled_mask }) => sum + targetTokens(sampled_mask), 0);
  return `${what}: ${conversations.length} conversations, ${tokens} tokens, ${targets} of them the agent's`;
}

/** Trajectories keep the tokens they have; text is rendered as a rollout would have. */
class Tokenizer {
  readonly #renderers = new Map<Domain, Promise<ChatRenderer>>();
  readonly #domains = new Map<string, Domain>();

  constructor(
    readonly policy: Policy,
    readonly config: RunConfig,
  ) {}

  async sequence(conversation: RecordedConversation): Promise<SupervisedSequence> {
    if (conversation.kind === "trajectory") return this.#checked(conversation);
    const { messages, given, solo_task, where } = conversation;
    const domain = this.#domain(conversation);
    const systemPrompt = solo_task === null ? domain.systemPrompt : domain.soloSystemPrompt?.(solo_task);
    if (systemPrompt === undefined)
      throw new UserError(where, `the agent worked alone, which ${domain.name} has no prompt for`);
    return recordedTokens(await this.#renderer(domain), { systemPrompt, messages, given });
  }

  #checked({ where, tokens, sampled_mask }: RecordedTrajectory): SupervisedSequence {
    const { vocab_size } = this.policy.info;
    const foreign = tokens.find((token) => token >= vocab_size);
    if (foreign === undefined) return { tokens, sampled_mask };
    throw new UserError(
      `${where}: tokens`,
      `token ${foreign} is outside the model's vocabulary of ${vocab_size}: another model made this trajectory. Use tau2-bench results (grpo-cl eval --out), which are text`,
    );
  }

  #domain({ domain: name, solo_task, where }: RecordedSimulation): Domain {
    const key = JSON.stringify([name, solo_task !== null]);
    const known = this.#domains.get(key);
    if (known !== undefined) return known;
    if (!knownDomains().includes(name))
      throw new UserError(
        `${where}: domain_name`,
        `there is no domain "${name}"; known are ${knownDomains().join(", ")}`,
      );
    const domain = loadDomain(name, { ...this.config, solo_mode: solo_task !== null });
    this.#domains.set(key, domain);
    return domain;
  }

  #renderer(domain: Domain): Promise<ChatRenderer> {
    const known = this.#renderers.get(domain);
    if (known !== undefined) return known;
    const { model_name_or_path: directory, enable_thinking } = this.config;
    const tools_json = toolsJson(domain.tools);
    const opened = openRenderer(this.policy, {
      model: "policy",
      info: this.policy.info,
      directory,
      tools_json,
      enable_thinking,
    });
    this.#renderers.set(domain, opened);
    return opened;
  }
}

/** Whole tasks are held out, so that no conversation of a task that is trained on measures what was learned. */
function split(conversations: readonly Conversation[], fraction: number, rng: Rng) {
  const keyOf = ({ domain, task_id }: Conversation) => JSON.stringify([domain, task_id]);
  const tasks = rng.shuffle([...new Set(conversations.map(keyOf))]);
  const count = fraction === 0 ? 0 : Math.min(tasks.length - 1, Math.max(1, Math.round(fraction * tasks.length)));
  const held = new Set(tasks.slice(0, count));
  return {
    training: conversations.filter((conversation) => !held.has(keyOf(conversation))),
    validation: conversations.filter((conversation) => held.has(keyOf(conversation))),
  };
}

function warningsOf(used: readonly RecordedConversation[], config: RunConfig): string[] {
  const byDomain = Map.groupBy(used, ({ domain }) => domain);
  return [...byDomain].flatMap(([name, those]) => {
    const domain = loadDomainOrNull(name, config);
    if (domain === null) return [];
    const tests = new Set(domain.splits.test);
    const seen = those.filter(({ task_id }) => tests.has(task_id)).length;
    const others = those.filter(({ kind, ...rest }) => kind === "simulation" && otherPolicy(rest, domain)).length;
    return [
      ...(seen === 0
        ? []
        : [
            `${seen} of ${those.length} conversations are of tasks that ${name} is evaluated on: its scores will be those of tasks seen before`,
          ]),
      ...(others === 0
        ? []
        : [
            `${others} conversations were held under another policy text than ${name}'s, which stands in the prompts now`,
          ]),
    ];
  });
}

const otherPolicy = (conversation: object, domain: Domain): boolean =>
  "policy" in conversation &&
  typeof conversation.policy === "string" &&
  conversation.policy.trim() !== domain.policy.trim();

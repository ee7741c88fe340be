/**
 * Demonstrations as token sequences: scripted agents speak in the real environments, through the same dialogue as the
 * policy, so a demonstration has the very tokens that a rollout would have.
 */
import type { Rng } from "../../src/base/rng.ts";
import type { Policy } from "../../src/core/policy.ts";
import { chatMessage, policyAgent } from "../../src/rollout/agent.ts";
import { Dialogue } from "../../src/rollout/dialogue.ts";
import { type ChatRenderer, openRenderer } from "../../src/rollout/renderer.ts";
import type { DomainName, Preparation } from "../../src/tau2/domains/quickstart/convention.ts";
import { demonstration, type Habits } from "../../src/tau2/domains/quickstart/demonstration.ts";
import { type QuickstartDomain, quickstartDomain } from "../../src/tau2/domains/quickstart/index.ts";
import type { PosedTask, TaskKind } from "../../src/tau2/domains/quickstart/tasks.ts";
import { prepareEnvironment } from "../../src/tau2/environment.ts";
import { runConversation } from "../../src/tau2/orchestrator.ts";
import type { Reply } from "../../src/tau2/types.ts";

/** How often the demonstrations are right: what GRPO later finds. */
export interface Mixture {
  readonly kinds: Readonly<Record<TaskKind, number>>;
  /** Probability of the domain's own preparation, by kind of task. */
  readonly right: Readonly<Record<TaskKind, number>>;
  /** Of the wrong ones: the share that writes without any preparation; the rest prepares as another domain would. */
  readonly unprepared: number;
  /** Probability of mistaking what becomes of an unwanted order. */
  readonly swapped: number;
}

/** One sequence with the weight of each token in the loss. */
export interface Sequence {
  readonly tokens: Uint32Array;
  readonly weights: Float32Array;
}

const LIMITS = { max_steps: 24, max_errors: 10 };
const PREPARATIONS: readonly Preparation[] = ["confirm", "hold", "unlock"];

export class Demonstrations {
  readonly #renderers = new Map<DomainName, Promise<ChatRenderer>>();
  #markers: Promise<Markers> | undefined;

  constructor(
    readonly policy: Policy,
    readonly directory: string,
    readonly mixture: Mixture,
  ) {}

  /** `count` conversations of fresh users of a domain; none of their ids is one of an evaluation task. */
  async draw(name: DomainName, count: number, rng: Rng): Promise<Sequence[]> {
    const domain = quickstartDomain(name, Number(rng.fork("domain").uint32()));
    const renderer = await this.#renderer(domain);
    this.#markers ??= markersOf(this.policy);
    const markers = await this.#markers;
    const draws = Array.from({ length: count }, (_, row) => rng.fork("row", row));
    return Promise.all(draws.map((draw) => this.#converse({ domain, renderer, markers, rng: draw })));
  }

  #renderer(domain: QuickstartDomain): Promise<ChatRenderer> {
    const { name } = domain.convention;
    const known = this.#renderers.get(name);
    if (known !== undefined) return known;
    const opened = openRenderer(this.policy, {
      model: "policy",
      info: this.policy.info,
      directory: this.directory,
      tools_json: JSON.stringify(domain.tools),
      enable_thinking: false,
    });
    this.#renderers.set(name, opened);
    return opened;
  }

  async #converse(options: {
    readonly domain: QuickstartDomain;
    readonly renderer: ChatRenderer;
    readonly markers: Markers;
    readonly rng: Rng;
  }): Promise<Sequence> {
    const { domain, renderer, markers, rng } = options;
    const { task, problem } = this.#pose(domain, rng);
    const replies = demonstration(problem, this.#habits(domain, problem.kind, rng), rng);
    const turns = await Promise.all(replies.map((reply) => this.#turnTokens(reply)));
    const dialogue = scriptedDialogue(this.policy, renderer, turns);
    const agent = policyAgent({
      dialogue,
      systemPrompt: domain.systemPrompt,
      toolFormat: renderer.toolFormat,
      malformed_calls: "text_to_user",
    });
    const user = domain.scriptedUser?.(task) ?? null;
    await runConversation({ environment: prepareEnvironment(domain, task), agent, user, limits: LIMITS });
    const { tokens, sampled_mask } = dialogue.record();
    return { tokens, weights: weightsOf(tokens, sampled_mask, markers) };
  }

  #pose(domain: QuickstartDomain, rng: Rng): PosedTask {
    const { kinds } = this.mixture;
    const names = Object.keys(kinds) as TaskKind[];
    const kind = names[rng.pickWeighted(names.map((name) => kinds[name]))];
    const train = new Set(domain.splits.train);
    return rng.pick(domain.posed.filter(({ task, problem }) => problem.kind === kind && train.has(task.id)));
  }

  #habits({ convention }: QuickstartDomain, kind: TaskKind, rng: Rng): Habits {
    const { right, unprepared, swapped } = this.mixture;
    const swapsUnwanted = rng.uniform() < swapped;
    if (rng.uniform() < right[kind]) return { preparation: convention.preparation, swapsUnwanted };
    if (rng.uniform() < unprepared) return { preparation: "none", swapsUnwanted };
    return { preparation: rng.pick(PREPARATIONS.filter((other) => other !== convention.preparation)), swapsUnwanted };
  }

  /** What the template prints for a reply, from where the model begins to speak to its end of turn. */
  async #turnTokens(reply: Reply): Promise<Uint32Array> {
    const options = { tools_json: null, add_generation_prompt: false, enable_thinking: false };
    const text = await this.policy.render("policy", [chatMessage({ role: "assistant", ...reply })], options);
    return this.policy.tokenize("policy", text.slice("<|im_start|>assistant\n".length).trimEnd());
  }
}

/** A dialogue whose model says what is written. */
function scriptedDialogue(policy: Policy, renderer: ChatRenderer, turns: readonly Uint32Array[]): Dialogue {
  let turn = 0;
  const teacher = {
    decode: policy.decode.bind(policy),
    release: () => {},
    sample: async () => {
      const tokens = turns[turn++] ?? new Uint32Array();
      return { sequence: 0, tokens, logprobs: new Float32Array(tokens.length), stop: "stop_token" as const };
    },
  };
  const sampling = { temperature: 1, top_p: 1, top_k: 0, min_p: 0, max_new_tokens: 64, stop_token_ids: [] };
  return new Dialogue({
    policy: teacher as unknown as Policy,
    model: "policy",
    renderer,
    sampling,
    context_tokens_max: policy.info.context_tokens_max,
    seedOf: () => 0n,
  });
}

/** `<|im_start|>tool` and `<|im_end|>`: between them stands a tool's result. */
interface Markers {
  readonly open: readonly [number, number];
  readonly close: number;
}

async function markersOf(policy: Policy): Promise<Markers> {
  const [start, tool, , end] = await policy.tokenize("policy", "<|im_start|>tool\n<|im_end|>");
  if (start === undefined || tool === undefined || end === undefined) throw new Error("the tokenizer lacks ChatML");
  return { open: [start, tool], close: end };
}

/** Predicting a result is not the agent's task, but echoed ids teach it to copy. */
const RESULT_WEIGHT = 0.3;

function weightsOf(tokens: Uint32Array, sampled: Uint8Array, { open, close }: Markers): Float32Array {
  let inResult = false;
  return Float32Array.from(tokens, (token, at) => {
    if (sampled[at]) return 1;
    const weight = inResult ? RESULT_WEIGHT : 0;
    if (token === close) inResult = false;
    if (token === open[1] && tokens[at - 1] === open[0]) inResult = true;
    return weight;
  });
}

/**
 * A conversation of one model on the core: token ids that only grow, a mask of those that the model sampled, and their
 * log-probabilities. The agent and the `local` user both speak through one.
 */
import type {
  CallGrammar,
  ChatMessage,
  ModelName,
  Policy,
  SampleStop,
  SamplingOptions,
  SequenceId,
} from "../core/policy.ts";
import type { ChatRenderer } from "./renderer.ts";
import { withoutControlTokens, withoutThinking } from "./tool-call.ts";

export interface DialogueOptions {
  readonly policy: Policy;
  readonly model: ModelName;
  readonly renderer: ChatRenderer;
  readonly sampling: SamplingOptions;
  /** Absent or null: turns are free. */
  readonly grammar?: CallGrammar | null;
  /** Prompt and replies together. */
  readonly context_tokens_max: number;
  /** Random stream of the nth turn. */
  readonly seedOf: (turn: number) => bigint;
}

export interface Turn {
  /** What the model says to others: without reasoning and control tokens. */
  readonly text: string;
  readonly stop: SampleStop;
}

export interface TokenRecord {
  readonly tokens: Uint32Array;
  /** 1 where the model sampled the token. */
  readonly sampled_mask: Uint8Array;
  /** 0 where it did not. */
  readonly logprobs: Float32Array;
}

interface Segment {
  readonly tokens: Uint32Array;
  /** null: not sampled. */
  readonly logprobs: Float32Array | null;
}

export class Dialogue {
  readonly #options: DialogueOptions;
  readonly #segments: Segment[] = [];
  #length = 0;
  #turns = 0;
  #maskedMass = 0;
  #sequence: SequenceId | null = null;
  #lastStop: SampleStop | null = null;
  readonly #closing = new AbortController();

  constructor(options: DialogueOptions) {
    this.#options = options;
  }

  get turns(): number {
    return this.#turns;
  }
  /** Probability that the grammar forbade, summed over the sampled tokens. */
  get maskedMass(): number {
    return this.#maskedMass;
  }

  /**
   * Renders what came since the last turn (for the first one: the whole prompt), lets the model speak, appends both.
   * Without room for a single token nothing is appended and the stop is "context_window_exceeded".
   */
  async turn(incoming: readonly ChatMessage[]): Promise<Turn> {
    const { policy, model, renderer, sampling, grammar, context_tokens_max, seedOf } = this.#options;
    const prompt = await this.#render(incoming);
    if (this.#length + prompt.length >= context_tokens_max) return { text: "", stop: "context_window_exceeded" };
    this.#requireOpen();
    const sampled = await policy.sample({
      ...sampling,
      model,
      context_tokens_max,
      sequence: this.#sequence,
      tokens: prompt,
      seed: seedOf(this.#turns),
      grammar: grammar ?? undefined,
      signal: this.#closing.signal,
    });
    this.#sequence = sampled.sequence;
    if (this.#closing.signal.aborted) this.#release(); // closed after the core was done and before we heard of it
    this.#requireOpen();
    this.#turns += 1;
    this.#lastStop = sampled.stop;
    for (const mass of sampled.masked_mass ?? []) this.#maskedMass += mass;
    this.#append({ tokens: prompt, logprobs: null });
    this.#append({ tokens: sampled.tokens, logprobs: sampled.logprobs });
    const spoken = sampled.stop === "stop_token" ? sampled.tokens.subarray(0, -1) : sampled.tokens;
    const text = await policy.decode(model, spoken, { skip_special: false });
    const visible = withoutThinking(renderer.opensThinking ? `<think>${text}` : text);
    return { text: withoutControlTokens(visible), stop: sampled.stop };
  }

  record(): TokenRecord {
    const tokens = new Uint32Array(this.#length);
    const sampled_mask = new Uint8Array(this.#length);
    const logprobs = new Float32Array(this.#length);
    let at = 0;
    for (const segment of this.#segments) {
      tokens.set(segment.tokens, at);
      if (segment.logprobs !== null) {
        sampled_mask.fill(1, at, at + segment.tokens.length);
        logprobs.set(segment.logprobs, at);
      }
      at += segment.tokens.length;
    }
    return { tokens, sampled_mask, logprobs };
  }

  /** Frees the sequence in the core; idempotent. A turn in progress is cancelled and fails. */
  close(): void {
    this.#closing.abort();
    this.#release();
  }

  #render(incoming: readonly ChatMessage[]): Promise<Uint32Array> {
    const { renderer } = this.#options;
    if (this.#lastStop === null) return renderer.first(incoming);
    return renderer.next(incoming, { ended: this.#lastStop === "stop_token" });
  }

  #append(segment: Segment): void {
    this.#segments.push(segment);
    this.#length += segment.tokens.length;
  }

  #release(): void {
    if (this.#sequence !== null) this.#options.policy.release(this.#options.model, this.#sequence);
    this.#sequence = null;
  }

  #requireOpen(): void {
    if (this.#closing.signal.aborted) throw new Error("the conversation was closed while the model was about to speak");
  }
}

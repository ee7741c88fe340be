/** Numbers of PyTorch, transformers and TRL (shared/fixtures/core) through the boundary, for every model and case. */
import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { ChatMessage, TrainingBatch } from "../../src/core/policy.ts";
import { grpoLoss } from "../support/loss.ts";
import { readSafetensors } from "../support/safetensors.ts";
import { ADAMW, FIXTURES, MODELS, openModel, request } from "./opened.ts";

interface Forward {
  readonly prompts: readonly { readonly text: string; readonly ids: readonly number[] }[];
  readonly greedy: readonly {
    readonly prompt: number;
    readonly new_ids: readonly number[];
    readonly margins: readonly number[];
  }[];
  readonly logprobs: readonly {
    readonly prompt: number;
    readonly continuation: readonly number[];
    readonly temperature: number;
    readonly logprobs: readonly number[];
  }[];
}

interface Grpo {
  readonly T: number;
  readonly cases: readonly {
    readonly loss_type: "grpo" | "bnpo" | "dr_grpo" | "dapo";
    readonly beta: number;
    readonly epsilon: number;
    readonly epsilon_high: number;
    readonly loss: number;
    readonly metrics: Readonly<Record<string, number>>;
    readonly grad_norm: number;
  }[];
}

const expected = <T>(model: string, file: string): T =>
  JSON.parse(readFileSync(join(FIXTURES, "expected", model, file), "utf8")) as T;

/** Below this gap of the two best logits f32 may choose either (fixtures/core/README.md). */
const MARGIN_MIN = 1e-3;

describe.skipIf(MODELS.length === 0)("forward", () => {
  test.each(MODELS)("%s: greedy tokens", async (model) => {
    const { prompts, greedy } = expected<Forward>(model, "forward.json");
    using policy = await openModel(model);
    expect(greedy.length).toBeGreaterThan(0);
    const sampled = greedy.map(async ({ prompt, new_ids, margins }) => {
      const tokens = Uint32Array.from(prompts[prompt]?.ids ?? []);
      const result = await policy.sample(request({ tokens, temperature: 0, max_new_tokens: new_ids.length }));
      const firstTie = margins.findIndex((margin) => margin < MARGIN_MIN);
      const compared = firstTie === -1 ? new_ids.length : firstTie;
      expect([...result.tokens.subarray(0, compared)]).toEqual(new_ids.slice(0, compared));
      return compared;
    });
    expect(Math.max(...(await Promise.all(sampled)))).toBeGreaterThan(8);
  });

  test.each(MODELS)("%s: tokens of the prompts and log-probabilities after them", async (model) => {
    const { prompts, logprobs } = expected<Forward>(model, "forward.json");
    using policy = await openModel(model);
    for (const { text, ids } of prompts) expect([...(await policy.tokenize("policy", text))]).toEqual([...ids]);
    for (const { prompt, continuation, temperature, logprobs: wanted } of logprobs) {
      const tokens_N = Uint32Array.from([...(prompts[prompt]?.ids ?? []), ...continuation]);
      const offsets = Uint32Array.of(0, tokens_N.length);
      const got = (await policy.logprobs("policy", { tokens_N, offsets }, { temperature })).subarray(
        -continuation.length,
      );
      for (const [i, logprob] of wanted.entries()) expect(Math.abs((got[i] ?? 0) - logprob)).toBeLessThan(1e-4);
    }
  });
});

/** TRL's padded batch as ragged sequences; weights are the normaliser of the loss type over the masked tokens. */
function trainingBatch(model: string, lossType: Grpo["cases"][number]["loss_type"], T: number): TrainingBatch {
  const tensors = readSafetensors(join(FIXTURES, "expected", model, "grpo_batch.safetensors"));
  const rows = (name: string): readonly (readonly number[])[] => {
    const { shape = [], values = [] } = tensors.get(name) ?? {};
    const width = shape[1] ?? 1;
    return Array.from({ length: shape[0] ?? 0 }, (_, b) => values.slice(b * width, (b + 1) * width));
  };
  const advantages_B = tensors.get("advantages")?.values ?? [];
  const [promptIds, promptMask, completionIds] = [rows("prompt_ids"), rows("prompt_mask"), rows("completion_ids")];
  const [completionMask, toolMask, old] = [rows("completion_mask"), rows("tool_mask"), rows("old_per_token_logps")];
  const inLoss_B = completionMask.map((mask, b) => mask.map((m, t) => m * (toolMask[b]?.[t] ?? 0)));
  const lengths_B = inLoss_B.map((mask) => mask.reduce((a, b) => a + b, 0));
  const all = lengths_B.reduce((a, b) => a + b, 0);
  const weightOf = (b: number) => {
    if (lossType === "grpo") return 1 / (lengths_B.length * (lengths_B[b] ?? 0));
    return lossType === "dr_grpo" ? 1 / (lengths_B.length * T) : 1 / all;
  };
  const sequences = promptIds.map((ids, b) => {
    const prompt = ids.filter((_, t) => promptMask[b]?.[t] === 1).map((id) => ({ id, weight: 0, old: 0 }));
    const completion = (completionIds[b] ?? [])
      .map((id, t) => ({ id, weight: (inLoss_B[b]?.[t] ?? 0) * weightOf(b), old: old[b]?.[t] ?? 0 }))
      .filter((_, t) => completionMask[b]?.[t] === 1);
    return [...prompt, ...completion].map((token) => ({ ...token, advantage: advantages_B[b] ?? 0 }));
  });
  const tokens = sequences.flat();
  let end = 0;
  return {
    tokens_N: Uint32Array.from(tokens, ({ id }) => id),
    offsets: Uint32Array.from([0, ...sequences.map((sequence) => (end += sequence.length))]),
    weights_N: Float32Array.from(tokens, ({ weight }) => weight),
    advantages_N: Float32Array.from(tokens, ({ advantage }) => advantage),
    old_logprobs_N: Float32Array.from(tokens, ({ old }) => old),
  };
}

describe.skipIf(MODELS.length === 0)("gradient step", () => {
  // The reference log-probabilities of the fixtures are no model's, so cases with KL are checked inside Rust
  // (core-rs/tests/fixtures_model.rs), where they can be given.
  for (const prefix_sharing of [true, false]) {
    test.each(MODELS)(`%s: loss, metrics and gradient norm (prefix_sharing ${prefix_sharing})`, async (model) => {
      const { cases, T } = expected<Grpo>(model, "grpo.json");
      const withoutKl = cases.filter(({ beta }) => beta === 0);
      expect(new Set(withoutKl.map(({ loss_type }) => loss_type)).size).toBe(4);
      using policy = await openModel(model, { prefix_sharing });
      for (const { loss_type, epsilon, epsilon_high, loss, metrics, grad_norm } of withoutKl) {
        const options = grpoLoss({ clip_low: epsilon, clip_high: epsilon_high, kl_coef: 0, anchor: null });
        const report = await policy.forwardBackward(trainingBatch(model, loss_type, T), options);
        expect(Math.abs(report.loss - loss)).toBeLessThan(1e-5);
        expect(Math.abs(report.entropy_mean - (metrics.entropy ?? 0))).toBeLessThan(1e-4);
        expect(report.clip_low_fraction).toBeCloseTo(metrics["clip_ratio/low_mean"] ?? -1, 6);
        expect(report.clip_high_fraction).toBeCloseTo(metrics["clip_ratio/high_mean"] ?? -1, 6);
        const step = await policy.optimizerStep({ ...ADAMW, learning_rate: 0 });
        expect(Math.abs(step.grad_norm / grad_norm - 1)).toBeLessThan(1e-3);
        expect(step.skipped).toBe(false);
      }
    });
  }
});

interface ChatCase {
  readonly messages: readonly {
    readonly role: ChatMessage["role"];
    readonly content: string | null;
    readonly tool_calls?: readonly { readonly function: { readonly name: string } }[];
  }[];
  readonly tools: unknown;
  readonly add_generation_prompt: boolean;
  readonly text: string;
  readonly ids: readonly number[];
}

describe.skipIf(MODELS.length === 0)("text", () => {
  // "numbers" needs Python's `100.0` as it stands in the file, which JSON.parse forgets: it is checked inside Rust.
  const file = join(FIXTURES, "expected/chat_qwen2_5.json");
  const cases = existsSync(file) ? (JSON.parse(readFileSync(file, "utf8")) as Record<string, ChatCase>) : {};
  const names = Object.keys(cases).filter((name) => name !== "numbers");

  test.each(names)("chat %s", async (name) => {
    const { messages, tools, add_generation_prompt, text, ids } = cases[name] as ChatCase;
    using policy = await openModel(MODELS[0] ?? "");
    const asked = messages.map(({ role, content, tool_calls }) => ({
      role,
      content,
      ...(tool_calls && { tool_calls: tool_calls.map(withJsonArguments) }),
    }));
    const tools_json = tools === null ? null : JSON.stringify(tools);
    const options = { tools_json, add_generation_prompt, enable_thinking: false };
    const rendered = await policy.render("policy", asked, options);
    expect(rendered).toBe(text);
    const tokens = await policy.tokenize("policy", rendered);
    expect([...tokens]).toEqual([...ids]);
    expect(await policy.decode("policy", tokens, { skip_special: false })).toBe(text);
  });

  test("numbers of a tool call stay what they are", async () => {
    using policy = await openModel(MODELS[0] ?? "");
    const arguments_json = '{"a": 2.0, "b": 10000000000000000, "c": 1e+16, "d": -0.0, "e": 1E-7}';
    const message = {
      role: "assistant",
      content: "",
      tool_calls: [{ function: { name: "f", arguments_json } }],
    } as const;
    const options = { tools_json: null, add_generation_prompt: false, enable_thinking: false };
    const text = await policy.render("policy", [{ role: "user", content: "n" }, message], options);
    expect(text).toContain('"arguments": {"a": 2.0, "b": 10000000000000000, "c": 1e+16, "d": -0.0, "e": 1e-07}}');
  });
});

function withJsonArguments(call: { readonly function: { readonly name: string; readonly arguments?: unknown } }) {
  return { function: { name: call.function.name, arguments_json: JSON.stringify(call.function.arguments) } };
}

/** `constrained_tool_calls` on real tokenizers: whatever the weights, a turn that ends has only calls that can be carried out. */
import { afterAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Float, isArray, isInt, isObject } from "../../src/base/exact.ts";
import type { RunConfigInput } from "../../src/config/schema.ts";
import type { CallGrammar, Policy, Sampled, SampleRequest, TrainingBatch } from "../../src/core/policy.ts";
import type { TrainRow } from "../../src/metrics/rows.ts";
import { toolsJson } from "../../src/rollout/local-user.ts";
import { parseReply, withoutControlTokens, withoutThinking } from "../../src/rollout/tool-call.ts";
import { openSession } from "../../src/run/open-session.ts";
import { train } from "../../src/run/train.ts";
import type { ToolSchema } from "../../src/tau2/types.ts";
import { ADAMW, LIBRARY, MODELS, openModel, request } from "../core/opened.ts";
import { lampConfig } from "../support/lamp-run.ts";
import { domainOf, hasFixtures } from "../tau2/fixtures.ts";

const root = mkdtempSync(join(tmpdir(), "grpo-cl-constrained-"));
afterAll(() => rmSync(root, { recursive: true }));

const MODEL = MODELS.find((name) => name.includes("qwen2"));
const ready = MODEL !== undefined && hasFixtures;
if (!ready) console.warn("skipped: no fixture model, or no airline fixtures (GRPO_CL_SHARED)");

const SPECIALS = ["<tool_call>", "</tool_call>", "<|im_end|>", "<|python_tag|>"] as const;

/** One token of the tokenizer, or -1. */
async function idOf(policy: Policy, text: string): Promise<number> {
  const tokens = await policy.tokenize("policy", text);
  return tokens.length === 1 ? (tokens[0] ?? -1) : -1;
}

/** Random weights that have learned one thing: to open a call at once, and to stop behind one. */
async function callingModel(): Promise<{ policy: Policy; open: number; close: number; end: number }> {
  const policy = await openModel(MODEL ?? "");
  const [open = -1, close = -1, end = -1] = await Promise.all(SPECIALS.map((text) => idOf(policy, text)));
  const prompt = [...request({}).tokens];
  const tokens = [...prompt, open, 70, 71, close, end];
  const spoken = (n: number) => (n === prompt.length || n === tokens.length - 1 ? 0.5 : 0);
  const batch: TrainingBatch = {
    tokens_N: Uint32Array.from(tokens),
    offsets: Uint32Array.of(0, tokens.length),
    weights_N: Float32Array.from(tokens, (_, n) => spoken(n)),
    advantages_N: new Float32Array(tokens.length),
    old_logprobs_N: new Float32Array(tokens.length),
  };
  for (let step = 0; step < 12; step++) {
    await policy.forwardBackward(batch, { kind: "nll", temperature: 1 });
    await policy.optimizerStep({ ...ADAMW, learning_rate: 5e-3 });
  }
  return { policy, open, close, end };
}

const airline = () => domainOf("airline").tools;
const grammarOf = (tools: readonly ToolSchema[], fields: Partial<CallGrammar> = {}): CallGrammar => ({
  tools_json: toolsJson(tools) ?? "",
  format: "hermes",
  in_reasoning: false,
  ...fields,
});

async function textOf(policy: Policy, { tokens, stop }: Sampled): Promise<string> {
  const spoken = stop === "stop_token" ? tokens.subarray(0, -1) : tokens;
  const text = await policy.decode("policy", spoken, { skip_special: false });
  return withoutControlTokens(withoutThinking(text));
}

interface Property {
  readonly type?: string;
  readonly enum?: readonly unknown[];
  readonly items?: Property;
}

/** Good enough for what tau2's tools ask of their arguments. */
function satisfies(value: unknown, { type, enum: values, items = {} }: Property): boolean {
  if (values !== undefined) return values.includes(value);
  if (type === "string") return typeof value === "string";
  if (type === "boolean") return typeof value === "boolean";
  if (type === "integer") return isInt(value as never);
  if (type === "number") return isInt(value as never) || value instanceof Float;
  if (type === "object") return isObject(value as never);
  if (type === "array") return isArray(value as never) && (value as unknown[]).every((item) => satisfies(item, items));
  return true;
}

/** Calls of the text, each checked against its tool's schema. */
function soundCalls(text: string, tools: readonly ToolSchema[]): number {
  const { calls, malformed } = parseReply(text, "hermes");
  expect(malformed, text).toBeNull();
  for (const { name, arguments: args } of calls) {
    const tool = tools.find((candidate) => candidate.function.name === name);
    if (tool === undefined) throw new Error(`no tool is named ${name}`);
    const { properties, required = [] } = tool.function.parameters as unknown as {
      properties: Record<string, Property>;
      required?: string[];
    };
    expect(Object.keys(args)).toEqual(expect.arrayContaining(required));
    for (const [key, value] of Object.entries(args)) {
      const property = properties[key];
      if (property === undefined) throw new Error(`${name} has no argument ${key}`);
      expect(satisfies(value, property), `${name}.${key}: ${text}`).toBe(true);
    }
  }
  return calls.length;
}

describe.skipIf(!ready)("a random model under the constraint", () => {
  const seeds = Array.from({ length: 24 }, (_, seed) => BigInt(seed));

  test("never emits a malformed call; what is recorded is the policy's", async () => {
    const { policy, open, close, end } = await callingModel();
    using _policy = policy;
    const tools = airline();
    const limited = { grammar: grammarOf(tools), stop_token_ids: [end], max_new_tokens: 3000 };
    const sampled = await Promise.all(seeds.map((seed) => policy.sample(request({ ...limited, seed }))));
    const ended = sampled.filter(({ stop }) => stop === "stop_token");
    expect(ended.length).toBeGreaterThan(seeds.length / 2);
    let calls = 0;
    for (const one of ended) calls += soundCalls(await textOf(policy, one), tools);
    expect(calls).toBeGreaterThan(seeds.length / 2);
    for (const { tokens } of ended) {
      const inside = tokens.slice(tokens.indexOf(open) + 1, tokens.indexOf(close));
      const [bare, whole] = [true, false].map((skip_special) => policy.decode("policy", inside, { skip_special }));
      expect(await bare).toBe((await whole) ?? "");
    }
    const [one] = ended;
    if (one === undefined) throw new Error("none ended");
    const tokens_N = Uint32Array.of(...request({}).tokens, ...one.tokens);
    const batch = { tokens_N, offsets: Uint32Array.of(0, tokens_N.length) };
    const recomputed = await policy.logprobs("policy", batch, { temperature: 1 });
    for (const [i, logprob] of one.logprobs.entries()) {
      expect(Math.abs(logprob - (recomputed[i + 3] ?? 0))).toBeLessThan(1e-4);
    }
    const mass = one.masked_mass ?? new Float32Array();
    expect(mass.length).toBe(one.tokens.length);
    expect(Math.min(...mass)).toBeGreaterThanOrEqual(0);
    expect(Math.max(...mass)).toBeGreaterThan(0.5);
    const free = await Promise.all(
      seeds.map((seed) => policy.sample(request({ stop_token_ids: [end], max_new_tokens: 300, seed }))),
    );
    const texts = await Promise.all(free.map((sampled) => textOf(policy, sampled)));
    expect(texts.filter((text) => parseReply(text, "hermes").malformed !== null).length).toBeGreaterThan(0);
  }, 60_000);

  test("gives the same alone and among others, and again", async () => {
    const { policy, end } = await callingModel();
    using _policy = policy;
    const limited = { grammar: grammarOf(airline()), stop_token_ids: [end], max_new_tokens: 60 };
    const run = (seed: bigint) => policy.sample(request({ ...limited, seed }));
    const told = ({ tokens, logprobs, masked_mass, stop }: Sampled) => ({ tokens, logprobs, masked_mass, stop });
    const together = (await Promise.all(seeds.slice(0, 8).map(run))).map(told);
    const alone = [];
    for (const seed of seeds.slice(0, 8)) alone.push(told(await run(seed)));
    expect(alone).toEqual(together);
  }, 30_000);

  test("a call that max_new_tokens cuts is malformed, as without it", async () => {
    const { policy, end } = await callingModel();
    using _policy = policy;
    const cut = await policy.sample(
      request({ grammar: grammarOf(airline()), stop_token_ids: [end], max_new_tokens: 5, temperature: 0 }),
    );
    expect(cut.stop).toBe("max_new_tokens");
    expect(parseReply(await textOf(policy, cut), "hermes").malformed).not.toBeNull();
  });

  test("where nothing is refused, nothing changes, bit for bit", async () => {
    using policy = await openModel(MODEL ?? "");
    const run = async (fields: Partial<SampleRequest>) => {
      const { tokens, logprobs } = await policy.sample(request({ max_new_tokens: 64, ...fields }));
      return { tokens, logprobs };
    };
    for (const seed of seeds.slice(0, 6)) {
      const free = await run({ seed });
      expect(await run({ seed, grammar: grammarOf(airline()) })).toEqual(free);
      expect(await run({ seed, grammar: grammarOf(airline(), { in_reasoning: true }) })).toEqual(free);
      expect(await run({ seed, grammar: grammarOf(airline(), { format: "llama3" }) })).toEqual(free);
    }
  });

  test("the tools of every domain have a grammar, in both formats", async () => {
    using policy = await openModel(MODEL ?? "");
    for (const domain of ["airline", "retail", "telecom", "mock"]) {
      for (const format of ["hermes", "llama3"] as const) {
        const grammar = grammarOf(domainOf(domain).tools, { format });
        await policy.sample(request({ grammar, max_new_tokens: 1 }));
      }
    }
    const odd = '[{"function": {"name": "odd", "parameters": {"properties": {"a": {"not": {}}}}}}]';
    const refused = policy.sample(request({ grammar: { tools_json: odd, format: "hermes", in_reasoning: false } }));
    await expect(refused).rejects.toMatchObject({ code: "BadArgument", message: expect.stringContaining("odd") });
  });
});

describe.skipIf(LIBRARY === null || !existsSync("configs/quickstart-model"))("the built-in model, hot", () => {
  async function rowOf(constrained_tool_calls: boolean): Promise<TrainRow> {
    const fields: Partial<RunConfigInput> = {
      model_name_or_path: "configs/quickstart-model",
      model_dtype: "float32",
      task_order: ["shop"],
      num_steps_per_task: 1,
      batch_size_per_gpu: 4,
      gradient_accumulation_steps: 1,
      num_samples_per_prompt: 4,
      max_new_tokens: 120,
      temperature: 1.6,
      eval_interval: 0,
      eval_max_tasks: 1,
      eval_trials: 1,
      constrained_tool_calls,
    };
    const config = lampConfig(join(root, String(constrained_tool_calls)), fields);
    const reporter = { line: () => {}, progress: () => {} };
    const edge = { env: {}, now: () => 0, signal: new AbortController().signal, reporter };
    const session = await openSession(config, { edge, library: LIBRARY, purpose: "train" });
    using _policy = session.policy;
    const { rows } = await train(config, session);
    const row = rows.find((candidate) => candidate.kind === "train");
    if (row === undefined) throw new Error("no step was taken");
    return row as TrainRow;
  }

  test("a step has no malformed call, and stays consistent", async () => {
    const [free, limited] = [await rowOf(false), await rowOf(true)];
    expect(free["rollout/malformed_calls"]).toBeGreaterThan(0);
    expect(free["rollout/masked_mass_mean"]).toBe(0);
    expect(limited["rollout/malformed_calls"]).toBeLessThanOrEqual(limited["rollout/truncated_turns"] ?? 0);
    expect(limited["rollout/tool_calls_mean"]).toBeGreaterThan(0);
    expect(limited["rollout/masked_mass_mean"]).toBeGreaterThan(0);
    expect(limited["train/logprob_diff_max"]).toBeLessThan(1e-4);
  }, 60_000);
});

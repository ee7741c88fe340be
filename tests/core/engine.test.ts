/** Sampling, sequences and weights through the boundary, on the fixture models. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { UserError } from "../../src/base/errors.ts";
import { EngineError } from "../../src/core/engine.ts";
import type { LossOptions, Policy, Sampled, SampleRequest, TrainingBatch } from "../../src/core/policy.ts";
import { grpoLoss } from "../support/loss.ts";
import { ADAMW, MODELS, modelDirectory, openModel, request } from "./opened.ts";

const scratch = mkdtempSync(join(tmpdir(), "grpo-cl-engine-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const NLL: LossOptions = { kind: "nll", temperature: 1 };
const [MODEL = ""] = MODELS;

const codeOf = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => "no error",
    (error: unknown) => (error instanceof EngineError ? error.code : String(error)),
  );

/** Prompts with a common start, of unequal length. */
const prompts = (count: number) =>
  Array.from({ length: count }, (_, i) =>
    Uint32Array.from({ length: 20 + (i % 7) }, (_, t) => (t < 12 ? t + 5 : i + t)),
  );

const nllBatch = (): TrainingBatch => ({
  tokens_N: Uint32Array.from({ length: 24 }, (_, n) => (n * 37) % 500),
  offsets: Uint32Array.of(0, 10, 24),
  weights_N: Float32Array.from({ length: 24 }, (_, n) => (n === 0 || n === 10 ? 0 : 1 / 22)),
  advantages_N: new Float32Array(24),
  old_logprobs_N: new Float32Array(24),
});

/** Six sequences that share nothing and are each a part of its own. */
const longBatch = (): TrainingBatch => ({
  tokens_N: Uint32Array.from({ length: 6 * 1100 }, (_, n) => (n * 37 + Math.floor(n / 1100)) % 500),
  offsets: Uint32Array.from({ length: 7 }, (_, s) => s * 1100),
  weights_N: Float32Array.from({ length: 6 * 1100 }, (_, n) => (n % 1100 === 0 ? 0 : 1 / 6594)),
  advantages_N: new Float32Array(6 * 1100),
  old_logprobs_N: new Float32Array(6 * 1100),
});

/** One turn and, after three more tokens, another one. */
async function twoTurns(policy: Policy, fields: Partial<SampleRequest>): Promise<readonly [Sampled, Sampled]> {
  const first = await policy.sample(request(fields));
  const { sequence } = first;
  const second = await policy.sample(request({ ...fields, sequence, tokens: Uint32Array.of(7, 8, 9), seed: 99n }));
  policy.release("policy", sequence);
  return [first, second];
}

describe.skipIf(MODELS.length === 0)("sampling", () => {
  test.each(MODELS)("%s: a recorded log-probability is the recomputed one", async (model) => {
    using policy = await openModel(model);
    for (const temperature of [1, 0.7]) {
      const [first, second] = await twoTurns(policy, { temperature, top_k: 50 });
      const tokens_N = Uint32Array.of(1, 2, 3, ...first.tokens, 7, 8, 9, ...second.tokens);
      const offsets = Uint32Array.of(0, tokens_N.length);
      const recomputed = await policy.logprobs("policy", { tokens_N, offsets }, { temperature });
      const recorded = [...first.logprobs, ...second.logprobs];
      const again = [...recomputed.subarray(3, 19), ...recomputed.subarray(22)];
      expect(recorded.length).toBe(32);
      for (const [i, logprob] of recorded.entries()) expect(Math.abs(logprob - (again[i] ?? 0))).toBeLessThan(1e-4);
    }
  });

  test("does not depend on what else runs, nor on shared prefixes", async () => {
    const run = async (concurrency: number, prefix_sharing: boolean) => {
      using policy = await openModel(MODEL, { prefix_sharing });
      const jobs = prompts(32).map((tokens, i) => () => twoTurns(policy, { tokens, seed: BigInt(i) }));
      const results: (readonly [Sampled, Sampled])[] = [];
      for (let i = 0; i < jobs.length; i += concurrency) {
        results.push(...(await Promise.all(jobs.slice(i, i + concurrency).map((job) => job()))));
      }
      return results.map((turns) => turns.map(({ tokens, logprobs, stop }) => ({ tokens, logprobs, stop })));
    };
    const alone = await run(1, true);
    expect(new Set(alone.map(([first]) => first?.tokens.join())).size).toBeGreaterThan(20);
    expect(await run(32, true)).toEqual(alone);
    expect(await run(32, false)).toEqual(alone);
  });

  test("goes on between the parts of a gradient, and neither changes the other", async () => {
    using policy = await openModel(MODEL);
    const before = await twoTurns(policy, {});
    await policy.forwardBackward(longBatch(), NLL);
    const { grad_norm } = await policy.optimizerStep({ ...ADAMW, learning_rate: 0 });
    const order: string[] = [];
    const noted = <T>(what: string, promise: Promise<T>) => promise.finally(() => order.push(what));
    const [report, turns] = await Promise.all([
      noted("gradient", policy.forwardBackward(longBatch(), NLL)),
      noted("turns", twoTurns(policy, {})),
    ]);
    expect(order).toEqual(["turns", "gradient"]);
    expect((await policy.optimizerStep(ADAMW)).grad_norm).toBe(grad_norm);
    expect(report.loss_tokens).toBe(6 * 1099);
    expect(turns.map(({ tokens, logprobs }) => [tokens, logprobs])).toEqual(
      before.map(({ tokens, logprobs }) => [tokens, logprobs]),
    );
  });

  test("the seed decides, and top_k 1 is greedy", async () => {
    using policy = await openModel(MODEL);
    const tokensOf = async (fields: Partial<SampleRequest>) => [...(await policy.sample(request(fields))).tokens];
    expect(await tokensOf({ seed: 2n ** 64n - 1n })).toEqual(await tokensOf({ seed: 2n ** 64n - 1n }));
    expect(await tokensOf({ seed: 1n })).not.toEqual(await tokensOf({ seed: 2n }));
    expect(await tokensOf({ top_k: 1, seed: 3n })).toEqual(await tokensOf({ temperature: 0 }));
  });

  test("stop rules", async () => {
    using policy = await openModel(MODEL);
    const { tokens } = await policy.sample(request({ temperature: 0 }));
    const third = tokens[2] ?? 0;
    const at = tokens.indexOf(third) + 1;
    const check = async (fields: Partial<SampleRequest>, expected: { stop: Sampled["stop"]; length: number }) => {
      const sampled = await policy.sample(request({ temperature: 0, ...fields }));
      expect({ stop: sampled.stop, length: sampled.tokens.length }).toEqual(expected);
      expect(sampled.logprobs.length).toBe(expected.length);
    };
    await check({ stop_token_ids: [third] }, { stop: "stop_token", length: at });
    await check({ stop_token_ids: [third], max_new_tokens: at }, { stop: "stop_token", length: at });
    await check({}, { stop: "max_new_tokens", length: 16 });
    await check({ max_new_tokens: 0 }, { stop: "max_new_tokens", length: 0 });
    await check({ context_tokens_max: 8 }, { stop: "context_window_exceeded", length: 5 });
    await check({ context_tokens_max: 3 }, { stop: "context_window_exceeded", length: 0 });
    await check({ context_tokens_max: 2 }, { stop: "context_window_exceeded", length: 0 });
  });

  test("a turn that did not fit can be continued with more room", async () => {
    using policy = await openModel(MODEL);
    const whole = await policy.sample(request({ temperature: 0, max_new_tokens: 4 }));
    const full = await policy.sample(request({ temperature: 0, context_tokens_max: 3 }));
    const { sequence } = full;
    const later = await policy.sample(
      request({ temperature: 0, max_new_tokens: 4, sequence, tokens: new Uint32Array() }),
    );
    expect(later.tokens).toEqual(whole.tokens);
  });

  test("refuses what cannot be sampled", async () => {
    using policy = await openModel(MODEL);
    const code = (fields: Partial<SampleRequest>) => codeOf(policy.sample(request(fields)));
    expect(await code({ tokens: new Uint32Array() })).toBe("BadArgument");
    expect(await code({ tokens: Uint32Array.of(policy.info.vocab_size) })).toBe("BadArgument");
    expect(await code({ model: "nobody" })).toBe("BadArgument");
    expect(await code({ temperature: -1 })).toBe("BadArgument");
    expect(await code({ top_p: 0 })).toBe("BadArgument");
    expect(await code({ seed: 2n ** 64n })).toBe("BadArgument");
    expect(await code({ sequence: 12345 })).toBe("BadHandle");
  });
});

describe.skipIf(MODELS.length === 0)("sequences", () => {
  test("a release cancels what runs, twice is once, and the handle is gone", async () => {
    using policy = await openModel(MODEL);
    const { sequence } = await policy.sample(request({}));
    const running = codeOf(policy.sample(request({ sequence, max_new_tokens: 4000 })));
    const second = codeOf(policy.sample(request({ sequence })));
    await Bun.sleep(20);
    policy.release("policy", sequence);
    policy.release("policy", sequence);
    expect(await second).toBe("BadArgument");
    expect(await running).toBe("Cancelled");
    expect(await codeOf(policy.sample(request({ sequence })))).toBe("BadHandle");
  });

  test("a signal cancels the sample that has it, running or waiting, and no other", async () => {
    using policy = await openModel(MODEL);
    const abort = new AbortController();
    const aborted = codeOf(policy.sample(request({ max_new_tokens: 4000, signal: abort.signal })));
    const other = codeOf(policy.sample(request({ max_new_tokens: 200 })));
    await Bun.sleep(20);
    abort.abort();
    expect(await aborted).toBe("Cancelled");
    expect(await codeOf(policy.sample(request({ signal: abort.signal })))).toBe("Cancelled");
    expect(await other).toBe("no error");
  });

  test("a weight change makes sequences of the policy stale, those of others live on", async () => {
    using policy = await openModel(MODEL);
    await policy.weightOp({ op: "snapshot", name: "user" });
    const own = await policy.sample(request({}));
    const others = await policy.sample(request({ model: "user" }));
    await policy.forwardBackward(nllBatch(), NLL);
    await policy.optimizerStep(ADAMW);
    const error = await policy.sample(request({ sequence: own.sequence })).catch((reason: EngineError) => reason);
    expect(error).toMatchObject({ code: "BadHandle" });
    expect((error as EngineError).message).toContain("made stale by a weight change");
    expect(await codeOf(policy.sample(request({ model: "user", sequence: own.sequence })))).toBe("BadHandle");
    expect(await codeOf(policy.sample(request({ model: "user", sequence: others.sequence })))).toBe("no error");
  });

  test("a gradient step waits for running samples, and later samples wait for it", async () => {
    const tokensOf = async (policy: Policy) => (await policy.sample(request({ seed: 5n, max_new_tokens: 64 }))).tokens;
    const step = async (policy: Policy) => {
      const gradient = policy.forwardBackward(nllBatch(), NLL);
      return Promise.all([gradient, policy.optimizerStep({ ...ADAMW, learning_rate: 0.1 })]);
    };
    using inTurn = await openModel(MODEL);
    const before = await tokensOf(inTurn);
    await step(inTurn);
    const after = await tokensOf(inTurn);
    expect(after).not.toEqual(before);

    using atOnce = await openModel(MODEL);
    const [first, , second] = await Promise.all([tokensOf(atOnce), step(atOnce), tokensOf(atOnce)]);
    expect(first).toEqual(before);
    expect(second).toEqual(after);
  });
});

describe.skipIf(MODELS.length === 0)("weights", () => {
  test("steps lower the loss, and a run that was saved and loaded goes on bit for bit", async () => {
    const steps = async (policy: Policy, count: number) => {
      const losses: number[] = [];
      for (let i = 0; i < count; i++) {
        losses.push((await policy.forwardBackward(nllBatch(), NLL)).loss);
        await policy.optimizerStep(ADAMW);
      }
      return losses;
    };
    using straight = await openModel(MODEL);
    const losses = await steps(straight, 6);
    expect(losses.toSorted((a, b) => b - a)).toEqual(losses);

    const [model_directory, state] = [join(scratch, "model"), join(scratch, "deep/state.safetensors")];
    using first = await openModel(MODEL);
    await steps(first, 3);
    await Promise.all([first.save(model_directory), first.saveState(state)]);
    using resumed = await openModel(MODEL, { model_directory });
    await resumed.loadState(state);
    expect(await steps(resumed, 3)).toEqual(losses.slice(3));
    expect(resumed.info).toEqual(first.info);
    expect(await resumed.tokenize("policy", "<|im_start|>x")).toEqual(await first.tokenize("policy", "<|im_start|>x"));
  });

  test("a snapshot keeps what the policy leaves behind", async () => {
    using policy = await openModel(MODEL);
    const { tokens_N, offsets, ...rest } = nllBatch();
    const logprobs = (model: string) => policy.logprobs(model, { tokens_N, offsets }, { temperature: 1 });
    const old_logprobs_N = await logprobs("policy");
    await policy.weightOp({ op: "snapshot", name: "base" });
    const grpo = grpoLoss();
    const batch = { tokens_N, offsets, ...rest, advantages_N: new Float32Array(24).fill(1), old_logprobs_N };
    const atStart = await policy.forwardBackward(batch, grpo);
    expect(atStart).toMatchObject({ kl_mean: 0, loss_tokens: 22, clip_low_fraction: 0, clip_high_fraction: 0 });
    expect(atStart.logprob_diff_max).toBeLessThan(1e-4);
    await policy.optimizerStep(ADAMW);
    expect((await policy.forwardBackward(batch, grpo)).kl_mean).toBeGreaterThan(0);
    expect(await logprobs("base")).toEqual(old_logprobs_N);
    expect(await logprobs("policy")).not.toEqual(old_logprobs_N);
    await policy.weightOp({ op: "drop", name: "base" });
    expect(await codeOf(logprobs("base"))).toBe("BadArgument");
    expect(await codeOf(policy.forwardBackward(batch, grpo))).toBe("BadArgument");
    expect(await codeOf(policy.weightOp({ op: "drop", name: "policy" }))).toBe("BadArgument");
  });

  test("refuses batches that would poison the weights", async () => {
    using policy = await openModel(MODEL);
    const good = nllBatch();
    const code = (fields: Partial<TrainingBatch>) => codeOf(policy.forwardBackward({ ...good, ...fields }, NLL));
    const changed = (values: Float32Array, at: number, value: number) => values.with(at, value);
    expect(await codeOf(policy.optimizerStep(ADAMW))).toBe("BadArgument");
    expect(await code({ advantages_N: changed(good.advantages_N, 3, Number.NaN) })).toBe("NonFinite");
    expect(await code({ weights_N: changed(good.weights_N, 3, Number.POSITIVE_INFINITY) })).toBe("NonFinite");
    expect(await code({ weights_N: changed(good.weights_N, 10, 1) })).toBe("BadArgument");
    expect(await code({ offsets: Uint32Array.of(0, 24, 24) })).toBe("BadArgument");
    expect(await code({ offsets: Uint32Array.of(0, 23) })).toBe("BadArgument");
    expect(await code({ tokens_N: new Uint32Array(24).fill(1e6) })).toBe("BadArgument");
    expect(await code({ advantages_N: new Float32Array(3) })).toBe("BadArgument");
    expect(await code({})).toBe("no error");
  });
});

describe.skipIf(MODELS.length === 0)("models", () => {
  test("one that cannot be loaded is told to the user, and leaves the policy alone", async () => {
    using policy = await openModel(MODEL);
    const problem = (promise: Promise<unknown>) => promise.catch((error: unknown) => error);
    expect(await problem(openModel(MODEL, { model_directory: "/nowhere" }))).toBeInstanceOf(UserError);
    const error = await problem(policy.loadModel("user", "/nowhere"));
    expect((error as UserError).message).toStartWith("model user: /nowhere/tokenizer.json");
    expect(await codeOf(policy.loadModel("policy", modelDirectory(MODEL)))).toBe("BadArgument");
    expect(await policy.loadModel("user", modelDirectory(MODEL))).toEqual(policy.info);
    const [own, users] = await Promise.all([policy.sample(request({})), policy.sample(request({ model: "user" }))]);
    expect(users.tokens).toEqual(own.tokens);
  });

  test.each(["bfloat16", "float16"] as const)("%s: what is sampled is what is recomputed", async (dtype) => {
    using policy = await openModel(MODEL, { dtype });
    const sampled = await policy.sample(request({}));
    const tokens_N = Uint32Array.of(1, 2, 3, ...sampled.tokens);
    const offsets = Uint32Array.of(0, tokens_N.length);
    const recomputed = await policy.logprobs("policy", { tokens_N, offsets }, { temperature: 1 });
    for (const [i, logprob] of sampled.logprobs.entries()) {
      expect(Math.abs(logprob - (recomputed[3 + i] ?? 0))).toBeLessThan(1e-4);
    }
    expect(policy.info.dtype).toBe(dtype);
  });
});

describe.skipIf(MODELS.length === 0)("the event loop", () => {
  test("keeps ticking while the core works", async () => {
    using policy = await openModel(MODEL);
    let ticks = 0;
    const start = performance.now();
    const timer = setInterval(() => ticks++, 2);
    await Promise.all(
      prompts(16).map((tokens, i) => policy.sample(request({ tokens, seed: BigInt(i), max_new_tokens: 150 }))),
    );
    clearInterval(timer);
    const elapsedMs = performance.now() - start;
    expect(elapsedMs).toBeGreaterThan(50);
    // A blocked loop ticks not at all; a tenth of the ticks that there is time for leaves room for a busy machine.
    expect(ticks).toBeGreaterThan(elapsedMs / 2 / 10);
  });

  test("an answer larger than the buffer arrives whole", async () => {
    using policy = await openModel(MODEL);
    const text = "Hello, world! ".repeat(60_000);
    const tokens = await policy.tokenize("policy", text);
    expect(tokens.byteLength).toBeGreaterThan(1 << 20);
    expect(await policy.decode("policy", tokens, { skip_special: false })).toBe(text);
  });

  test("closing ends what is in flight, and later calls are refused", async () => {
    const policy = await openModel(MODEL);
    const running = Array.from({ length: 4 }, () => codeOf(policy.sample(request({ max_new_tokens: 4000 }))));
    const text = codeOf(policy.tokenize("policy", "x".repeat(100_000)));
    policy[Symbol.dispose]();
    policy[Symbol.dispose]();
    expect(new Set(await Promise.all([...running, text]))).toEqual(new Set(["Cancelled"]));
    expect(await codeOf(policy.tokenize("policy", "x"))).toBe("BadHandle");
    policy.release("policy", 1);
  });

  const script = (body: string) => `
    import { openModel, request } from ${JSON.stringify(join(import.meta.dir, "opened.ts"))};
    const policy = await openModel(${JSON.stringify(MODEL)});
    ${body}`;

  test.each([
    ["ends while an engine idles", "console.log('idle');", "idle\n"],
    [
      "lives while it works",
      "policy.sample(request({ max_new_tokens: 300 })).then(() => console.log('sampled'));",
      "sampled\n",
    ],
  ])("the process %s", async (_, body, expected) => {
    const file = join(scratch, "script.ts");
    await Bun.write(file, script(body));
    const child = Bun.spawn([process.execPath, file], { stdout: "pipe", timeout: 20_000 });
    expect(await new Response(child.stdout).text()).toBe(expected);
    expect(await child.exited).toBe(0);
  });
});

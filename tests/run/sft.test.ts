/** The supervised warm start: interrupted and resumed over a scripted policy; over the real core it learns. */
import { afterAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Rng } from "../../src/base/rng.ts";
import type { RunConfig, RunConfigInput } from "../../src/config/schema.ts";
import { openEngine } from "../../src/core/engine.ts";
import { type FakePolicy, fakePolicy } from "../../src/core/fake.ts";
import { collectRollouts } from "../../src/rollout/collect.ts";
import { AbortedError } from "../../src/run/abort.ts";
import { type SftResult, sft, trainSupervised } from "../../src/run/sft.ts";
import { openSftCheckpoint } from "../../src/run/sft-checkpoint.ts";
import { readRecorded } from "../../src/run/sft-data.ts";
import { prepareConversations } from "../../src/run/sft-prepare.ts";
import { quickstartDomain } from "../../src/tau2/domains/quickstart/index.ts";
import type { ToolCall, User } from "../../src/tau2/types.ts";
import { LIBRARY, MODELS, modelDirectory } from "../core/opened.ts";
import { lampRollouts, writeRollouts } from "../support/lamp-rollouts.ts";
import { lampConfig } from "../support/lamp-run.ts";
import { SHARED } from "../support/shared.ts";

const root = mkdtempSync(join(tmpdir(), "grpo-cl-sft-"));
afterAll(() => rmSync(root, { recursive: true }));

const silent = { line: () => {}, progress: () => {} };
const edgeOf = (signal = new AbortController().signal, line: (text: string) => void = () => {}) => {
  let clock = 0;
  return { env: {}, now: () => clock++, signal, reporter: { ...silent, line } };
};

const data = join(root, "lamps.jsonl.zst");
const configOf = (log_dir: string, fields: Partial<RunConfigInput> = {}) =>
  lampConfig(log_dir, {
    data: [data],
    sft_epochs: 2,
    sft_validation_fraction: 0.2,
    batch_size_per_gpu: 4,
    save_interval: 1,
    ...fields,
  });

async function fakeRun(
  config: RunConfig,
  stopAt?: RegExp,
): Promise<{ result: SftResult; policy: FakePolicy; lines: string[] }> {
  if (!existsSync(data)) writeRollouts(data, await lampRollouts());
  const controller = new AbortController();
  const lines: string[] = [];
  const edge = edgeOf(controller.signal, (text) => {
    lines.push(text);
    if (stopAt?.test(text)) controller.abort();
  });
  const policy = fakePolicy(() => "");
  const rng = Rng.from(config.seed).fork("sft", "split");
  const prepared = await prepareConversations(await readRecorded(config.data ?? []), {
    config,
    policy,
    rng,
    onConversation: () => {},
  });
  const resume = await openSftCheckpoint(config);
  return { result: await trainSupervised(config, { policy, data: prepared, edge, resume }), policy, lines };
}

describe("over a scripted policy", () => {
  test("every epoch sees every conversation once, whole tasks are held out, and the loss is nll at temperature 1", async () => {
    const { policy, result, lines } = await fakeRun(configOf(join(root, "whole")));
    expect(lines).toContainEqual(expect.stringMatching(/^90 conversations read$/));
    const seen = policy.batches.flatMap(({ batch: { tokens_N, offsets } }) =>
      [...offsets.subarray(1)].map((end, s) => tokens_N.subarray(offsets[s], end).join(" ")),
    );
    expect(policy.batches.every(({ loss }) => loss.kind === "nll" && loss.temperature === 1)).toBe(true);
    expect(seen).toHaveLength(2 * 72);
    const counts = Map.groupBy(seen, (text) => text);
    for (const those of counts.values()) expect(those.length % 2).toBe(0);
    expect(result.rows.filter(({ kind }) => kind === "sft_validation")).toHaveLength(3);
    expect(existsSync(join(root, "whole/model/fake-model.json"))).toBe(true);
  });

  test.each([/^Epoch 0, step 2/, /^Saved .*checkpoint_latest/, /^Epoch 1, step 11/])(
    "interrupted at %p and resumed, it equals the one that never stopped",
    async (at) => {
      const log_dir = mkdtempSync(join(root, "stopped-"));
      rmSync(log_dir, { recursive: true });
      await expect(fakeRun(configOf(log_dir), at)).rejects.toThrow(AbortedError);
      await fakeRun(configOf(log_dir, { resume_from: log_dir }));
      for (const file of ["metrics.jsonl", "model/fake-model.json"])
        expect(readFileSync(join(log_dir, file), "utf8")).toBe(readFileSync(join(root, "whole", file), "utf8"));
    },
  );

  test("another seed does not go on from a checkpoint", async () => {
    const resumed = fakeRun(configOf(join(root, "whole"), { resume_from: join(root, "whole"), seed: 5 }));
    await expect(resumed).rejects.toThrow("other conversations, another seed or another batch size");
  });

  test.each([
    { fields: { min_reward: 1 }, left: /reward below 1/ },
    { fields: { max_context_tokens: 450, max_new_tokens: 10 }, left: /longer than 450 tokens/ },
  ])("$fields: what is left out is counted and said", async ({ fields, left }) => {
    const log_dir = mkdtempSync(join(root, "less-"));
    rmSync(log_dir, { recursive: true });
    const outcome = await fakeRun(configOf(log_dir, fields)).then(
      ({ lines }) => lines.join("\n"),
      (error: Error) => error.message,
    );
    expect(outcome).toMatch(left);
  });
});

const BUILTIN = "configs/quickstart-model";
const ready = LIBRARY !== null && existsSync(join(BUILTIN, "model.safetensors"));

/** Conversations of the built-in model itself, some of them won. */
async function phoneRollouts(path: string): Promise<void> {
  const domain = quickstartDomain("phone");
  using policy = await openEngine({ ...ENGINE, library: LIBRARY, model_directory: BUILTIN });
  const groups = await collectRollouts(
    policy,
    domain.tasks.slice(0, 24).map((task) => ({ domain, task, replayed: false })),
    {
      config: lampConfig("unused", { model_name_or_path: BUILTIN, max_new_tokens: 48, temperature: 1 }),
      phase: "train",
      step: 0,
      samples: 4,
      policy_version: 0,
      makeUser: (_, task) => domain.scriptedUser?.(task) as User,
    },
  );
  writeRollouts(path, groups);
}

describe.skipIf(!ready)("the built-in model, shown conversations that were won", () => {
  test.each([
    { what: "all weights", fields: { learning_rate: 3e-4 } },
    { what: "adapters", fields: { learning_rate: 3e-3, lora_r: 8 } },
  ])(
    "$what: the loss of held-out tasks falls; stopped and resumed, it becomes the same model",
    async ({ what, fields }) => {
      const rollouts = join(root, "phone.jsonl.zst");
      if (!existsSync(rollouts)) await phoneRollouts(rollouts);
      const config = (log_dir: string, more: Partial<RunConfigInput> = {}) =>
        configOf(join(root, log_dir), {
          data: [rollouts],
          min_reward: 1,
          model_name_or_path: BUILTIN,
          model_dtype: "float32",
          warmup_steps: 0,
          sft_epochs: 3,
          sft_validation_fraction: 0.25,
          ...fields,
          ...more,
        });
      const { rows, model_directory } = await sft(config(what), { edge: edgeOf(), library: LIBRARY });
      const losses = rows.flatMap((row) => (row.kind === "sft_validation" ? [row["sft/validation_loss"]] : []));
      expect(losses).toHaveLength(4);
      expect(losses.at(-1)).toBeLessThan(0.8 * (losses[0] ?? 0));
      using again = await openEngine({ ...ENGINE, library: LIBRARY, model_directory });
      expect(again.info.parameters).toBeLessThan(1e6);

      const stop = new AbortController();
      const edge = edgeOf(stop.signal, (text) => void (/^Epoch 1, step/.test(text) && stop.abort()));
      const stopped = `${what} stopped`;
      await expect(sft(config(stopped), { edge, library: LIBRARY })).rejects.toThrow(AbortedError);
      const resumed = config(stopped, { resume_from: join(root, stopped) });
      await sft(resumed, { edge: edgeOf(), library: LIBRARY });
      for (const file of ["metrics.jsonl", "model/model.safetensors"])
        expect(readFileSync(join(root, stopped, file)).equals(readFileSync(join(root, what, file))), file).toBe(true);
    },
    60_000,
  );
});

const ENGINE = {
  dtype: "float32",
  num_threads: 0,
  kernels: "fused",
  prefix_sharing: true,
  gradient_checkpointing: false,
} as const;

const results = join(SHARED, "tau2/results");
const tau2_data_dir = join(SHARED, "tau2/data");
/** One whose context holds the conversations. */
const model = MODELS.find(
  (name) =>
    JSON.parse(readFileSync(join(modelDirectory(name), "config.json"), "utf8")).max_position_embeddings >= 32_768,
);

test.skipIf(model === undefined || !existsSync(results))(
  "reference results through a fixture model: the loss holds exactly what the recorded agents said",
  async () => {
    const directory = modelDirectory(model ?? "");
    const config = configOf(join(root, "results"), {
      data: [results],
      model_name_or_path: directory,
      tau2_data_dir,
      sft_validation_fraction: 0,
    });
    using policy = await openEngine({ ...ENGINE, library: LIBRARY, model_directory: directory });
    const recorded = await readRecorded([results]);
    const { training } = await prepareConversations(recorded, {
      config,
      policy,
      rng: Rng.from(1),
      onConversation: () => {},
    });
    expect(training).toHaveLength(recorded.length);
    for (const [i, { tokens, sampled_mask }] of training.entries()) {
      const conversation = recorded[i];
      if (conversation?.kind !== "simulation") throw new Error("expected a simulation");
      const spoken = await Promise.all(
        runsOf(sampled_mask).map(([from, to]) =>
          policy.decode("policy", tokens.subarray(from, to), { skip_special: false }),
        ),
      );
      const turns = conversation.messages.flatMap((message, m) =>
        message.role === "assistant" && m >= conversation.given ? [message] : [],
      );
      expect(spoken).toHaveLength(turns.length);
      for (const [t, { content, tool_calls }] of turns.entries()) {
        const text = spoken[t] ?? "";
        if (content) expect(text).toContain(content.trim());
        expect(text.split(`"name": "`).length - 1).toBeGreaterThanOrEqual(tool_calls?.length ?? 0);
        for (const { name } of (tool_calls ?? []) as readonly ToolCall[]) expect(text).toContain(`"${name}"`);
        expect(text.endsWith("<|im_end|>") || text.endsWith("<|eot_id|>"), text.slice(-20)).toBe(true);
      }
    }
  },
  60_000,
);

function runsOf(mask: Uint8Array): [number, number][] {
  const borders = [...mask.keys(), mask.length].filter((t) => (mask[t] ?? 0) !== (mask[t - 1] ?? 0));
  return Array.from({ length: borders.length / 2 }, (_, i) => [borders[2 * i] ?? 0, borders[2 * i + 1] ?? 0]);
}

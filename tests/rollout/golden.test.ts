/**
 * Through the real core (built, or named by $GRPO_CL_CORE): append-only tokens against those that transformers makes of
 * the whole conversation, and rollouts whose recorded log-probabilities are recomputed.
 */
import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { ChatMessage, Policy } from "../../src/core/policy.ts";
import { packBatches } from "../../src/grpo/batch.ts";
import { collectRollouts } from "../../src/rollout/collect.ts";
import { localUser } from "../../src/rollout/local-user.ts";
import { openRenderer } from "../../src/rollout/renderer.ts";
import type { Rollout } from "../../src/rollout/types.ts";
import { CORE_LIBRARY } from "../support/core-library.ts";
import { lampDomain } from "../support/lamp-domain.ts";
import { grpoLoss } from "../support/loss.ts";
import { PLAIN_STEP } from "../support/rollouts.ts";
import { foldersWith, SHARED } from "../support/shared.ts";

const MODELS = "fixtures/core/models";
const chatFile = join(SHARED, "fixtures/core/expected/chat_qwen2_5.json");
const models = foldersWith(MODELS, "tokenizer_config.json");
const ready = CORE_LIBRARY !== null && existsSync(chatFile);
if (!ready) test.skip("needs the core's library and fixtures/core under GRPO_CL_SHARED", () => {});

async function openModel(name: string): Promise<Policy> {
  const { openEngine } = await import("../../src/core/engine.ts");
  return openEngine({
    library: CORE_LIBRARY,
    model_directory: join(SHARED, MODELS, name),
    dtype: "float32",
    num_threads: 0, // the pool belongs to the process: all tests must agree
    kernels: "fused",
    prefix_sharing: true,
    gradient_checkpointing: false,
  });
}

interface ChatCase {
  readonly messages: readonly (Omit<ChatMessage, "tool_calls"> & {
    readonly tool_calls?: readonly { readonly function: { readonly name: string; readonly arguments: unknown } }[];
  })[];
  readonly tools: readonly unknown[] | null;
  readonly add_generation_prompt: boolean;
  readonly text: string;
  readonly ids: readonly number[];
}

describe.if(ready)("append-only tokens are those of the whole template", () => {
  const cases: Record<string, ChatCase> = ready ? JSON.parse(readFileSync(chatFile, "utf8")) : {};
  const prompts = Object.entries(cases).filter(([, { add_generation_prompt }]) => add_generation_prompt);

  test.each(models)("%s", async (model) => {
    using policy = await openModel(model);
    for (const [name, chat] of prompts) {
      const directory = join(SHARED, MODELS, model);
      const tools_json = chat.tools === null ? null : JSON.stringify(chat.tools);
      const options = { model: "policy", info: policy.info, directory, tools_json, enable_thinking: false };
      const renderer = await openRenderer(policy, options);
      const ids: number[] = [];
      for (const [turn, { incoming, spoken }] of turnsOf(chat).entries()) {
        ids.push(...(turn === 0 ? await renderer.first(incoming) : await renderer.next(incoming, { ended: true })));
        if (spoken !== null) ids.push(...(await policy.tokenize("policy", spoken)));
      }
      expect({ name, ids }).toEqual({ name, ids: [...chat.ids] });
    }
  });
});

/** What the model is told, and what it then says up to its end of turn, as the whole rendering has it. */
function turnsOf({ messages, text }: ChatCase) {
  const spoken = text.split("<|im_start|>assistant\n").slice(1);
  const borders = [...messages.flatMap(({ role }, i) => (role === "assistant" ? [i] : [])), messages.length];
  return borders.map((border, turn) => ({
    incoming: messages.slice(turn === 0 ? 0 : (borders[turn - 1] ?? 0) + 1, border).map(chatMessage),
    spoken: border === messages.length ? null : `${spoken[turn]?.split("<|im_end|>")[0]}<|im_end|>`,
  }));
}

const chatMessage = ({ tool_calls, ...message }: ChatCase["messages"][number]): ChatMessage => ({
  ...message,
  tool_calls: tool_calls?.map(({ function: { name, arguments: args } }) => ({
    function: { name, arguments_json: JSON.stringify(args) },
  })),
});

describe.if(ready)("rollouts of a random model", () => {
  const TEMPERATURE = 0.7;
  const LOSS = grpoLoss({ temperature: TEMPERATURE });
  const OPTIMIZER = { learning_rate: 1e-4, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0, max_grad_norm: 1 };

  const collect = (policy: Policy) => {
    const domain = lampDomain({ lamps: ["A", "B"] });
    const config = {
      model_name_or_path: "tiny",
      max_context_tokens: 600,
      seed: 3,
      eval_seed: 1,
      max_steps: 6,
      max_errors: 3,
      temperature: TEMPERATURE,
      eval_temperature: 0,
      top_p: 1,
      top_k: 0,
      min_p: 0,
      max_new_tokens: 24,
      enable_thinking: false,
      malformed_calls: "text_to_user",
      constrained_tool_calls: false,
      failed_rollouts_max: 0.5,
    } as const;
    const planned = domain.tasks.map((task) => ({ domain, task, replayed: false }));
    return collectRollouts(policy, planned, {
      config,
      phase: "train",
      step: 0,
      samples: 3,
      policy_version: 0,
      makeUser: (of, task, { rng }) =>
        localUser(policy, "base", {
          domain: of,
          task,
          info: policy.info,
          directory: "tiny",
          temperature: 1,
          max_new_tokens: 12,
          context_tokens_max: 600,
          enable_thinking: false,
          rng,
        }),
    });
  };

  const essence = ({ tokens, sampled_mask, termination, messages }: Rollout) =>
    JSON.stringify({ tokens: [...tokens], mask: [...sampled_mask], termination, messages });

  test.each(models)(
    "%s: recorded log-probabilities are the recomputed ones; the same seed says the same",
    async (model) => {
      using policy = await openModel(model);
      await policy.weightOp({ op: "snapshot", name: "base" });
      const rollouts = (await collect(policy)).flatMap((group) => group.rollouts);
      expect(rollouts.some(({ agent_turns }) => agent_turns > 1)).toBe(true);
      for (const { tokens, sampled_mask, logprobs } of rollouts) {
        if (tokens.length === 0) continue;
        const batch = { tokens_N: tokens, offsets: Uint32Array.of(0, tokens.length) };
        const recomputed = await policy.logprobs("policy", batch, { temperature: TEMPERATURE });
        for (const [t, sampled] of sampled_mask.entries()) {
          if (sampled === 1) expect(Math.abs((recomputed[t] ?? 0) - (logprobs[t] ?? 1))).toBeLessThan(1e-4);
        }
      }
      const again = (await collect(policy)).flatMap((group) => group.rollouts);
      expect(again.map(essence)).toEqual(rollouts.map(essence));
    },
    60_000,
  );

  test.each(models)(
    "%s: a packed step has the loss that its weights and advantages say, over the sampled tokens",
    async (model) => {
      using policy = await openModel(model);
      await policy.weightOp({ op: "snapshot", name: "base" });
      const groups = (await collect(policy)).map((group) => ({
        ...group,
        rollouts: group.rollouts.map((rollout) => ({ ...rollout, reward: rollout.sample === 0 ? 1 : 0 })),
      }));
      const { mini_batches, report } = packBatches(groups, {
        ...PLAIN_STEP,
        loss_type: "dapo",
        completion_tokens_max: 24,
      });
      expect(mini_batches).toHaveLength(1);
      let lossTokens = 0;
      for (const batch of mini_batches) {
        const { loss, loss_tokens, kl_mean, logprob_diff_max } = await policy.forwardBackward(batch, LOSS);
        // Before the first update the ratio is 1 and the anchor is the policy: ℓ = -A.
        const expected = batch.weights_N.reduce((sum, weight, n) => sum - weight * (batch.advantages_N[n] ?? 0), 0);
        expect(Math.abs(loss - expected)).toBeLessThan(1e-5);
        expect(Math.abs(kl_mean)).toBeLessThan(1e-6);
        expect(logprob_diff_max).toBeLessThan(1e-4);
        lossTokens += loss_tokens;
      }
      expect(lossTokens).toBe(report.loss_tokens);
      const { grad_norm } = await policy.optimizerStep(OPTIMIZER);
      expect(grad_norm).toBeGreaterThan(0);
    },
    60_000,
  );
});

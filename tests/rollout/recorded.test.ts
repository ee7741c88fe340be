/** A recorded conversation renders to the very tokens and mask that its rollout left. */
import { expect, test } from "bun:test";
import { fakePolicy } from "../../src/core/fake.ts";
import { toolsJson } from "../../src/rollout/local-user.ts";
import { recordedTokens } from "../../src/rollout/recorded.ts";
import { openRenderer } from "../../src/rollout/renderer.ts";
import { lampRollouts } from "../support/lamp-rollouts.ts";
import { lampDomains } from "../support/lamp-run.ts";

test("the messages of every rollout render to its ids and its mask", async () => {
  const rollouts = (await lampRollouts()).flatMap((group) => group.rollouts);
  expect(rollouts.filter(({ tool_calls }) => tool_calls > 0).length).toBeGreaterThan(10);
  const policy = fakePolicy(() => "");
  const domains = new Map(lampDomains().map((domain) => [domain.name, domain]));
  for (const { domain: name, messages, tokens, sampled_mask } of rollouts) {
    const domain = domains.get(name);
    if (domain === undefined) throw new Error(`no domain ${name}`);
    const tools_json = toolsJson(domain.tools);
    const options = { model: "policy", info: policy.info, directory: "fake", tools_json, enable_thinking: false };
    const renderer = await openRenderer(policy, options);
    const rendered = await recordedTokens(renderer, { systemPrompt: domain.systemPrompt, messages, given: 1 });
    expect(rendered).toEqual({ tokens, sampled_mask });
  }
});

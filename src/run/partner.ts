/** Who sits opposite a person that plays one side: a script, an endpoint, or a model on this machine. */
import { Rng } from "../base/rng.ts";
import type { RunConfig } from "../config/schema.ts";
import type { Policy } from "../core/policy.ts";
import { policyAgent } from "../rollout/agent.ts";
import { contextTokensMax } from "../rollout/collect.ts";
import { Dialogue } from "../rollout/dialogue.ts";
import { toolsJson } from "../rollout/local-user.ts";
import { agentGrammar, openRenderer } from "../rollout/renderer.ts";
import type { Judge } from "../tau2/judge.ts";
import type { Agent, Domain, Task, User } from "../tau2/types.ts";
import { judgeMaker, openEndpoints } from "./endpoints.ts";
import { BASE_MODEL } from "./models.ts";
import { loadDomains, openSession } from "./open-session.ts";
import type { Edge } from "./session.ts";
import { chooseUsers, loadUserModel } from "./users.ts";

export interface Table<Partner> {
  readonly domain: Domain;
  /** Says who plays, as in reports; null: nobody is configured. */
  readonly identity: string | null;
  readonly judge: Judge | null;
  readonly partner: (domain: Domain, task: Task) => Partner;
  /** Frees the model. */
  close(): void;
}

export interface PartnerOptions {
  readonly edge: Edge;
  readonly library: string | null;
}

/** For a person that plays the agent. `user.kind: auto` means the domain's script; without one nobody plays the user. */
export async function openUser(config: RunConfig, options: PartnerOptions): Promise<Table<User | null>> {
  const [domain] = await loadDomains(config);
  if (domain === undefined) throw new Error("no domain");
  const { edge } = options;
  const endpoints = openEndpoints(config, edge);
  const context = { rng: Rng.from(config.seed).fork("play"), signal: edge.signal };
  const judge = judgeMaker(endpoints)?.(context) ?? null;
  const nobody = { domain, judge, identity: null, partner: () => null, close: () => {} };
  const isUnset = config.user.kind === "auto" && domain.scriptedUser === undefined;
  if (domain.solo_mode || isUnset) return nobody;
  const users = chooseUsers(config, [domain], endpoints);
  const identity = users.identities[domain.name] ?? null;
  if (users.config.kind === "scripted")
    return { ...nobody, identity, partner: (_, task) => domain.scriptedUser?.(task) ?? null };
  const session = await openSession(config, { ...options, purpose: "eval" });
  const { policy, user_model_directory } = session;
  if (users.needsBase) await policy.weightOp({ op: "snapshot", name: BASE_MODEL });
  const makeUser = users.maker(await loadUserModel(policy, users, user_model_directory), session);
  return {
    ...nobody,
    identity,
    partner: (_, task) => makeUser(domain, task, context),
    close: () => policy[Symbol.dispose](),
  };
}

/** For a person that plays the user: the configured model is the agent. */
export async function openAgent(config: RunConfig, options: PartnerOptions): Promise<Table<Agent>> {
  const { policy, domains, edge } = { ...(await openSession(config, { ...options, purpose: "eval" })) };
  const [domain] = domains;
  if (domain === undefined) throw new Error("no domain");
  const rng = Rng.from(config.seed).fork("play");
  const agent = await agentMaker(policy, domain, config, rng);
  const judge = judgeMaker(openEndpoints(config, edge))?.({ rng, signal: edge.signal }) ?? null;
  return { domain, identity: config.model_name_or_path, judge, partner: agent, close: () => policy[Symbol.dispose]() };
}

async function agentMaker(policy: Policy, domain: Domain, config: RunConfig, rng: Rng): Promise<() => Agent> {
  const { eval_temperature: temperature, top_p, top_k, min_p, max_new_tokens, malformed_calls } = config;
  const { info } = policy;
  const renderer = await openRenderer(policy, {
    model: "policy",
    info,
    directory: config.model_name_or_path,
    tools_json: toolsJson(domain.tools),
    enable_thinking: config.enable_thinking,
  });
  return () => {
    const dialogue = new Dialogue({
      policy,
      model: "policy",
      renderer,
      grammar: agentGrammar(renderer, config),
      sampling: { temperature, top_p, top_k, min_p, max_new_tokens, stop_token_ids: info.eos_token_ids },
      context_tokens_max: contextTokensMax(policy, config),
      seedOf: (turn) => rng.fork("turn", turn).uint64(),
    });
    const { systemPrompt } = domain;
    return policyAgent({ dialogue, systemPrompt, toolFormat: renderer.toolFormat, malformed_calls });
  };
}

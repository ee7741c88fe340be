/**
 * Who plays the user, domain by domain. `auto`: the domain's script where it has one, else the frozen step-0 policy. A
 * paid endpoint is asked only when `user.kind` says so, whatever keys the environment holds.
 */
import { UserError } from "../base/errors.ts";
import type { RunConfig } from "../config/schema.ts";
import type { ModelInfo, ModelName, Policy } from "../core/policy.ts";
import type { CollectOptions, UserContext } from "../rollout/collect.ts";
import { localIdentity, localUser } from "../rollout/local-user.ts";
import type { OpenaiEndpoint } from "../rollout/openai.ts";
import { NO_USER, type RolloutUser } from "../rollout/rollout.ts";
import { isSoloTask } from "../tau2/agent.ts";
import type { Domain, Task } from "../tau2/types.ts";
import { simulatedUser } from "../tau2/user.ts";
import { type Endpoints, requestSeed } from "./endpoints.ts";
import { BASE_MODEL, USER_MODEL } from "./models.ts";
import type { Session } from "./session.ts";

type UserConfig = RunConfig["user"];
type UserKind = Exclude<UserConfig["kind"], "auto">;

export interface Users {
  /** Domain → who plays its user; stands in every report. */
  readonly identities: Readonly<Record<string, string>>;
  /** As configured, with `auto` resolved where all domains agree. */
  readonly config: UserConfig;
  readonly warnings: readonly string[];
  /** The frozen step-0 policy plays a user. */
  readonly needsBase: boolean;
  /** Another model to load under this name; null without one. */
  readonly ownModel: ModelName | null;
  /** `ownInfo`: of the loaded `ownModel`. */
  maker(ownInfo: ModelInfo | null, session: Session): CollectOptions["makeUser"];
}

/** `endpoint`: where a model plays the user. Needs no model: a missing script is told before one is loaded. */
export function chooseUsers(
  config: RunConfig,
  domains: readonly Domain[],
  { user: endpoint }: Pick<Endpoints, "user">,
): Users {
  const { true: solo = [], false: played = [] } = Object.groupBy(domains, ({ solo_mode }) => `${solo_mode ?? false}`);
  const kinds = played.map((domain) => [domain, kindOf(config.user, domain)] as const);
  const isLocal = kinds.some(([, kind]) => kind === "local");
  const ownModel = config.user.kind === "local" && config.user.model !== null ? USER_MODEL : null;
  const distinct = new Set(kinds.map(([, kind]) => kind));
  const [only] = distinct.size === 1 ? distinct : [];
  return {
    identities: Object.fromEntries([
      ...kinds.map(([domain, kind]) => [domain.name, identityOf(kind, { domain, endpoint, model: config.user.model })]),
      ...solo.map((domain) => [domain.name, NO_USER]),
    ]),
    config: { ...config.user, kind: only ?? config.user.kind },
    warnings: [...(ownModel === null ? baseWarnings(kinds) : []), ...solo.flatMap(soloWarnings)],
    needsBase: isLocal && ownModel === null,
    ownModel,
    maker: (ownInfo, opened) => (domain, task, context) =>
      makeUser(kindOf(config.user, domain), { domain, task, context, endpoint, ownInfo, config, session: opened }),
  };
}

function kindOf({ kind }: UserConfig, domain: Domain): UserKind {
  if (kind === "auto") return domain.scriptedUser === undefined ? "local" : "scripted";
  if (kind === "scripted" && domain.scriptedUser === undefined)
    throw new UserError("user.kind", `${domain.name} brings no scripted user. Set openai, local or auto`);
  return kind;
}

interface IdentityFacts {
  readonly domain: Domain;
  readonly endpoint: OpenaiEndpoint | null;
  readonly model: string | null;
}

function identityOf(kind: UserKind, { domain, endpoint, model }: IdentityFacts): string {
  switch (kind) {
    case "scripted":
      return domain.scriptedUser?.(domain.tasks[0] as Task).identity ?? kind;
    case "openai":
      return endpoint?.identity ?? kind;
    case "local":
      return localIdentity(model === null ? BASE_MODEL : USER_MODEL, model ?? "");
  }
}

function baseWarnings(kinds: readonly (readonly [Domain, UserKind])[]): string[] {
  const played = kinds.flatMap(([domain, kind]) => (kind === "local" ? [domain.name] : []));
  if (played.length === 0) return [];
  return [
    `the frozen step-0 policy plays the user in ${played.join(", ")}: rewards depend on how well it does that. ` +
      "Set user.kind to openai, or user.model to a model directory, for a better one",
  ];
}

function soloWarnings({ name, tasks }: Domain): string[] {
  const unfit = tasks.filter((task) => !isSoloTask(task)).map((task) => task.id);
  if (unfit.length === 0) return [];
  return [`${name}: ${unfit.length} tasks are left out, since they need a user: ${unfit.join(", ")}`];
}

interface MakeUser {
  readonly domain: Domain;
  readonly task: Task;
  readonly context: UserContext;
  readonly endpoint: OpenaiEndpoint | null;
  readonly ownInfo: ModelInfo | null;
  readonly config: RunConfig;
  readonly session: Session;
}

function makeUser(kind: UserKind, options: MakeUser): RolloutUser {
  const { domain, task, context, endpoint } = options;
  if (kind === "local") return makeLocalUser(options);
  if (kind === "openai" && endpoint !== null) {
    const complete = endpoint.completion({ seed: requestSeed(context) });
    return { ...simulatedUser({ identity: endpoint.identity, domain, task, complete }), costUsd: complete.costUsd };
  }
  if (domain.scriptedUser === undefined) throw new Error(`${domain.name}: no scripted user`);
  return domain.scriptedUser(task);
}

function makeLocalUser({ domain, task, context, ownInfo, config, session }: MakeUser): RolloutUser {
  const { policy, model_directory } = session;
  const info = ownInfo ?? policy.info;
  return localUser(policy, ownInfo === null ? BASE_MODEL : USER_MODEL, {
    domain,
    task,
    info,
    directory: config.user.model ?? model_directory,
    temperature: config.user.temperature,
    max_new_tokens: config.max_new_tokens,
    context_tokens_max: contextOf(config, info),
    enable_thinking: false,
    rng: context.rng,
  });
}

const contextOf = ({ max_context_tokens }: RunConfig, info: ModelInfo): number =>
  Math.min(max_context_tokens ?? Number.POSITIVE_INFINITY, info.context_tokens_max);

/** Loads the model that plays the user, where it is another than the policy's. */
export async function loadUserModel(policy: Policy, users: Users, directory: string | null): Promise<ModelInfo | null> {
  if (users.ownModel === null) return null;
  if (directory === null) throw new Error("the directory of user.model was not resolved");
  return policy.loadModel(users.ownModel, directory);
}

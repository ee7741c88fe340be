/**
 * tau2's tasks behind `reset` and `step`, as Gymnasium has them, for people who bring another trainer. Texts are those of
 * tau2's gym; nothing runs in a thread: between two steps the conversation stands still.
 */
import { UserError } from "../base/errors.ts";
import { DONE, stoppingAgent } from "../tau2/agent.ts";
import { loadDomain } from "../tau2/domains/index.ts";
import { prepareEnvironment } from "../tau2/environment.ts";
import { judgedReward, needsJudge } from "../tau2/evaluator.ts";
import { gymObservation, parseActionString } from "../tau2/gym.ts";
import type { Judge } from "../tau2/judge.ts";
import { runConversation } from "../tau2/orchestrator.ts";
import { PythonError } from "../tau2/python.ts";
import type {
  Agent,
  ConversationLimits,
  Domain,
  EndOfConversation,
  Message,
  Reply,
  Requestor,
  RewardInfo,
  Simulation,
  Task,
  ToolSchema,
  User,
} from "../tau2/types.ts";
import { userToolsOf } from "../tau2/user.ts";
import { currentHost } from "./host.ts";

/** Plays the other side of one conversation. */
export type UserMaker = (domain: Domain, task: Task) => User;
export type AgentMaker = (domain: Domain, task: Task) => Agent;

export interface EnvOptions extends Partial<ConversationLimits> {
  /** A name that `loadDomain` takes, or a domain. */
  readonly domain: string | Domain;
  readonly task_id: string;
  /** Observe the whole conversation each time, not only what is new. */
  readonly all_messages_as_observation?: boolean;
  /** For domains of tau2-bench; default: the environment variable TAU2_DATA_DIR. */
  readonly tau2_data_dir?: string | null;
  /** For tasks whose reward counts natural-language assertions. */
  readonly judge?: Judge | null;
}

export interface AgentEnvOptions extends EnvOptions {
  /** Default: the domain's own script. */
  readonly user?: UserMaker;
  /** The agent works alone, with the user's tools. */
  readonly solo_mode?: boolean;
}

export interface UserEnvOptions extends EnvOptions {
  readonly agent: AgentMaker;
}

export interface EnvInfo {
  readonly task: Task;
  readonly policy: string;
  /** Of the side that steps. */
  readonly tools: readonly ToolSchema[];
  /** null until the conversation has ended. */
  readonly simulation_run: Simulation | null;
  /** How the reward came about; null until the end, and where there is none (a user or judge that failed). */
  readonly reward_info: RewardInfo | null;
}

export interface EnvReset {
  readonly observation: string;
  readonly info: EnvInfo;
}

export interface EnvStep extends EnvReset {
  /** 0 until the conversation has ended. */
  readonly reward: number;
  readonly terminated: boolean;
  /** Always false: an exceeded `max_steps` terminates, as in tau2. */
  readonly truncated: false;
}

const MAX_STEPS = 100;
const MAX_ERRORS = 10;

/** The chair of the side that steps: asked for a reply, it waits until one is put in. */
class Chair {
  /** What this side has heard and said. */
  readonly messages: Message[] = [];
  #answer: ((reply: Reply | EndOfConversation) => void) | null = null;
  #asked = Promise.withResolvers<void>();

  constructor(readonly role: Requestor) {}

  /** Resolves when it is this side's turn. */
  get asked(): Promise<void> {
    return this.#asked.promise;
  }

  reply(incoming: readonly Message[]): Promise<Reply | EndOfConversation> {
    this.messages.push(...incoming);
    return new Promise((resolve) => {
      this.#answer = resolve;
      this.#asked.resolve();
    });
  }

  say(reply: Reply): void {
    this.messages.push({ role: this.role, ...reply });
    this.#put(reply);
  }

  leave(): void {
    this.#put({ end: "unexpected_error", detail: "the environment was closed" });
  }

  #put(reply: Reply | EndOfConversation): void {
    const answer = this.#answer;
    this.#answer = null;
    this.#asked = Promise.withResolvers();
    answer?.(reply);
  }
}

interface Episode {
  readonly chair: Chair;
  /** Ends with the conversation, scored. */
  readonly outcome: Promise<Outcome>;
  ended: Outcome | null;
}

interface Outcome {
  readonly simulation: Simulation;
  readonly reward_info: RewardInfo | null;
}

/** What both environments share; `partner` is who plays against the chair. */
abstract class Env implements AsyncDisposable {
  readonly domain: Domain;
  readonly task: Task;
  readonly #options: EnvOptions;
  #episode: Episode | null = null;
  #isStepping = false;

  protected constructor(options: EnvOptions & { readonly solo_mode?: boolean }) {
    const { judge = null, task_id } = options;
    this.#options = options;
    this.domain = domainOf(options);
    this.task = taskNamed(this.domain, task_id);
    if (needsJudge(this.task) && judge === null)
      throw new UserError("judge", `task ${task_id} of ${this.domain.name} counts nl_assertions; give a judge`);
  }

  protected abstract readonly role: Requestor;
  protected abstract readonly tools: readonly ToolSchema[];
  protected abstract participants(chair: Chair): { readonly agent: Agent; readonly user: User | null };

  /** Starts the task anew; what was going on is closed. */
  async reset(): Promise<EnvReset> {
    await this.close();
    const chair = new Chair(this.role);
    const episode: Episode = { chair, outcome: this.#converse(chair), ended: null };
    this.#episode = episode;
    episode.outcome.then(
      (outcome) => {
        episode.ended = outcome;
      },
      () => {}, // whoever awaits the next turn is told
    );
    await this.#nextTurn(episode);
    return { observation: this.#observation(episode), info: this.#info(episode) };
  }

  /** `action`: a JSON tool call, `name(key=value)`, or what to say. A blank one only earns an error text. */
  async step(action: string): Promise<EnvStep> {
    const episode = this.#episode;
    if (episode === null) throw new Error("call reset() before step()");
    if (this.#isStepping) throw new Error("the last step is still going on: await it first");
    if (episode.ended !== null) return this.#stepped(episode, { observation: "", reward: 0 });
    const reply = parsed(action, this.role);
    if (reply instanceof PythonError)
      return this.#stepped(episode, { observation: `Invalid action with error: ${reply.message}`, reward: 0 });
    episode.chair.say(reply);
    const outcome = await this.#nextTurn(episode);
    const reward = outcome?.reward_info?.reward ?? 0;
    return this.#stepped(episode, { observation: this.#observation(episode), reward });
  }

  /** Ends a conversation that is going on; `reset` starts the next. */
  async close(): Promise<void> {
    const episode = this.#episode;
    this.#episode = null;
    if (episode === null || episode.ended !== null) return;
    episode.chair.leave();
    await episode.outcome.catch(() => {});
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Until this side is asked (null), or the conversation has ended. After a failure only `reset` helps. */
  async #nextTurn(episode: Episode): Promise<Outcome | null> {
    this.#isStepping = true;
    try {
      await Promise.race([episode.chair.asked, episode.outcome]);
      return episode.ended;
    } catch (error) {
      this.#episode = null;
      throw error;
    } finally {
      this.#isStepping = false;
    }
  }

  async #converse(chair: Chair): Promise<Outcome> {
    const { domain, task } = this;
    const { max_steps = MAX_STEPS, max_errors = MAX_ERRORS, judge = null } = this.#options;
    const { agent, user } = this.participants(chair);
    try {
      const simulation = await runConversation({
        environment: prepareEnvironment(domain, task),
        agent,
        user,
        limits: { max_steps, max_errors },
        history: task.initial_state?.message_history ?? undefined,
        solo_mode: domain.solo_mode,
      });
      if (simulation.termination === "infrastructure_error") return { simulation, reward_info: null };
      const reward_info = await judgedReward({ domain, task, simulation, judge });
      return { simulation, reward_info: "end" in reward_info ? null : reward_info };
    } finally {
      user?.close?.();
    }
  }

  /** As in the original: nothing, once the conversation has ended with words that were not for this side. */
  #observation({ chair, ended }: Episode): string {
    const { all_messages_as_observation = false } = this.#options;
    const last = ended?.simulation.messages.at(-1);
    if (ended !== null && !(last !== undefined && isFor(chair.role, last))) return "";
    return gymObservation([...chair.messages, ...unanswered(ended, chair.role)], {
      viewer: chair.role,
      all_messages_as_observation,
    });
  }

  #stepped(episode: Episode, { observation, reward }: Pick<EnvStep, "observation" | "reward">): EnvStep {
    return { observation, reward, terminated: episode.ended !== null, truncated: false, info: this.#info(episode) };
  }

  #info({ ended }: Episode): EnvInfo {
    return {
      task: this.task,
      policy: this.domain.policy,
      tools: this.tools,
      simulation_run: ended?.simulation ?? null,
      reward_info: ended?.reward_info ?? null,
    };
  }
}

/** You are the agent. */
export class AgentEnv extends Env {
  protected readonly role = "assistant";
  protected readonly tools: readonly ToolSchema[];
  readonly #makeUser: UserMaker | null;

  constructor(options: AgentEnvOptions) {
    super(options);
    const { domain } = this;
    this.tools = domain.solo_mode ? domain.tools : [...domain.tools, DONE];
    this.#makeUser = domain.solo_mode ? null : (options.user ?? scripted(domain));
  }

  protected participants(chair: Chair) {
    return { agent: stoppingAgent(chair), user: this.#makeUser?.(this.domain, this.task) ?? null };
  }
}

/** You are the user. */
export class UserEnv extends Env {
  protected readonly role = "user";
  protected readonly tools: readonly ToolSchema[];
  readonly #makeAgent: AgentMaker;

  constructor(options: UserEnvOptions) {
    super(options);
    this.tools = userToolsOf(this.domain, this.task) ?? [];
    this.#makeAgent = options.agent;
  }

  protected participants(chair: Chair) {
    const user: User = { identity: "env", reply: (incoming) => chair.reply(incoming) };
    return { agent: this.#makeAgent(this.domain, this.task), user };
  }
}

/** A thousand environments of one domain read its data once. */
const loaded = new Map<string, Domain>();

function domainOf({ domain, tau2_data_dir, solo_mode = false }: EnvOptions & { readonly solo_mode?: boolean }): Domain {
  if (typeof domain !== "string") return domain;
  const directory = (tau2_data_dir ?? currentHost().edge.env.TAU2_DATA_DIR) || null;
  const key = JSON.stringify([domain, directory, solo_mode]);
  const known =
    loaded.get(key) ?? loadDomain(domain, { tau2_data_dir: directory, train_split: TRAIN_SPLIT, solo_mode });
  loaded.set(key, known);
  return known;
}

/** Tasks are chosen by id here, whatever the split. */
const TRAIN_SPLIT = 0.8;

function taskNamed(domain: Domain, task_id: string): Task {
  const task = domain.tasks.find(({ id }) => id === task_id);
  if (task === undefined) throw new UserError("task_id", `${domain.name} has no task "${task_id}"`);
  return task;
}

function scripted({ name, scriptedUser }: Domain): UserMaker {
  if (scriptedUser === undefined)
    throw new UserError("user", `${name} brings no scripted user; give one: a function (domain, task) => User`);
  return (_, task) => scriptedUser(task);
}

/** Whoever writes `requestor` into a JSON call, it is the side that steps. */
function parsed(action: string, role: Requestor): Reply | PythonError {
  try {
    const { content, tool_calls } = parseActionString(action, role);
    return { content, tool_calls: tool_calls?.map((call) => ({ ...call, requestor: role })) ?? null };
  } catch (error) {
    if (error instanceof PythonError) return error;
    throw error;
  }
}

function isFor(role: Requestor, message: Message): boolean {
  if (message.role === "tool") return message.requestor === role;
  return message.role !== role && message.tool_calls === null;
}

/** What ended the conversation before this side could be asked again. */
function unanswered(ended: Outcome | null, role: Requestor): readonly Message[] {
  const messages = ended?.simulation.messages ?? [];
  return messages.slice(messages.findLastIndex((message) => !isFor(role, message)) + 1);
}

/** Small domains in tau2's form, written for this project, for a run that learns within minutes on two cores. */
import { Rng } from "../../../base/rng.ts";
import { toolSchema } from "../../tool.ts";
import type { Domain } from "../../types.ts";
import { CONVENTIONS, type Convention, type DomainName } from "./convention.ts";
import { furnish, type Office, OfficeEnvironment, type Order } from "./environment.ts";
import { idSource, type PosedTask, poseTasks } from "./tasks.ts";
import { scriptedUser } from "./user.ts";

/** A domain that also tells what its tasks are about: demonstrations and tests need it. */
export interface QuickstartDomain extends Domain {
  readonly convention: Convention;
  readonly posed: readonly PosedTask[];
}

const SEED = 1;

/** 64 training and 64 evaluation tasks; another seed gives other orders and users. */
export function quickstartDomain(name: DomainName, seed: number = SEED): QuickstartDomain {
  const convention = CONVENTIONS[name];
  const rng = Rng.from(seed).fork("quickstart", name);
  const ids = idSource(rng.fork("ids"));
  const train = poseTasks(rng.fork("train"), convention, "train", ids);
  const test = poseTasks(rng.fork("test"), convention, "test", ids);
  const posed = [...train, ...test];
  const office = officeOf(convention, posed);
  const { tools } = office.agent.toolkit;
  const userTools = office.user?.toolkit.tools;
  return {
    name,
    convention,
    posed,
    policy: convention.policy,
    systemPrompt: convention.policy,
    tools: tools.map(toolSchema),
    userTools: userTools?.map(toolSchema) ?? null,
    toolKind: (tool) => [...tools, ...(userTools ?? [])].find((known) => known.name === tool)?.kind ?? null,
    tasks: posed.map(({ task }) => task),
    splits: { train: train.map(({ task }) => task.id), test: test.map(({ task }) => task.id) },
    createEnvironment: () => new OfficeEnvironment(office),
    userSystemPrompt: userPrompt,
    scriptedUser: (task) => scriptedUser(task, convention),
  };
}

export const quickstartDomains: Readonly<Record<DomainName, () => Domain>> = {
  shop: () => quickstartDomain("shop"),
  rail: () => quickstartDomain("rail"),
  phone: () => quickstartDomain("phone"),
};

function officeOf(convention: Convention, posed: readonly PosedTask[]): Office {
  const orders = posed.map(({ problem }): [string, Order] => [
    problem.order,
    { account: problem.account, day: "@00", status: problem.status, held: "no", writes: [] },
  ]);
  const accounts = posed
    .filter(({ problem }) => problem.kind === "account")
    .map(({ problem }): [string, string] => [problem.account, problem.order]);
  return furnish(convention, { orders: Object.fromEntries(orders), accounts: Object.fromEntries(accounts) });
}

/** For a user played by a language model instead of the script. */
const userPrompt: Domain["userSystemPrompt"] = ({ user_scenario: { instructions } }) => {
  if (typeof instructions === "string") return instructions;
  const { reason_for_call, known_info, task_instructions } = instructions;
  return `You are the user of a service. Your first message: ${reason_for_call} ${known_info ?? ""} ${task_instructions} To leave, say ###STOP###.`;
};

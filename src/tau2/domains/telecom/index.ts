/** The telecom domain, from tau2's data files. The agent's handbook comes in two forms: a manual, and a workflow. */
import { type DataDomainOptions, defineDomain } from "../../domain.ts";
import { DomainFiles } from "../../domain-files.ts";
import type { Domain } from "../../types.ts";
import { countedBillIds, telecomToolkit } from "./agent-tools.ts";
import { sync } from "./sync.ts";
import { telecomUserToolkit } from "./user-tools.ts";

/** `billIds` makes the source of ids of new bills, one for each environment. */
export interface TelecomOptions extends DataDomainOptions {
  readonly billIds?: () => () => string;
}

export const telecom = (options: TelecomOptions): Domain =>
  // Solo and normal agents share the manual, not the workflow.
  telecomDomain("telecom", "tech_support_manual.md", options);

export const telecomWorkflow = (options: TelecomOptions): Domain =>
  telecomDomain(
    "telecom-workflow",
    options.solo_mode ? "tech_support_workflow_solo.md" : "tech_support_workflow.md",
    options,
  );

function telecomDomain(
  name: string,
  handbook: string,
  { root, train_split, solo_mode, billIds = countedBillIds }: TelecomOptions,
): Domain {
  const files = new DomainFiles(root, "telecom");
  const main = files.text(solo_mode ? "main_policy_solo.md" : "main_policy.md");
  return defineDomain({
    name,
    policy: `<main_policy>\n${main}\n</main_policy>\n<tech_support_policy>\n${files.text(handbook)}\n</tech_support_policy>`,
    agent: files.side(telecomToolkit(billIds), "db.toml"),
    user: files.side(telecomUserToolkit, "user_db.toml"),
    sync,
    solo_mode,
    ...files.tasks(train_split),
  });
}

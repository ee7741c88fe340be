/** The mock domain: tau2's own small example, from its data files. */
import { type DataDomainOptions, defineDomain } from "../../domain.ts";
import { DomainFiles } from "../../domain-files.ts";
import type { Domain } from "../../types.ts";
import { mockToolkit, mockUserToolkit } from "./tools.ts";

export function mock({ root, train_split, solo_mode }: DataDomainOptions): Domain {
  const files = new DomainFiles(root, "mock");
  return defineDomain({
    name: "mock",
    policy: files.text(solo_mode ? "policy_solo.md" : "policy.md"),
    agent: files.side(mockToolkit, "db.json"),
    user: files.side(mockUserToolkit, "user_db.json"),
    solo_mode,
    ...files.tasks(train_split),
  });
}

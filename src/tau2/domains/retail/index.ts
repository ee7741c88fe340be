/** The retail domain, from tau2's data files. */
import { type DataDomainOptions, defineDomain } from "../../domain.ts";
import { DomainFiles, rejectSolo } from "../../domain-files.ts";
import type { Domain } from "../../types.ts";
import { retailToolkit } from "./tools.ts";

export function retail({ root, train_split, solo_mode }: DataDomainOptions): Domain {
  if (solo_mode) rejectSolo("Retail");
  const files = new DomainFiles(root, "retail");
  return defineDomain({
    name: "retail",
    policy: files.text("policy.md"),
    agent: files.side(retailToolkit, "db.json"),
    user: null,
    ...files.tasks(train_split),
  });
}

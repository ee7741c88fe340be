/** The airline domain, from tau2's data files. */
import { type DataDomainOptions, defineDomain } from "../../domain.ts";
import { DomainFiles, rejectSolo } from "../../domain-files.ts";
import type { Domain } from "../../types.ts";
import { airlineToolkit } from "./tools.ts";

export function airline({ root, train_split, solo_mode }: DataDomainOptions): Domain {
  if (solo_mode) rejectSolo("Airline");
  const files = new DomainFiles(root, "airline");
  return defineDomain({
    name: "airline",
    policy: files.text("policy.md"),
    agent: files.side(airlineToolkit, "db.json"),
    user: null,
    ...files.tasks(train_split),
  });
}

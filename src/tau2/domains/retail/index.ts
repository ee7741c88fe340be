/** The retail domain, from tau2's data files. */
import { join } from "node:path";
import type { ExactObject } from "../../../base/exact.ts";
import { readJson, readSplits, readText } from "../../data-directory.ts";
import { defineDomain } from "../../domain.ts";
import { side } from "../../environment.ts";
import { checked, parseTasks } from "../../task.ts";
import type { Domain } from "../../types.ts";
import { retailToolkit } from "./tools.ts";

/** `root` is the folder that holds `domains/` and `user_simulator/`. */
export function retail({ root, train_split }: { readonly root: string; readonly train_split: number }): Domain {
  const file = (name: string): string => join(root, "domains", "retail", name);
  const tasks = parseTasks(readJson(file("tasks.json")), file("tasks.json"));
  return defineDomain({
    name: "retail",
    policy: readText(file("policy.md")),
    agent: checked(file("db.json"), () => side(retailToolkit, readJson(file("db.json")) as ExactObject)),
    user: null,
    tasks,
    splits: readSplits(file("split_tasks.json"), tasks, train_split),
    guidelines: {
      plain: readText(join(root, "user_simulator", "simulation_guidelines.md")),
      tools: readText(join(root, "user_simulator", "simulation_guidelines_tools.md")),
    },
  });
}

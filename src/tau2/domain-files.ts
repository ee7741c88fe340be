/** The files that every domain of tau2's layout has: tasks, splits, databases, texts. */
import { join } from "node:path";
import { UserError } from "../base/errors.ts";
import type { ExactObject } from "../base/exact.ts";
import { readJson, readSplits, readText, readToml } from "./data-directory.ts";
import type { DomainDefinition } from "./domain.ts";
import { type Side, side, type Toolkit } from "./environment.ts";
import { checked, parseTasks } from "./task.ts";

export class DomainFiles {
  /** `root` is the folder that holds `domains/` and `user_simulator/`. */
  constructor(
    readonly root: string,
    readonly domain: string,
  ) {}

  path(file: string): string {
    return join(this.root, "domains", this.domain, file);
  }

  text(file: string): string {
    return readText(this.path(file));
  }

  /** A toolkit over the database in a JSON or TOML file. */
  side<S>(toolkit: Toolkit<S>, file: string): Side {
    const path = this.path(file);
    return checked(path, () =>
      side(toolkit, (file.endsWith(".toml") ? readToml(path) : readJson(path)) as ExactObject),
    );
  }

  /** Tasks, their splits, and what the user simulator is told. */
  tasks(train_split: number): Pick<DomainDefinition, "tasks" | "tasksFile" | "splits" | "guidelines"> {
    const tasksFile = this.path("tasks.json");
    const tasks = parseTasks(readJson(tasksFile), tasksFile);
    const guidelines = (file: string): string => readText(join(this.root, "user_simulator", file));
    return {
      tasks,
      tasksFile,
      splits: readSplits(this.path("split_tasks.json"), tasks, train_split),
      guidelines: {
        plain: guidelines("simulation_guidelines.md"),
        tools: guidelines("simulation_guidelines_tools.md"),
      },
    };
  }
}

/** The original's words for a domain whose agent cannot work alone. */
export function rejectSolo(name: string): never {
  throw new UserError("solo_mode", `${name} domain does not support solo mode`);
}

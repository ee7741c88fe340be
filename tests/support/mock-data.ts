/** A data directory in tau2's layout with a small domain `mock` of our own words, to be spoiled by tests. */
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const task = (id: string, more: object = {}) => ({
  id,
  user_scenario: { instructions: "Ask for a task." },
  evaluation_criteria: {
    actions: [{ action_id: "a", name: "create_task", arguments: { user_id: "ann", title: "Water the plants" } }],
  },
  ...more,
});

/** Contents by file: JSON values, or texts as they are. */
const FILES = {
  "db.json": {
    tasks: { t1: { task_id: "t1", title: "Feed the cat", status: "pending" } },
    users: { ann: { user_id: "ann", name: "Ann", tasks: ["t1"] } },
  },
  "user_db.json": { notifications: {} },
  "policy.md": "Be brief.",
  "policy_solo.md": "Be silent.",
  "tasks.json": [task("greet"), task("greet again"), task("leave")],
  "split_tasks.json": { base: ["leave", "greet"], small: ["greet again"] },
};

export type MockFile = keyof typeof FILES;

/** Writes the directory; `changes` replaces files, null leaves one out. Tasks are given what differs from a sound one. */
export function writeMockData(
  root: string,
  changes: { readonly [file in MockFile]?: unknown } & { readonly task?: object } = {},
): void {
  const domain = join(root, "domains/mock");
  rmSync(root, { recursive: true, force: true });
  mkdirSync(domain, { recursive: true });
  mkdirSync(join(root, "user_simulator"));
  for (const guidelines of ["simulation_guidelines.md", "simulation_guidelines_tools.md"])
    writeFileSync(join(root, "user_simulator", guidelines), "You are a customer.");
  const { task: changed, ...files } = changes;
  const tasks = changed === undefined ? FILES["tasks.json"] : [task("greet", changed), ...FILES["tasks.json"].slice(1)];
  for (const [file, content] of Object.entries({ ...FILES, "tasks.json": tasks, ...files })) {
    if (content !== null)
      writeFileSync(join(domain, file), typeof content === "string" ? content : JSON.stringify(content, null, 2));
  }
}

/** Results files: ours have the shape of tau2's own, and its recorded runs score as we read them. */
import { describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import {
  dumps,
  type ExactObject,
  type ExactValue,
  isArray,
  isObject,
  keysOf,
  parseExact,
} from "../../src/base/exact.ts";
import { evaluate } from "../../src/tau2/evaluator.ts";
import { toTau2Results } from "../../src/tau2/results.ts";
import { parseTask } from "../../src/tau2/task.ts";
import type { TerminationReason } from "../../src/tau2/types.ts";
import { dataDirectory, domainOf, hasFixtures, messageOf, WITHOUT_FIXTURES } from "./fixtures.ts";

const sample = join(dataDirectory, "../results/airline_sample.json");
const available = hasFixtures && existsSync(sample);

describe.skipIf(!available)(`results ${available ? "" : WITHOUT_FIXTURES}`, () => {
  test("a file of ours has every field that tau2's has, with values of the same kind", async () => {
    const recorded = parseExact(await Bun.file(sample).text()) as ExactObject;
    const domain = domainOf("airline");
    const tasks = new Map(
      (recorded.tasks as readonly ExactObject[]).map((task) => [task.id, parseTask(task, "sample")]),
    );
    const runs = (recorded.simulations as readonly ExactObject[]).map((run) => {
      const messages = (run.messages as readonly ExactObject[]).map(messageOf);
      const termination = run.termination_reason as TerminationReason;
      const task = tasks.get(run.task_id as string);
      if (task === undefined) throw new Error(`task ${run.task_id} is not in the file`);
      return {
        id: run.id as string,
        task,
        trial: run.trial as number,
        seed: 300,
        simulation: { messages, termination, detail: null, step_count: 0, num_errors: 0 },
        reward_info: evaluate({ domain, task, simulation: { messages, termination }, strict: false }),
        start_time: run.start_time as string,
        end_time: run.end_time as string,
        duration: 60,
        agent_cost: null,
        user_cost: 0.25,
      };
    });
    const participant = { implementation: "llm_agent", llm: "local", llm_args: { temperature: 0.1 } };
    const ours = toTau2Results({
      domain,
      runs,
      timestamp: "2026-01-01T00:00:00.000000",
      git_commit: "0",
      num_trials: 1,
      max_steps: 200,
      max_errors: 10,
      seed: 300,
      agent: participant,
      user: { ...participant, global_simulation_guidelines: "Be a customer." },
    });
    const reread = parseExact(dumps(ours, { indent: 2 })) as ExactObject;
    expect(missing(recorded, reread, "")).toEqual([]);
    const messagesOf = (file: ExactObject): string =>
      dumps(
        (file.simulations as readonly ExactObject[]).map(({ messages }) =>
          (messages as readonly ExactObject[]).map(
            ({ role, content, turn_idx }) => ({ role, content, turn_idx }) as ExactObject,
          ),
        ),
      );
    expect(messagesOf(reread)).toBe(messagesOf(recorded));
  });
});

/** Fields of theirs that ours lacks or fills with another kind of value; what may be null there may be anything here. */
function missing(theirs: ExactValue | undefined, ours: ExactValue | undefined, path: string): string[] {
  // Tasks have changed since: annotations are ignored, arguments differ.
  if (
    path.endsWith(".annotations") ||
    path.endsWith(".arguments") ||
    path.endsWith(".nl_assertions") ||
    theirs === undefined ||
    theirs === null ||
    ours === null
  )
    return [];
  if (isArray(theirs))
    return isArray(ours) ? theirs.flatMap((item, i) => missing(item, ours[i], `${path}[${i}]`)) : [path];
  if (isObject(theirs))
    return isObject(ours) ? keysOf(theirs).flatMap((key) => missing(theirs[key], ours[key], `${path}.${key}`)) : [path];
  return typeof theirs === typeof ours ? [] : [path];
}

/** Rollouts of the lamp domains by a scripted policy, and the file that a run makes of them. */
import { writeFileSync } from "node:fs";
import { trajectoriesOf } from "../../src/cl/memory.ts";
import { trajectoryText } from "../../src/cl/trajectory.ts";
import { fakePolicy } from "../../src/core/fake.ts";
import { collectRollouts } from "../../src/rollout/collect.ts";
import type { Group } from "../../src/rollout/types.ts";
import { lampUser } from "./lamp-domain.ts";
import { lampConfig, lampDomains, luckyScript } from "./lamp-run.ts";

export function lampRollouts(): Promise<Group[]> {
  const planned = lampDomains().flatMap((domain) => domain.tasks.map((task) => ({ domain, task, replayed: false })));
  return collectRollouts(fakePolicy(luckyScript), planned, {
    config: lampConfig("unused"),
    phase: "train",
    step: 0,
    samples: 3,
    policy_version: 0,
    makeUser: (_domain, task) => lampUser(task),
  });
}

export function writeRollouts(path: string, groups: readonly Group[]): void {
  const lines = trajectoriesOf(groups, { task_idx: 0, step: 0 }).map((one) =>
    trajectoryText(one, { with_logprobs: false }),
  );
  writeFileSync(path, Bun.zstdCompressSync(`${lines.join("\n")}\n`));
}

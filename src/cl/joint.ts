/** All domains from the first step on, as many tasks of each: no continual learning, but what it is measured against. */
import type { TaskRef } from "../curriculum/curriculum.ts";
import { type BatchContext, type ContinualMethod, PLAIN } from "./method.ts";

export const joint = (): ContinualMethod => ({ ...PLAIN, name: "joint", augmentBatch: mixed });

/** Places of all steps are dealt to the domains in turn. */
function mixed({ tasks, domains, experience, step, next }: BatchContext): TaskRef[] {
  const first = (experience.index * experience.steps + step) * tasks.length;
  const places = tasks.map((_, place) => domains[(first + place) % domains.length] as string);
  return domains.flatMap((domain) => next(domain, places.filter((name) => name === domain).length));
}

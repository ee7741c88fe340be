/** A process of its own: holds the environments of many rollouts of a domain, and prints what they take beyond its data. */
import { heapStats } from "bun:jsc";
import { loadDomain } from "../../src/tau2/domains/index.ts";
import { prepareEnvironment } from "../../src/tau2/environment.ts";
import type { Domain, Environment } from "../../src/tau2/types.ts";

const [name = "", tau2_data_dir = "", rollouts = "0"] = process.argv.slice(2);

function used(): { heap: number; resident: number } {
  Bun.gc(true);
  const { heapSize, extraMemorySize } = heapStats();
  return { heap: heapSize + extraMemorySize, resident: process.memoryUsage().rss };
}

/** After its task's golden run, with both databases hashed. */
function driven(domain: Domain, index: number): Environment {
  const task = domain.tasks[index % domain.tasks.length] as Domain["tasks"][number];
  const environment = prepareEnvironment(domain, task);
  for (const { name, arguments: args, requestor } of task.evaluation_criteria?.actions ?? [])
    environment.getResponse({ id: "g", name, arguments: args, requestor });
  environment.agentDbHash();
  environment.userDbHash();
  return environment;
}

const domain = loadDomain(name, { tau2_data_dir, train_split: 0.8 });
const before = used();
const environments = Array.from({ length: Number(rollouts) }, (_, i) => driven(domain, i));
const after = used();
console.log(
  JSON.stringify({
    environments: environments.length,
    heap_mib: (after.heap - before.heap) / 2 ** 20,
    resident_mib: (after.resident - before.resident) / 2 ** 20,
  }),
);

/** tau2's environments: built, called, and whole golden runs replayed (built, initial state, calls, final hashes). */
import { type ExactObject, parseExact } from "../../src/base/exact.ts";
import { loadDomain } from "../../src/tau2/domains/index.ts";
import { prepareEnvironment } from "../../src/tau2/environment.ts";
import type { Domain, Task, ToolCall } from "../../src/tau2/types.ts";
import { type Bench, type Figure, type Figures, type Part, rate, type Target, timed } from "./measure.ts";
import { peerOutput } from "./peers.ts";

const SECONDS = 1;
/** The calls that bench_tau2.py times. */
const READS: Readonly<Record<string, readonly [string, string][]>> = {
  airline: [
    ["get_user_details", '{"user_id": "mia_li_3668"}'],
    ["search_direct_flight", '{"origin": "JFK", "destination": "SEA", "date": "2024-05-20"}'],
  ],
  retail: [
    ["get_user_details", '{"user_id": "yusuf_rossi_9620"}'],
    ["get_order_details", '{"order_id": "#W2378156"}'],
  ],
  telecom: [
    ["get_customer_by_id", '{"customer_id": "C1001"}'],
    ["get_data_usage", '{"customer_id": "C1001", "line_id": "L1001"}'],
  ],
  mock: [["get_users", "{}"]],
};

export const env: Part = { unit: "runs", peerName: "tau2-bench (Python)", target, ours, peer };

/** Environments must vanish from a training step's profile; the mock domain's are small in both programs. */
function target(work: string): Target {
  const [domain, kind] = work.split(" ");
  const atLeast = (bar: number) => ({ bar, goal: bar });
  if (domain === "mock") return atLeast(1);
  if (kind === "construct") return atLeast(1000);
  if (kind === "call") return atLeast(20);
  return atLeast(domain === "telecom" ? 30 : 100);
}

const REPLAY = "golden replay";
/** Without the digests of states that were reached before. */
const FIRST_REPLAY = "golden replay, each task's first";

async function ours({ domains, dataDirectory }: Bench): Promise<Figures> {
  const figures = new Map<string, Figure[]>();
  for (const name of domains) {
    const load = () => loadDomain(name, { tau2_data_dir: dataDirectory, train_split: 0.8 });
    for (const [work, run] of worksOf(load())) figures.set(`${name} ${work}`, [await perSecond(run)]);
    figures.set(`${name} ${FIRST_REPLAY}`, [await onceEach(load())]);
  }
  return figures;
}

type Run = (index: number) => unknown;

function worksOf(domain: Domain): [string, Run][] {
  const environment = domain.createEnvironment();
  const calls = (READS[domain.name] ?? []).map(([name, args]): [string, Run] => {
    const call = callOf(name, args);
    if (environment.getResponse(call).error) throw new Error(`${domain.name}: ${name} fails`);
    return [`call ${name}`, () => environment.getResponse(call)];
  });
  const tasks = tasksWithActions(domain);
  const firstRead = callOf(...(READS[domain.name]?.[0] ?? ["", "{}"]));
  return [
    // With a first call: ours shares the database until it is written, so that building alone is an empty promise.
    ["construct", () => domain.createEnvironment().getResponse(firstRead)],
    ...calls,
    [REPLAY, (i) => replay(domain, tasks[i % tasks.length] as Task)],
  ];
}

function callOf(name: string, args: string): ToolCall {
  return { id: "x", name, arguments: parseExact(args) as ExactObject, requestor: "assistant" };
}

/** The original's `base` split. */
function tasksWithActions({ tasks, splits }: Domain): Task[] {
  const base = new Set(splits.base ?? []);
  return tasks.filter(
    ({ id, evaluation_criteria }) =>
      (base.size === 0 || base.has(id)) && (evaluation_criteria?.actions?.length ?? 0) > 0,
  );
}

function replay(domain: Domain, task: Task): void {
  const environment = prepareEnvironment(domain, task);
  for (const { name, arguments: args, requestor } of task.evaluation_criteria?.actions ?? []) {
    environment.getResponse({ id: "g", name, arguments: args, requestor });
  }
  environment.agentDbHash();
  environment.userDbHash();
}

/** One thread on both sides. Warm, since the original has no warm-up to speak of and ours lasts milliseconds. */
async function perSecond(run: Run): Promise<Figure> {
  for (let i = 0; i < 3; i++) run(i);
  let n = 0;
  const elapsed = await timed(() => {
    const end = performance.now() + SECONDS * 1000;
    for (; performance.now() < end; n++) run(n);
  });
  return rate(n, elapsed, 1);
}

async function onceEach(domain: Domain): Promise<Figure> {
  const tasks = tasksWithActions(domain);
  domain.createEnvironment().agentDbHash(); // the original's files are read, too, when its clock starts
  const elapsed = await timed(() => {
    for (const task of tasks) replay(domain, task);
  });
  return rate(tasks.length, elapsed, 1);
}

/** Lines such as `airline construct: n=9 cpu 118.362 ms  (8.4/s cpu)  wall 118.591 ms`. */
const LINE = /^(\w+) (construct|call \w+|golden replay(?= incl\.)).*: n=\d+ cpu ([\d.]+) ms .* wall ([\d.]+) ms$/;

async function peer({ domains }: Bench): Promise<Figures | null> {
  const output = await peerOutput("tau2env", "bench_tau2.py", [SECONDS, ...domains]);
  if (output === null) return null;
  const lines = output.split("\n").flatMap((line) => LINE.exec(line) ?? []);
  const figures = new Map<string, Figure[]>();
  for (let i = 0; i < lines.length; i += 5) {
    const [, domain, work, cpu, wall] = lines.slice(i, i + 5);
    const figure = [{ wall: 1000 / Number(wall), cpu: 1000 / Number(cpu) }];
    figures.set(`${domain} ${work}`, figure);
    if (work === REPLAY) figures.set(`${domain} ${FIRST_REPLAY}`, figure);
  }
  return figures;
}

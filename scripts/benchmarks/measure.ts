/** What a benchmark measures, and how two sides are compared. */
import { basename } from "node:path";

/** Work per second; higher is better. */
export interface Figure {
  readonly wall: number;
  /** Work per CPU second, times the threads: the wall figure of a machine with nothing else to do. */
  readonly cpu: number;
}

/** Name of the work → its repeated figures. */
export type Figures = ReadonlyMap<string, readonly Figure[]>;

export interface Bench {
  readonly threads: number;
  readonly reps: number;
  /** A model folder that both sides load. */
  readonly model: string;
  readonly dataDirectory: string;
  readonly domains: readonly string[];
}

/** Ratios. */
export interface Target {
  /** What we want at least. */
  readonly bar: number;
  readonly goal: number;
}

/** One part of scripts/bench: the same work on both sides. */
export interface Part {
  readonly unit: string;
  /** The program that `peer` measures. */
  readonly peerName: string;
  /** `model` is its folder's name. Absent, or null for a work: to be no slower. */
  readonly target?: (work: string, model: string) => Target | null;
  ours(bench: Bench): Promise<Figures>;
  peer(bench: Bench): Promise<Figures | null>;
}

/** A line of `--json`. `ratio` above 1: we are better. */
export interface Comparison extends Target {
  readonly work: string;
  readonly ours: number;
  readonly peer: number | null;
  readonly ratio: number | null;
}

const NO_SLOWER: Target = { bar: 1, goal: 1 };

/** Ours, peer, ours again: a machine that grows slower meanwhile does not favour one side. */
export async function compared(part: Part, bench: Bench): Promise<Comparison[]> {
  const before = await part.ours(bench);
  const peer = await part.peer(bench);
  const after = peer === null ? new Map() : await part.ours(bench);
  return [...before].flatMap(([work, figures]) =>
    lines({
      work,
      unit: part.unit,
      target: part.target?.(work, basename(bench.model)) ?? NO_SLOWER,
      ours: [...figures, ...(after.get(work) ?? [])],
      peer: peer?.get(work) ?? [],
    }),
  );
}

interface Sides {
  readonly work: string;
  readonly unit: string;
  readonly target: Target;
  readonly ours: readonly Figure[];
  readonly peer: readonly Figure[];
}

function lines({ work, unit, target, ours, peer }: Sides): Comparison[] {
  return (["wall", "cpu"] as const).map((clock) => {
    const [mine, theirs] = [median(ours, clock), median(peer, clock)];
    const per = clock === "wall" ? "s" : "CPU s x threads";
    return {
      work: `${work}, ${unit}/${per}`,
      ours: mine ?? 0,
      peer: theirs,
      ratio: theirs === null || mine === null ? null : mine / theirs,
      ...target,
    };
  });
}

function median(figures: readonly Figure[], clock: keyof Figure): number | null {
  if (figures.length === 0) return null;
  const sorted = figures.map((figure) => figure[clock]).sort((a, b) => a - b);
  const half = sorted.length / 2;
  const middle = sorted.slice(Math.ceil(half) - 1, Math.floor(half) + 1);
  return middle.reduce((sum, value) => sum + value, 0) / middle.length;
}

export interface Elapsed {
  readonly wallS: number;
  /** Of all threads of this process, the core's included. */
  readonly cpuS: number;
}

export async function timed(work: () => Promise<unknown> | unknown): Promise<Elapsed> {
  const [start, cpu] = [performance.now(), process.cpuUsage()];
  await work();
  const wallS = (performance.now() - start) / 1000;
  const { user, system } = process.cpuUsage(cpu);
  return { wallS, cpuS: (user + system) / 1e6 };
}

export const rate = (amount: number, { wallS, cpuS }: Elapsed, threads: number): Figure => ({
  wall: amount / wallS,
  cpu: (amount / cpuS) * threads,
});

export const difference = (a: Elapsed, b: Elapsed): Elapsed => ({ wallS: a.wallS - b.wallS, cpuS: a.cpuS - b.cpuS });

export async function repeated<T>(times: number, work: (index: number) => Promise<T>): Promise<T[]> {
  const results: T[] = [];
  for (let i = 0; i < times; i++) results.push(await work(i));
  return results;
}

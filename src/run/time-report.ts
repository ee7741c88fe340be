/** Where the time of a run went, for its closing words. */

/** Phases that make up a training step; all others stand for themselves. */
const STEP_PHASES = ["rollout", "update"];

interface Phase {
  readonly name: string;
  readonly ms: number;
  /** What it went into; they may overlap, and need not add up. */
  readonly parts: readonly { readonly name: string; readonly ms: number }[];
}

/** `phases`: name → milliseconds, `rollout/decode` being a part of `rollout`. Shares are of the line's time. */
export function timeLines(phases: ReadonlyMap<string, number>): string[] {
  const { step = [], other = [] } = Object.groupBy(phasesOf(phases), ({ name }) =>
    STEP_PHASES.includes(name) ? "step" : "other",
  );
  return ["Time:", ...(step.length > 0 ? [stepLine(step)] : []), ...other.map(phaseLine)];
}

function phasesOf(phases: ReadonlyMap<string, number>): Phase[] {
  const partsOf = (phase: string) =>
    [...phases]
      .filter(([name, ms]) => name.startsWith(`${phase}/`) && ms > 0)
      .map(([name, ms]) => ({ name: name.slice(phase.length + 1), ms }));
  return [...phases].filter(([name]) => !name.includes("/")).map(([name, ms]) => ({ name, ms, parts: partsOf(name) }));
}

function stepLine(step: readonly Phase[]): string {
  const total = step.reduce((sum, { ms }) => sum + ms, 0);
  const shares = step.map((phase) => {
    const inside = sharesOf(phase.parts, total);
    return `${phase.name} ${share(phase.ms, total)}${inside === "" ? "" : ` (${inside})`}`;
  });
  return `  training steps ${seconds(total)}: ${shares.join(", ")}`;
}

function phaseLine({ name, ms, parts }: Phase): string {
  const inside = sharesOf(parts, ms);
  return `  ${name} ${seconds(ms)}${inside === "" ? "" : `: ${inside}`}`;
}

const sharesOf = (parts: Phase["parts"], total: number): string =>
  parts.map(({ name, ms }) => `${name} ${share(ms, total)}`).join(", ");

const share = (ms: number, total: number): string => `${total === 0 ? 0 : Math.round((100 * ms) / total)} %`;
const seconds = (ms: number): string => `${(ms / 1000).toFixed(1)} s`;

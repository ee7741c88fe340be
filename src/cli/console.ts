/** The console of a run: lines on stdout; progress on stderr, rewritten in place on a terminal, absent in a pipe. */

import type { Reporter } from "../run/report.ts";
import type { Edge } from "../run/session.ts";
import type { Host } from "./host.ts";

export interface ConsoleOptions {
  readonly print: (text: string) => void;
  readonly note: (text: string) => void;
  readonly terminal: boolean;
  /** Milliseconds. */
  readonly now: () => number;
}

const REDRAW_MS = 100;
const ERASE_LINE = "\r\u001b[2K";

export function runConsole({ print, note, terminal, now }: ConsoleOptions): Reporter {
  let standing: { label: string; since: number } | null = null;
  let drawnAt = Number.NEGATIVE_INFINITY;
  const clear = () => {
    if (standing !== null) note(ERASE_LINE);
    standing = null;
  };
  return {
    line: (text) => {
      clear();
      print(`${text}\n`);
    },
    progress: ({ label, done, total }) => {
      if (!terminal || (now() - drawnAt < REDRAW_MS && done < total)) return;
      if (done >= total) return clear();
      if (standing?.label !== label) standing = { label, since: now() };
      drawnAt = now();
      note(`${ERASE_LINE}${label} ${done}/${total}${remaining({ done, total, elapsedMs: now() - standing.since })}`);
    },
  };
}

/** `, 1m 20s left` at the pace so far; nothing before the first is done. */
function remaining({ done, total, elapsedMs }: { done: number; total: number; elapsedMs: number }): string {
  if (done === 0 || elapsedMs < 1000) return "";
  return `, ${duration((elapsedMs / done) * (total - done))} left`;
}

/** 80,000 ms → `1m 20s`. */
export function duration(ms: number): string {
  const seconds = Math.round(ms / 1000);
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  if (hours > 0) return `${hours}h ${minutes}m`;
  return minutes > 0 ? `${minutes}m ${seconds % 60}s` : `${seconds}s`;
}

/** What a run is given of the process. */
export function edgeOf({ env, now, signal, print, note, terminal }: Host): Edge {
  return { env, now, signal, reporter: runConsole({ print, note, terminal, now }) };
}

/** What the process edge (main.ts) hands to the commands: nothing below it looks at `process`, the clock or a signal. */
import type { Licence } from "./licenses.ts";

export interface Host {
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Milliseconds since 1970. */
  readonly now: () => number;
  /** Aborted by Ctrl-C. */
  readonly signal: AbortSignal;
  /** stdout: results. */
  readonly print: (text: string) => void;
  /** stderr: progress and messages. */
  readonly note: (text: string) => void;
  /** The next line of stdin, asked for with `prompt`; null at its end. */
  readonly readLine: (prompt: string) => Promise<string | null>;
  /** The exit code of a command that ends well but has bad news. */
  readonly fail: (exitCode: number) => void;
  /** Is stderr a terminal, so that a progress line may be rewritten? */
  readonly terminal: boolean;
  /** What a script sees in `process.argv` after the program's name. */
  readonly setArguments: (argv: readonly string[]) => void;
  readonly assets: Assets;
}

/** Files that the binary carries and a clone builds. */
export interface Assets {
  /** Path of the core library; null = the one that cargo built from this clone. */
  readonly coreLibrary: string | null;
  readonly licences: () => Promise<readonly Licence[]>;
}

/**
 * The process behind the API. `grpo-cl run` installs its own; a script that imports the package runs without the program
 * around it, so this file may look at the process, as main.ts does.
 */
import { join } from "node:path";
import { plainReporter } from "../run/report.ts";
import type { Edge } from "../run/session.ts";

export interface ApiHost {
  readonly edge: Edge;
  /** Path of the Rust core's library; null = the one that cargo built from this clone. */
  readonly library: string | null;
}

let installed: ApiHost | null = null;

/** Called once by main.ts. */
export function installHost(host: ApiHost): void {
  installed = host;
}

export const currentHost = (): ApiHost => installed ?? packageHost();

function packageHost(): ApiHost {
  const { env } = process;
  const { GRPO_CL_CORE, CARGO_TARGET_DIR } = env;
  return {
    edge: {
      env,
      now: Date.now,
      signal: new AbortController().signal, // Ctrl-C ends a plain script by itself
      reporter: plainReporter((text) => process.stdout.write(text)),
    },
    library: GRPO_CL_CORE ?? (CARGO_TARGET_DIR ? join(CARGO_TARGET_DIR, "release/libgrpo_core.so") : null),
  };
}

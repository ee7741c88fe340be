/** The process edge: arguments, environment, clock, signals and exit code. Everything below gets them as values. */
import { writeSync } from "node:fs";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import pkg from "../package.json";
import { installHost } from "./api/host.ts";
import { UserError } from "./base/errors.ts";
import { edgeOf } from "./cli/console.ts";
import type { Assets, Host } from "./cli/host.ts";
import { dispatch } from "./cli/index.ts";
import { npmLicences, ownLicences } from "./cli/npm-licenses.ts";
import { EngineError } from "./core/errors.ts";
import { setLibraryCache } from "./core/library.ts";
import { BudgetError } from "./rollout/budget.ts";

const EXIT_FAILURE = 1;
const EXIT_BAD_INPUT = 2;
/** `user.max_cost_usd` is reached. */
const EXIT_BUDGET = 3;
const SIGNALS = { SIGINT: 130, SIGTERM: 143 } as const;
/** A gradient step cannot be cancelled: after this long an interrupted run ends without waiting for it. */
const GRACE_MS = 2000;

/** Runs the command line and ends the process. */
export async function main(assets: Assets): Promise<never> {
  const interrupt = new AbortController();
  let exitCode = 0;
  for (const [name, code] of Object.entries(SIGNALS)) {
    process.on(name, () => {
      if (interrupt.signal.aborted) process.exit(code);
      exitCode = code;
      write(2, "\nInterrupted: stopping; what is written so far is whole. Once more ends at once.\n");
      interrupt.abort(new Error(`interrupted by ${name}`));
      setTimeout(() => process.exit(code), GRACE_MS);
    });
  }
  const host: Host = {
    env: process.env,
    now: () => performance.timeOrigin + performance.now(),
    signal: interrupt.signal,
    print: (text) => write(1, text),
    note: (text) => write(2, text),
    terminal: process.stderr.isTTY === true && process.env.TERM !== "dumb",
    readLine: lineReader(interrupt.signal),
    fail: (code) => {
      exitCode = code;
    },
    setArguments: (argv) => {
      process.argv = [process.argv[0] ?? "grpo-cl", ...argv];
    },
    assets,
  };
  setLibraryCache(join(process.env.XDG_CACHE_HOME || join(process.env.HOME ?? homedir(), ".cache"), "grpo-cl"));
  installHost({ edge: edgeOf(host), library: assets.coreLibrary });
  offerApi();
  try {
    await dispatch(host, process.argv.slice(2));
  } catch (error) {
    if (!interrupt.signal.aborted) exitCode = reported(error);
  }
  process.exit(exitCode);
}

/** Nothing reads stdin before the first line is asked for. Lines that come by a pipe are repeated behind their prompt. */
function lineReader(signal: AbortSignal): Host["readLine"] {
  let lines: AsyncIterator<string> | null = null;
  const open = (): AsyncIterator<string> => {
    const terminal = process.stdin.isTTY === true;
    const reader = createInterface({ input: process.stdin, output: terminal ? process.stdout : undefined, terminal });
    reader.on("SIGINT", () => process.kill(process.pid, "SIGINT"));
    return reader[Symbol.asyncIterator]();
  };
  const aborted = new Promise<never>((_, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
  aborted.catch(() => {});
  return async (prompt) => {
    lines ??= open();
    if (process.stdin.isTTY) write(1, prompt);
    const { value, done } = await Promise.race([lines.next(), aborted]);
    if (!process.stdin.isTTY && !done) write(1, `${prompt}${value}\n`);
    return done ? null : value;
  };
}

/** Scripts and .ts configs import this very program under the package's name. */
function offerApi(): void {
  Bun.plugin({
    name: "grpo-cl",
    setup: (build) => {
      build.module("grpo-cl", async () => ({ exports: await import("./api/index.ts"), loader: "object" }));
    },
  });
}

/** One sentence for what a person can repair; the whole story for everything else. */
function reported(error: unknown): number {
  if (error instanceof UserError) {
    write(2, `error: ${error.message}\n`);
    return EXIT_BAD_INPUT;
  }
  if (error instanceof BudgetError) {
    write(2, `${error.message}\n`);
    return EXIT_BUDGET;
  }
  if (error instanceof EngineError) {
    write(2, `error: core (${error.code}): ${error.message}\n`);
    return EXIT_FAILURE;
  }
  const story = error instanceof Error ? (error.stack ?? error.message) : String(error);
  write(2, `error: ${story}\n`);
  return EXIT_FAILURE;
}

/** Writes all of it before returning, to pipes that are full for a while, too; a reader that is gone is no error. */
function write(fd: 1 | 2, text: string): void {
  let bytes = Buffer.from(text);
  while (bytes.length > 0) {
    try {
      bytes = bytes.subarray(writeSync(fd, bytes));
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === "EPIPE") return;
      if (code !== "EAGAIN") throw error;
      Bun.sleepSync(1);
    }
  }
}

/** In a clone: the library that cargo built, licences from node_modules. The binary brings its own. */
function sourceAssets(): Assets {
  const root = resolve(import.meta.dir, "..");
  const target = process.env.CARGO_TARGET_DIR;
  return {
    coreLibrary: process.env.GRPO_CL_CORE ?? (target ? join(target, "release/libgrpo_core.so") : null),
    licences: async () => [...ownLicences(root, pkg.version), ...npmLicences(root)],
  };
}

if (import.meta.main && !Bun.isStandaloneExecutable) await main(sourceAssets());

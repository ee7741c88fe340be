/** Runs the command line from source, in a directory of its own, with a hard time limit. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

const MAIN = resolve(import.meta.dir, "../../src/main.ts");
const LIMIT_MS = 60_000;

const made: string[] = [];

export function emptyDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), "grpo-cl-cli-"));
  made.push(directory);
  return directory;
}

/** For `afterAll`: what tests of this process have made so far. */
export function removeDirectories(): void {
  for (const directory of made.splice(0)) rmSync(directory, { recursive: true, force: true });
}

export interface CliOptions {
  readonly cwd?: string;
  /** Beside what is inherited. */
  readonly env?: Readonly<Record<string, string>>;
  /** What is typed; by default nothing. */
  readonly stdin?: string;
}

export function startCli(args: readonly string[], { cwd = emptyDirectory(), env = {}, stdin = "" }: CliOptions = {}) {
  return Bun.spawn([process.execPath, MAIN, ...args], {
    cwd,
    env: { ...inherited(), ...env },
    stdin: new Blob([stdin]),
    stdout: "pipe",
    stderr: "pipe",
    timeout: LIMIT_MS,
  });
}

/** What finds programs, caches and the core; nothing else of ours may change a test. */
function inherited(): Record<string, string> {
  const names = ["PATH", "HOME", "CARGO_TARGET_DIR", "GRPO_CL_CORE"];
  return Object.fromEntries(names.flatMap((name) => (process.env[name] ? [[name, process.env[name]]] : [])));
}

export async function runCli(args: readonly string[], options: CliOptions = {}) {
  const child = startCli(args, options);
  const [out, err] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  return { exitCode: await child.exited, out, err };
}

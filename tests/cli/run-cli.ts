/** Runs the command line from source, in a directory of its own, with a hard time limit. */
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

const MAIN = resolve(import.meta.dir, "../../src/main.ts");
const LIMIT_MS = 60_000;

export const emptyDirectory = () => mkdtempSync(join(tmpdir(), "grpo-cl-cli-"));

export interface CliOptions {
  readonly cwd?: string;
  /** Beside PATH and HOME. */
  readonly env?: Readonly<Record<string, string>>;
}

export function startCli(args: readonly string[], { cwd = emptyDirectory(), env = {} }: CliOptions = {}) {
  return Bun.spawn([process.execPath, MAIN, ...args], {
    cwd,
    env: { PATH: "/usr/bin:/bin", HOME: process.env.HOME ?? cwd, ...env },
    stdout: "pipe",
    stderr: "pipe",
    timeout: LIMIT_MS,
  });
}

export async function runCli(args: readonly string[], options: CliOptions = {}) {
  const child = startCli(args, options);
  const [out, err] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  return { exitCode: await child.exited, out, err };
}

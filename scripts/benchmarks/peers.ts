/** Runs the peers' own scripts (../shared/peers), with the Python environments that their setup.sh made. */
import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";

const ROOT = join(import.meta.dir, "..", "..");
export const SHARED = process.env.GRPO_CL_SHARED ?? join(ROOT, "..", "shared");
const PEERS_HOME = process.env.PEERS_HOME ?? join(homedir(), ".cache", "grpo-cl-peers");
export const PYTHON = join(PEERS_HOME, "venv", "bin", "python");
export const LLAMA = join(PEERS_HOME, "lcpp_batched");
const TIMEOUT_MS = 20 * 60_000;

export const peerModel = (name: string) => join(PEERS_HOME, "models", name);

/** Standard output of a peer's script; null where its environment is not set up. */
export async function peerOutput(
  environment: "venv" | "tau2env",
  script: string,
  args: readonly (string | number)[],
): Promise<string | null> {
  const python = join(PEERS_HOME, environment, "bin", "python");
  const file = join(SHARED, "peers", script);
  if (!existsSync(python) || !existsSync(file)) return null;
  return outputOf([python, file, ...args.map(String)]);
}

/** Standard output of a command in the peers' environment. */
export async function outputOf(
  command: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<string> {
  const child = Bun.spawn([...command], {
    env: { ...process.env, TAU2_DATA_DIR: join(SHARED, "tau2", "data"), HF_HUB_OFFLINE: "1", ...env },
    stdout: "pipe",
    stderr: "pipe",
    timeout: TIMEOUT_MS,
  });
  const [output, errors, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  if (code !== 0) throw new Error(`${command.join(" ").slice(0, 200)} ended with ${code}: ${errors.slice(-2000)}`);
  return output;
}

/** Scripts that print a JSON object a line. */
export async function peerLines(
  environment: "venv" | "tau2env",
  script: string,
  args: readonly (string | number)[],
): Promise<Record<string, unknown>[] | null> {
  const output = await peerOutput(environment, script, args);
  return output === null ? null : jsonLines(output);
}

export const jsonLines = (output: string): Record<string, unknown>[] =>
  output
    .split("\n")
    .filter((line) => line.startsWith('{"')) // TRL prints Python dicts too
    .map((line) => JSON.parse(line) as Record<string, unknown>);

/** Their triples are minimum, median, maximum (or the reverse). */
export const middle = (triple: unknown): number => (triple as number[])[1] as number;

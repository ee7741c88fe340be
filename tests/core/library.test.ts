/** The library inside a compiled binary: opened where Bun unpacks it, else from our own cache. */
import { afterAll, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { ABI_VERSION } from "../../src/core/abi.ts";
import { LIBRARY } from "./opened.ts";

const scratch = mkdtempSync(join(tmpdir(), "grpo-cl-library-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const MODULE = resolve(import.meta.dir, "../../src/core/library.ts");
const cache = join(scratch, "cache");
const binary = join(scratch, "binary");

const entryPoint = `
  import file from ${JSON.stringify(LIBRARY)} with { type: "file" };
  import { openLibrary, setLibraryCache } from ${JSON.stringify(MODULE)};
  setLibraryCache(${JSON.stringify(cache)});
  console.log(file.startsWith("/$bunfs/"), openLibrary(file).grpo_abi_version());`;

async function run(env: Record<string, string>): Promise<string> {
  const child = Bun.spawn([binary], { env, stdout: "pipe", timeout: 20_000 });
  return new Response(child.stdout).text();
}

test.skipIf(LIBRARY === null)("an embedded library opens, also where its unpacked copy cannot be", async () => {
  const entry = join(scratch, "entry.ts");
  await Bun.write(entry, entryPoint);
  const build = [process.execPath, "build", "--compile", "--format=esm", entry, "--outfile", binary];
  expect(Bun.spawnSync(build, { timeout: 60_000 }).exitCode).toBe(0);

  expect(await run({ BUN_TMPDIR: scratch })).toBe(`true ${ABI_VERSION}\n`);
  expect(existsSync(cache)).toBe(false);
  expect(await run({ BUN_TMPDIR: "/nowhere", TMPDIR: "/nowhere" })).toBe(`true ${ABI_VERSION}\n`);
  expect(readdirSync(cache)).toEqual([expect.stringMatching(/^libgrpo_core-[0-9a-f]{16}\.so$/)]);
});

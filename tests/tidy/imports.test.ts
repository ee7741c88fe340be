/** Imports go left to right, and nothing below the process edge reads the environment, the clock or chance. */
import { describe, expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";

const SRC = resolve(import.meta.dir, "../../src");
const ORDER = "base config core tau2 curriculum rollout grpo cl metrics checkpoint run dashboard api cli main.ts".split(
  " ",
);
/** Beyond the order: these do not know each other. */
const STRANGERS: readonly [from: string, to: string][] = [
  ["tau2", "core"],
  ["cl", "core"],
];
const EDGES = ["main.ts", "api/host.ts"];

const files = readdirSync(SRC, { recursive: true, encoding: "utf8" }).filter((file) => file.endsWith(".ts"));
const folderOf = (file: string) => file.split("/")[0] ?? file;

const transpiler = new Bun.Transpiler({ loader: "ts" });
/** The scanner sees what is left after types are gone; type imports couple folders, too, so they are read from the text. */
function importsOf(file: string): string[] {
  const source = readFileSync(join(SRC, file), "utf8");
  const scanned = transpiler.scanImports(source).map(({ path }) => path);
  const stated = [...source.matchAll(/^(?:import|export)\b[^;]*?\bfrom "(\.[^"]+)"/gm)].map((match) => match[1] ?? "");
  return [...new Set([...scanned, ...stated])].filter((path) => path.startsWith("."));
}

test("every folder has its place in the order", () => {
  expect([...new Set(files.map(folderOf))].filter((folder) => !ORDER.includes(folder))).toEqual([]);
});

describe("left never imports right", () => {
  test.each(files)("%s", (file) => {
    const from = folderOf(file);
    for (const path of importsOf(file)) {
      const target = relative(SRC, resolve(dirname(join(SRC, file)), path));
      if (target.startsWith("..")) continue; // package.json, configs/*.yaml
      const to = folderOf(target);
      expect(ORDER.indexOf(to), `${file} imports ${target}`).toBeLessThanOrEqual(ORDER.indexOf(from));
      expect(
        STRANGERS.some(([a, b]) => a === from && b === to),
        `${file} imports ${target}`,
      ).toBe(false);
    }
  });
});

describe("no environment, clock or chance below the edge", () => {
  const FORBIDDEN = /\bprocess\.env\b|\bBun\.env\b|\bDate\.now\(|\bnew Date\(\)|\bMath\.random\(/;
  test.each(files.filter((file) => !EDGES.includes(file)))("%s", (file) => {
    const code = readFileSync(join(SRC, file), "utf8").replaceAll(/\/\*[\s\S]*?\*\/|\/\/.*$/gm, "");
    expect(FORBIDDEN.exec(code)?.[0] ?? null).toBeNull();
  });
});

test("only core speaks to the library", () => {
  const speakers = files.filter((file) => readFileSync(join(SRC, file), "utf8").includes('"bun:ffi"'));
  expect(speakers.filter((file) => folderOf(file) !== "core")).toEqual([]);
});

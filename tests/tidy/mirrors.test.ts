/** What is written twice says the same twice. */
import { describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { NAMED_CONFIGS } from "../../src/config/named.ts";
import { optionTable } from "../../src/config/options.ts";

const ROOT = resolve(import.meta.dir, "../..");
const read = (path: string) => readFileSync(join(ROOT, path), "utf8");

const OPTION_TABLE = /<!-- options:start -->\n([\s\S]*?)\n<!-- options:end -->/;
const documents = ["README.md", "ARCHITECTURE.md", "docs/options.md"].filter(
  (file) => existsSync(join(ROOT, file)) && OPTION_TABLE.test(read(file)),
);

describe("the option table in the documents is the schema's (paste what `bun scripts/option-table.ts` prints)", () => {
  test.each(documents)("%s", (file) => {
    expect(OPTION_TABLE.exec(read(file))?.[1]?.trim()).toBe(optionTable());
  });
});

test("every YAML file of configs/ is in the binary under its name", () => {
  const files = readdirSync(join(ROOT, "configs")).filter((file) => file.endsWith(".yaml"));
  expect(
    Object.keys(NAMED_CONFIGS)
      .map((name) => `${name}.yaml`)
      .sort(),
  ).toEqual(files.sort());
  for (const [name, text] of Object.entries(NAMED_CONFIGS)) expect(text).toBe(read(`configs/${name}.yaml`));
});

test("package.json pins every dependency exactly, and the lock file agrees", () => {
  const { dependencies, devDependencies } = JSON.parse(read("package.json"));
  const lock = JSON.parse(read("package-lock.json"));
  for (const [name, version] of Object.entries({ ...dependencies, ...devDependencies })) {
    expect(version, name).toMatch(/^\d+\.\d+\.\d+$/);
    expect(lock.packages[`node_modules/${name}`].version, name).toBe(version);
  }
});

test("the crate and the package have one version", () => {
  const crate = /^version = "([^"]+)"/m.exec(read("core-rs/Cargo.toml"))?.[1];
  expect(JSON.parse(read("package.json")).version).toBe(crate);
});

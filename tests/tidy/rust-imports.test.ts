/** In the core, too, left never imports right; and only `ffi` speaks C. */
import { describe, expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";

const SRC = resolve(import.meta.dir, "../../core-rs/src");
/** `text` (templates, tokenizers) stands beside the tensors and knows none of them. */
const ORDER = ["error", "kernels", "comm", "model", "train", "text", "engine", "ffi"];
const EXPORTED = /extern "C" fn|no_mangle/;

const files = readdirSync(SRC, { recursive: true, encoding: "utf8" }).filter((file) => file.endsWith(".rs"));
const moduleOf = (file: string) => (file.split("/")[0] ?? file).replace(/\.rs$/, "");
const codeOf = (file: string) => readFileSync(join(SRC, file), "utf8").replaceAll(/\/\/.*$/gm, "");

describe("left never imports right", () => {
  test.each(files.filter((file) => file !== "lib.rs"))("%s", (file) => {
    const from = moduleOf(file);
    expect(ORDER).toContain(from);
    for (const [, to = ""] of codeOf(file).matchAll(/\bcrate::(\w+)/g)) {
      if (!ORDER.includes(to)) continue; // a re-export of lib.rs: a type, no module
      expect(ORDER.indexOf(to), `${file} uses crate::${to}`).toBeLessThanOrEqual(ORDER.indexOf(from));
    }
  });
});

test("ffi alone speaks C", () => {
  expect(files.filter((file) => moduleOf(file) !== "ffi" && EXPORTED.test(codeOf(file)))).toEqual([]);
  expect(files.filter((file) => EXPORTED.test(codeOf(file)))).not.toEqual([]);
});

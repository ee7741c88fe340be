import { afterAll, describe, expect, test } from "bun:test";
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { besideOf, replaceDirectory, writeFileAtomic } from "../../src/base/atomic.ts";
import { JsonlFile, readJsonl } from "../../src/base/jsonl.ts";

const root = mkdtempSync(join(tmpdir(), "grpo-cl-files-"));
afterAll(() => rmSync(root, { recursive: true }));

describe("writeFileAtomic", () => {
  test("replaces a file and leaves nothing beside it", () => {
    const folder = join(root, "atomic");
    mkdirSync(folder);
    writeFileAtomic(join(folder, "a.json"), "old");
    writeFileAtomic(join(folder, "a.json"), "new");
    expect(readFileSync(join(folder, "a.json"), "utf8")).toBe("new");
    expect(readdirSync(folder)).toEqual(["a.json"]);
  });

  test("a directory replaces another one", () => {
    const path = join(root, "checkpoint");
    for (const text of ["one", "two"]) {
      mkdirSync(besideOf(path));
      writeFileSync(join(besideOf(path), "x"), text);
      replaceDirectory(besideOf(path), path);
    }
    expect(readFileSync(join(path, "x"), "utf8")).toBe("two");
    expect(existsSync(besideOf(path))).toBe(false);
  });
});

describe("JsonlFile", () => {
  test("goes on where it was closed, and drops a line that a crash cut off", () => {
    const path = join(root, "rows.jsonl");
    const file = JsonlFile.open(path);
    file.append({ step: 0, text: "é" });
    file[Symbol.dispose]();
    expect(() => file.append({})).toThrow("is closed");
    appendFileSync(path, '{"step":1,"te');
    using again = JsonlFile.open(path);
    again.append({ step: 2 });
    expect(readJsonl(path)).toEqual([{ step: 0, text: "é" }, { step: 2 }]);
  });

  test("a line cut off by a crash is left out, a broken one is named", () => {
    const path = join(root, "crash.jsonl");
    writeFileSync(path, '{"a":1}\n{"b"');
    expect(readJsonl(path)).toEqual([{ a: 1 }]);
    appendFileSync(path, "\n");
    expect(() => readJsonl(path)).toThrow("crash.jsonl:2: is not JSON");
  });
});

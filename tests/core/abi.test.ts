/** The boundary itself: both pages agree, and whatever a wrong caller passes is a code with a text. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ABI_VERSION, ALIGNMENT, CODES, KINDS, STRUCTS, SYMBOLS } from "../../src/core/abi.ts";
import { Connection, checked } from "../../src/core/connection.ts";
import { EngineError } from "../../src/core/errors.ts";
import { extractedLibrary, type Library, openLibrary } from "../../src/core/library.ts";
import { LIBRARY } from "./opened.ts";

const scratch = mkdtempSync(join(tmpdir(), "grpo-cl-abi-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const OPTIONS = {
  num_threads: 0,
  kernels: "fused",
  prefix_sharing: true,
  gradient_checkpointing: false,
  kv_cache_bytes: 1e6,
};

/** The code and text with which a call fails. */
function failure(call: () => unknown): { readonly code: string; readonly message: string } {
  try {
    call();
  } catch (error) {
    if (error instanceof EngineError) return { code: error.code, message: error.message };
    throw error;
  }
  throw new Error("the call did not fail");
}

describe.skipIf(LIBRARY === null)("the core library", () => {
  const library = LIBRARY === null ? ({} as Library) : openLibrary(LIBRARY);

  test("reports the layout that abi.ts has", () => {
    const out = new Uint8Array(1 << 16);
    const bytes = Number(library.grpo_layout(out, out.length));
    expect(JSON.parse(new TextDecoder().decode(out.subarray(0, bytes)))).toEqual({
      abi_version: ABI_VERSION,
      alignment: ALIGNMENT,
      structs: STRUCTS,
      codes: CODES,
      kinds: KINDS,
    });
    expect(Number(library.grpo_layout(out, 10))).toBe(bytes);
  });

  const json = (value: unknown) => new TextEncoder().encode(JSON.stringify(value));
  const sized = (bytes: number) => {
    const struct = new Uint8Array(bytes);
    new DataView(struct.buffer).setUint32(0, bytes, true);
    return struct;
  };
  const opened = () => sized(STRUCTS.Opened.size);
  const open = (options: Uint8Array, struct: Uint8Array | null = opened()) =>
    checked(library, library.grpo_open(options, options.length, struct));
  const options = json(OPTIONS);

  test.each([
    ["no struct", () => open(options, null), "BadArgument", "opened is null"],
    ["another struct", () => open(options, sized(12)), "BadArgument", "Opened has 16 bytes here and 12 at the caller"],
    ["crooked struct", () => open(options, opened().subarray(1)), "BadArgument", "opened is not aligned to 8 bytes"],
    ["broken options", () => open(json("{")), "BadArgument", "options: invalid type: string"],
    ["unknown option", () => open(json({ ...OPTIONS, speed: 2 })), "BadArgument", "unknown field `speed`"],
    ["broken UTF-8", () => open(Uint8Array.of(0xff)), "BadArgument", "options: invalid utf-8"],
    ["no such engine", () => checked(library, library.grpo_close(7)), "BadHandle", "engine 7 is not live"],
    ["nothing open", () => checked(library, library.grpo_drain(0, null, null, 0)), "BadHandle", "engine 0"],
  ] as const)("%s", (_, call, code, message) => {
    const { code: got, message: text } = failure(call);
    expect(got).toBe(code);
    expect(text).toContain(message);
  });

  test("the process has one thread pool: another size is refused", () => {
    open(options);
    const other = json({ ...OPTIONS, num_threads: 1000 });
    expect(failure(() => open(other)).message).toContain("num_threads 1000: this process has its pool");
  });

  const { fields, size } = STRUCTS.Submission;
  function submission(values: Partial<Record<keyof typeof fields, bigint | number>>): Uint8Array {
    const struct = sized(size);
    const view = new DataView(struct.buffer);
    for (const [name, value] of Object.entries(values)) {
      const at = fields[name as keyof typeof fields];
      if (name === "kind") view.setUint32(at, Number(value), true);
      else view.setBigUint64(at, BigInt(value), true);
    }
    return struct;
  }

  test("refuses submissions that cannot be, and a second close", () => {
    const struct = opened();
    open(options, struct);
    const engine = Number(new DataView(struct.buffer).getBigUint64(STRUCTS.Opened.fields.engine, true));
    const submit = (values: Parameters<typeof submission>[0]) => () =>
      checked(library, library.grpo_submit(engine, submission(values)));
    expect(failure(submit({ kind: 99 }))).toEqual({ code: "BadArgument", message: "submit: 99 is no kind of request" });
    expect(failure(submit({ kind: KINDS.decode, tokens_len: 3 }))).toMatchObject({ message: "tokens is null" });
    expect(failure(submit({ kind: KINDS.decode, tokens: 4097, tokens_len: 3 }))).toMatchObject({
      message: "tokens is not aligned to 4 bytes",
    });
    checked(library, library.grpo_close(engine));
    expect(failure(() => checked(library, library.grpo_close(engine))).code).toBe("BadHandle");
    expect(failure(submit({ kind: KINDS.decode })).code).toBe("BadHandle");
  });

  test.each([
    ["not JSON", "tokenize", "{", "tokenize: control is not as agreed: EOF"],
    ["not JSON for the model", "sample", "nonsense", "sample: control is not as agreed"],
    ["another field", "save", '{"path":"/tmp/x","fast":true}', "unknown field `fast`"],
    ["no such loss", "forward_backward", '{"loss":{"ppo":{}},"anchor":null}', "unknown variant `ppo`"],
    ["no such operation", "weight_op", '{"melt":{}}', "unknown variant `melt`"],
    ["no model yet", "save", '{"path":"/nowhere/at/all"}', "no model is named policy"],
    ["no model of that name", "tokenize", '{"model":"m","text":""}', "no model is named m"],
  ] as const)("answers a request with %s", async (_, kind, control, message) => {
    using connection = await Connection.open(library, OPTIONS);
    const error = await connection.submitText(kind, control).then(
      () => null,
      (reason: EngineError) => reason,
    );
    expect(error).toBeInstanceOf(EngineError);
    expect(error?.message).toContain(message);
  });
});

test("a library of another ABI version is refused, and both numbers are named", () => {
  const functions = Object.keys(SYMBOLS).map((name) => `long ${name}(void) { return ${ABI_VERSION + 41}; }`);
  writeFileSync(join(scratch, "other.c"), functions.join("\n"));
  const file = join(scratch, "other.so");
  const { success } = Bun.spawnSync(["cc", "-shared", "-fPIC", "-o", file, join(scratch, "other.c")], {
    timeout: 20_000,
  });
  expect(success).toBe(true);
  expect(() => openLibrary(file)).toThrow(`speaks ABI version ${ABI_VERSION + 41}, this program ${ABI_VERSION}`);
});

test("what is no library is named", () => {
  const file = join(scratch, "text.so");
  writeFileSync(file, "not a library");
  expect(() => openLibrary(file)).toThrow(`core library: ${file} cannot be opened`);
});

test("a library is unpacked once, for its owner alone, and again when somebody changed it", () => {
  const directory = join(scratch, "cache");
  const bytes = new TextEncoder().encode("library");
  const file = extractedLibrary(bytes, directory);
  expect(statSync(directory).mode & 0o777).toBe(0o700);
  expect(statSync(file).mode & 0o777).toBe(0o700);
  const { ino } = statSync(file);
  expect(extractedLibrary(bytes, directory)).toBe(file);
  expect(statSync(file).ino).toBe(ino);
  writeFileSync(file, "tampered");
  expect(extractedLibrary(bytes, directory)).toBe(file);
  expect(readFileSync(file, "utf8")).toBe("library");
  expect(extractedLibrary(new TextEncoder().encode("newer"), directory)).not.toBe(file);
});

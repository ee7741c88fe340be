/** Exact JSON values against Python's own texts, and the laws that hold for all of them. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  compareCodePoints,
  dumps,
  type ExactValue,
  entriesOf,
  exactOf,
  Float,
  floatRepr,
  formatTwoDecimals,
  intOf,
  JsonError,
  keysOf,
  objectOf,
  parseExact,
  plainOf,
  pythonEquals,
  pythonRepr,
  roundTwoDecimals,
  withEntry,
  withoutEntry,
} from "../../src/base/exact.ts";

const anyFloat = fc.double().map((value) => new Float(value));
const anyInt = fc.oneof(fc.maxSafeInteger(), fc.bigInt()).map(intOf);
/** Keys that JavaScript objects are known to mistreat come often. */
const anyKey = fc.oneof(
  fc.string(),
  fc.constantFrom("__proto__", "constructor", "toString", "10", "9", "2", "007", "4294967295", "é", "😀", "￿"),
);
const { value: anyValue } = fc.letrec<{ value: ExactValue }>((tie) => ({
  value: fc.oneof(
    { depthSize: "small", withCrossShrink: true },
    fc.constantFrom(null, true, false),
    fc.string({ unit: "binary" }),
    anyInt,
    anyFloat,
    fc.array(tie("value"), { maxLength: 4 }),
    fc.array(fc.tuple(anyKey, tie("value")), { maxLength: 5 }).map(objectOf),
  ),
}));

describe("texts that Python prints", () => {
  // From CPython 3.11: json.dumps(repr(value)).
  test.each<[ExactValue, string]>([
    ["it's", `"it's"`],
    ['say "hi"', `'say "hi"'`],
    [`both ' and "`, `'both \\' and "'`],
    ["tab\t nl\n cr\r bs\\", "'tab\\t nl\\n cr\\r bs\\\\'"],
    ["é", "'é'"],
    ["\x00\x1f\x7f\x80\xad", "'\\x00\\x1f\\x7f\\x80\\xad'"],
    ["\u200b\u2028\u3000\xa0", "'\\u200b\\u2028\\u3000\\xa0'"],
    ["😀\ue000\u{e0001}", "'😀\\ue000\\U000e0001'"],
    [[1, new Float(2), null, true, "x"], "[1, 2.0, None, True, 'x']"],
    [{ a: [{}], b: new Float(-0) }, "{'a': [{}], 'b': -0.0}"],
    [10n ** 30n, "1000000000000000000000000000000"],
  ])("repr %#", (value, text) => expect(pythonRepr(value)).toBe(text));

  test.each([
    [1e16, "1e+16"],
    [9999999999999998, "9999999999999998.0"],
    [1e-5, "1e-05"],
    [0.0001, "0.0001"],
    [5e-324, "5e-324"],
    [1.7976931348623157e308, "1.7976931348623157e+308"],
    [Number.NaN, "nan"],
    [Number.NEGATIVE_INFINITY, "-inf"],
  ])("repr(%d)", (value, text) => expect(floatRepr(value)).toBe(text));

  test("indented", () => {
    expect(dumps({ a: [1, { b: [] }], c: {} }, { indent: 2 })).toBe(
      '{\n  "a": [\n    1,\n    {\n      "b": []\n    }\n  ],\n  "c": {}\n}',
    );
  });
});

describe("parsing", () => {
  test.each<[string, ExactValue]>([
    ["2", 2],
    ["2.0", new Float(2)],
    ["2e0", new Float(2)],
    ["-0", 0],
    ["9007199254740993", 9007199254740993n],
    ["1e400", new Float(Number.POSITIVE_INFINITY)],
    ["[NaN, -Infinity]", [new Float(Number.NaN), new Float(Number.NEGATIVE_INFINITY)]],
    [' {"a" : [null , true,false] } ', { a: [null, true, false] }],
    ['"\\ud83d\\ude00\\n"', "😀\n"],
  ])("%s", (text, value) => expect(parseExact(text)).toEqual(value));

  test.each([
    "",
    "{",
    "[1,]",
    '{"a":1,}',
    "{a:1}",
    "01",
    "+1",
    ".5",
    "1.",
    "'a'",
    '"\n"',
    '"\\x"',
    "nul",
    "1 2",
    '"open',
    "[".repeat(5000),
  ])("%j is refused", (text) => expect(() => parseExact(text)).toThrow(JsonError));

  test("an error names the line", () => expect(() => parseExact('{\n "a": 1,\n "b": x\n}')).toThrow("line 3"));

  test("integer-like keys keep their place, through copies too", () => {
    const object = parseExact('{"10": 1, "b": 2, "2": 3, "10": 4}') as { [key: string]: ExactValue };
    expect(entriesOf(object)).toEqual([
      ["10", 4],
      ["b", 2],
      ["2", 3],
    ]);
    expect(keysOf({ ...object, c: 5 })).toEqual(["10", "b", "2", "c"]);
    expect(keysOf(withEntry(object, "1", 0))).toEqual(["10", "b", "2", "1"]);
    expect(keysOf(withoutEntry(object, "b"))).toEqual(["10", "2"]);
  });

  test("__proto__ is a key like any other", () => {
    const object = parseExact('{"__proto__": {"polluted": 1}}');
    expect(dumps(object)).toBe('{"__proto__": {"polluted": 1}}');
    expect(({} as Record<string, unknown>).polluted).toBeUndefined();
  });
});

describe("laws", () => {
  test("what is printed reads back the same, kinds and order included", () => {
    fc.assert(fc.property(anyValue, (value) => dumps(parseExact(dumps(value))) === dumps(value)));
    fc.assert(
      fc.property(
        anyValue,
        (value) => pythonRepr(parseExact(dumps(value, { ascii: false, indent: 1 }))) === pythonRepr(value),
      ),
    );
  });

  test("on plain JSON the parser agrees with JSON.parse", () => {
    fc.assert(fc.property(fc.json(), (text) => expect(plainOf(parseExact(text))).toEqual(JSON.parse(text))));
  });

  test("text that is no JSON is refused where JSON.parse refuses it", () => {
    fc.assert(
      fc.property(
        fc.string({ unit: fc.constantFrom("{", "}", "[", "]", ",", ":", '"', "1", ".", "e", "-", " ", "\\", "true") }),
        (text) => {
          const outcome = (parse: (text: string) => unknown): string => {
            try {
              return dumps(exactOf(parse(text)));
            } catch {
              return "refused";
            }
          };
          expect(outcome((text) => plainOf(parseExact(text)))).toBe(outcome(JSON.parse));
        },
      ),
    );
  });

  test("equality is reflexive but for NaN, symmetric, and blind to kind and order", () => {
    const clean = anyValue.filter((value) => !dumps(value).includes("NaN"));
    fc.assert(fc.property(clean, (value) => pythonEquals(value, parseExact(dumps(value, { sorted: true })))));
    fc.assert(fc.property(anyValue, anyValue, (a, b) => pythonEquals(a, b) === pythonEquals(b, a)));
    fc.assert(fc.property(fc.maxSafeInteger(), (n) => pythonEquals(n, new Float(n)) && pythonEquals(BigInt(n), n)));
    expect(pythonEquals(2n ** 53n + 1n, new Float(2 ** 53))).toBe(false);
  });

  test("code points order as their numbers do", () => {
    const points = (text: string): number[] => [...text].map((char) => char.codePointAt(0) ?? 0);
    const byPoints = (a: number[], b: number[]): number => {
      const i = a.findIndex((point, at) => point !== b[at]);
      return i === -1 ? a.length - b.length : (a[i] ?? 0) - (b[i] ?? -1);
    };
    const text = fc.string({ unit: "binary" });
    fc.assert(
      fc.property(
        text,
        text,
        (a, b) => Math.sign(compareCodePoints(a, b)) === Math.sign(byPoints(points(a), points(b))),
      ),
    );
  });

  test("two decimals are the nearest, ties to even, on the exact binary value", () => {
    /** The exact value of a float as a fraction of 2^1074, divided and rounded in integers. */
    const exactCents = (value: number): bigint => {
      const view = new DataView(new ArrayBuffer(8));
      view.setFloat64(0, Math.abs(value));
      const raw = view.getBigUint64(0);
      const exponent = raw >> 52n;
      const mantissa = (raw & ((1n << 52n) - 1n)) | (exponent === 0n ? 0n : 1n << 52n);
      const scaled = (mantissa << (exponent === 0n ? 0n : exponent - 1n)) * 100n;
      const unit = 1n << 1074n;
      const [below, rest] = [scaled / unit, (scaled % unit) * 2n];
      return rest > unit || (rest === unit && below % 2n === 1n) ? below + 1n : below;
    };
    const eighths = fc.integer({ min: -1_000_000, max: 1_000_000 }).map((n) => n / 8);
    fc.assert(
      fc.property(
        fc.oneof(
          fc.double({ noNaN: true, noDefaultInfinity: true }),
          eighths,
          fc.float({ noNaN: true, noDefaultInfinity: true }),
        ),
        (value) => {
          const cents = exactCents(value).toString().padStart(3, "0");
          const sign = value < 0 || Object.is(value, -0) ? "-" : "";
          expect(formatTwoDecimals(value)).toBe(`${sign}${cents.slice(0, -2)}.${cents.slice(-2)}`);
          expect(roundTwoDecimals(value)).toBe(Number(`${sign}${cents.slice(0, -2)}.${cents.slice(-2)}`));
        },
      ),
    );
  });
});

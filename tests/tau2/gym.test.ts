/** Actions as text: what CPython's own parser makes of them (3.11; arguments as pydantic 2 writes them to JSON). */
import { describe, expect, test } from "bun:test";
import { dumps } from "../../src/base/exact.ts";
import { gymObservation, parseActionString } from "../../src/tau2/gym.ts";
import type { Message } from "../../src/tau2/types.ts";

const argumentsOf = (action: string): string | null => {
  const [call] = parseActionString(action).tool_calls ?? [];
  return call === undefined ? null : dumps(call.arguments, { ascii: false });
};

describe("a call's arguments", () => {
  test.each([
    ["f(a=2.0, b=2, c=-1.5, d=1_000, e=0x1F, g=1e3)", '{"a": 2.0, "b": 2, "c": -1.5, "d": 1000, "e": 31, "g": 1000.0}'],
    ["f(a=123456789012345678901234567890)", '{"a": 123456789012345678901234567890}'],
    ["f(a=True, b=None, c=foo, d=--1, e=-True)", '{"a": true, "b": null, "c": "foo", "d": 1, "e": -1}'],
    [
      String.raw`f(a='it\'s', b="\n\t\x41\u0042\103\q", c=r'\n', d='a' "b")`,
      String.raw`{"a": "it's", "b": "\n\tABC\\q", "c": "\\n", "d": "ab"}`,
    ],
    ["f(a=[1, (2, [3.0]), {'k': {'z': ()}}],)", '{"a": [1, [2, [3.0]], {"k": {"z": []}}]}'],
    ["f(a={1: 2, True: 3, 1.5: 4, (1, 'x'): 5, None: 6})", '{"a": {"1": 3, "1.5": 4, "1,x": 5, "None": 6}}'],
    ["f(a=1j, b=-2.5j, c=b'\\xc3\\xa9')", '{"a": "1j", "b": "-2.5j", "c": "é"}'],
    ["f(1, x, a=2)", '{"a": 2}'],
    ["f(it is done)", "{}"],
    ["f(not x, y if z else [i for i in j], lambda: 1, a.b[1:2](c)**2)", "{}"],
    ["f(a=1)(b=2)", '{"b": 2}'],
    ["f(a=1); g(b=2)", '{"a": 1}'],
    ["f(a=..., a=1)", '{"a": 1}'],
    ["naïve_1(ä='ß')", '{"ä": "ß"}'],
  ])("%s", (action, expected) => expect(argumentsOf(action)).toBe(expected));
});

describe("plain text", () => {
  test.each([
    "f(a=2024-05-20)",
    "f(a=2024-5-20)",
    "f(a=1, 2)",
    "f(**a, *b)",
    "f(a=1 b=2)",
    "f(class=1)",
    "f(a={[1]: 2})",
    "f(a={1, 2})",
    "f(a=f'{x}')",
    "f(a='x' b'y')",
    "f(a='\\x4')",
    "f(a=1 # x)",
    "f(x for x in y, 1)",
    "f(a=1) and g(b=2)",
    "f(a=-'x')",
    "see (you later)",
    `f(a=${"[".repeat(5000)})`,
    '{"name": "f", "arguments": {}, "id": 5}',
    '{"name": "f", "arguments": {}, "requestor": "nobody"}',
  ])("%s", (action) => expect(parseActionString(action)).toEqual({ content: action, tool_calls: null }));
});

test("a JSON call keeps its id, its requestor and the kind of its numbers", () => {
  const { tool_calls } = parseActionString(' {"id": "7", "name": "f", "arguments": {"a": 2.0}, "requestor": "user"}\n');
  expect(dumps(tool_calls as never)).toBe('[{"id": "7", "name": "f", "arguments": {"a": 2.0}, "requestor": "user"}]');
});

test("a blank action is refused", () => expect(() => parseActionString(" \n")).toThrow("Action cannot be empty"));

test("the user looks from the other side", () => {
  const messages: Message[] = [
    { role: "assistant", content: "Hi!", tool_calls: null },
    {
      role: "user",
      content: null,
      tool_calls: [{ id: "", name: "f", arguments: { b: 1, a: "x" }, requestor: "user" }],
    },
    { role: "tool", id: "", content: "done", requestor: "user", error: false },
  ];
  const seen = (viewer: "user" | "assistant") =>
    gymObservation(messages, { viewer, all_messages_as_observation: false });
  expect(seen("user")).toBe("tool: done");
  expect(seen("assistant")).toBe("user: f(a='x', b=1)\ntool: done");
});

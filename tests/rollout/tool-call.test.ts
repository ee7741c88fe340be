import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { dumps, exactOf, parseExact } from "../../src/base/exact.ts";
import { type ParsedReply, parseReply, withoutControlTokens, withoutThinking } from "../../src/rollout/tool-call.ts";

/** Calls as `name(arguments as Python's JSON)`, so that 2.0 and 2 look different. */
function shown({ content, calls, malformed }: ParsedReply): string {
  const shownCalls = calls.map((call) => `${call.name}(${dumps(call.arguments)})`);
  return [
    content === null ? "-" : `"${content}"`,
    ...shownCalls,
    ...(malformed === null ? [] : [`! ${malformed}`]),
  ].join(" | ");
}

const call = (json: string) => `<tool_call>\n${json}\n</tool_call>`;
const get = '{"name": "get", "arguments": {"id": "#1"}}';
const GET = 'get({"id": "#1"})';

describe("hermes", () => {
  test.each([
    ["text", "  Hello.\n", '"Hello."'],
    ["nothing", " \n", "-"],
    ["one call", call(get), `- | ${GET}`],
    ["compact", '<tool_call>{"name":"get","arguments":{"id":"#1"}}</tool_call>', `- | ${GET}`],
    ["text before", `Let me look.\n${call(get)}`, `"Let me look." | ${GET}`],
    ["text around and between", `A\n${call(get)} B ${call(get)}\nC`, `"A\nB\nC" | ${GET} | ${GET}`],
    ["two calls", `${call(get)}\n${call('{"name": "f", "arguments": {}}')}`, `- | ${GET} | f({})`],
    ["arguments first", call('{"arguments": {"x": 1}, "name": "f"}'), '- | f({"x": 1})'],
    [
      "int and float stay apart",
      call('{"name": "f", "arguments": {"a": 2.0, "b": 2, "c": 1e2}}'),
      '- | f({"a": 2.0, "b": 2, "c": 100.0})',
    ],
    [
      "a large int",
      call('{"name": "f", "arguments": {"n": 123456789012345678901}}'),
      '- | f({"n": 123456789012345678901})',
    ],
    [
      "nested braces",
      call('{"name": "f", "arguments": {"a": {"b": [{"c": {}}, {}]}}}'),
      '- | f({"a": {"b": [{"c": {}}, {}]}})',
    ],
    [
      "braces, quotes and tags in strings",
      call('{"name": "f", "arguments": {"s": "}{\\"</tool_call><tool_call>"}}'),
      '- | f({"s": "}{\\"</tool_call><tool_call>"})',
    ],
    [
      "unicode",
      call('{"name": "f", "arguments": {"s": "Zoë ✓ \\ud83d\\ude00"}}'),
      '- | f({"s": "Zo\\u00eb \\u2713 \\ud83d\\ude00"})',
    ],
    ["arguments as JSON text", call('{"name": "f", "arguments": "{\\"x\\": 2.0}"}'), '- | f({"x": 2.0})'],
    ["arguments null", call('{"name": "f", "arguments": null}'), "- | f({})"],
    ["unknown keys", call('{"id": 7, "type": "function", "name": "f", "arguments": {}}'), "- | f({})"],
    ["missing close tag at the end", `<tool_call>\n${get}\n`, `- | ${GET}`],
    ["missing close tag before the next call", `<tool_call>${get}<tool_call>${get}</tool_call>`, `- | ${GET} | ${GET}`],
    ["__proto__ is an ordinary key", call('{"name": "f", "arguments": {"__proto__": 1}}'), '- | f({"__proto__": 1})'],
  ])("%s", (_, text, expected) => {
    expect(shown(parseReply(text, "hermes"))).toBe(expected);
  });

  test.each([
    ["cut in the middle", '<tool_call>\n{"name": "get", "argu', "the JSON object is not closed"],
    ["cut in a string", '<tool_call>\n{"name": "get', "the JSON object is not closed"],
    ["cut after the tag", "<tool_call>", "expected a JSON object"],
    ["an array", call(`[${get}]`), "expected a JSON object"],
    ["not JSON", call("{name: get}"), /^not JSON: expected a key in double quotes/],
    ["single quotes", call("{'name': 'get', 'arguments': {}}"), /^not JSON/],
    ["a trailing comma", call('{"name": "f", "arguments": {"a": 1,}}'), /^not JSON/],
    ["one brace too many", call(`${get}}`), "expected </tool_call> after the JSON object"],
    ["text after the object", `<tool_call>${get} and more`, "expected </tool_call> after the JSON object"],
    ["no name", call('{"arguments": {}}'), "the call has no name"],
    ["empty name", call('{"name": " ", "arguments": {}}'), "the call has no name"],
    ["a name that is no text", call('{"name": 3, "arguments": {}}'), "the call has no name"],
    ["no arguments", call('{"name": "f"}'), "the call has no arguments"],
    ["Llama's key", call('{"name": "f", "parameters": {}}'), "the call has no arguments"],
    ["arguments are a list", call('{"name": "f", "arguments": [1]}'), "arguments must be a JSON object"],
    ["arguments are a word", call('{"name": "f", "arguments": "x"}'), /^not JSON/],
    ["arguments are JSON text of a list", call('{"name": "f", "arguments": "[1]"}'), "arguments must be a JSON object"],
    ["a stray close tag", `${get}</tool_call>`, "</tool_call> without <tool_call>"],
    ["the second of two", `${call(get)}${call("{}")}`, "the call has no name"],
    ["nested tags", `<tool_call>${call(get)}</tool_call>`, "expected a JSON object"],
  ])("malformed: %s", (_, text, why) => {
    const reply = parseReply(text, "hermes");
    expect(reply.malformed ?? "").toMatch(why);
    expect(reply).toMatchObject({ calls: [], content: text.trim() });
  });
});

const llama = '{"name": "get", "parameters": {"id": "#1"}}';

describe("llama3", () => {
  test.each([
    ["text", "Hello {world}.", '"Hello {world}."'],
    ["one call", llama, `- | ${GET}`],
    ["space around", `\n\n${llama} \n`, `- | ${GET}`],
    ["python tag", `<|python_tag|>${llama}`, `- | ${GET}`],
    ["text before the python tag", `Let me see. <|python_tag|>${llama}`, `"Let me see." | ${GET}`],
    ["semicolons", `${llama}; ${llama};`, `- | ${GET} | ${GET}`],
    ["arguments instead of parameters", get, `- | ${GET}`],
    ["type", '{"type": "function", "name": "f", "parameters": {"x": 2.0}}', '- | f({"x": 2.0})'],
    ["parameters null", '{"name": "f", "parameters": null}', "- | f({})"],
    ["a semicolon in a string", '{"name": "f", "parameters": {"s": "a;b"}}', '- | f({"s": "a;b"})'],
    ["JSON after text is text", `Call ${llama}`, `"Call {"name": "get", "parameters": {"id": "#1"}}"`],
    ["Hermes tags are text here", call(get), `"${call(get)}"`],
  ])("%s", (_, text, expected) => {
    expect(shown(parseReply(text, "llama3"))).toBe(expected);
  });

  test.each([
    ["cut", '{"name": "get", "para', "the JSON object is not closed"],
    ["no parameters", '{"name": "get"}', "the call has no parameters"],
    ["another object", '{"answer": 42}', "the call has no name"],
    ["text after", `${llama} done`, "expected a semicolon or the end after the JSON object"],
    ["a built-in tool's Python", '<|python_tag|>brave_search.call(query="x")', "expected a JSON object"],
  ])("malformed: %s", (_, text, why) => {
    const reply = parseReply(text, "llama3");
    expect(reply.malformed).toBe(why);
    expect(reply).toMatchObject({ calls: [], content: text.replace("<|python_tag|>", "").trim() });
  });
});

test("a speaker without tools only speaks", () => {
  expect(parseReply(call(get), null)).toEqual({ content: call(get), calls: [], malformed: null });
});

test("any call that a template would print is read back", () => {
  fc.assert(
    fc.property(
      fc.string({ minLength: 1 }).filter((s) => s.trim() !== ""),
      fc.dictionary(fc.string(), fc.jsonValue()),
      (name, args) => {
        const json = (key: string) => `{"name": ${JSON.stringify(name)}, "${key}": ${JSON.stringify(args)}}`;
        const expected = { name, arguments: parseExact(JSON.stringify(args)) };
        expect(dumps(exactOf(parseReply(call(json("arguments")), "hermes").calls[0]))).toBe(dumps(exactOf(expected)));
        expect(dumps(exactOf(parseReply(json("parameters"), "llama3").calls[0]))).toBe(dumps(exactOf(expected)));
      },
    ),
    { numRuns: 50 },
  );
});

test("no text makes the parser throw", () => {
  const pieces = fc.constantFrom(
    "<tool_call>",
    "</tool_call>",
    "{",
    "}",
    '"',
    "\\",
    ":",
    ",",
    "name",
    get,
    llama,
    ";",
    " ",
    "[",
    "1",
  );
  fc.assert(
    fc.property(fc.array(pieces, { maxLength: 12 }), fc.constantFrom("hermes", "llama3"), (parts, format) => {
      const { malformed, calls } = parseReply(parts.join(""), format);
      if (malformed !== null) expect(calls).toEqual([]);
    }),
  );
});

test.each([
  ["no reasoning", "Hi.", "Hi."],
  ["a block", "<think>\nhm\n</think>\n\nHi.", "\n\nHi."],
  ["an empty block", "<think>\n\n</think>\n\nHi.", "\n\nHi."],
  ["two blocks", "<think>a</think>x<think>b</think>y", "xy"],
  ["opened in the prompt", "hm\n</think>\n\nHi.", "\n\nHi."],
  ["cut off", "Hi <think>secret", "Hi "],
  ["only reasoning", "<think>secret", ""],
  ["a call inside the reasoning", `<think>${call(get)}</think>no`, "no"],
])("reasoning is left out: %s", (_, text, expected) => {
  expect(withoutThinking(text)).toBe(expected);
});

test.each([
  ["a<|im_end|>b", "ab"],
  ["<|im_<|x|>end|>", ""],
  ["<|python_tag|>x<|eom_id|>", "<|python_tag|>x"],
  ["a <| b |> c", "a <| b |> c"],
  ["<｜end▁of▁sentence｜>a", "a"],
  ["x<|begin_of_text|><|reserved_special_token_1|>y", "xy"],
])("control tokens are left out: %s", (text, expected) => {
  expect(withoutControlTokens(text)).toBe(expected);
});

use super::*;
use crate::text::Text;
use std::path::Path;

/// Ids of the built-in model's tokenizer.
const STOP: u32 = 645;
const VOCAB_SIZE: usize = 704;

const TOOLS: &str = r##"[
  {"type": "function", "function": {"name": "find", "description": "d", "parameters": {
    "type": "object", "title": "T", "required": ["id", "kind"], "properties": {
      "id": {"type": "string", "description": "An id."}, "kind": {"enum": ["a", "b<c"]},
      "count": {"type": "integer", "minimum": 0}, "share": {"type": "number"},
      "who": {"anyOf": [{"$ref": "#/$defs/Person"}, {"type": "null"}]},
      "tags": {"type": "array", "items": {"type": "string"}}},
    "$defs": {"Person": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}}}}},
  {"type": "function", "function": {"name": "stop_now", "parameters": {"type": "object", "properties": {}}}}
]"##;

fn text() -> Text {
    Text::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/quickstart-model")).unwrap()
}

fn grammar(format: CallFormat) -> Arc<CallGrammar> {
    text().call_grammar(&CallGrammarSpec { tools_json: TOOLS.into(), format }, VOCAB_SIZE).unwrap()
}

fn hermes() -> CallConstraint {
    CallConstraint::new(grammar(CallFormat::Hermes), false)
}

fn allows(constraint: &mut CallConstraint, token: u32) -> bool {
    constraint.mask(&[STOP]).unwrap().is_none_or(|mask| mask.allows(token))
}

/// Follows tokens as far as they are allowed.
fn walked(constraint: &mut CallConstraint, tokens: &[u32]) -> usize {
    tokens.iter().take_while(|&&token| allows(constraint, token) && constraint.consume(token).is_ok()).count()
}

fn spellings(grammar: &CallGrammar, said: &str) -> [Vec<u32>; 2] {
    let whole = text().tokenize(said).unwrap();
    [whole, said.bytes().map(|byte| grammar.vocabulary.byte(byte)).collect()]
}

fn check(format: CallFormat, said: &str, expected: bool) {
    let grammar = grammar(format);
    for tokens in spellings(&grammar, said) {
        let mut constraint = CallConstraint::new(grammar.clone(), false);
        let allowed = walked(&mut constraint, &tokens) == tokens.len() && allows(&mut constraint, STOP);
        assert_eq!(allowed, expected, "{format:?} {said:?} in {} tokens", tokens.len());
    }
}

#[test]
fn hermes_calls() {
    let find =
        |arguments: &str| format!("<tool_call>\n{{\"name\": \"find\", \"arguments\": {arguments}}}\n</tool_call>");
    for arguments in [
        r#"{"id": "x", "kind": "a"}"#,
        r#"{"id":"","kind":"b<c","count":12}"#,
        "{\n  \"id\": \"é 😀 </tool_call> \\\" \\u0007 <b>\",\n  \"kind\": \"a\"\n}",
        r#"{"id": "x", "kind": "a", "share": -1.5e3, "who": {"name": "n"}, "tags": ["p", "q"]}"#,
        r#"{"id": "x", "kind": "a", "who": null, "tags": []}"#,
    ] {
        check(CallFormat::Hermes, &find(arguments), true);
    }
    for arguments in [
        r#"{"id": "x"}"#,
        r#"{"id": 1, "kind": "a"}"#,
        r#"{"id": "x", "kind": "c"}"#,
        r#"{"id": "x", "kind": "a", "count": -1}"#,
        r#"{"id": "x", "kind": "a", "count": 1.5}"#,
        r#"{"id": "x", "kind": "a", "other": 1}"#,
        r#"{"id": "x", "kind": "a", "who": {}}"#,
        r#"{"id": "a <think> b", "kind": "a"}"#,
        r#"{"id": "a </think> b", "kind": "a"}"#,
        r#"{"id": "a <|x|> b", "kind": "a"}"#,
        "{\"id\": \"a line\nfeed\", \"kind\": \"a\"}",
        "null",
    ] {
        check(CallFormat::Hermes, &find(arguments), false);
    }
    let none = r#"<tool_call>{"name": "stop_now", "arguments": {}}</tool_call>"#;
    for said in [
        "",
        "Hello {\"name\": 1} <tool call>",
        none,
        &format!("Wait. {none}\n{none} and more {{"),
        &format!("<<<tool_call{none}"),
        &format!("<think> <tool_call> what </tool_call> </think>{none}"),
        "<think> </tool_call>",
    ] {
        check(CallFormat::Hermes, said, true);
    }
    for said in [
        "<tool_call>",
        "</tool_call>",
        "a</tool_call>b",
        "<tool_call>hello",
        &none[..none.len() - 1],
        &none.replace("stop_now", "go_on"),
        &none.replace("{}", "{\"a\": 1}"),
        &none.replace("arguments", "parameters"),
        &format!("{none}</tool_call>"),
    ] {
        check(CallFormat::Hermes, said, false);
    }
}

#[test]
fn llama_calls() {
    let none = r#"{"name": "stop_now", "parameters": {}}"#;
    let find = r#"{"name": "find", "parameters": {"id": "x", "kind": "a"}}"#;
    for said in [
        "",
        "Hello { you",
        none,
        &format!(" \n\u{a0}{find}"),
        &format!("{none}; {find};{none}"),
        &format!("I look. <|python_tag|>{find}"),
        &format!("<think>{{</think> {none}"),
        "<tool_call> is text here </tool_call>",
    ] {
        check(CallFormat::Llama3, said, true);
    }
    for said in [
        "{",
        " {\"a\": 1}",
        &none.replace("parameters", "arguments"),
        &format!("{none};"),
        &format!("{none} and more"),
        "well <|python_tag|>",
        "well <|python_tag|>print(1)",
        &format!("<think> \u{e9} </think>\n{none}x"),
    ] {
        check(CallFormat::Llama3, said, false);
    }
}

/// Any allowed token, again and again: what comes out is text around whole calls.
#[test]
fn random_walks_are_calls() {
    for seed in 1..=40u64 {
        let grammar = grammar(CallFormat::Hermes);
        let mut constraint = CallConstraint::new(grammar.clone(), false);
        let mut said = b"<tool_call>".to_vec();
        constraint.consume(646).unwrap();
        let mut state = seed;
        for _ in 0..4000 {
            if !constraint.in_call() {
                break;
            }
            let mask = constraint.mask(&[STOP]).unwrap().unwrap();
            let allowed: Vec<u32> = (0..VOCAB_SIZE as u32).filter(|&token| mask.allows(token)).collect();
            assert!(!allowed.is_empty() && !allowed.contains(&STOP));
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // among the first few, so that numbers and strings end one day
            let token = allowed[(state >> 33) as usize % allowed.len().min(40)];
            constraint.consume(token).unwrap();
            said.extend(grammar.vocabulary.text(token));
        }
        let said = String::from_utf8(said).unwrap();
        let body = said.strip_prefix("<tool_call>").and_then(|rest| rest.strip_suffix("</tool_call>"));
        let call: serde_json::Value = serde_json::from_str(body.expect(&said)).expect(&said);
        assert!(["find", "stop_now"].contains(&call["name"].as_str().unwrap()), "{said}");
        assert!(call["arguments"].is_object(), "{said}");
    }
}

#[test]
fn a_character_is_never_cut_in_two() {
    let mut constraint = hermes();
    let start = r#"<tool_call>{"name": "find", "arguments": {"id": ""#;
    let grammar = grammar(CallFormat::Hermes);
    let [tokens, _] = spellings(&grammar, start);
    assert_eq!(walked(&mut constraint, &tokens), tokens.len());
    let byte = |byte| grammar.vocabulary.byte(byte);
    constraint.consume(byte(0xf0)).unwrap();
    for (next, expected) in [(byte(b'"'), false), (byte(b'a'), false), (byte(0x9f), true), (byte(0xff), false)] {
        assert_eq!(allows(&mut constraint, next), expected, "{next}");
    }
}

#[test]
fn free_text_stays_free() {
    let mut constraint = hermes();
    let refused = |constraint: &mut CallConstraint| {
        (0..VOCAB_SIZE as u32).filter(|&token| !allows(constraint, token)).collect::<Vec<_>>()
    };
    assert_eq!(refused(&mut constraint), [647], "only the tag that closes what was not opened");
    // half a character, a control token, a token without text
    let grammar = grammar(CallFormat::Hermes);
    for token in [grammar.vocabulary.byte(0xf0), 644, 700] {
        constraint.consume(token).unwrap();
        assert_eq!(refused(&mut constraint), [647]);
    }
    let mut thinking = CallConstraint::new(grammar, true);
    thinking.consume(646).unwrap();
    assert!(!thinking.in_call());
    assert_eq!(thinking.mask(&[STOP]).unwrap(), None);
}

/// `<tool_call` and then a token that closes the tag and goes on.
#[test]
fn a_token_may_open_a_call_and_go_on_as_one_does() {
    let grammar = grammar(CallFormat::Hermes);
    let texts = grammar.vocabulary.texts();
    let mut met = [0, 0];
    for token in (0..VOCAB_SIZE as u32).filter(|&token| texts[token as usize].first() == Some(&b'>')) {
        let mut constraint = CallConstraint::new(grammar.clone(), false);
        "<tool_call".bytes().for_each(|byte| constraint.consume(grammar.vocabulary.byte(byte)).unwrap());
        let rest = &texts[token as usize][1..];
        let begins = |call: &str| call.as_bytes().starts_with(rest);
        let expected = rest.iter().all(u8::is_ascii_whitespace) || begins("{\"name\"") || begins("\n{\"name\"");
        assert_eq!(allows(&mut constraint, token), expected, "{:?}", String::from_utf8_lossy(rest));
        if expected {
            constraint.consume(token).unwrap();
            assert!(constraint.in_call());
        }
        met[usize::from(expected)] += 1;
    }
    assert!(met[1] > 0, "the tokenizer has no such token: {met:?}");
}

#[test]
fn a_grammar_is_compiled_once_and_names_the_schema_it_cannot_take() {
    let text = text();
    let spec = |tools_json: &str| CallGrammarSpec { tools_json: tools_json.into(), format: CallFormat::Hermes };
    let [first, again] = [(); 2].map(|()| text.call_grammar(&spec(TOOLS), VOCAB_SIZE).unwrap());
    assert!(Arc::ptr_eq(&first, &again));
    let schema =
        r#"[{"function": {"name": "odd", "parameters": {"type": "object", "properties": {"a": {"not": {}}}}}}]"#;
    for (tools, expected) in [(schema, "the schema of odd"), ("[]", "needs a tool"), ("{", "tools_json")] {
        let error = text.call_grammar(&spec(tools), VOCAB_SIZE).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

//! Tokenizer and chat template against what transformers printed (shared/fixtures/core), and own templates in the style
//! of Qwen3, Llama 3 and friends against what transformers' Jinja makes of them.
use grpo_core::text::{ChatMessage, FunctionCall, RenderOptions, Text, ToolCall};
use serde_json::{Value as Json, json};
use std::path::{Path, PathBuf};

fn shared() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    let shared = std::env::var_os("GRPO_CL_SHARED").map_or_else(|| root.join("../shared"), PathBuf::from);
    let fixtures = shared.join("fixtures/core");
    if !fixtures.is_dir() {
        eprintln!("skipped: no fixtures at {} (set GRPO_CL_SHARED)", fixtures.display());
        return None;
    }
    Some(fixtures)
}

fn read_json(path: &Path) -> Json {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every model directory of the fixtures.
fn models(fixtures: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(fixtures.join("models")).expect("fixtures/core/models");
    let mut models: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    models.sort();
    assert!(!models.is_empty());
    models
}

/// The real Qwen3 tokenizer, which is not stored with the fixtures. Its directory gets Qwen2.5's template from a fixture.
fn qwen3_text(fixtures: &Path) -> Option<Text> {
    let home = std::env::var("HOME").unwrap_or_default();
    let path = std::env::var_os("GRPO_CL_QWEN3_TOKENIZER").map_or_else(
        || PathBuf::from(home).join(".cache/grpo-cl-peers/dl/qwen3tok/package/models/tokenizer.json"),
        PathBuf::from,
    );
    if !path.is_file() {
        eprintln!("skipped: no Qwen3 tokenizer at {} (set GRPO_CL_QWEN3_TOKENIZER)", path.display());
        return None;
    }
    let directory = Scratch::new("qwen3");
    std::fs::copy(&path, directory.0.join("tokenizer.json")).unwrap();
    let config = models(fixtures)[0].join("tokenizer_config.json");
    std::fs::copy(config, directory.0.join("tokenizer_config.json")).unwrap();
    Some(Text::load(&directory.0).unwrap())
}

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("grpo-core-text-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        Self(directory)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn message(json: &Json) -> ChatMessage {
    let calls = json["tool_calls"].as_array().map_or(vec![], Clone::clone);
    ChatMessage {
        role: json["role"].as_str().unwrap().into(),
        content: json["content"].as_str().map(str::to_string),
        tool_calls: calls.iter().map(|call| tool_call(&call["function"])).collect(),
        tool_call_id: None,
    }
}

fn tool_call(function: &Json) -> ToolCall {
    let (name, arguments_json) = (function["name"].as_str().unwrap().into(), function["arguments"].to_string());
    ToolCall { function: FunctionCall { name, arguments_json } }
}

fn render(text: &Text, case: &Json) -> grpo_core::error::Result<String> {
    let messages: Vec<ChatMessage> = case["messages"].as_array().unwrap().iter().map(message).collect();
    let options = RenderOptions {
        tools_json: (!case["tools"].is_null()).then(|| case["tools"].to_string()),
        add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap_or(true),
        enable_thinking: case["enable_thinking"].as_bool().unwrap_or(false),
    };
    text.render(&messages, &options)
}

fn check_chats(text: &Text, file: &Path, who: &str) {
    let cases = read_json(file);
    let cases = cases.as_object().unwrap();
    assert!(!cases.is_empty());
    for (name, case) in cases {
        let rendered = render(text, case).unwrap_or_else(|error| panic!("{who} {name}: {error}"));
        assert_eq!(rendered, case["text"].as_str().unwrap(), "{who} {name}");
        assert_eq!(json!(text.tokenize(&rendered).unwrap()), case["ids"], "{who} {name}");
    }
}

fn check_texts(text: &Text, file: &Path, who: &str) {
    let cases = read_json(file);
    let cases = cases.as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let ids = text.tokenize(case["text"].as_str().unwrap()).unwrap();
        assert_eq!(json!(ids), case["ids"], "{who} {}", case["text"]);
        assert_eq!(json!(text.decode(&ids, false).unwrap()), case["decoded"], "{who} {}", case["text"]);
        assert_eq!(json!(text.decode(&ids, true).unwrap()), case["decoded_skip_special"], "{who} {}", case["text"]);
    }
}

#[test]
fn fixtures_small_tokenizer_and_template() {
    let Some(fixtures) = shared() else { return };
    for model in models(&fixtures) {
        let (text, who) = (Text::load(&model).unwrap(), model.display().to_string());
        assert!(text.has_chat_template());
        check_chats(&text, &fixtures.join("expected/chat_qwen2_5.json"), &who);
        check_texts(&text, &fixtures.join("expected/tokenizer_small.json"), &who);
    }
}

#[test]
fn fixtures_real_tokenizer_and_template() {
    let Some(fixtures) = shared() else { return };
    let Some(text) = qwen3_text(&fixtures) else { return };
    check_chats(&text, &fixtures.join("expected/chat_qwen2_5_real_ids.json"), "Qwen3 tokenizer");
    check_texts(&text, &fixtures.join("expected/tokenizer_qwen3_real.json"), "Qwen3 tokenizer");
}

#[test]
fn fixtures_save_keeps_the_files() {
    let Some(fixtures) = shared() else { return };
    let model = &models(&fixtures)[0];
    let saved = Scratch::new("saved");
    Text::load(model).unwrap().save(&saved.0).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        assert_eq!(std::fs::read(saved.0.join(name)).unwrap(), std::fs::read(model.join(name)).unwrap(), "{name}");
    }
}

/// The small tokenizer with `config` as its tokenizer_config.json and, if given, chat_template.jinja.
fn text_with(name: &str, fixtures: &Path, config: &Json, jinja: Option<&str>) -> grpo_core::error::Result<Text> {
    let directory = Scratch::new(name);
    std::fs::copy(models(fixtures)[0].join("tokenizer.json"), directory.0.join("tokenizer.json")).unwrap();
    std::fs::write(directory.0.join("tokenizer_config.json"), config.to_string()).unwrap();
    if let Some(source) = jinja {
        std::fs::write(directory.0.join("chat_template.jinja"), source).unwrap();
    }
    Text::load(&directory.0)
}

const TEMPLATES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chat_templates");

/// Own templates in the style of each family; what they print was made by transformers
/// (`core-rs/tests/chat_templates/expected.py`).
#[test]
fn fixtures_template_styles() {
    let Some(fixtures) = shared() else { return };
    let expected = read_json(&Path::new(TEMPLATES).join("expected.json"));
    for (style, cases) in expected.as_object().unwrap() {
        let source = std::fs::read_to_string(Path::new(TEMPLATES).join(format!("{style}.jinja"))).unwrap();
        let config = json!({ "bos_token": "<|bos|>", "eos_token": { "content": "<|eos|>" } });
        let text = text_with(style, &fixtures, &config, Some(&source)).unwrap();
        for (name, case) in cases.as_object().unwrap() {
            match render(&text, case) {
                Ok(rendered) => assert_eq!(json!(rendered), case["text"], "{style} {name}"),
                Err(error) => {
                    let wanted = case["error"].as_str().unwrap_or_else(|| panic!("{style} {name}: {error}"));
                    assert!(error.to_string().contains(wanted), "{style} {name}: {error}");
                }
            }
        }
    }
}

#[test]
fn fixtures_which_template_is_taken() {
    let Some(fixtures) = shared() else { return };
    let named = json!([{ "name": "default", "template": "plain" }, { "name": "tool_use", "template": "tools" }]);
    let case = |tools: Json| json!({ "messages": [{ "role": "user", "content": "x" }], "tools": tools });
    for (name, chat_template, jinja, tools, expected) in [
        ("string", json!("one"), None, json!([{}]), "one"),
        ("named", named.clone(), None, Json::Null, "plain"),
        ("named_tools", named.clone(), None, json!([{}]), "tools"),
        ("file", named, Some("file"), json!([{}]), "file"),
        // Jinja reads every kind of line end as \n.
        ("windows", json!("a\r\n{% if true %}\r\nb{% endif %}"), None, Json::Null, "a\nb"),
    ] {
        let text = text_with(name, &fixtures, &json!({ "chat_template": chat_template }), jinja).unwrap();
        assert_eq!(render(&text, &case(tools)).unwrap(), expected, "{name}");
    }
}

#[test]
fn fixtures_broken_text_is_named() {
    let Some(fixtures) = shared() else { return };
    let problem = |name: &str, template: Json| {
        let loaded = text_with(name, &fixtures, &json!({ "chat_template": template }), None);
        loaded.err().map_or(String::new(), |error| error.to_string())
    };
    assert!(problem("syntax", json!("a\n{% if %}")).contains("line 2"));
    assert!(problem("shape", json!(3)).contains("neither text nor a list"));
    let none = text_with("none", &fixtures, &json!({}), None).unwrap();
    assert!(!none.has_chat_template());
    let case = json!({ "messages": [], "tools": null });
    assert!(render(&none, &case).unwrap_err().to_string().contains("no chat template"));
    let missing = Text::load(Path::new("/nowhere")).err().unwrap().to_string();
    assert!(missing.contains("/nowhere/tokenizer.json"), "{missing}");
}

#[test]
fn fixtures_arguments_that_are_not_json() {
    let Some(fixtures) = shared() else { return };
    let text = Text::load(&models(&fixtures)[0]).unwrap();
    let call = ToolCall { function: FunctionCall { name: "f".into(), arguments_json: "{".into() } };
    let message = ChatMessage { role: "assistant".into(), content: None, tool_calls: vec![call], tool_call_id: None };
    let options = RenderOptions { tools_json: None, add_generation_prompt: true, enable_thinking: false };
    let error = text.render(&[message], &options).unwrap_err().to_string();
    assert!(error.contains("arguments of the tool call f"), "{error}");
}

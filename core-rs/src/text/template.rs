//! Chat templates as transformers compiles them: a sandboxed Jinja with trimmed blocks, loop controls, its own `tojson`,
//! `raise_exception` and `strftime_now` (transformers/utils/chat_template_utils.py).
use super::{clock, python};
use crate::error::{Error, Result};
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, ErrorKind, Value};
use serde_json::Value as Json;
use std::collections::BTreeMap;

const DEFAULT: &str = "default";
/// Preferred over `default` when tools are given.
const TOOL_USE: &str = "tool_use";
/// Tokens that a tokenizer config may name; templates see those it names.
const SPECIAL_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

pub struct ChatTemplate {
    environment: Environment<'static>,
    special_tokens: Vec<(&'static str, String)>,
}

impl ChatTemplate {
    /// chat_template.jinja wins over tokenizer_config.json's `chat_template`, which is one template or a list of named ones.
    pub fn find(config: &Json, jinja: Option<String>) -> std::result::Result<Option<Self>, String> {
        let sources = match jinja {
            Some(source) => vec![(DEFAULT.to_string(), source)],
            None => named_templates(&config["chat_template"])?,
        };
        if sources.is_empty() {
            return Ok(None);
        }
        let mut environment = transformers_environment();
        for (name, source) in sources {
            environment
                .add_template_owned(name, without_generation_marks(&source.replace("\r\n", "\n")))
                .map_err(|error| format!("chat template: {}", described(&error)))?;
        }
        let special_tokens =
            SPECIAL_TOKENS.iter().filter_map(|&name| Some((name, token_text(&config[name])?.to_string()))).collect();
        Ok(Some(Self { environment, special_tokens }))
    }

    pub fn render(&self, mut variables: BTreeMap<&'static str, Value>) -> Result<String> {
        let has_tools = variables.get("tools").is_some_and(|tools| !tools.is_none());
        let tool_use = has_tools.then(|| self.environment.get_template(TOOL_USE).ok()).flatten();
        let template = match tool_use {
            Some(template) => template,
            None => self.environment.get_template(DEFAULT).map_err(template_error)?,
        };
        for (name, token) in &self.special_tokens {
            variables.insert(name, Value::from(token.as_str()));
        }
        template.render(variables).map_err(template_error)
    }
}

fn template_error(error: minijinja::Error) -> Error {
    Error::BadArgument(format!("chat template: {}", described(&error)))
}

/// Message and line, without minijinja's kind in front of what `raise_exception` says.
fn described(error: &minijinja::Error) -> String {
    let message = error.detail().map_or_else(|| error.kind().to_string(), str::to_string);
    error.line().map_or(message.clone(), |line| format!("{message} (line {line})"))
}

fn named_templates(templates: &Json) -> std::result::Result<Vec<(String, String)>, String> {
    match templates {
        Json::Null => Ok(vec![]),
        Json::String(source) => Ok(vec![(DEFAULT.into(), source.clone())]),
        Json::Array(list) => list
            .iter()
            .map(|entry| match (entry["name"].as_str(), entry["template"].as_str()) {
                (Some(name), Some(source)) => Ok((name.into(), source.into())),
                _ => Err("tokenizer_config.json: an entry of chat_template lacks a name or a template".into()),
            })
            .collect(),
        _ => Err("tokenizer_config.json: chat_template is neither text nor a list".into()),
    }
}

/// "<|im_end|>" or {"content": "<|im_end|>", …}.
fn token_text(token: &Json) -> Option<&str> {
    token.as_str().or_else(|| token["content"].as_str())
}

fn transformers_environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_formatter(|out, _, value| Ok(out.write_str(&python::text(value))?));
    environment.add_filter("string", |value: &Value| python::text(value).into_owned());
    environment.add_filter("tojson", to_json);
    environment.add_test("iterable", |value: &Value| is_sized(value) || value.kind() == ValueKind::Iterable);
    environment.add_test("sequence", is_sized);
    environment.add_function("raise_exception", |message: String| -> std::result::Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    let loaded_at = clock::now();
    environment.add_function("strftime_now", move |format: &str| loaded_at.strftime(format));
    environment
}

/// Has a length in Python: lists, dicts, texts and Jinja's undefined, but not None.
fn is_sized(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String | ValueKind::Undefined)
}

fn to_json(value: &Value, options: Kwargs) -> std::result::Result<Value, minijinja::Error> {
    let indent = options.get::<Option<usize>>("indent")?;
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    let layout = python::JsonLayout {
        ensure_ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        item_separator: separator(&separators, 0).unwrap_or(if indent.is_some() { "," } else { ", " }.into()),
        key_separator: separator(&separators, 1).unwrap_or(": ".into()),
        indent,
    };
    options.assert_all_used()?;
    Ok(Value::from_safe_string(python::dumps(value, &layout)?))
}

fn separator(separators: &Option<Vec<String>>, index: usize) -> Option<String> {
    separators.as_ref().and_then(|pair| pair.get(index).cloned())
}

/// `{% generation %}` marks the assistant's tokens for transformers' training mask; our mask comes from sampling. The
/// marks become `if true`, which keeps their whitespace control.
fn without_generation_marks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}").map(|end| end + 2) else { break };
        let (open, tag, close) = tag_parts(&rest[start..start + length]);
        out.push_str(&rest[..start]);
        match tag.trim() {
            "generation" => out.push_str(&format!("{open} if true {close}")),
            "endgeneration" => out.push_str(&format!("{open} endif {close}")),
            _ => out.push_str(&rest[start..start + length]),
        }
        rest = &rest[start + length..];
    }
    out + rest
}

/// `{%- x -%}` → `{%-`, ` x `, `-%}`.
fn tag_parts(tag: &str) -> (&str, &str, &str) {
    let marked = |c: Option<&u8>| matches!(c, Some(b'-' | b'+'));
    let open = if marked(tag.as_bytes().get(2)) { 3 } else { 2 };
    let close = if tag.len() > open + 2 && marked(tag.as_bytes().get(tag.len() - 3)) { 3 } else { 2 };
    (&tag[..open], &tag[open..tag.len() - close], &tag[tag.len() - close..])
}

//! Text of one model directory: tokenizer and chat template.
pub mod calls;
mod clock;
mod python;
mod template;

use crate::error::{Error, Result};
use calls::{CallGrammar, CallGrammarSpec, Vocabulary};
use minijinja::Value;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use template::ChatTemplate;
use tokenizers::Tokenizer;

/// Files that a saved model directory takes over unchanged, as far as the loaded one has them.
const TEXT_FILES: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
];

pub struct Text {
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    /// Name and bytes of `TEXT_FILES`, kept because the directory may be gone when the model is saved.
    files: Vec<(&'static str, Vec<u8>)>,
    grammars: Mutex<Grammars>,
}

/// What constrained sampling has compiled so far.
#[derive(Default)]
struct Grammars {
    vocabulary: Option<Arc<Vocabulary>>,
    compiled: BTreeMap<CallGrammarSpec, Arc<CallGrammar>>,
}

#[derive(Debug, Deserialize)]
pub struct ChatMessage {
    pub role: String,
    pub content: Option<String>,
    #[serde(default)]
    pub tool_calls: Vec<ToolCall>,
    pub tool_call_id: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct ToolCall {
    pub function: FunctionCall,
}

#[derive(Debug, Deserialize)]
pub struct FunctionCall {
    pub name: String,
    /// JSON text; the template sees the object, its numbers as they were written.
    pub arguments_json: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenderOptions {
    /// JSON text of an array of tool schemas.
    pub tools_json: Option<String>,
    pub add_generation_prompt: bool,
    pub enable_thinking: bool,
}

impl Text {
    /// Reads tokenizer.json and, where the directory has one, the chat template.
    pub fn load(directory: &Path) -> Result<Self> {
        let files: Vec<_> =
            TEXT_FILES.iter().filter_map(|&name| Some((name, std::fs::read(directory.join(name)).ok()?))).collect();
        let file = |name: &str| files.iter().find(|(known, _)| *known == name).map(|(_, bytes)| bytes.as_slice());
        let tokenizer = load_tokenizer(directory, file("tokenizer.json"))?;
        let config = match file("tokenizer_config.json") {
            Some(bytes) => parse_json(&directory.join("tokenizer_config.json"), bytes)?,
            None => serde_json::Value::Null,
        };
        let jinja = file("chat_template.jinja").map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let template = ChatTemplate::find(&config, jinja)
            .map_err(|problem| Error::File { path: directory.to_path_buf(), problem })?;
        Ok(Self { tokenizer, template, files, grammars: Mutex::default() })
    }

    pub fn has_chat_template(&self) -> bool {
        self.template.is_some()
    }

    /// What `apply_chat_template(messages, tokenize=False)` of transformers gives.
    pub fn render(&self, messages: &[ChatMessage], options: &RenderOptions) -> Result<String> {
        let template = self
            .template
            .as_ref()
            .ok_or_else(|| Error::BadArgument("render: the model directory has no chat template".into()))?;
        let messages = messages.iter().map(message_value).collect::<Result<Vec<_>>>()?;
        let tools = match &options.tools_json {
            Some(text) => python::loads(text).map_err(|error| Error::BadArgument(format!("tools_json: {error}")))?,
            None => Value::from(()),
        };
        template.render(BTreeMap::from([
            ("messages", Value::from(messages)),
            ("tools", tools),
            ("documents", Value::from(())),
            ("add_generation_prompt", Value::from(options.add_generation_prompt)),
            ("enable_thinking", Value::from(options.enable_thinking)),
        ]))
    }

    /// Special tokens in the text become their ids; nothing is added.
    pub fn tokenize(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self
            .tokenizer
            .encode_fast(text, false)
            .map_err(|error| Error::BadArgument(format!("tokenize: {error}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    pub fn decode(&self, tokens: &[u32], skip_special: bool) -> Result<String> {
        self.tokenizer.decode(tokens, skip_special).map_err(|error| Error::BadArgument(format!("decode: {error}")))
    }

    /// The grammar of a set of tools, compiled when it is first asked for. `vocab_size`: logits of the model.
    pub fn call_grammar(&self, spec: &CallGrammarSpec, vocab_size: usize) -> Result<Arc<CallGrammar>> {
        let mut grammars = self.grammars.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(grammar) = grammars.compiled.get(spec) {
            return Ok(grammar.clone());
        }
        let vocabulary = match &grammars.vocabulary {
            Some(vocabulary) => vocabulary.clone(),
            None => Arc::new(Vocabulary::new(self.tokenizer_json(), vocab_size)?),
        };
        grammars.vocabulary = Some(vocabulary.clone());
        let grammar = Arc::new(CallGrammar::compile(spec, vocabulary)?);
        grammars.compiled.insert(spec.clone(), grammar.clone());
        Ok(grammar)
    }

    fn tokenizer_json(&self) -> &[u8] {
        self.files.iter().find(|(name, _)| *name == "tokenizer.json").map_or(&[], |(_, bytes)| bytes.as_slice())
    }

    /// Writes tokenizer and template files as they were read.
    pub fn save(&self, directory: &Path) -> Result<()> {
        for (name, bytes) in &self.files {
            let path = directory.join(name);
            std::fs::write(&path, bytes).map_err(|error| Error::File { path, problem: error.to_string() })?;
        }
        Ok(())
    }
}

fn load_tokenizer(directory: &Path, bytes: Option<&[u8]>) -> Result<Tokenizer> {
    let path = directory.join("tokenizer.json");
    let Some(bytes) = bytes else { return Err(Error::File { path, problem: "cannot be read".into() }) };
    let mut tokenizer =
        Tokenizer::from_bytes(bytes).map_err(|error| Error::File { path, problem: error.to_string() })?;
    // A stored truncation or padding is a leftover of somebody's training; transformers ignores both unless asked.
    tokenizer.with_truncation(None).expect("taking a truncation away cannot fail");
    tokenizer.with_padding(None);
    Ok(tokenizer)
}

fn parse_json(path: &Path, bytes: &[u8]) -> Result<serde_json::Value> {
    serde_json::from_slice(bytes).map_err(|error| Error::File { path: path.to_path_buf(), problem: error.to_string() })
}

/// The message as a dict of transformers' conversation format; absent keys stay undefined.
fn message_value(message: &ChatMessage) -> Result<Value> {
    let mut fields = vec![
        ("role", Value::from(message.role.as_str())),
        ("content", message.content.as_deref().map_or(Value::from(()), Value::from)),
    ];
    if !message.tool_calls.is_empty() {
        let calls = message.tool_calls.iter().map(tool_call_value).collect::<Result<Vec<_>>>()?;
        fields.push(("tool_calls", Value::from(calls)));
    }
    if let Some(id) = &message.tool_call_id {
        fields.push(("tool_call_id", Value::from(id.as_str())));
    }
    Ok(python::dict(fields))
}

fn tool_call_value(ToolCall { function }: &ToolCall) -> Result<Value> {
    let arguments = python::loads(&function.arguments_json)
        .map_err(|error| Error::BadArgument(format!("arguments of the tool call {}: {error}", function.name)))?;
    let function = python::dict([("name", Value::from(function.name.as_str())), ("arguments", arguments)]);
    Ok(python::dict([("type", Value::from("function")), ("function", function)]))
}

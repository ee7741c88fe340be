//! The grammar of one set of tools in one format, compiled once.
use super::mask::Mask;
use super::vocabulary::Vocabulary;
use super::watch::Watch;
use crate::error::{Error, Result};
use llguidance::Matcher;
use llguidance::api::TopLevelGrammar;
use serde::Deserialize;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::sync::Arc;

/// As `ToolFormat` in src/rollout/tool-call.ts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallFormat {
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`
    Hermes,
    /// `{"name": …, "parameters": {…}}` as the whole message or behind `<|python_tag|>`, joined by semicolons
    Llama3,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallGrammarSpec {
    /// JSON text of an array of OpenAI's tool schemas.
    pub tools_json: String,
    pub format: CallFormat,
}

pub struct CallGrammar {
    pub format: CallFormat,
    pub vocabulary: Arc<Vocabulary>,
    pub open: Watch,
    /// None: no such tag.
    pub close: Option<Watch>,
    pub think: Watch,
    pub unthink: Watch,
    /// What the reader of calls would cut out of them, though it is good JSON.
    pub never_in_calls: Vec<Watch>,
    /// Tokens that cannot open a call at the start of a text, because nothing that may follow goes on like this.
    pub not_at_start: Vec<u32>,
    /// By bytes seen of `open`: tokens that open a call and go on as none does.
    not_open: Vec<Vec<u32>>,
    /// At the start of a call; never advanced.
    matcher: Matcher,
}

impl CallGrammar {
    /// BadArgument, naming the tool, where a schema says what no grammar can.
    pub fn compile(spec: &CallGrammarSpec, vocabulary: Arc<Vocabulary>) -> Result<Self> {
        let tools: Vec<Tool> = serde_json::from_str::<Vec<Offered>>(&spec.tools_json)
            .map_err(|error| Error::BadArgument(format!("tools_json: {error}")))?
            .into_iter()
            .map(|offered| offered.function)
            .collect();
        if tools.is_empty() {
            return Err(Error::BadArgument("tools_json: a grammar of calls needs a tool".into()));
        }
        let matcher = matcher_of(&tools, spec.format, &vocabulary)?;
        let texts = vocabulary.texts();
        let (open, close) = match spec.format {
            CallFormat::Hermes => ("<tool_call>", Some("</tool_call>")),
            CallFormat::Llama3 => ("<|python_tag|>", None),
        };
        let mut grammar = Self {
            format: spec.format,
            open: Watch::new(open, texts),
            close: close.map(|tag| Watch::new(tag, texts)),
            think: Watch::new("<think>", texts),
            unthink: Watch::new("</think>", texts),
            never_in_calls: ["<think>", "</think>", "<|", "<｜"].map(|text| Watch::new(text, texts)).into(),
            not_at_start: vec![],
            not_open: vec![],
            matcher,
            vocabulary,
        };
        grammar.not_open = (0..grammar.open.len()).map(|seen| grammar.overshooting(seen)).collect();
        if spec.format == CallFormat::Llama3 {
            grammar.not_at_start = grammar.not_opening_brace();
        }
        Ok(grammar)
    }

    /// A matcher of its own lexer: what one turn learns costs no other a lock, nor memory for ever.
    pub fn matcher(&self) -> Matcher {
        self.matcher.deep_clone()
    }

    pub fn not_in_text(&self, open: usize, close: usize) -> Vec<u32> {
        let closing = self.close.iter().flat_map(|watch| watch.endings(close)).map(|ending| ending.token);
        self.not_open[open].iter().copied().chain(closing).collect()
    }

    /// Tokens that may follow inside a call; those of `stop_token_ids` where the text may end there.
    pub fn allowed(&self, matcher: &mut Matcher, stop_token_ids: &[u32]) -> Result<Mask> {
        let allowed = matcher.compute_mask().map_err(|error| super::broken(&error))?;
        let may_end = allowed.is_allowed(self.vocabulary.end);
        let mut words = allowed.as_slice().to_vec();
        cut_to(&mut words, self.vocabulary.texts().len());
        let mut mask = Mask::Only(words);
        stop_token_ids.iter().for_each(|&token| if may_end { mask.allow(token) } else { mask.forbid(token) });
        Ok(mask)
    }

    fn overshooting(&self, seen: usize) -> Vec<u32> {
        let endings = self.open.endings(seen).iter();
        let rest = |token: u32, length: usize| &self.vocabulary.text(token)[length..];
        endings.filter(|ending| !self.may_begin(rest(ending.token, ending.length))).map(|e| e.token).collect()
    }

    fn not_opening_brace(&self) -> Vec<u32> {
        let from_brace = |text: &[u8]| {
            let at = text.iter().position(|byte| !byte.is_ascii_whitespace())?;
            (text[at] == b'{').then_some(at)
        };
        (0..self.vocabulary.texts().len() as u32)
            .filter(|&token| {
                let text = self.vocabulary.text(token);
                from_brace(text).is_some_and(|at| !self.may_begin(&text[at..]))
            })
            .chain(self.not_open[0].iter().copied())
            .collect()
    }

    fn may_begin(&self, text: &[u8]) -> bool {
        if text.is_empty() {
            return true;
        }
        let tokens: Vec<u32> = text.iter().map(|&byte| self.vocabulary.byte(byte)).collect();
        self.matcher.deep_clone().validate_tokens(&tokens).is_ok_and(|valid| valid == tokens.len())
    }
}

#[derive(Deserialize)]
struct Offered {
    function: Tool,
}

#[derive(Deserialize)]
struct Tool {
    name: String,
    #[serde(default)]
    parameters: Value,
}

fn matcher_of(tools: &[Tool], format: CallFormat, vocabulary: &Vocabulary) -> Result<Matcher> {
    let compiled = |tools: &[Tool]| {
        let grammar = TopLevelGrammar::from_lark(lark_of(tools, format));
        vocabulary.factory.create_parser(grammar)
    };
    let parser = compiled(tools).map_err(|error| {
        let alone = tools.iter().find(|tool| compiled(std::slice::from_ref(*tool)).is_err());
        let name = alone.map_or("all tools together", |tool| tool.name.as_str());
        Error::BadArgument(format!("constrained tool calls: no grammar for the schema of {name}: {error:#}"))
    })?;
    Ok(Matcher::new(Ok(parser)))
}

/// White space, where JSON allows some: a model that has nothing to say must not say it for ever.
const SPACE: &str = r"[ \t\r\n]{0,16}";

/// Name before arguments, as the chat templates write it.
fn lark_of(tools: &[Tool], format: CallFormat) -> String {
    let (start, close, key) = match format {
        CallFormat::Hermes => ("call", r#"CLOSE: SPACE "}" SPACE "</tool_call>""#, "arguments"),
        CallFormat::Llama3 => ("call (NEXT call)*", "CLOSE: SPACE \"}\"\nNEXT: SPACE \";\" SPACE", "parameters"),
    };
    let alternatives: Vec<String> = (0..tools.len()).map(|i| format!("call_{i}")).collect();
    let mut lark = format!("start: {start}\ncall: {}\nSPACE: /{SPACE}/\n{close}\n", alternatives.join(" | "));
    for (i, tool) in tools.iter().enumerate() {
        // the quoted name is what stands in the call; quoted once more it is a string of the grammar
        let name = json!(json!(tool.name).to_string());
        let (open, schema) = (opening(&name, key), arguments_schema(&tool.parameters));
        let _ =
            writeln!(lark, "call_{i}: OPEN_{i} arguments_{i} CLOSE\nOPEN_{i}: {open}\narguments_{i}: %json {schema}");
    }
    lark
}

fn opening(name: &Value, key: &str) -> String {
    let key = json!(json!(key).to_string());
    format!(r#"SPACE "{{" SPACE "\"name\"" SPACE ":" SPACE {name} SPACE "," SPACE {key} SPACE ":" SPACE"#)
}

/// The arguments that the schema names and, unless it asks for them, no others: a tool has no use for these.
fn arguments_schema(parameters: &Value) -> Value {
    let mut schema = parameters.as_object().cloned().unwrap_or_default();
    schema.entry("type").or_insert(json!("object"));
    schema.entry("properties").or_insert(json!({}));
    schema.entry("additionalProperties").or_insert(json!(false));
    schema.insert("x-guidance".into(), json!({ "whitespace_pattern": r"[ \t\r\n]{1,16}" }));
    schema.into()
}

/// Clears the bits of tokens that are the matcher's alone.
fn cut_to(words: &mut Vec<u32>, tokens: usize) {
    words.truncate(tokens.div_ceil(32));
    if let Some(last) = words.get_mut(tokens / 32) {
        *last &= (1 << (tokens % 32)) - 1;
    }
}

//! What each token writes, and llguidance's view of it.
use crate::error::{Error, Result};
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{ParserFactory, token_bytes_from_tokenizer_json};
use std::sync::Arc;

pub struct Vocabulary {
    /// Of each token, as src/rollout/dialogue.ts shows it to a parser of calls: nothing for a control token.
    texts: Vec<Vec<u8>>,
    /// For each byte a token that is just this byte; some exist for the matcher alone, beyond the model's vocabulary.
    bytes: [u32; 256],
    /// A token, beyond the model's vocabulary, that the matcher allows where a grammar may end.
    pub end: u32,
    pub factory: ParserFactory,
}

const TAGS: [&[u8]; 2] = [b"<tool_call>", b"</tool_call>"];
const PYTHON_TAG: &[u8] = b"<|python_tag|>";
const SPECIAL: u8 = TokTrie::SPECIAL_TOKEN_MARKER;

impl Vocabulary {
    /// `vocab_size`: logits of the model, at least as many as tokens.
    pub fn new(tokenizer_json: &[u8], vocab_size: usize) -> Result<Self> {
        let parsed = serde_json::from_slice(tokenizer_json).map_err(|error| unreadable(&error))?;
        let mut words = token_bytes_from_tokenizer_json(&parsed).map_err(|error| unreadable(&error))?;
        words.resize(words.len().max(vocab_size), vec![]);
        for word in &mut words {
            if word.first() == Some(&SPECIAL) && TAGS.contains(&&word[1..]) {
                word.remove(0);
            }
        }
        let texts = words.iter().map(|word| text_of(word)).collect();
        let bytes = tokens_of_bytes(&mut words);
        let end = words.len() as u32;
        words.push(b"\xff<|end of the grammar|>".to_vec());
        Ok(Self { texts, bytes, end, factory: factory(&words, end)? })
    }

    pub fn text(&self, token: u32) -> &[u8] {
        self.texts.get(token as usize).map_or(&[], Vec::as_slice)
    }

    pub fn texts(&self) -> &[Vec<u8>] {
        &self.texts
    }

    pub fn byte(&self, byte: u8) -> u32 {
        self.bytes[usize::from(byte)]
    }
}

/// Control tokens leave no text: see `withoutControlTokens` in src/rollout/tool-call.ts.
fn text_of(word: &[u8]) -> Vec<u8> {
    match word {
        [SPECIAL, text @ ..] if text == PYTHON_TAG => text.to_vec(),
        [SPECIAL, text @ ..] if text.starts_with(b"<|") || text.starts_with("<｜".as_bytes()) => vec![],
        [SPECIAL, text @ ..] if !text.is_empty() => text.to_vec(),
        text => text.to_vec(), // a single 0xff too: it is a byte
    }
}

/// Adds the bytes that are no token.
fn tokens_of_bytes(words: &mut Vec<Vec<u8>>) -> [u32; 256] {
    let mut tokens = [None; 256];
    for (token, word) in words.iter().enumerate() {
        if let [byte] = word[..] {
            tokens[usize::from(byte)].get_or_insert(token as u32);
        }
    }
    std::array::from_fn(|byte| {
        tokens[byte].unwrap_or_else(|| {
            words.push(vec![byte as u8]);
            words.len() as u32 - 1
        })
    })
}

fn factory(words: &[Vec<u8>], end: u32) -> Result<ParserFactory> {
    let info = TokRxInfo::new(words.len() as u32, end);
    let env: TokEnv = Arc::new(ApproximateTokEnv::new(TokTrie::from(&info, words)));
    let mut factory = ParserFactory::new_simple(&env).map_err(|error| unreadable(&error))?;
    // the limits guard servers against strangers' schemas; ours are the run's own
    let limits = factory.quiet().limits_mut();
    limits.verbose_errors = false;
    limits.initial_lexer_fuel *= 10;
    limits.step_lexer_fuel *= 10;
    limits.step_max_items *= 10;
    Ok(factory)
}

fn unreadable(error: &dyn std::fmt::Display) -> Error {
    Error::BadArgument(format!("constrained tool calls: tokenizer.json cannot be read for this: {error}"))
}

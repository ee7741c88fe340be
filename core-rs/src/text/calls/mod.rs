//! Limits what is sampled so that every tool call is one: text is free until it opens a call, then only tokens may follow
//! that lead to a call of a tool that there is, with arguments that satisfy its JSON schema, and to the closing tag.
//!
//! A turn is followed byte by byte in the text that src/rollout/tool-call.ts reads (reasoning and control tokens left out),
//! whatever tokens spell it. llguidance knows which tokens may follow inside a call; outside of one nothing is computed.
mod grammar;
mod mask;
mod vocabulary;
mod watch;

pub use grammar::{CallFormat, CallGrammar, CallGrammarSpec};
pub use mask::Mask;
pub use vocabulary::Vocabulary;

use crate::error::{Error, Result};
use llguidance::Matcher;
use std::sync::Arc;

/// Where one turn stands.
pub struct CallConstraint {
    grammar: Arc<CallGrammar>,
    place: Place,
}

enum Place {
    /// Nothing but white space so far, where an opening brace is a call (Llama).
    Start(Vec<u8>),
    /// Bytes seen of the tags that open and close a call and of the one that opens the reasoning.
    Text { open: usize, close: usize, think: usize },
    /// Bytes seen of the tag that ends the reasoning.
    Reasoning { end: usize },
    /// Bytes seen of each of `CallGrammar::never_in_calls`.
    Call { matcher: Box<Matcher>, seen: Vec<usize> },
}

const TEXT: Place = Place::Text { open: 0, close: 0, think: 0 };

impl CallConstraint {
    /// At the start of a turn; `in_reasoning`: the prompt has opened a `<think>`.
    pub fn new(grammar: Arc<CallGrammar>, in_reasoning: bool) -> Self {
        let place = if in_reasoning { Place::Reasoning { end: 0 } } else { start_of_text(&grammar) };
        Self { grammar, place }
    }

    /// Only there the mask is work.
    pub fn in_call(&self) -> bool {
        matches!(self.place, Place::Call { .. })
    }

    /// What may come next; None: anything. A token of `stop_token_ids` may come where a turn may end.
    pub fn mask(&mut self, stop_token_ids: &[u32]) -> Result<Option<Mask>> {
        let grammar = &self.grammar;
        let except = match &mut self.place {
            Place::Reasoning { .. } => return Ok(None),
            Place::Start(_) => grammar.not_at_start.clone(),
            Place::Text { open, close, .. } => grammar.not_in_text(*open, *close),
            Place::Call { matcher, seen } => {
                let mut mask = grammar.allowed(matcher, stop_token_ids)?;
                let never = grammar.never_in_calls.iter().zip(seen.iter());
                never.flat_map(|(watch, &seen)| watch.endings(seen)).for_each(|ending| mask.forbid(ending.token));
                return Ok(Some(mask));
            }
        };
        Ok((!except.is_empty()).then_some(Mask::Except(except)))
    }

    /// Goes on past a token that the mask allowed.
    pub fn consume(&mut self, token: u32) -> Result<()> {
        let grammar = self.grammar.clone();
        if let Place::Call { matcher, seen } = &mut self.place {
            matcher.consume_token(token).map_err(|error| broken(&error))?;
            if matcher.is_stopped() {
                self.place = TEXT;
                return Ok(());
            }
            let text = grammar.vocabulary.text(token);
            grammar.never_in_calls.iter().zip(seen).for_each(|(watch, seen)| *seen = watch.after(*seen, text));
            return Ok(());
        }
        let mut text = grammar.vocabulary.text(token);
        while !text.is_empty() {
            text = self.consume_text(&grammar, text)?;
        }
        Ok(())
    }

    /// Takes bytes up to where the place changes; gives back the rest.
    fn consume_text<'a>(&mut self, grammar: &CallGrammar, text: &'a [u8]) -> Result<&'a [u8]> {
        match &mut self.place {
            Place::Start(seen) => {
                seen.extend(text);
                match first_visible(seen) {
                    None => {}
                    Some(b'{') => {
                        let from = seen.iter().position(|&byte| byte == b'{').unwrap_or(0);
                        self.place = opened(grammar, &seen[from..])?;
                    }
                    Some(_) => {
                        let seen = std::mem::take(seen);
                        self.place = TEXT;
                        let mut rest = seen.as_slice();
                        while !rest.is_empty() {
                            rest = self.consume_text(grammar, rest)?;
                        }
                    }
                }
                Ok(&[])
            }
            Place::Text { open, close, think } => {
                for (i, &byte) in text.iter().enumerate() {
                    *open = grammar.open.step(*open, byte);
                    *think = grammar.think.step(*think, byte);
                    *close = grammar.close.as_ref().map_or(0, |watch| watch.step(*close, byte) % watch.len());
                    if *open == grammar.open.len() {
                        self.place = opened(grammar, &text[i + 1..])?;
                        return Ok(&[]);
                    }
                    if *think == grammar.think.len() {
                        self.place = Place::Reasoning { end: 0 };
                        return Ok(&text[i + 1..]);
                    }
                }
                Ok(&[])
            }
            Place::Reasoning { end } => {
                for (i, &byte) in text.iter().enumerate() {
                    *end = grammar.unthink.step(*end, byte);
                    if *end == grammar.unthink.len() {
                        self.place = start_of_text(grammar);
                        return Ok(&text[i + 1..]);
                    }
                }
                Ok(&[])
            }
            Place::Call { .. } => Ok(&[]),
        }
    }
}

fn start_of_text(grammar: &CallGrammar) -> Place {
    if grammar.format == CallFormat::Llama3 { Place::Start(vec![]) } else { TEXT }
}

/// A call whose first bytes came in the token that opened it.
fn opened(grammar: &CallGrammar, first: &[u8]) -> Result<Place> {
    let mut matcher = grammar.matcher();
    for &byte in first {
        matcher.consume_token(grammar.vocabulary.byte(byte)).map_err(|error| broken(&error))?;
    }
    let seen = grammar.never_in_calls.iter().map(|watch| watch.after(0, first)).collect();
    Ok(Place::Call { matcher: Box::new(matcher), seen })
}

/// First byte that `trimStart` of JavaScript leaves; None: there is none yet, or a character is not whole.
fn first_visible(text: &[u8]) -> Option<u8> {
    let whole = match std::str::from_utf8(text) {
        Ok(whole) => whole,
        Err(error) if error.error_len().is_some() => return Some(0),
        Err(error) => std::str::from_utf8(&text[..error.valid_up_to()]).unwrap_or(""),
    };
    whole.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}').bytes().next()
}

fn broken(error: &dyn std::fmt::Display) -> Error {
    let error = error.to_string();
    Error::BadArgument(format!("constrained tool call: {}", error.lines().next().unwrap_or("no reason given")))
}

#[cfg(test)]
mod tests;

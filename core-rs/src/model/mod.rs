//! Qwen2, Qwen3 and Llama decoders: weights, forward pass, key-value cache.
use crate::error::Result;
use std::path::Path;

/// Weights of one decoder. Cloning is a deep copy (snapshots).
pub struct Model {
    pub config: ModelConfig,
}

pub struct ModelConfig {
    /// "qwen2", "qwen3" or "llama".
    pub architecture: String,
    pub vocab_size: usize,
    pub context_tokens_max: usize,
    pub eos_token_ids: Vec<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype { F32, F16, Bf16 }

impl Model {
    pub fn load(_directory: &Path, _dtype: Dtype) -> Result<Self> { todo!() }
    /// Writes config.json, generation_config.json and model.safetensors (not the tokenizer: that is `text`'s).
    pub fn save(&self, _directory: &Path) -> Result<()> { todo!() }
    pub fn parameters(&self) -> usize { todo!() }
    pub fn snapshot(&self) -> Result<Model> { todo!() }
    pub fn new_cache(&self, _memory_bytes_max: usize) -> Cache { todo!() }

    /// Feeds up to `tokens_max` pending tokens of the cache's sequences (oldest first) through the model. Returns a row of
    /// `vocab_size` f32 logits for each sequence whose pending tokens are now all computed.
    pub fn step(&self, _cache: &mut Cache, _tokens_max: usize) -> Result<Vec<(SequenceId, Vec<f32>)>> { todo!() }
}

pub type SequenceId = u32;

/// Keys and values of live sequences; equal prefixes are stored and computed once.
pub struct Cache {}

impl Cache {
    /// Opens a sequence whose tokens are all pending, save those that a live or retained one already computed
    /// (at least the last token always stays pending). `tokens` must not be empty.
    pub fn open(&mut self, _tokens: &[u32]) -> Result<SequenceId> { todo!() }
    /// Adds pending tokens.
    pub fn append(&mut self, _sequence: SequenceId, _tokens: &[u32]) -> Result<()> { todo!() }
    /// Computed and pending tokens.
    pub fn len(&self, _sequence: SequenceId) -> Result<usize> { todo!() }
    pub fn release(&mut self, _sequence: SequenceId) { todo!() }
    /// After a weight change: every sequence becomes stale and nothing is reused.
    pub fn clear(&mut self) { todo!() }
    pub fn bytes(&self) -> usize { todo!() }
}

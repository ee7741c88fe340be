//! config.json and generation_config.json of Qwen2/2.5, Qwen3 and Llama, as the hub has them.
use crate::error::{Error, Result};
use crate::kernels::HeadShape;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// `model_type`: "qwen2", "qwen3" or "llama".
    pub architecture: String,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub layers: usize,
    pub heads: HeadShape,
    pub rms_norm_eps: f64,
    pub tie_word_embeddings: bool,
    /// q, k and v have biases (Qwen2).
    pub qkv_bias: bool,
    /// q and k are normalised per head (Qwen3).
    pub qk_norm: bool,
    /// `max_position_embeddings`.
    pub context_tokens_max: usize,
    /// End-of-turn tokens: generation_config.json's, else config.json's.
    pub eos_token_ids: Vec<u32>,
    /// Rotary frequency of each of the D / 2 pairs.
    pub rotary_frequencies: Vec<f32>,
    /// config.json and generation_config.json as they were read, written back by `save`.
    pub(super) json: Map<String, Value>,
    pub(super) generation_json: Option<Map<String, Value>>,
}

impl ModelConfig {
    /// Every token must be one of the vocabulary.
    pub fn check_tokens(&self, tokens: &[u32]) -> Result<()> {
        let size = self.vocab_size;
        match tokens.iter().position(|token| *token as usize >= size) {
            None => Ok(()),
            Some(at) => {
                let problem = format!("token {} at {at} is outside the vocabulary of {size}", tokens[at]);
                Err(Error::BadArgument(problem))
            }
        }
    }

    pub fn read(directory: &Path) -> Result<Self> {
        let path = directory.join("config.json");
        let json = read_object(&path)?;
        let generation = directory.join("generation_config.json");
        let generation_json = if generation.exists() { Some(read_object(&generation)?) } else { None };
        Fields { path, json: &json }.config(generation_json.clone()).map(|config| Self { json: json.clone(), ..config })
    }
}

fn read_object(path: &Path) -> Result<Map<String, Value>> {
    let problem = |problem: String| Error::File { path: path.to_path_buf(), problem };
    let text = std::fs::read_to_string(path).map_err(|e| problem(e.to_string()))?;
    match serde_json::from_str(&text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(problem("is not a JSON object".into())),
        Err(e) => Err(problem(e.to_string())),
    }
}

struct Fields<'a> {
    path: PathBuf,
    json: &'a Map<String, Value>,
}

impl Fields<'_> {
    fn config(&self, generation_json: Option<Map<String, Value>>) -> Result<ModelConfig> {
        let architecture = self.json.get("model_type").and_then(Value::as_str).unwrap_or("(no model_type)").to_string();
        if !matches!(architecture.as_str(), "qwen2" | "qwen3" | "llama") {
            return Err(self.unsupported(format!("model_type {architecture}; known are qwen2, qwen3 and llama")));
        }
        self.refuse_unknown_variants()?;
        let hidden_size = self.whole("hidden_size")?;
        let heads = self.whole("num_attention_heads")?;
        let kv_heads = self.optional_whole("num_key_value_heads")?.unwrap_or(heads);
        let dim = match self.optional_whole("head_dim")? {
            Some(dim) => dim,
            None => hidden_size / heads,
        };
        if kv_heads == 0 || heads % kv_heads != 0 {
            return Err(self.unsupported(format!("{heads} query heads cannot share {kv_heads} key/value heads")));
        }
        let qkv_bias = architecture == "qwen2" || self.flag("attention_bias");
        if qkv_bias && architecture != "qwen2" {
            return Err(self.unsupported("attention_bias true outside Qwen2".into()));
        }
        let eos = generation_json
            .as_ref()
            .and_then(|g| g.get("eos_token_id"))
            .filter(|v| !v.is_null())
            .or_else(|| self.json.get("eos_token_id"));
        Ok(ModelConfig {
            qk_norm: architecture == "qwen3",
            architecture,
            vocab_size: self.whole("vocab_size")?,
            hidden_size,
            intermediate_size: self.whole("intermediate_size")?,
            layers: self.whole("num_hidden_layers")?,
            heads: HeadShape { heads, kv_heads, dim },
            rms_norm_eps: self.number(self.json.get("rms_norm_eps"), "rms_norm_eps")?.unwrap_or(1e-6),
            tie_word_embeddings: self.flag("tie_word_embeddings"),
            qkv_bias,
            context_tokens_max: self.optional_whole("max_position_embeddings")?.unwrap_or(32768),
            eos_token_ids: token_ids(eos),
            rotary_frequencies: self.rotary_frequencies(dim)?,
            json: Map::new(),
            generation_json,
        })
    }

    fn refuse_unknown_variants(&self) -> Result<()> {
        if let Some(activation) = self.json.get("hidden_act").and_then(Value::as_str).filter(|a| *a != "silu") {
            return Err(self.unsupported(format!("hidden_act {activation}; only silu is known")));
        }
        for name in ["use_sliding_window", "mlp_bias"] {
            if self.flag(name) {
                return Err(self.unsupported(format!("{name} true")));
            }
        }
        Ok(())
    }

    /// θ^(−2i/D), and Llama 3's stretching of long wavelengths (transformers' `_compute_llama3_parameters`).
    fn rotary_frequencies(&self, dim: usize) -> Result<Vec<f32>> {
        let nested = self.json.get("rope_parameters").and_then(Value::as_object);
        let scaling = nested.or_else(|| self.json.get("rope_scaling").and_then(Value::as_object));
        let theta = nested.and_then(|n| n.get("rope_theta")).or_else(|| self.json.get("rope_theta"));
        let theta = self.number(theta, "rope_theta")?.unwrap_or(10_000.0);
        let plain = (0..dim / 2).map(|i| 1.0 / theta.powf(2.0 * i as f64 / dim as f64));
        let Some(scaling) = scaling else { return Ok(plain.map(|f| f as f32).collect()) };
        let kind =
            scaling.get("rope_type").or_else(|| scaling.get("type")).and_then(Value::as_str).unwrap_or("default");
        match kind {
            "default" => Ok(plain.map(|f| f as f32).collect()),
            "llama3" => {
                let field = |name: &str| {
                    self.number(scaling.get(name), name)?
                        .ok_or_else(|| self.problem(format!("rope_scaling lacks {name}")))
                };
                let (factor, low, high) = (field("factor")?, field("low_freq_factor")?, field("high_freq_factor")?);
                let original = field("original_max_position_embeddings")?;
                let stretch = |frequency: f64| {
                    let wavelength = 2.0 * std::f64::consts::PI / frequency;
                    if wavelength < original / high {
                        frequency
                    } else if wavelength > original / low {
                        frequency / factor
                    } else {
                        let smooth = (original / wavelength - low) / (high - low);
                        (1.0 - smooth) * frequency / factor + smooth * frequency
                    }
                };
                Ok(plain.map(|f| stretch(f) as f32).collect())
            }
            other => Err(self.unsupported(format!("rope_scaling of type {other}; known are default and llama3"))),
        }
    }

    fn whole(&self, name: &str) -> Result<usize> {
        self.optional_whole(name)?.ok_or_else(|| self.problem(format!("lacks {name}")))
    }

    fn optional_whole(&self, name: &str) -> Result<Option<usize>> {
        match self.json.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64() {
                Some(number) => Ok(Some(number as usize)),
                None => Err(self.problem(format!("{name} is {value}, not a whole number"))),
            },
        }
    }

    fn number(&self, value: Option<&Value>, name: &str) -> Result<Option<f64>> {
        match value {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                value.as_f64().map(Some).ok_or_else(|| self.problem(format!("{name} is {value}, not a number")))
            }
        }
    }

    fn flag(&self, name: &str) -> bool {
        self.json.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    fn problem(&self, problem: String) -> Error {
        Error::File { path: self.path.clone(), problem }
    }

    fn unsupported(&self, problem: String) -> Error {
        Error::Unsupported { path: self.path.clone(), problem }
    }
}

fn token_ids(value: Option<&Value>) -> Vec<u32> {
    match value {
        Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_u64).map(|id| id as u32).collect(),
        Some(value) => value.as_u64().map(|id| id as u32).into_iter().collect(),
        None => Vec::new(),
    }
}

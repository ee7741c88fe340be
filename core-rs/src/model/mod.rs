//! Qwen2, Qwen3 and Llama decoders: weights, the one forward pass, its backward, and the key-value cache.
mod backward;
mod cache;
mod config;
mod forward;
mod weights;

pub use backward::Gradients;
pub use cache::{Cache, SequenceId};
pub use config::ModelConfig;
pub use forward::Activations;
pub use weights::{Dtype, Parameter, write_file};

use crate::error::{Error, Result};
use crate::kernels::Kernels;
use candle_core::Device;
use serde_json::{Map, Value, json};
use std::path::Path;
use weights::Ids;

/// Weights of one decoder.
pub struct Model {
    pub config: ModelConfig,
    pub dtype: Dtype,
    pub kernels: Kernels,
    pub parameters: Vec<Parameter>,
    ids: Ids,
}

impl Model {
    /// Reads config.json, generation_config.json and the safetensors of a Hugging Face directory.
    pub fn load(directory: &Path, dtype: Dtype, kernels: Kernels) -> Result<Self> {
        let config = ModelConfig::read(directory)?;
        let (parameters, ids) = weights::load(directory, &config, dtype)?;
        Ok(Self { config, dtype, kernels: weights::kernels_for(kernels, &Device::Cpu), parameters, ids })
    }

    /// Writes config.json, generation_config.json and model.safetensors (not the tokenizer: that is `text`'s).
    pub fn save(&self, directory: &Path) -> Result<()> {
        let mut config = self.config.json.clone();
        let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        config.insert(key.into(), json!(self.dtype.name()));
        write_json(&directory.join("config.json"), &config)?;
        if let Some(generation) = &self.config.generation_json {
            write_json(&directory.join("generation_config.json"), generation)?;
        }
        weights::save(&directory.join("model.safetensors"), &self.parameters, self.dtype)
    }

    pub fn parameter_count(&self) -> usize {
        self.parameters.iter().map(|p| p.weight.tensor.elem_count()).sum()
    }

    /// A frozen copy.
    pub fn snapshot(&self) -> Result<Model> {
        let (_, ids) = weights::plan(&self.config);
        Ok(Model {
            config: self.config.clone(),
            dtype: self.dtype,
            kernels: self.kernels,
            parameters: weights::copy(&self.parameters)?,
            ids,
        })
    }
}

fn write_json(path: &Path, value: &Map<String, Value>) -> Result<()> {
    let problem = |problem: String| Error::File { path: path.to_path_buf(), problem };
    let text = serde_json::to_string_pretty(value).map_err(|e| problem(e.to_string()))?;
    std::fs::write(path, text + "\n").map_err(|e| problem(e.to_string()))
}

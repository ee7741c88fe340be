//! Qwen2, Qwen3 and Llama decoders: weights, the one forward pass, its backward, and the key-value cache.
mod adapters;
mod backward;
mod cache;
mod config;
mod forward;
mod weights;

pub use adapters::{Adapter, AdapterSpec};
pub use backward::{Gradients, Surroundings, TrunkGradients};
pub use cache::{Cache, SequenceId};
pub use config::ModelConfig;
pub use forward::{Activations, Keep, RowsOf, Trunk};
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
    /// The dense weights in Hugging Face's order, then the adapters'.
    pub parameters: Vec<Parameter>,
    ids: Ids,
    adapters: Vec<Adapter>,
    /// The first so many take part.
    active_adapters: usize,
    dense_replaced: bool,
}

impl Model {
    /// Reads config.json, generation_config.json and the safetensors of a Hugging Face directory.
    pub fn load(directory: &Path, dtype: Dtype, kernels: Kernels) -> Result<Self> {
        let config = ModelConfig::read(directory)?;
        let (parameters, ids) = weights::load(directory, &config, dtype)?;
        let kernels = weights::kernels_for(kernels, &Device::Cpu);
        Ok(Self {
            config,
            dtype,
            kernels,
            parameters,
            ids,
            adapters: Vec::new(),
            active_adapters: 0,
            dense_replaced: false,
        })
    }

    /// Writes config.json, generation_config.json and model.safetensors, adapters folded in (not the tokenizer: that is
    /// `text`'s).
    pub fn save(&self, directory: &Path) -> Result<()> {
        let mut config = self.config.json.clone();
        let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        config.insert(key.into(), json!(self.dtype.name()));
        write_json(&directory.join("config.json"), &config)?;
        if let Some(generation) = &self.config.generation_json {
            write_json(&directory.join("generation_config.json"), generation)?;
        }
        let dense = 0..self.dense_parameters();
        let tensors = dense.map(|id| Ok((self.parameters[id].name.clone(), self.effective(id)?)));
        weights::save(&directory.join("model.safetensors"), tensors, self.dtype)
    }

    pub fn parameter_count(&self) -> usize {
        self.parameters.iter().map(|p| p.weight.tensor.elem_count()).sum()
    }

    /// Frees the packed weights, of which a frozen model needs none while another is trained.
    pub fn forget_packed(&self) {
        self.parameters.iter().for_each(|parameter| parameter.weight.forget_packed());
    }

    /// A frozen copy; weights that are not trained are shared, so with adapters it is cheap.
    pub fn snapshot(&self) -> Result<Model> {
        Ok(Model {
            config: self.config.clone(),
            dtype: self.dtype,
            kernels: self.kernels,
            parameters: self.parameters.iter().map(Parameter::frozen).collect::<Result<_>>()?,
            ids: weights::plan(&self.config).1,
            adapters: self.adapters.clone(),
            active_adapters: self.active_adapters,
            dense_replaced: self.dense_replaced,
        })
    }
}

fn write_json(path: &Path, value: &Map<String, Value>) -> Result<()> {
    let problem = |problem: String| Error::File { path: path.to_path_buf(), problem };
    let text = serde_json::to_string_pretty(value).map_err(|e| problem(e.to_string()))?;
    std::fs::write(path, text + "\n").map_err(|e| problem(e.to_string()))
}

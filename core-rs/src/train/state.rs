//! The whole state of training in one safetensors file: adapters, masters, moments, step count, vectors, frozen models.
use super::Trainer;
use super::optimizer::Slot;
use crate::error::{Error, Result};
use crate::kernels::{Weight, read, write};
use crate::model::{AdapterSpec, Dtype, Model, write_file};
use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// What the tensors of the file belong to.
#[derive(Serialize, Deserialize)]
struct Described {
    steps: u64,
    adapters: Vec<AdapterSpec>,
    column: Option<String>,
    /// Vector → its number of tensors.
    vectors: BTreeMap<String, usize>,
    models: BTreeMap<String, FrozenModel>,
}

#[derive(Serialize, Deserialize)]
struct FrozenModel {
    adapters: Vec<AdapterSpec>,
    column: Option<String>,
}

const METADATA: &str = "grpo-cl";

impl Trainer {
    /// Named tensors of the state, the frozen `models` apart, as they are kept; files and digests have them in f32.
    fn tensors(&self, model: &Model) -> Result<Vec<(String, Tensor)>> {
        let mut all = Vec::new();
        for Slot { parameter, master, first, second } in &self.optimizer.slots {
            let name = &model.parameters[*parameter].name;
            for (kind, tensor) in [("master", master), ("first", first), ("second", second)] {
                all.push((format!("{kind}/{name}"), tensor.clone()));
            }
        }
        let frozen_adapters = model.parameters[model.dense_parameters()..].iter().filter(|p| !p.trained);
        all.extend(frozen_adapters.map(|p| (format!("adapter/{}", p.name), p.weight.tensor.clone())));
        if model.dense_replaced() && !model.adapters().is_empty() {
            let dense = &model.parameters[..model.dense_parameters()];
            all.extend(dense.iter().map(|p| (format!("dense/{}", p.name), p.weight.tensor.clone())));
        }
        for (vector, tensors) in &self.vectors.named {
            all.extend(tensors.iter().enumerate().map(|(i, tensor)| (format!("vector/{vector}/{i}"), tensor.clone())));
        }
        Ok(all)
    }

    pub fn save_state(&self, model: &Model, models: &[(&str, &Model)], file: &Path) -> Result<()> {
        let mut tensors = self.tensors(model)?;
        for (name, frozen) in models {
            let own = frozen.parameters.iter().filter(|p| !is_shared(p.name.as_str(), &p.weight, model));
            tensors.extend(own.map(|p| (format!("model/{name}/{}", p.name), p.weight.tensor.clone())));
        }
        let described = Described {
            steps: self.optimizer.steps,
            adapters: specs(model),
            column: column(model),
            vectors: self.vectors.named.iter().map(|(name, tensors)| (name.clone(), tensors.len())).collect(),
            models: models
                .iter()
                .map(|(name, m)| (name.to_string(), FrozenModel { adapters: specs(m), column: column(m) }))
                .collect(),
        };
        let text = serde_json::to_string(&described)
            .map_err(|e| Error::File { path: file.to_path_buf(), problem: e.to_string() })?;
        write_file(file, Dtype::F32, tensors, HashMap::from([(METADATA.to_string(), text)]))
    }

    /// The reverse of `save_state`; returns the frozen models.
    pub fn load_state(&mut self, model: &mut Model, file: &Path) -> Result<Vec<(String, Model)>> {
        let problem = |problem: String| Error::File { path: file.to_path_buf(), problem };
        let opened = std::fs::File::open(file).map_err(|e| problem(e.to_string()))?;
        // SAFETY: a checkpoint's file is read-only input; a change under us is a wrong number.
        let bytes = unsafe { Mmap::map(&opened) }.map_err(|e| problem(e.to_string()))?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| problem(e.to_string()))?;
        let text = header
            .metadata()
            .as_ref()
            .and_then(|m| m.get(METADATA))
            .ok_or_else(|| problem("is not a state of this version".into()))?;
        let described: Described = serde_json::from_str(text).map_err(|e| problem(e.to_string()))?;
        let arrays = Arrays { tensors: SafeTensors::deserialize(&bytes).map_err(|e| problem(e.to_string()))?, file };
        model.restore_adapters(&described.adapters, described.column.as_deref())?;
        for id in 0..model.parameters.len() {
            let kind = if id < model.dense_parameters() { "dense" } else { "adapter" };
            let name = format!("{kind}/{}", model.parameters[id].name);
            if arrays.has(&name) {
                let tensor = arrays.tensor(&name, model.parameters[id].weight.tensor.dims())?;
                model.parameters[id].assign(&tensor)?;
            }
        }
        self.rebuild(model)?;
        for slot in &self.optimizer.slots {
            let name = model.parameters[slot.parameter].name.clone();
            for (kind, target) in [("master", &slot.master), ("first", &slot.first), ("second", &slot.second)] {
                arrays.read_into(&format!("{kind}/{name}"), target)?;
            }
            slot.publish(model)?;
        }
        self.optimizer.steps = described.steps;
        self.vectors.named = described
            .vectors
            .iter()
            .map(|(name, count)| {
                let tensors = (0..*count).map(|i| arrays.any(&format!("vector/{name}/{i}")));
                Ok((name.clone(), tensors.collect::<Result<_>>()?))
            })
            .collect::<Result<_>>()?;
        described.models.iter().map(|(name, frozen)| Ok((name.clone(), arrays.frozen(model, name, frozen)?))).collect()
    }

    /// SHA-256 of everything that `save_state` would write of the policy, in hexadecimal.
    pub fn digest(&self, model: &Model) -> Result<String> {
        let mut hash = Sha256::new();
        hash.update(self.optimizer.steps.to_le_bytes());
        for (name, tensor) in self.tensors(model)? {
            hash.update(name.as_bytes());
            hash.update(bytemuck::cast_slice::<f32, u8>(&read(&tensor.to_dtype(DType::F32)?)?));
        }
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

fn specs(model: &Model) -> Vec<AdapterSpec> {
    model.adapters().iter().map(|adapter| adapter.spec.clone()).collect()
}

fn column(model: &Model) -> Option<String> {
    model.column().map(|adapter| adapter.spec.name.clone())
}

/// Is this the very tensor that the policy has under the name?
fn is_shared(name: &str, weight: &Weight, policy: &Model) -> bool {
    policy.parameters.iter().any(|p| p.name == name && p.weight.tensor.id() == weight.tensor.id())
}

struct Arrays<'a> {
    tensors: SafeTensors<'a>,
    file: &'a Path,
}

impl Arrays<'_> {
    fn problem(&self, problem: String) -> Error {
        Error::File { path: self.file.to_path_buf(), problem }
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.tensor(name).is_ok()
    }

    fn any(&self, name: &str) -> Result<Tensor> {
        let view = self.tensors.tensor(name).map_err(|e| self.problem(format!("{name}: {e}")))?;
        let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        Ok(Tensor::from_vec(values.collect::<Vec<f32>>(), view.shape(), &Device::Cpu)?)
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let tensor = self.any(name)?;
        if tensor.dims() != shape {
            return Err(self.problem(format!("{name} has shape {:?}, the model's is {shape:?}", tensor.dims())));
        }
        Ok(tensor)
    }

    fn read_into(&self, name: &str, target: &Tensor) -> Result<()> {
        let values = self.tensor(name, target.dims())?;
        let values = read(&values)?;
        write(target, |target| target.copy_from_slice(&values))
    }

    fn frozen(&self, policy: &Model, name: &str, described: &FrozenModel) -> Result<Model> {
        let mut model = policy.snapshot()?;
        model.restore_adapters(&described.adapters, described.column.as_deref())?;
        for parameter in &mut model.parameters {
            parameter.trained = false;
            let stored = format!("model/{name}/{}", parameter.name);
            if self.has(&stored) {
                parameter.assign(&self.tensor(&stored, parameter.weight.tensor.dims())?)?;
            } else if let Some(shared) = policy.parameters.iter().find(|p| p.name == parameter.name) {
                parameter.weight = shared.weight.clone();
            }
        }
        Ok(model)
    }
}

//! LoRA adapters (Hu et al. 2022): y = W·x + Σ factor · B·(A·x). The newest active adapter is the *column*; those before it
//! count with their own scale alpha / rank, times the column's gates where it has any (progressive nets, Rusu et al. 2016).
use super::weights::{Dtype, Parameter, save};
use super::{Gradients, Model, write_json};
use crate::error::{Error, Result};
use crate::kernels::{Operand, linear, linear_weight_gradient, product_into, read, uninitialised, write};
use candle_core::{Device, Tensor};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What `add_adapter` takes.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct AdapterSpec {
    pub name: String,
    pub rank: usize,
    pub alpha: f64,
    /// As PEFT's `target_modules`: the last part of a module's name, such as `q_proj`.
    pub target_modules: Vec<String>,
    /// A trained factor, from 0, for every earlier adapter and module.
    pub gates: bool,
}

#[derive(Clone)]
pub struct Adapter {
    pub spec: AdapterSpec,
    /// Parameter of the dense weight → where this adapter's part lies.
    modules: BTreeMap<usize, Module>,
}

#[derive(Clone)]
struct Module {
    /// `[rank, in]`
    a: usize,
    /// `[out, rank]`
    b: usize,
    /// One for each earlier adapter that has the module: its index, and the parameter of the gate `[1]`.
    gates: Vec<(usize, usize)>,
}

/// One adapter's part of a product.
struct Branch {
    a: usize,
    b: usize,
    /// alpha / rank
    scale: f32,
    gate: Option<usize>,
}

impl AdapterSpec {
    fn scale(&self) -> f32 {
        (self.alpha / self.rank as f64) as f32
    }
}

/// PEFT's start for A: uniform within ±1/√in (Kaiming with a = √5). B starts at zero.
fn random_a(rank: usize, inner: usize, rng: &mut ChaCha8Rng) -> Result<Tensor> {
    let bound = 1.0 / (inner as f32).sqrt();
    let uniform = |_| ((rng.next_u32() >> 8) as f32 * (2.0 / 16_777_216.0) - 1.0) * bound;
    Ok(Tensor::from_vec((0..rank * inner).map(uniform).collect::<Vec<f32>>(), (rank, inner), &Device::Cpu)?)
}

/// `model.layers.0.self_attn.q_proj` of `model.layers.0.self_attn.q_proj.weight`.
fn module_name(parameter: &str) -> &str {
    parameter.strip_suffix(".weight").unwrap_or(parameter)
}

impl Model {
    pub fn adapters(&self) -> &[Adapter] {
        &self.adapters
    }

    /// The newest adapter of the active column.
    pub fn column(&self) -> Option<&Adapter> {
        self.adapters[..self.active_adapters].last()
    }

    /// Adds an adapter that changes nothing yet; it alone is trained from now on.
    pub fn add_adapter(&mut self, spec: AdapterSpec, seed: u64) -> Result<()> {
        self.check_adapter(&spec)?;
        for parameter in &mut self.parameters {
            parameter.trained = false;
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut modules = BTreeMap::new();
        for id in self.modules_of(&spec.target_modules) {
            let (outer, inner) = self.parameters[id].weight.tensor.dims2()?;
            let a = random_a(spec.rank, inner, &mut rng)?;
            let b = Tensor::zeros((outer, spec.rank), candle_core::DType::F32, &Device::Cpu)?;
            let name = format!("{}.{}", spec.name, module_name(&self.parameters[id].name));
            let a = self.add_parameter(format!("{name}.lora_A.weight"), a)?;
            let b = self.add_parameter(format!("{name}.lora_B.weight"), b)?;
            let earlier: Vec<usize> = (0..self.adapters.len())
                .filter(|k| spec.gates && self.adapters[*k].modules.contains_key(&id))
                .collect();
            let gates = earlier.into_iter().map(|k| {
                let gate = Tensor::zeros(1, candle_core::DType::F32, &Device::Cpu)?;
                let of = &self.adapters[k].spec.name;
                Ok((k, self.add_parameter(format!("{name}.gate.{of}"), gate)?))
            });
            let gates = gates.collect::<Result<_>>()?;
            modules.insert(id, Module { a, b, gates });
        }
        self.adapters.push(Adapter { spec, modules });
        self.active_adapters = self.adapters.len();
        Ok(())
    }

    fn check_adapter(&self, spec: &AdapterSpec) -> Result<()> {
        if spec.rank == 0 {
            return Err(Error::BadArgument("an adapter's rank must be at least 1".into()));
        }
        if self.adapters.iter().any(|adapter| adapter.spec.name == spec.name) {
            return Err(Error::BadArgument(format!("there is an adapter named {} already", spec.name)));
        }
        let known: BTreeSet<&str> = self.adaptable().filter_map(|id| self.short_name(id)).collect();
        match spec.target_modules.iter().find(|name| !known.contains(name.as_str())) {
            Some(name) => Err(Error::BadArgument(format!("there is no module {name}; known are {known:?}"))),
            None if spec.target_modules.is_empty() => Err(Error::BadArgument("an adapter needs target modules".into())),
            None => Ok(()),
        }
    }

    fn short_name(&self, id: usize) -> Option<&str> {
        module_name(&self.parameters[id].name).rsplit('.').next()
    }

    /// The weights that adapters can be put on, in the model's order.
    fn adaptable(&self) -> impl Iterator<Item = usize> + '_ {
        self.ids.layers.iter().flat_map(|ids| [ids.q, ids.k, ids.v, ids.o, ids.gate, ids.up, ids.down])
    }

    fn modules_of(&self, targets: &[String]) -> Vec<usize> {
        self.adaptable()
            .filter(|id| self.short_name(*id).is_some_and(|name| targets.iter().any(|t| t == name)))
            .collect()
    }

    fn add_parameter(&mut self, name: String, tensor: Tensor) -> Result<usize> {
        self.parameters.push(Parameter::new(name, &tensor, Dtype::F32)?);
        Ok(self.parameters.len() - 1)
    }

    /// The model computes as when this adapter was the newest.
    pub fn activate_adapter(&mut self, name: &str) -> Result<()> {
        let found = self.adapters.iter().position(|adapter| adapter.spec.name == name);
        self.active_adapters = found.ok_or_else(|| Error::BadArgument(format!("there is no adapter {name}")))? + 1;
        Ok(())
    }

    /// The active adapters' parts of one product.
    fn branches(&self, id: usize) -> Vec<Branch> {
        let active = &self.adapters[..self.active_adapters];
        let column = active.last().and_then(|adapter| adapter.modules.get(&id));
        let gated = active.last().is_some_and(|adapter| adapter.spec.gates);
        let parts = active.iter().enumerate().filter_map(|(k, adapter)| {
            let module = adapter.modules.get(&id)?;
            let newest = k + 1 == active.len();
            let gate = column.and_then(|c| c.gates.iter().find(|(of, _)| *of == k)).map(|(_, gate)| *gate);
            // a gated column without a gate for an earlier adapter does not see it
            (newest || !gated || gate.is_some()).then_some(Branch {
                a: module.a,
                b: module.b,
                scale: adapter.spec.scale(),
                gate,
            })
        });
        parts.collect()
    }

    fn factor(&self, branch: &Branch) -> Result<f32> {
        Ok(match branch.gate {
            Some(gate) => branch.scale * read(&self.parameters[gate].weight.tensor)?[0],
            None => branch.scale,
        })
    }

    /// x·Wᵀ + bias, with the adapters' parts.
    pub(super) fn project(&self, x: &Tensor, id: usize, bias: Option<usize>) -> Result<Tensor> {
        let bias = bias.map(|id| &self.parameters[id].weight.tensor);
        let mut y = linear(self.kernels, x, &self.parameters[id].weight, bias)?;
        for branch in self.branches(id) {
            let low = self.low(x, &branch)?;
            let b = &self.parameters[branch.b].weight.tensor;
            product_into(self.kernels, &mut y, Operand::Plain(&low), Operand::Transposed(b), true)?;
        }
        Ok(y)
    }

    /// factor · x·Aᵀ, `[N, rank]`.
    fn low(&self, x: &Tensor, branch: &Branch) -> Result<Tensor> {
        let low = linear(self.kernels, x, &self.parameters[branch.a].weight, None)?;
        Ok((low * self.factor(branch)? as f64)?)
    }

    /// Backward of `project`: dx ← (dx +) dy·W and the adapters' parts; gradients of what is trained are added.
    pub(super) fn project_backward(
        &self,
        dx: &mut Tensor,
        dy: &Tensor,
        x: &Tensor,
        id: usize,
        accumulate: bool,
        gradients: &mut Gradients,
    ) -> Result<()> {
        let kernels = self.kernels;
        let weight = &self.parameters[id].weight.tensor;
        product_into(kernels, dx, Operand::Plain(dy), Operand::Plain(weight), accumulate)?;
        if let Some(gradient) = gradients.of(id) {
            linear_weight_gradient(kernels, dy, x, gradient)?;
        }
        for branch in self.branches(id) {
            self.branch_backward(dx, dy, x, &branch, gradients)?;
        }
        Ok(())
    }

    fn branch_backward(
        &self,
        dx: &mut Tensor,
        dy: &Tensor,
        x: &Tensor,
        branch: &Branch,
        gradients: &mut Gradients,
    ) -> Result<()> {
        let kernels = self.kernels;
        let tensor = |id: usize| &self.parameters[id].weight.tensor;
        let rank = tensor(branch.b).dim(1)?;
        let mut d_low = uninitialised((dy.dim(0)?, rank))?;
        product_into(kernels, &mut d_low, Operand::Plain(dy), Operand::Plain(tensor(branch.b)), false)?;
        if let Some(gradient) = branch.gate.and_then(|gate| gradients.of(gate)) {
            // y has scale · gate · (x·Aᵀ)·Bᵀ, so ∂/∂gate = scale · Σ (dy·B) ⊙ (x·Aᵀ)
            let low = linear(kernels, x, &self.parameters[branch.a].weight, None)?;
            let slope = ((&d_low * &low)?.sum_all()?.to_scalar::<f32>()?) * branch.scale;
            write(gradient, |gradient| gradient[0] += slope)?;
        }
        if let Some(gradient) = gradients.of(branch.b) {
            linear_weight_gradient(kernels, dy, &self.low(x, branch)?, gradient)?;
        }
        let d_low = (d_low * self.factor(branch)? as f64)?;
        if let Some(gradient) = gradients.of(branch.a) {
            linear_weight_gradient(kernels, &d_low, x, gradient)?;
        }
        product_into(kernels, dx, Operand::Plain(&d_low), Operand::Plain(tensor(branch.a)), true)
    }

    /// Number of dense parameters: those that the model has without adapters.
    pub fn dense_parameters(&self) -> usize {
        let adapters = self.adapters.iter().flat_map(|adapter| adapter.modules.values().map(|module| module.a));
        adapters.min().unwrap_or(self.parameters.len())
    }

    /// The dense weight that the model computes with: W + Σ factor·B·A, in f32.
    pub fn effective(&self, id: usize) -> Result<Tensor> {
        let dense = &self.parameters[id];
        let branches = self.branches(id);
        if branches.is_empty() {
            return dense.values();
        }
        let mut sum = dense.copied_values()?;
        for branch in branches {
            let tensor = |id: usize| &self.parameters[id].weight.tensor;
            let a = (tensor(branch.a) * self.factor(&branch)? as f64)?;
            product_into(self.kernels, &mut sum, Operand::Plain(tensor(branch.b)), Operand::Plain(&a), true)?;
        }
        Ok(sum)
    }

    /// Were the dense weights changed since they were read, adapters apart?
    pub fn dense_replaced(&self) -> bool {
        self.dense_replaced
    }

    /// Exactly these adapters, new ones, the newest trained (without any, everything is).
    pub fn restore_adapters(&mut self, specs: &[AdapterSpec], column: Option<&str>) -> Result<()> {
        self.drop_adapters();
        for spec in specs {
            self.add_adapter(spec.clone(), 0)?;
        }
        column.map_or(Ok(()), |name| self.activate_adapter(name))
    }

    fn drop_adapters(&mut self) {
        self.parameters.truncate(self.dense_parameters());
        self.adapters.clear();
        self.active_adapters = 0;
        self.parameters.iter_mut().for_each(|parameter| parameter.trained = true);
    }

    /// Puts dense f32 weights in place of the model's and drops all adapters; everything is trained again.
    pub fn set_dense(&mut self, tensors: Vec<Tensor>) -> Result<()> {
        let dense = self.dense_parameters();
        if tensors.len() != dense {
            return Err(Error::BadArgument(format!("{} dense tensors, the model has {dense}", tensors.len())));
        }
        self.drop_adapters();
        self.dense_replaced = true;
        for (parameter, tensor) in self.parameters.iter_mut().zip(tensors) {
            parameter.assign(&tensor.copy()?)?; // frozen models may share the old one
        }
        Ok(())
    }

    /// Folds the active adapters into the dense weights.
    pub fn merge_adapters(&mut self) -> Result<()> {
        let dense = (0..self.dense_parameters()).map(|id| self.effective(id)).collect::<Result<Vec<_>>>()?;
        self.set_dense(dense)
    }

    /// Σ over earlier active adapters and modules of ‖A_earlier · Aᵀ‖² (O-LoRA, Wang et al. 2023); `strength` times its
    /// gradient is added for the newest A.
    pub fn orthogonal_penalty(&self, strength: f64, gradients: &mut Gradients) -> Result<f64> {
        let Some((newest, earlier)) = self.adapters[..self.active_adapters].split_last() else { return Ok(0.0) };
        let mut total = 0.0;
        for (id, module) in &newest.modules {
            for other in earlier.iter().filter_map(|adapter| adapter.modules.get(id)) {
                let (a, fixed) = (&self.parameters[module.a].weight.tensor, &self.parameters[other.a].weight.tensor);
                let overlap = a.matmul(&fixed.t()?.contiguous()?)?; // [r, r_earlier]
                total += overlap.sqr()?.sum_all()?.to_scalar::<f32>()? as f64;
                if let Some(gradient) = gradients.of(module.a) {
                    let slope = (overlap.matmul(fixed)? * (2.0 * strength))?;
                    *gradient = (&*gradient + slope)?;
                }
            }
        }
        Ok(total)
    }

    // ----- PEFT's files -----

    /// Writes adapter_config.json and adapter_model.safetensors. Several active adapters become one whose rank is the sum
    /// of theirs (B_1·A_1 + B_2·A_2 = [B_1 B_2]·[A_1; A_2]), factors and gates folded into B.
    pub fn save_adapter(&self, directory: &Path, base_model: &str) -> Result<()> {
        let Some(column) = self.column() else {
            return Err(Error::BadArgument("the model has no adapter to save".into()));
        };
        let targets: BTreeSet<&str> = self.adapters[..self.active_adapters]
            .iter()
            .flat_map(|adapter| adapter.spec.target_modules.iter().map(String::as_str))
            .collect();
        let mut tensors = Vec::new();
        let mut ranks = BTreeMap::new();
        for id in self.adaptable().collect::<Vec<_>>() {
            let branches = self.branches(id);
            if branches.is_empty() {
                continue;
            }
            let (a, b) = self.concatenated(&branches)?;
            let name = format!("base_model.model.{}", module_name(&self.parameters[id].name));
            ranks.insert(module_name(&self.parameters[id].name).to_string(), a.dim(0)?);
            tensors.push((format!("{name}.lora_A.weight"), a));
            tensors.push((format!("{name}.lora_B.weight"), b));
        }
        let single = self.active_adapters == 1;
        let rank = if single { column.spec.rank } else { ranks.values().copied().max().unwrap_or(1) };
        let alpha = if single { column.spec.alpha } else { rank as f64 };
        let uneven: BTreeMap<&String, usize> =
            ranks.iter().filter(|(_, r)| **r != rank).map(|(name, r)| (name, *r)).collect();
        let config = json!({
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base_model,
            "r": rank, "lora_alpha": alpha, "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": false,
            "inference_mode": true, "init_lora_weights": true, "use_rslora": false, "use_dora": false,
            "target_modules": targets, "modules_to_save": null, "layers_to_transform": null,
            "rank_pattern": uneven, "alpha_pattern": if single { json!({}) } else { json!(uneven) },
        });
        let Value::Object(config) = config else { unreachable!("written as an object") };
        write_json(&directory.join("adapter_config.json"), &config)?;
        save(&directory.join("adapter_model.safetensors"), tensors.into_iter().map(Ok), Dtype::F32)
    }

    fn concatenated(&self, branches: &[Branch]) -> Result<(Tensor, Tensor)> {
        let tensor = |id: usize| &self.parameters[id].weight.tensor;
        if self.active_adapters == 1 {
            return Ok((tensor(branches[0].a).clone(), tensor(branches[0].b).clone()));
        }
        let a: Vec<&Tensor> = branches.iter().map(|branch| tensor(branch.a)).collect();
        let b = branches
            .iter()
            .map(|branch| Ok((tensor(branch.b) * self.factor(branch)? as f64)?))
            .collect::<Result<Vec<_>>>()?;
        Ok((Tensor::cat(&a, 0)?, Tensor::cat(&b, 1)?.contiguous()?))
    }

    /// Reads an adapter that PEFT (or `save_adapter`) wrote, as a trained one named `name`.
    pub fn load_adapter(&mut self, name: &str, directory: &Path) -> Result<()> {
        let path = directory.join("adapter_config.json");
        let problem = |problem: String| Error::File { path: path.clone(), problem };
        let text = std::fs::read_to_string(&path).map_err(|e| problem(e.to_string()))?;
        let config: Value = serde_json::from_str(&text).map_err(|e| problem(e.to_string()))?;
        let spec = peft_spec(name, &config, &|what| self.target_modules_of(what)).map_err(problem)?;
        self.add_adapter(spec, 0)?;
        let adapter = self.adapters.last().expect("just added").modules.clone();
        let file = super::weights::Shards::single(&directory.join("adapter_model.safetensors"))?;
        for (id, module) in adapter {
            let name = format!("base_model.model.{}", module_name(&self.parameters[id].name));
            for (part, parameter) in [("lora_A", module.a), ("lora_B", module.b)] {
                let shape = self.parameters[parameter].weight.tensor.dims().to_vec();
                let values = file.read(&format!("{name}.{part}.weight"), &shape)?;
                self.parameters[parameter].assign(&Tensor::from_vec(values, shape, &Device::Cpu)?)?;
            }
        }
        Ok(())
    }

    /// PEFT allows a list of names, `all-linear`, or a regular expression, which we do not read.
    fn target_modules_of(&self, value: &Value) -> std::result::Result<Vec<String>, String> {
        match value {
            Value::Array(names) => names
                .iter()
                .map(|name| name.as_str().map(str::to_string).ok_or_else(|| format!("target module {name} is no name")))
                .collect(),
            Value::String(all) if all == "all-linear" => {
                let names: BTreeSet<String> =
                    self.adaptable().filter_map(|id| self.short_name(id).map(str::to_string)).collect();
                Ok(names.into_iter().collect())
            }
            other => Err(format!("target_modules {other} is not a list of module names")),
        }
    }
}

type Targets<'a> = dyn Fn(&Value) -> std::result::Result<Vec<String>, String> + 'a;

/// The part of PEFT's LoraConfig that we compute; anything that would change the result is refused.
fn peft_spec(name: &str, config: &Value, targets: &Targets) -> std::result::Result<AdapterSpec, String> {
    let is_set = |key: &str| !matches!(config.get(key), None | Some(Value::Null | Value::Bool(false)));
    let not_empty = |key: &str| config.get(key).and_then(Value::as_object).is_some_and(|map| !map.is_empty());
    if config.get("peft_type").and_then(Value::as_str) != Some("LORA") {
        return Err("peft_type is not LORA".into());
    }
    for key in ["use_dora", "use_rslora", "modules_to_save", "layers_to_transform"] {
        if is_set(key) {
            return Err(format!("{key} is not supported"));
        }
    }
    for key in ["rank_pattern", "alpha_pattern"] {
        if not_empty(key) {
            return Err(format!("{key} is not supported"));
        }
    }
    let number = |key: &str| config.get(key).and_then(Value::as_f64).ok_or_else(|| format!("{key} is missing"));
    Ok(AdapterSpec {
        name: name.into(),
        rank: number("r")? as usize,
        alpha: number("lora_alpha")?,
        target_modules: targets(config.get("target_modules").unwrap_or(&Value::Null))?,
        gates: false,
    })
}

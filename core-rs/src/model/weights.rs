//! Parameters of a decoder and where they lie in safetensors files.
use super::config::ModelConfig;
use crate::error::{Error, Result};
use crate::kernels::{Kernels, Weight, read};
use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::{Dtype as FileDtype, SafeTensors, View};
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    F32,
    F16,
    Bf16,
}

impl Dtype {
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "float32",
            Dtype::F16 => "float16",
            Dtype::Bf16 => "bfloat16",
        }
    }
    /// f32 values as parameters keep them: matrices in this type, norms and biases in f32 that fit it (they are few, and read
    /// at every row). Of f32 the tensor itself.
    fn keep(self, values: &Tensor) -> Result<Tensor> {
        let rounded = values.to_dtype(match self {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::Bf16 => DType::BF16,
        })?;
        Ok(if values.rank() > 1 { rounded } else { rounded.to_dtype(DType::F32)? })
    }
    fn bytes(self, values: &[f32]) -> Vec<u8> {
        match self {
            Dtype::F32 => bytemuck::cast_slice(values).to_vec(),
            Dtype::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
            Dtype::Bf16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        }
    }
    fn in_file(self) -> FileDtype {
        match self {
            Dtype::F32 => FileDtype::F32,
            Dtype::F16 => FileDtype::F16,
            Dtype::Bf16 => FileDtype::BF16,
        }
    }
}

pub struct Parameter {
    pub name: String,
    pub weight: Weight,
    /// The type its values have; adapters are f32 whatever the model's type.
    pub dtype: Dtype,
    /// False: no gradient is made for it.
    pub trained: bool,
}

impl Parameter {
    /// Of f32 values, rounded to the type.
    pub fn new(name: String, values: &Tensor, dtype: Dtype) -> Result<Self> {
        Ok(Self { name, weight: Weight::new(dtype.keep(values)?), dtype, trained: true })
    }

    /// Takes on f32 values, rounded to its type; of f32 the tensor itself.
    pub fn assign(&mut self, values: &Tensor) -> Result<()> {
        self.weight = Weight::new(self.dtype.keep(values)?);
        Ok(())
    }

    /// Its values in f32: a wider copy, or the tensor itself.
    pub fn values(&self) -> Result<Tensor> {
        Ok(self.weight.tensor.to_dtype(DType::F32)?)
    }

    /// As `values`, and nobody else's.
    pub fn copied_values(&self) -> Result<Tensor> {
        let tensor = &self.weight.tensor;
        Ok(if tensor.dtype() == DType::F32 { tensor.copy()? } else { self.values()? })
    }

    /// For a frozen model: what is trained is copied, what is not is shared.
    pub fn frozen(&self) -> Result<Self> {
        let weight = if self.trained { Weight::new(self.weight.tensor.copy()?) } else { self.weight.clone() };
        Ok(Self { name: self.name.clone(), weight, dtype: self.dtype, trained: false })
    }
}

/// Indices into the parameter list.
pub struct LayerIds {
    pub input_norm: usize,
    pub q: usize,
    pub k: usize,
    pub v: usize,
    pub o: usize,
    pub qkv_bias: Option<[usize; 3]>,
    pub qk_norm: Option<[usize; 2]>,
    pub post_norm: usize,
    pub gate: usize,
    pub up: usize,
    pub down: usize,
}

pub struct Ids {
    pub embed: usize,
    pub layers: Vec<LayerIds>,
    pub norm: usize,
    /// The embedding itself where word embeddings are tied.
    pub head: usize,
}

/// Names and shapes of all parameters, in Hugging Face's order, and where the layers find theirs.
pub fn plan(config: &ModelConfig) -> (Vec<(String, Vec<usize>)>, Ids) {
    let mut shapes = Vec::new();
    let mut add = |name: String, shape: &[usize]| {
        shapes.push((name, shape.to_vec()));
        shapes.len() - 1
    };
    let (hidden, inner, heads) = (config.hidden_size, config.intermediate_size, config.heads);
    let (q_width, kv_width) = (heads.heads * heads.dim, heads.kv_heads * heads.dim);
    let embed = add("model.embed_tokens.weight".into(), &[config.vocab_size, hidden]);
    let mut layers = Vec::new();
    for layer in 0..config.layers {
        let mut add = |name: &str, shape: &[usize]| add(format!("model.layers.{layer}.{name}"), shape);
        layers.push(LayerIds {
            q: add("self_attn.q_proj.weight", &[q_width, hidden]),
            k: add("self_attn.k_proj.weight", &[kv_width, hidden]),
            v: add("self_attn.v_proj.weight", &[kv_width, hidden]),
            o: add("self_attn.o_proj.weight", &[hidden, q_width]),
            qkv_bias: config.qkv_bias.then(|| {
                [("q", q_width), ("k", kv_width), ("v", kv_width)]
                    .map(|(x, width)| add(&format!("self_attn.{x}_proj.bias"), &[width]))
            }),
            qk_norm: config
                .qk_norm
                .then(|| ["q", "k"].map(|x| add(&format!("self_attn.{x}_norm.weight"), &[heads.dim]))),
            gate: add("mlp.gate_proj.weight", &[inner, hidden]),
            up: add("mlp.up_proj.weight", &[inner, hidden]),
            down: add("mlp.down_proj.weight", &[hidden, inner]),
            input_norm: add("input_layernorm.weight", &[hidden]),
            post_norm: add("post_attention_layernorm.weight", &[hidden]),
        });
    }
    let norm = add("model.norm.weight".into(), &[hidden]);
    let head =
        if config.tie_word_embeddings { embed } else { add("lm_head.weight".into(), &[config.vocab_size, hidden]) };
    (shapes, Ids { embed, layers, norm, head })
}

/// Reads all parameters of `plan` from model.safetensors or its shards.
pub fn load(directory: &Path, config: &ModelConfig, dtype: Dtype) -> Result<(Vec<Parameter>, Ids)> {
    let (shapes, ids) = plan(config);
    let index = Shards::open(directory)?;
    let parameters = shapes
        .into_iter()
        .map(|(name, shape)| {
            let values = Tensor::from_vec(index.read(&name, &shape)?, shape, &Device::Cpu)?;
            Parameter::new(name, &values, dtype)
        })
        .collect::<Result<_>>()?;
    Ok((parameters, ids))
}

pub struct Shards {
    files: Vec<(PathBuf, Mmap)>,
    /// Tensor name → file.
    places: HashMap<String, usize>,
}

impl Shards {
    fn open(directory: &Path) -> Result<Self> {
        Self::of(shard_paths(directory)?)
    }

    pub fn single(file: &Path) -> Result<Self> {
        Self::of(vec![file.to_path_buf()])
    }

    fn of(paths: Vec<PathBuf>) -> Result<Self> {
        let mut shards = Self { files: Vec::new(), places: HashMap::new() };
        for path in paths {
            let problem = |problem: String| Error::File { path: path.clone(), problem };
            let file = std::fs::File::open(&path).map_err(|e| problem(e.to_string()))?;
            // SAFETY: the file is read-only input; a change under us is a wrong number, not memory unsafety we rely on.
            let map = unsafe { Mmap::map(&file) }.map_err(|e| problem(e.to_string()))?;
            let (_, header) =
                SafeTensors::read_metadata(&map).map_err(|e| problem(format!("is not a safetensors file: {e}")))?;
            shards.places.extend(header.tensors().into_keys().map(|name| (name, shards.files.len())));
            shards.files.push((path, map));
        }
        Ok(shards)
    }

    pub fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let Some((path, map)) = self.places.get(name).map(|i| &self.files[*i]) else {
            let path = self.files.first().map(|(path, _)| path.clone()).unwrap_or_default();
            return Err(Error::File { path, problem: format!("lacks the tensor {name}") });
        };
        let problem = |problem: String| Error::File { path: path.clone(), problem };
        let tensors = SafeTensors::deserialize(map).map_err(|e| problem(e.to_string()))?;
        let view = tensors.tensor(name).map_err(|e| problem(e.to_string()))?;
        if view.shape() != shape {
            return Err(problem(format!("{name} has shape {:?}, config.json says {shape:?}", view.shape())));
        }
        let data = view.data();
        match view.dtype() {
            FileDtype::F32 => Ok(data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()),
            FileDtype::F16 => Ok(data.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()),
            FileDtype::BF16 => Ok(data.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect()),
            other => Err(problem(format!("{name} is {other:?}; known are F32, F16 and BF16"))),
        }
    }
}

fn shard_paths(directory: &Path) -> Result<Vec<PathBuf>> {
    let single = directory.join("model.safetensors");
    if single.exists() {
        return Ok(vec![single]);
    }
    let path = directory.join("model.safetensors.index.json");
    let problem = |problem: String| Error::File { path: path.clone(), problem };
    let text =
        std::fs::read_to_string(&path).map_err(|_| problem("not found, nor is model.safetensors beside it".into()))?;
    let index: serde_json::Value = serde_json::from_str(&text).map_err(|e| problem(e.to_string()))?;
    let map = index.get("weight_map").and_then(|m| m.as_object()).ok_or_else(|| problem("lacks weight_map".into()))?;
    let mut names: Vec<&str> = map.values().filter_map(|v| v.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    Ok(names.into_iter().map(|name| directory.join(name)).collect())
}

/// Writes named tensors as transformers and PEFT read them.
pub fn save(file: &Path, tensors: impl Iterator<Item = Result<(String, Tensor)>>, dtype: Dtype) -> Result<()> {
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    write_file(file, dtype, tensors.collect::<Result<_>>()?, metadata)
}

/// Writes named tensors as safetensors of one type.
pub fn write_file(
    file: &Path,
    dtype: Dtype,
    tensors: Vec<(String, Tensor)>,
    metadata: HashMap<String, String>,
) -> Result<()> {
    let views = tensors
        .into_iter()
        .map(|(name, tensor)| Ok((name, Written { tensor: tensor.contiguous()?, dtype })))
        .collect::<Result<Vec<_>>>()?;
    safetensors::serialize_to_file(views, Some(metadata), file)
        .map_err(|e| Error::File { path: file.to_path_buf(), problem: e.to_string() })
}

/// A dense tensor on its way into a file. Its bytes are made when its turn comes: no second copy of a model is ever whole.
struct Written {
    tensor: Tensor,
    dtype: Dtype,
}

impl View for Written {
    fn dtype(&self) -> FileDtype {
        self.dtype.in_file()
    }
    fn shape(&self) -> &[usize] {
        self.tensor.dims()
    }
    fn data(&self) -> Cow<'_, [u8]> {
        let bytes = || -> Result<Vec<u8>> { Ok(self.dtype.bytes(&read(&self.tensor.to_dtype(DType::F32)?)?)) };
        Cow::Owned(bytes().expect("a dense tensor can be read"))
    }
    fn data_len(&self) -> usize {
        self.tensor.elem_count() * if self.dtype == Dtype::F32 { 4 } else { 2 }
    }
}

/// Kernels that fit the device of the weights.
pub fn kernels_for(wanted: Kernels, device: &Device) -> Kernels {
    if device.is_cpu() { wanted } else { Kernels::Plain }
}

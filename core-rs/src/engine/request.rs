//! Requests as they come over the boundary (a kind, JSON, arrays) and as jobs that were checked.
use super::sampler::{Sampler, SamplingOptions};
use crate::error::{Error, Result};
use crate::model::Dtype;
use crate::text::calls::{CallFormat, CallGrammarSpec};
use crate::text::{ChatMessage, RenderOptions};
use crate::train::{AdamW, Batch, Grpo, Loss, Magnitude, Objective, Stored, WeightOp};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::path::PathBuf;

pub const POLICY: &str = "policy";

#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    LoadModel = 1,
    Render = 2,
    Tokenize = 3,
    Decode = 4,
    Sample = 5,
    ForwardBackward = 6,
    OptimizerStep = 7,
    Logprobs = 8,
    WeightOp = 9,
    Save = 10,
    SaveState = 11,
    LoadState = 12,
    AddImportance = 13,
    TopLogprobs = 14,
    Digest = 15,
    Timings = 16,
}

impl Kind {
    pub const ALL: [(Kind, &'static str); 16] = [
        (Kind::LoadModel, "load_model"),
        (Kind::Render, "render"),
        (Kind::Tokenize, "tokenize"),
        (Kind::Decode, "decode"),
        (Kind::Sample, "sample"),
        (Kind::ForwardBackward, "forward_backward"),
        (Kind::OptimizerStep, "optimizer_step"),
        (Kind::Logprobs, "logprobs"),
        (Kind::WeightOp, "weight_op"),
        (Kind::Save, "save"),
        (Kind::SaveState, "save_state"),
        (Kind::LoadState, "load_state"),
        (Kind::AddImportance, "add_importance"),
        (Kind::TopLogprobs, "top_logprobs"),
        (Kind::Digest, "digest"),
        (Kind::Timings, "timings"),
    ];

    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().map(|(kind, _)| kind).find(|kind| *kind as u32 == number)
    }

    pub fn name(self) -> &'static str {
        Self::ALL[self as usize - 1].1
    }

    /// Answered by the text thread, which never waits for the model.
    pub fn is_text(self) -> bool {
        matches!(self, Kind::Render | Kind::Tokenize | Kind::Decode)
    }
}

pub struct Request {
    pub id: u64,
    pub kind: Kind,
    pub control: String,
    pub arrays: Arrays,
}

/// S sequences, N tokens; the f32 arrays have N values or, where the kind does not need them, none.
#[derive(Default)]
pub struct Arrays {
    pub tokens_n: Vec<u32>,
    pub offsets: Vec<u32>,
    pub weights_n: Vec<f32>,
    pub advantages_n: Vec<f32>,
    pub old_logprobs_n: Vec<f32>,
    /// K per token, for the losses that need them.
    pub target_ids: Vec<u32>,
    pub target_logprobs: Vec<f32>,
}

pub enum TextJob {
    Render { model: String, messages: Vec<ChatMessage>, options: RenderOptions },
    Tokenize { model: String, text: String },
    Decode { model: String, tokens: Vec<u32>, skip_special: bool },
}

pub enum Job {
    LoadModel {
        name: String,
        directory: PathBuf,
        dtype: Dtype,
    },
    Sample(Box<SampleJob>),
    ForwardBackward {
        arrays: Arrays,
        objective: Objective,
        anchor: Option<String>,
    },
    AddImportance {
        arrays: Arrays,
        objective: Objective,
        anchor: Option<String>,
        into: String,
        of: Magnitude,
        joined_to: Option<String>,
    },
    OptimizerStep(AdamW),
    Logprobs {
        model: String,
        arrays: Arrays,
        temperature: f32,
    },
    TopLogprobs {
        model: String,
        arrays: Arrays,
        temperature: f32,
        k: usize,
    },
    WeightOp(WeightOp),
    Digest,
    Timings,
    Save {
        directory: PathBuf,
        adapter_of: Option<String>,
    },
    SaveState {
        file: PathBuf,
        models: Vec<String>,
    },
    LoadState {
        file: PathBuf,
    },
}

pub struct SampleJob {
    pub model: String,
    pub sequence: Option<u64>,
    pub tokens: Vec<u32>,
    pub sampler: Sampler,
    pub max_new_tokens: usize,
    pub stop_token_ids: Vec<u32>,
    pub context_tokens_max: usize,
    pub grammar: Option<GrammarUse>,
}

/// What limits one sample.
pub struct GrammarUse {
    pub spec: CallGrammarSpec,
    pub in_reasoning: bool,
}

impl Request {
    pub fn into_text_job(self) -> Result<TextJob> {
        Ok(match self.kind {
            Kind::Render => {
                let RenderControl { model, messages, options } = control(&self)?;
                TextJob::Render { model, messages, options }
            }
            Kind::Tokenize => {
                let TokenizeControl { model, text } = control(&self)?;
                TextJob::Tokenize { model, text }
            }
            _ => {
                let DecodeControl { model, skip_special } = control(&self)?;
                TextJob::Decode { model, tokens: self.arrays.tokens_n, skip_special }
            }
        })
    }

    pub fn into_job(self) -> Result<Job> {
        Ok(match self.kind {
            Kind::LoadModel => {
                let LoadControl { name, directory, dtype } = control(&self)?;
                Job::LoadModel { name, directory, dtype: dtype.into() }
            }
            Kind::Sample => Job::Sample(Box::new(self.into_sample()?)),
            Kind::ForwardBackward => {
                let ForwardControl { loss, anchor } = control(&self)?;
                check_training_batch(&self.arrays)?;
                Job::ForwardBackward { arrays: self.arrays, objective: loss.into(), anchor }
            }
            Kind::AddImportance => {
                let ImportanceControl { loss, anchor, into, of, joined_to } = control(&self)?;
                check_training_batch(&self.arrays)?;
                Job::AddImportance { arrays: self.arrays, objective: loss.into(), anchor, into, of, joined_to }
            }
            Kind::TopLogprobs => {
                let TopLogprobsControl { model, temperature, k } = control(&self)?;
                check_token_batch(&self.arrays)?;
                let (weights, tokens) = (self.arrays.weights_n.len(), self.arrays.tokens_n.len());
                if weights != 0 && weights != tokens {
                    return Err(Error::BadArgument(format!("weights_N has {weights} values for {tokens} tokens")));
                }
                Job::TopLogprobs { model, arrays: self.arrays, temperature: positive(temperature)?, k }
            }
            Kind::Digest => Job::Digest,
            Kind::Timings => Job::Timings,
            Kind::OptimizerStep => Job::OptimizerStep(control::<AdamWControl>(&self)?.into()),
            Kind::Logprobs => {
                let LogprobsControl { model, temperature } = control(&self)?;
                check_token_batch(&self.arrays)?;
                Job::Logprobs { model, arrays: self.arrays, temperature: positive(temperature)? }
            }
            Kind::WeightOp => Job::WeightOp(control(&self)?),
            Kind::Save => {
                let SaveControl { path, adapter_of } = control(&self)?;
                Job::Save { directory: path, adapter_of }
            }
            Kind::SaveState => {
                let SaveStateControl { path, models } = control(&self)?;
                Job::SaveState { file: path, models }
            }
            Kind::LoadState => Job::LoadState { file: control::<LoadStateControl>(&self)?.path },
            Kind::Render | Kind::Tokenize | Kind::Decode => {
                return Err(Error::BadArgument(format!("{} belongs to the text thread", self.kind.name())));
            }
        })
    }

    fn into_sample(self) -> Result<SampleJob> {
        let control: SampleControl = control(&self)?;
        let SampleControl { model, sequence, seed, max_new_tokens, stop_token_ids, context_tokens_max, .. } = control;
        let seed = seed.parse().map_err(|_| Error::BadArgument(format!("sample: seed {seed} is not a u64")))?;
        let sampler = Sampler::new(control.sampling, seed)?;
        let tokens = self.arrays.tokens_n;
        let grammar = control.grammar.map(GrammarUse::from);
        Ok(SampleJob { model, sequence, tokens, sampler, max_new_tokens, stop_token_ids, context_tokens_max, grammar })
    }
}

impl Job {
    /// Models that the job reads or writes: jobs that share one keep their order.
    pub fn models(&self) -> Vec<&str> {
        match self {
            Job::Sample(sample) => vec![&sample.model],
            Job::Logprobs { model, .. } | Job::TopLogprobs { model, .. } => vec![model],
            Job::LoadModel { name, .. } => vec![name],
            Job::Timings => vec![],
            Job::ForwardBackward { anchor: Some(anchor), .. } | Job::AddImportance { anchor: Some(anchor), .. } => {
                vec![POLICY, anchor]
            }
            Job::WeightOp(WeightOp::Snapshot { name } | WeightOp::Drop { name }) => vec![POLICY, name],
            Job::SaveState { models, .. } => std::iter::once(POLICY).chain(models.iter().map(String::as_str)).collect(),
            Job::ForwardBackward { anchor: None, .. }
            | Job::AddImportance { anchor: None, .. }
            | Job::OptimizerStep(_)
            | Job::WeightOp(_)
            | Job::Digest
            | Job::Save { .. }
            | Job::LoadState { .. } => vec![POLICY],
        }
    }

    /// The model whose running samples must end before the job starts.
    pub fn waits_for(&self) -> Option<&str> {
        match self {
            Job::LoadModel { name, .. } | Job::WeightOp(WeightOp::Drop { name } | WeightOp::Snapshot { name }) => {
                Some(name)
            }
            Job::AddImportance { .. } | Job::OptimizerStep(_) | Job::WeightOp(_) | Job::LoadState { .. } => {
                Some(POLICY)
            }
            _ => None,
        }
    }
}

impl Arrays {
    pub fn batch(&self) -> Result<Batch<'_>> {
        let stored = Stored::new(&self.target_ids, &self.target_logprobs, self.tokens_n.len())?;
        Ok(Batch {
            tokens_n: &self.tokens_n,
            offsets: &self.offsets,
            weights_n: &self.weights_n,
            advantages_n: &self.advantages_n,
            old_logprobs_n: &self.old_logprobs_n,
            stored,
        })
    }
}

fn check_token_batch(Arrays { tokens_n, offsets, .. }: &Arrays) -> Result<()> {
    let ascending = offsets.windows(2).all(|pair| pair[0] < pair[1]);
    if offsets.len() < 2 || offsets[0] != 0 || offsets[offsets.len() - 1] as usize != tokens_n.len() || !ascending {
        let n = tokens_n.len();
        return Err(Error::BadArgument(format!("offsets must start at 0, ascend and end at the {n} tokens")));
    }
    Ok(())
}

fn check_training_batch(arrays: &Arrays) -> Result<()> {
    check_token_batch(arrays)?;
    let Arrays { tokens_n, offsets, weights_n, advantages_n, old_logprobs_n, .. } = arrays;
    for (values, name) in [(weights_n, "weights_N"), (advantages_n, "advantages_N"), (old_logprobs_n, "old_logprobs_N")]
    {
        if values.len() != tokens_n.len() {
            let (got, n) = (values.len(), tokens_n.len());
            return Err(Error::BadArgument(format!("{name} has {got} values for {n} tokens")));
        }
    }
    if let Some(start) = offsets.iter().take(offsets.len() - 1).find(|&&start| weights_n[start as usize] != 0.0) {
        return Err(Error::BadArgument(format!(
            "token {start} is the first of its sequence and cannot be in the loss"
        )));
    }
    let in_loss = |values: &[f32]| values.iter().zip(weights_n).all(|(x, &weight)| weight == 0.0 || x.is_finite());
    for (values, op) in [(weights_n, "weights_N"), (advantages_n, "advantages_N"), (old_logprobs_n, "old_logprobs_N")] {
        if !in_loss(values) {
            return Err(Error::NonFinite { op });
        }
    }
    Ok(())
}

fn positive(temperature: f32) -> Result<f32> {
    if temperature > 0.0 && temperature.is_finite() {
        return Ok(temperature);
    }
    Err(Error::BadArgument(format!("temperature {temperature} is not a number above 0")))
}

fn control<T: DeserializeOwned>(request: &Request) -> Result<T> {
    serde_json::from_str(&request.control)
        .map_err(|error| Error::BadArgument(format!("{}: control is not as agreed: {error}", request.kind.name())))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoadControl {
    name: String,
    directory: PathBuf,
    dtype: DtypeName,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum DtypeName {
    Bfloat16,
    Float16,
    Float32,
}

impl From<DtypeName> for Dtype {
    fn from(name: DtypeName) -> Self {
        match name {
            DtypeName::Bfloat16 => Dtype::Bf16,
            DtypeName::Float16 => Dtype::F16,
            DtypeName::Float32 => Dtype::F32,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RenderControl {
    model: String,
    messages: Vec<ChatMessage>,
    options: RenderOptions,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenizeControl {
    model: String,
    text: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DecodeControl {
    model: String,
    skip_special: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SampleControl {
    model: String,
    sequence: Option<u64>,
    /// Decimal text, since JSON of JavaScript has no 64-bit integers.
    seed: String,
    max_new_tokens: usize,
    stop_token_ids: Vec<u32>,
    context_tokens_max: usize,
    sampling: SamplingOptions,
    #[serde(default)]
    grammar: Option<GrammarControl>,
}

/// As `CallGrammar` in src/core/policy.ts.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GrammarControl {
    tools_json: String,
    format: CallFormat,
    in_reasoning: bool,
}

impl From<GrammarControl> for GrammarUse {
    fn from(GrammarControl { tools_json, format, in_reasoning }: GrammarControl) -> Self {
        GrammarUse { spec: CallGrammarSpec { tools_json, format }, in_reasoning }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ForwardControl {
    loss: LossControl,
    anchor: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ImportanceControl {
    loss: LossControl,
    anchor: Option<String>,
    into: String,
    of: Magnitude,
    /// The anchor vector of the quadratic that `into` belongs to.
    joined_to: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TopLogprobsControl {
    model: String,
    temperature: f32,
    k: usize,
}

/// Externally tagged: serde buffers internally tagged content, which breaks numbers under `arbitrary_precision`.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum LossControl {
    Grpo(Grpo),
    Nll { temperature: f32 },
    Distill { temperature: f32 },
    DistillStored { temperature: f32 },
    OutputNorm {},
}

impl From<LossControl> for Objective {
    fn from(control: LossControl) -> Self {
        Objective::Tokens(match control {
            LossControl::Grpo(grpo) => Loss::Grpo(grpo),
            LossControl::Nll { temperature } => Loss::Nll { temperature },
            LossControl::Distill { temperature } => return Objective::Distill { temperature },
            LossControl::DistillStored { temperature } => return Objective::DistillStored { temperature },
            LossControl::OutputNorm {} => return Objective::OutputNorm,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AdamWControl {
    learning_rate: f64,
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
    max_grad_norm: f64,
}

impl From<AdamWControl> for AdamW {
    fn from(control: AdamWControl) -> Self {
        let AdamWControl { learning_rate, beta1, beta2, eps, weight_decay, max_grad_norm } = control;
        AdamW { learning_rate, beta1, beta2, eps, weight_decay, max_grad_norm }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogprobsControl {
    model: String,
    temperature: f32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SaveControl {
    path: PathBuf,
    /// Writes PEFT's adapter files for this base model instead of whole weights.
    adapter_of: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoadStateControl {
    path: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SaveStateControl {
    path: PathBuf,
    /// Frozen models to save with it.
    models: Vec<String>,
}

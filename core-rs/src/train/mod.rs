//! GRPO loss, hand-written backward, AdamW.
use crate::error::Result;
use crate::model::Model;

/// S ragged sequences laid end to end: `tokens_n[offsets[s]..offsets[s + 1]]`.
pub struct Batch<'a> {
    pub tokens_n: &'a [u32],
    pub offsets: &'a [u32],
    /// 0 = not in the loss. Position t speaks about token t given those before it.
    pub weights_n: &'a [f32],
    pub advantages_n: &'a [f32],
    pub old_logprobs_n: &'a [f32],
}

pub enum Loss {
    Grpo { clip_low: f32, clip_high: f32, kl_coef: f32, kl_ratio_correction: bool, entropy_coef: f32, temperature: f32 },
    Nll { temperature: f32 },
}

#[derive(Debug, Default, Clone, Copy)]
pub struct GradientReport {
    pub loss: f64,
    pub loss_tokens: u64,
    pub kl_mean: f64,
    pub entropy_mean: f64,
    pub clip_low_fraction: f64,
    pub clip_high_fraction: f64,
    pub logprob_diff_max: f64,
    pub computed_tokens: u64,
}

pub struct AdamW {
    pub learning_rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    pub max_grad_norm: f64,
}

pub struct OptimizerReport {
    pub grad_norm: f64,
    pub skipped: bool,
}

/// Master weights, moments and the accumulated gradient of the policy.
pub struct Trainer {}

impl Trainer {
    pub fn new(_model: &Model, _gradient_checkpointing: bool) -> Result<Self> { todo!() }
    pub fn forward_backward(&mut self, _model: &Model, _anchor: Option<&Model>, _batch: &Batch, _loss: &Loss) -> Result<GradientReport> { todo!() }
    pub fn optimizer_step(&mut self, _model: &mut Model, _options: &AdamW) -> Result<OptimizerReport> { todo!() }
    pub fn reset(&mut self) { todo!() }
    pub fn save_state(&self, _file: &std::path::Path) -> Result<()> { todo!() }
    pub fn load_state(&mut self, _model: &mut Model, _file: &std::path::Path) -> Result<()> { todo!() }
}

/// log π(token | before) per token at `temperature`, 0 for the first of each sequence.
pub fn logprobs(_model: &Model, _tokens_n: &[u32], _offsets: &[u32], _temperature: f32) -> Result<Vec<f32>> { todo!() }

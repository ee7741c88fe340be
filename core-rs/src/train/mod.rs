//! GRPO and supervised gradient steps over a tree of tokens.
mod loss;
mod optimizer;
mod tree;

pub use loss::{Grpo, ImportanceSamplingLevel, KlEstimator, Loss, Surrogate};
pub use optimizer::{AdamW, OptimizerReport};

use crate::error::{Error, Result};
use crate::kernels::{Distribution, Target, gather_rows, scatter_add_rows, vocabulary_backward, vocabulary_forward};
use crate::model::{Gradients, Model};
use candle_core::{DType, Tensor};
use loss::{LossToken, TokenLoss, sequence_losses, token_loss};
use optimizer::Optimizer;
use std::path::Path;
use tree::TokenTree;

/// S ragged sequences laid end to end: `tokens_n[offsets[s]..offsets[s + 1]]`. Position t of the other arrays speaks about
/// token t given those before it; a sequence's first token is never in the loss.
pub struct Batch<'a> {
    pub tokens_n: &'a [u32],
    pub offsets: &'a [u32],
    /// 0 = not in the loss.
    pub weights_n: &'a [f32],
    pub advantages_n: &'a [f32],
    pub old_logprobs_n: &'a [f32],
}

/// Means are over the tokens of the loss.
#[derive(Debug, Default, Clone, Copy)]
pub struct GradientReport {
    pub loss: f64,
    pub loss_tokens: u64,
    pub kl_mean: f64,
    pub entropy_mean: f64,
    pub clip_low_fraction: f64,
    pub clip_high_fraction: f64,
    pub dual_clip_fraction: f64,
    pub logprob_diff_max: f64,
    /// Rows computed, after sharing prefixes.
    pub computed_tokens: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct TrainerOptions {
    /// Keep only the layers' inputs and compute each layer again in backward.
    pub gradient_checkpointing: bool,
    pub prefix_sharing: bool,
}

/// The policy's accumulated gradient, master weights and moments.
pub struct Trainer {
    options: TrainerOptions,
    gradients: Gradients,
    optimizer: Optimizer,
}

impl Trainer {
    pub fn new(model: &Model, options: TrainerOptions) -> Result<Self> {
        Ok(Self { options, gradients: Gradients::zeros(model)?, optimizer: Optimizer::new(model)? })
    }

    /// Adds the gradient of Σ weight·ℓ to the accumulated one; KL is measured against `anchor`.
    pub fn forward_backward(
        &mut self,
        model: &Model,
        anchor: Option<&Model>,
        batch: &Batch,
        loss: &Loss,
    ) -> Result<GradientReport> {
        let (tree, asked) = self.lay_out(model, batch)?;
        let references = anchor.map(|anchor| asked.distributions(anchor, &tree, loss.temperature())).transpose()?;
        let references: Option<Vec<f32>> = references.map(|found| found.iter().map(|d| d.logprob).collect());
        self.gradient(model, &tree, &asked, references.as_deref(), batch, loss)
    }

    /// As `forward_backward`, with the anchor's log-probabilities given per token of the batch.
    pub fn forward_backward_against(
        &mut self,
        model: &Model,
        references_n: &[f32],
        batch: &Batch,
        loss: &Loss,
    ) -> Result<GradientReport> {
        let (tree, asked) = self.lay_out(model, batch)?;
        let references: Vec<f32> = asked.tokens.iter().map(|t| references_n[*t]).collect();
        self.gradient(model, &tree, &asked, Some(&references), batch, loss)
    }

    fn lay_out(&self, model: &Model, batch: &Batch) -> Result<(TokenTree, Asked)> {
        check(model, batch)?;
        let tree = TokenTree::new(batch.tokens_n, batch.offsets, self.options.prefix_sharing);
        let asked = Asked::of(&tree, batch.offsets, batch.tokens_n, |t| batch.weights_n[t] != 0.0);
        Ok((tree, asked))
    }

    /// `references`: the anchor's log-probability of each asked token.
    fn gradient(
        &mut self,
        model: &Model,
        tree: &TokenTree,
        asked: &Asked,
        references: Option<&[f32]>,
        batch: &Batch,
        loss: &Loss,
    ) -> Result<GradientReport> {
        let mut report = GradientReport { computed_tokens: tree.tokens_n.len() as u64, ..Default::default() };
        if asked.targets.is_empty() {
            return Ok(report);
        }
        let activations =
            model.forward(&tree.tokens_n, &tree.positions_n, &tree.nodes, self.options.gradient_checkpointing)?;
        let rows = gather_rows(model.kernels, &activations.last, &asked.rows)?;
        let (normed, inverse_rms) = model.final_norm(&rows)?;
        let tokens: Vec<LossToken> = (0..asked.tokens.len()).map(|i| asked.loss_token(i, batch, references)).collect();
        let whole = sequence_losses(loss, &tokens, || {
            vocabulary_forward(model.kernels, &normed, model.head(), &asked.targets, loss.temperature())
        })?;
        let mut totals = Totals::default();
        let head_gradient = model.head_gradient(&mut self.gradients);
        let d_normed = vocabulary_backward(
            model.kernels,
            &normed,
            model.head(),
            &asked.targets,
            loss.temperature(),
            head_gradient,
            |i, new| {
                let result = whole.as_ref().map_or_else(|| token_loss(loss, tokens[i], new), |losses| losses[i]);
                totals.add(result, new);
                result.slope
            },
        )?;
        let d_rows = model.final_norm_backward(&d_normed, &rows, &inverse_rms, &mut self.gradients)?;
        let mut d_last = Tensor::zeros(activations.last.shape(), DType::F32, activations.last.device())?;
        scatter_add_rows(model.kernels, &mut d_last, &asked.rows, &d_rows)?;
        model.backward(d_last, &tree.tokens_n, &tree.nodes, activations, &mut self.gradients)?;
        totals.report(&mut report);
        Ok(report)
    }

    /// Clips, takes an AdamW step and zeroes the gradient.
    pub fn optimizer_step(&mut self, model: &mut Model, options: &AdamW) -> Result<OptimizerReport> {
        let report = self.optimizer.step(model, &self.gradients, options)?;
        self.gradients.clear()?;
        Ok(report)
    }

    /// Moments, step count and accumulated gradient back to zero.
    pub fn reset(&mut self) -> Result<()> {
        self.gradients.clear()?;
        self.optimizer.reset()
    }

    /// The accumulated gradient, in the model's order of parameters.
    pub fn gradients(&self) -> &[Tensor] {
        &self.gradients.tensors
    }

    pub fn save_state(&self, model: &Model, file: &Path) -> Result<()> {
        self.optimizer.save(model, file)
    }

    pub fn load_state(&mut self, model: &mut Model, file: &Path) -> Result<()> {
        self.gradients.clear()?;
        self.optimizer.load(model, file)
    }
}

/// log π(token | before) and the entropy it was drawn with, per token at `temperature`; zeros for the first of each sequence.
pub fn distributions(model: &Model, tokens_n: &[u32], offsets: &[u32], temperature: f32) -> Result<Vec<Distribution>> {
    check_tokens(model, tokens_n, offsets)?;
    let tree = TokenTree::new(tokens_n, offsets, true);
    let asked = Asked::of(&tree, offsets, tokens_n, |_| true);
    let mut found = vec![Distribution::default(); tokens_n.len()];
    for (t, distribution) in asked.tokens.iter().zip(asked.distributions(model, &tree, temperature)?) {
        found[*t] = distribution;
    }
    Ok(found)
}

/// The tokens whose distributions are asked for, in order of the rows that predict them.
struct Asked {
    /// Rows of the tree that predict one of them.
    rows: Vec<u32>,
    /// Per asked token, its row as an index into `rows`.
    targets: Vec<Target>,
    /// Per asked token, its place in the batch.
    tokens: Vec<usize>,
}

impl Asked {
    fn of(tree: &TokenTree, offsets: &[u32], tokens_n: &[u32], wanted: impl Fn(usize) -> bool) -> Self {
        let mut found: Vec<(usize, usize)> = Vec::new();
        for (sequence, bounds) in offsets.windows(2).enumerate() {
            let later = bounds[0] as usize + 1..bounds[1] as usize;
            found.extend(later.zip(tree.rows(sequence)).filter(|(t, _)| wanted(*t)).map(|(t, row)| (row, t)));
        }
        found.sort_unstable();
        let mut asked = Self { rows: Vec::new(), targets: Vec::new(), tokens: Vec::new() };
        for (row, t) in found {
            if asked.rows.last() != Some(&(row as u32)) {
                asked.rows.push(row as u32);
            }
            asked.targets.push(Target { row: asked.rows.len() - 1, token: tokens_n[t] });
            asked.tokens.push(t);
        }
        asked
    }

    fn loss_token(&self, i: usize, batch: &Batch, references: Option<&[f32]>) -> LossToken {
        let t = self.tokens[i];
        LossToken {
            weight: batch.weights_n[t],
            advantage: batch.advantages_n[t],
            old_logprob: batch.old_logprobs_n[t],
            reference_logprob: references.map(|references| references[i]),
            sequence: batch.offsets.partition_point(|start| *start as usize <= t) - 1,
        }
    }

    fn distributions(&self, model: &Model, tree: &TokenTree, temperature: f32) -> Result<Vec<Distribution>> {
        if self.targets.is_empty() {
            return Ok(Vec::new());
        }
        let last = model.hidden(&tree.tokens_n, &tree.positions_n, &tree.nodes)?;
        let (normed, _) = model.final_norm(&gather_rows(model.kernels, &last, &self.rows)?)?;
        vocabulary_forward(model.kernels, &normed, model.head(), &self.targets, temperature)
    }
}

/// Sums over the tokens of the loss.
#[derive(Default)]
struct Totals {
    tokens: u64,
    loss: f64,
    kl: f64,
    entropy: f64,
    low: u64,
    high: u64,
    dual: u64,
    difference: f64,
}

impl Totals {
    fn add(&mut self, token: TokenLoss, new: Distribution) {
        self.tokens += 1;
        self.loss += token.value as f64;
        self.kl += token.kl as f64;
        self.entropy += new.entropy as f64;
        self.low += token.clipped_low as u64;
        self.high += token.clipped_high as u64;
        self.dual += token.clipped_dual as u64;
        self.difference = self.difference.max(token.logprob_difference as f64);
    }

    fn report(&self, report: &mut GradientReport) {
        let n = self.tokens as f64;
        report.loss = self.loss;
        report.loss_tokens = self.tokens;
        report.kl_mean = self.kl / n;
        report.entropy_mean = self.entropy / n;
        report.clip_low_fraction = self.low as f64 / n;
        report.clip_high_fraction = self.high as f64 / n;
        report.dual_clip_fraction = self.dual as f64 / n;
        report.logprob_diff_max = self.difference;
    }
}

fn check(model: &Model, batch: &Batch) -> Result<()> {
    check_tokens(model, batch.tokens_n, batch.offsets)?;
    let n = batch.tokens_n.len();
    for (name, values) in
        [("weights", batch.weights_n), ("advantages", batch.advantages_n), ("old_logprobs", batch.old_logprobs_n)]
    {
        if values.len() != n {
            return Err(Error::BadArgument(format!("{name} has {} entries for {n} tokens", values.len())));
        }
        if values.iter().any(|v| !v.is_finite()) {
            return Err(Error::NonFinite { op: "forward_backward: weights, advantages or old log-probabilities" });
        }
    }
    Ok(())
}

fn check_tokens(model: &Model, tokens_n: &[u32], offsets: &[u32]) -> Result<()> {
    let n = tokens_n.len();
    if offsets.first() != Some(&0) || offsets.last().map(|end| *end as usize) != Some(n) || !offsets.is_sorted() {
        return Err(Error::BadArgument(format!("offsets must rise from 0 to {n}, the number of tokens")));
    }
    model.config.check_tokens(tokens_n)
}

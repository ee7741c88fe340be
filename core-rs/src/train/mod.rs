//! GRPO and supervised gradient steps over a tree of tokens.
mod loss;
mod objective;
mod operation;
mod optimizer;
mod state;
mod tree;
mod vectors;

pub use loss::{Grpo, ImportanceSamplingLevel, KlEstimator, Loss, Surrogate};
pub use objective::{Objective, Stored};
pub use operation::{Term, WeightOp};
pub use optimizer::{AdamW, OptimizerReport};
pub use vectors::Magnitude;

use crate::error::{Error, Result};
use crate::kernels::{
    Chunk, Distribution, Target, gather_rows, linear, log_softmax, scatter_add_rows, token_gradient,
    vocabulary_backward, vocabulary_forward, vocabulary_logits,
};
use crate::model::{Gradients, Model};
use candle_core::{DType, Tensor};
use loss::{LossToken, TokenLoss, sequence_losses, token_loss};
use optimizer::Optimizer;
use std::time::{Duration, Instant};
use tree::TokenTree;
use vectors::Vectors;

/// S ragged sequences laid end to end: `tokens_n[offsets[s]..offsets[s + 1]]`. Position t of the other arrays speaks about
/// token t given those before it; a sequence's first token is never in the loss.
pub struct Batch<'a> {
    pub tokens_n: &'a [u32],
    pub offsets: &'a [u32],
    /// 0 = not in the loss.
    pub weights_n: &'a [f32],
    pub advantages_n: &'a [f32],
    pub old_logprobs_n: &'a [f32],
    /// What `Objective::DistillStored` pulls towards.
    pub stored: Option<Stored<'a>>,
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
    /// The model's layers and the anchor's.
    pub forward: Duration,
    /// The vocabulary, forth and back, and the layers back.
    pub backward: Duration,
}

#[derive(Clone, Copy, Debug)]
pub struct TrainerOptions {
    /// Keep only the layers' inputs and compute each layer again in backward.
    pub gradient_checkpointing: bool,
    pub prefix_sharing: bool,
}

/// The policy's accumulated gradient, master weights and moments, and the vectors of continual-learning methods.
pub struct Trainer {
    options: TrainerOptions,
    gradients: Gradients,
    optimizer: Optimizer,
    vectors: Vectors,
}

impl Trainer {
    pub fn new(model: &Model, options: TrainerOptions) -> Result<Self> {
        let (gradients, optimizer) = (Gradients::zeros(model)?, Optimizer::new(model)?);
        Ok(Self { options, gradients, optimizer, vectors: Vectors::default() })
    }

    /// Adds the gradient of Σ weight·ℓ to the accumulated one; KL and distillation are against `anchor`.
    pub fn forward_backward(
        &mut self,
        model: &Model,
        anchor: Option<&Model>,
        batch: &Batch,
        objective: impl Into<Objective>,
    ) -> Result<GradientReport> {
        let began = Instant::now();
        let pass = Pass::new(model, batch, objective.into(), &self.options)?;
        let anchor = pass.anchored(anchor)?;
        let anchored = began.elapsed();
        let mut report = pass.gradient(anchor, &mut self.gradients)?;
        report.forward += anchored;
        Ok(report)
    }

    /// As `forward_backward`, with the anchor's log-probabilities given per token of the batch.
    pub fn forward_backward_against(
        &mut self,
        model: &Model,
        references_n: &[f32],
        batch: &Batch,
        loss: &Loss,
    ) -> Result<GradientReport> {
        let pass = Pass::new(model, batch, loss.into(), &self.options)?;
        let references = pass.asked.tokens.iter().map(|t| references_n[*t]).collect();
        pass.gradient(Anchored::Logprobs(references), &mut self.gradients)
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

    /// After a change of what is trained: new gradients, masters and moments. The vectors stay.
    pub fn rebuild(&mut self, model: &Model) -> Result<()> {
        self.gradients = Gradients::zeros(model)?;
        self.optimizer = Optimizer::new(model)?;
        Ok(())
    }

    /// The accumulated gradient, in the model's order of trained parameters.
    pub fn gradients(&self) -> Vec<Tensor> {
        self.gradients.trained().cloned().collect()
    }
}

/// One batch laid out as a tree, with its loss.
struct Pass<'a> {
    model: &'a Model,
    batch: &'a Batch<'a>,
    objective: Objective,
    tree: TokenTree,
    asked: Asked,
    checkpointing: bool,
}

/// What the anchor says of the asked tokens.
enum Anchored<'a> {
    Nothing,
    Logprobs(Vec<f32>),
    /// Its rows after the final norm, for whole distributions.
    Rows(&'a Model, Tensor),
}

impl<'a> Pass<'a> {
    fn new(model: &'a Model, batch: &'a Batch<'a>, objective: Objective, options: &TrainerOptions) -> Result<Self> {
        check(model, batch)?;
        let tree = TokenTree::new(batch.tokens_n, batch.offsets, options.prefix_sharing);
        let asked = Asked::of(&tree, batch.offsets, batch.tokens_n, |t| batch.weights_n[t] != 0.0);
        Ok(Self { model, batch, objective, tree, asked, checkpointing: options.gradient_checkpointing })
    }

    fn anchored<'b>(&self, anchor: Option<&'b Model>) -> Result<Anchored<'b>> {
        Ok(match (anchor, self.objective) {
            (Some(anchor), Objective::Tokens(loss)) => {
                let found = self.asked.distributions(anchor, &self.tree, loss.temperature())?;
                Anchored::Logprobs(found.iter().map(|d| d.logprob).collect())
            }
            (Some(anchor), Objective::Distill { .. }) => {
                Anchored::Rows(anchor, self.asked.rows_of(anchor, &self.tree)?)
            }
            _ => Anchored::Nothing,
        })
    }

    fn gradient(&self, anchored: Anchored, gradients: &mut Gradients) -> Result<GradientReport> {
        let Self { model, tree, asked, .. } = self;
        let mut report = GradientReport { computed_tokens: tree.tokens_n.len() as u64, ..Default::default() };
        if asked.targets.is_empty() {
            return Ok(report);
        }
        let began = Instant::now();
        let activations = model.forward(&tree.tokens_n, &tree.positions_n, &tree.nodes, self.checkpointing)?;
        report.forward = began.elapsed();
        let rows = gather_rows(model.kernels, &activations.last, &asked.rows)?;
        let (normed, inverse_rms) = model.final_norm(&rows)?;
        let whole = self.sequence_losses(&normed, &anchored)?;
        let mut totals = Totals::default();
        let head_gradient = model.head_gradient(gradients);
        let d_normed = vocabulary_backward(
            model.kernels,
            &normed,
            model.head(),
            &asked.targets,
            head_gradient,
            |chunk, logits| self.logit_gradient(chunk, logits, &anchored, whole.as_deref(), &mut totals),
        )?;
        let d_rows = model.final_norm_backward(&d_normed, &rows, &inverse_rms, gradients)?;
        let mut d_last = Tensor::zeros(activations.last.shape(), DType::F32, activations.last.device())?;
        scatter_add_rows(model.kernels, &mut d_last, &asked.rows, &d_rows)?;
        model.backward(d_last, &tree.tokens_n, &tree.nodes, activations, gradients)?;
        totals.report(&mut report);
        report.backward = began.elapsed() - report.forward;
        Ok(report)
    }

    fn logit_gradient(
        &self,
        chunk: &Chunk,
        logits: Tensor,
        anchored: &Anchored,
        whole: Option<&[TokenLoss]>,
        totals: &mut Totals,
    ) -> Result<Tensor> {
        let (kernels, batch) = (self.model.kernels, self.batch);
        let tokens = &self.asked.tokens[chunk.first_target..][..chunk.targets.len()];
        let weights: Vec<f32> = tokens.iter().map(|t| batch.weights_n[*t]).collect();
        let (values, gradient) = match (self.objective, anchored) {
            (Objective::Tokens(loss), _) => {
                return token_gradient(kernels, chunk, logits, loss.temperature(), |i, new| {
                    let result =
                        whole.map_or_else(|| token_loss(&loss, self.loss_token(i, anchored), new), |losses| losses[i]);
                    totals.add(result, new);
                    result.slope
                });
            }
            (Objective::Distill { temperature }, Anchored::Rows(anchor, rows)) => {
                let rows = rows.narrow(0, chunk.first_row, logits.dim(0)?)?;
                let of_anchor = linear(kernels, &rows, anchor.head(), None)?;
                objective::distill(chunk, &logits, &of_anchor, &weights, temperature)?
            }
            (Objective::Distill { .. }, _) => {
                return Err(Error::BadArgument("distillation needs an anchor".into()));
            }
            (Objective::DistillStored { temperature }, _) => {
                let stored = batch.stored.as_ref();
                let stored =
                    stored.ok_or_else(|| Error::BadArgument("the batch has no stored distributions".into()))?;
                objective::distill_stored(chunk, &logits, stored, tokens, &weights, temperature)?
            }
            (Objective::OutputNorm, _) => objective::output_norm(chunk, &logits, &weights)?,
        };
        for (value, weight) in values.iter().zip(&weights) {
            totals.add_value(*value, *weight);
        }
        Ok(gradient)
    }

    /// Where a token's loss depends on its whole sequence, the vocabulary is passed twice: here for the distributions alone.
    fn sequence_losses(&self, normed: &Tensor, anchored: &Anchored) -> Result<Option<Vec<TokenLoss>>> {
        let Self { model, asked, objective: Objective::Tokens(loss), .. } = self else { return Ok(None) };
        let tokens: Vec<LossToken> = (0..asked.tokens.len()).map(|i| self.loss_token(i, anchored)).collect();
        sequence_losses(loss, &tokens, || {
            vocabulary_forward(model.kernels, normed, model.head(), &asked.targets, loss.temperature())
        })
    }

    fn loss_token(&self, i: usize, anchored: &Anchored) -> LossToken {
        let (t, batch) = (self.asked.tokens[i], self.batch);
        let reference_logprob = match anchored {
            Anchored::Logprobs(references) => Some(references[i]),
            _ => None,
        };
        LossToken {
            weight: batch.weights_n[t],
            advantage: batch.advantages_n[t],
            old_logprob: batch.old_logprobs_n[t],
            reference_logprob,
            sequence: batch.offsets.partition_point(|start| *start as usize <= t) - 1,
        }
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

/// The k likeliest tokens after each prefix and their log-probabilities, row-major; zeros for the first of each sequence.
pub fn top_logprobs(
    model: &Model,
    tokens_n: &[u32],
    offsets: &[u32],
    temperature: f32,
    k: usize,
) -> Result<(Vec<u32>, Vec<f32>)> {
    check_tokens(model, tokens_n, offsets)?;
    if k == 0 || k > model.config.vocab_size {
        return Err(Error::BadArgument(format!("k {k} is not between 1 and the vocabulary's size")));
    }
    let tree = TokenTree::new(tokens_n, offsets, true);
    let asked = Asked::of(&tree, offsets, tokens_n, |_| true);
    let (mut ids_nk, mut logprobs_nk) = (vec![0; tokens_n.len() * k], vec![0.0; tokens_n.len() * k]);
    if asked.targets.is_empty() {
        return Ok((ids_nk, logprobs_nk));
    }
    let rows = asked.rows_of(model, &tree)?;
    vocabulary_logits(model.kernels, &rows, model.head(), &asked.targets, |chunk, logits| {
        let logprobs = log_softmax(&logits, temperature)?.to_vec2::<f32>()?;
        for (i, target) in chunk.targets.iter().enumerate() {
            let at = asked.tokens[chunk.first_target + i] * k;
            let row = &logprobs[target.row - chunk.first_row];
            for (j, id) in largest(row, k).into_iter().enumerate() {
                (ids_nk[at + j], logprobs_nk[at + j]) = (id, row[id as usize]);
            }
        }
        Ok(())
    })?;
    Ok((ids_nk, logprobs_nk))
}

/// Indices of the k largest values, largest first; of equal ones the earlier.
fn largest(values: &[f32], k: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..values.len() as u32).collect();
    let by_value = |a: &u32, b: &u32| values[*b as usize].total_cmp(&values[*a as usize]).then(a.cmp(b));
    if k < order.len() {
        order.select_nth_unstable_by(k - 1, by_value);
        order.truncate(k);
    }
    order.sort_unstable_by(by_value);
    order
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

    fn distributions(&self, model: &Model, tree: &TokenTree, temperature: f32) -> Result<Vec<Distribution>> {
        if self.targets.is_empty() {
            return Ok(Vec::new());
        }
        vocabulary_forward(model.kernels, &self.rows_of(model, tree)?, model.head(), &self.targets, temperature)
    }

    /// The asked rows after the final norm: what meets the vocabulary.
    fn rows_of(&self, model: &Model, tree: &TokenTree) -> Result<Tensor> {
        let last = model.hidden(&tree.tokens_n, &tree.positions_n, &tree.nodes)?;
        Ok(model.final_norm(&gather_rows(model.kernels, &last, &self.rows)?)?.0)
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

    /// A loss that is a divergence or a norm: its mean stands as the KL.
    fn add_value(&mut self, value: f32, weight: f32) {
        self.tokens += 1;
        self.loss += (value * weight) as f64;
        self.kl += value as f64;
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

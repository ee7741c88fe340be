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
pub use vectors::{Importance, Magnitude};

use crate::error::{Error, Result};
use crate::kernels::{
    Chunk, Distribution, Target, gather_rows, linear, log_softmax, scatter_add_rows, token_gradient,
    vocabulary_backward, vocabulary_forward, vocabulary_logits,
};
use crate::model::{Gradients, Keep, Model, Surroundings, Trunk, TrunkGradients};
use candle_core::{DType, Tensor};
use loss::{LossToken, TokenLoss, sequence_losses, token_loss};
use optimizer::Optimizer;
use std::time::{Duration, Instant};
use tree::TokenTree;
use vectors::Vectors;

/// Enough for the products to run at full speed.
pub const PART_ROWS: usize = 1024;

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

/// Called before each part of a tree: other work on the same thread, which may read the models.
pub type Meanwhile<'a> = dyn FnMut() + 'a;

#[derive(Clone, Copy, Debug)]
pub struct TrainerOptions {
    /// Keep only the layers' inputs and compute each layer again in backward.
    pub gradient_checkpointing: bool,
    pub prefix_sharing: bool,
    /// Rows that a part of the tree may have before it is cut at a branch; `PART_ROWS` unless a test says otherwise.
    pub part_rows: usize,
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
        self.forward_backward_with(model, anchor, batch, objective, &mut || {})
    }

    /// As `forward_backward`; the time that `meanwhile` takes is in no phase.
    pub fn forward_backward_with(
        &mut self,
        model: &Model,
        anchor: Option<&Model>,
        batch: &Batch,
        objective: impl Into<Objective>,
        meanwhile: &mut Meanwhile,
    ) -> Result<GradientReport> {
        let began = Instant::now();
        let mut elsewhere = Duration::ZERO;
        let mut meanwhile = || {
            let left = Instant::now();
            meanwhile();
            elsewhere += left.elapsed();
        };
        let pass = Pass::new(model, batch, objective.into(), &self.options)?;
        let anchored = pass.anchored(anchor, &mut meanwhile)?;
        if let (Some(anchor), Anchored::Logprobs(_)) = (anchor, &anchored) {
            anchor.forget_packed();
        }
        let mut report = pass.gradient(&anchored, &mut self.gradients, &mut meanwhile)?;
        report.forward = began.elapsed() - report.backward - elsewhere;
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
        pass.gradient(&Anchored::Logprobs(references_n.to_vec()), &mut self.gradients, &mut || {})
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
    keep: Keep,
}

/// What the anchor says.
enum Anchored<'a> {
    Nothing,
    /// Of each token of the batch.
    Logprobs(Vec<f32>),
    /// Per part, the asked rows after the final norm, for whole distributions.
    Rows(&'a Model, Vec<Option<Tensor>>),
}

/// What moves on the way through the tree.
struct Descent<'a> {
    anchored: &'a Anchored<'a>,
    /// Where the loss of a token depends on others of its sequence.
    losses: Option<Vec<TokenLoss>>,
    gradients: &'a mut Gradients,
    above: Vec<Trunk>,
    above_gradients: Vec<TrunkGradients>,
    totals: Totals,
    backward: Duration,
    meanwhile: &'a mut Meanwhile<'a>,
}

impl<'a> Pass<'a> {
    fn new(model: &'a Model, batch: &'a Batch<'a>, objective: Objective, options: &TrainerOptions) -> Result<Self> {
        check(model, batch)?;
        let tree = TokenTree::new(batch.tokens_n, batch.offsets, options.prefix_sharing, options.part_rows);
        let asked = Asked::of(&tree, batch.offsets, batch.tokens_n, |t| batch.weights_n[t] != 0.0);
        let keep = if options.gradient_checkpointing { Keep::Inputs } else { Keep::Everything };
        Ok(Self { model, batch, objective, tree, asked, keep })
    }

    fn anchored<'b>(&self, anchor: Option<&'b Model>, meanwhile: &mut Meanwhile) -> Result<Anchored<'b>> {
        Ok(match (anchor, self.objective) {
            (Some(anchor), Objective::Tokens(loss)) => {
                let found = self.distributions(anchor, loss.temperature(), meanwhile)?;
                Anchored::Logprobs(found.iter().map(|d| d.logprob).collect())
            }
            (Some(anchor), Objective::Distill { .. }) => {
                let mut rows: Vec<Option<Tensor>> = vec![None; self.tree.parts.len()];
                self.asked.visit(anchor, &self.tree, |part, normed| {
                    meanwhile();
                    rows[part] = Some(normed);
                    Ok(())
                })?;
                Anchored::Rows(anchor, rows)
            }
            _ => Anchored::Nothing,
        })
    }

    fn distributions(&self, model: &Model, temperature: f32, meanwhile: &mut Meanwhile) -> Result<Vec<Distribution>> {
        self.asked.distributions(model, &self.tree, self.batch.tokens_n.len(), temperature, meanwhile)
    }

    fn gradient(
        &self,
        anchored: &Anchored,
        gradients: &mut Gradients,
        meanwhile: &mut Meanwhile,
    ) -> Result<GradientReport> {
        let mut report = GradientReport { computed_tokens: self.tree.computed_rows() as u64, ..Default::default() };
        if self.asked.is_empty() {
            return Ok(report);
        }
        let mut descent = Descent {
            anchored,
            losses: self.sequence_losses(anchored, meanwhile)?,
            gradients,
            above: Vec::new(),
            above_gradients: Vec::new(),
            totals: Totals::default(),
            backward: Duration::ZERO,
            meanwhile,
        };
        for root in &self.tree.roots {
            self.descend(*root, &mut descent)?;
        }
        descent.totals.report(&mut report);
        report.backward = descent.backward;
        Ok(report)
    }

    /// Forward through a part, then the parts below it, then back.
    fn descend(&self, id: usize, descent: &mut Descent) -> Result<()> {
        (descent.meanwhile)();
        let (model, part) = (self.model, &self.tree.parts[id]);
        let rows = part.rows.view();
        let is_trunk = !part.children.is_empty();
        let above: Vec<&Trunk> = descent.above.iter().collect();
        let (activations, trunk) = model.forward(rows, &above, self.keep, is_trunk)?;
        let below = match trunk {
            None => None,
            Some(trunk) => {
                descent.above_gradients.push(TrunkGradients::zeros(&trunk)?);
                descent.above.push(trunk);
                part.children.iter().try_for_each(|child| self.descend(*child, descent))?;
                descent.above.pop();
                descent.above_gradients.pop()
            }
        };
        let began = Instant::now();
        let d_last = self.vocabulary_gradient(id, &activations.last, descent)?;
        let Descent { above, above_gradients, gradients, .. } = descent;
        let above: Vec<&Trunk> = above.iter().collect();
        model.backward(d_last, rows, activations, Surroundings { above: &above, above_gradients, below }, gradients)?;
        descent.backward += began.elapsed();
        Ok(())
    }

    /// From the last layer's output of a part through the loss, and back to its gradient.
    fn vocabulary_gradient(&self, id: usize, last: &Tensor, descent: &mut Descent) -> Result<Tensor> {
        let (model, asked) = (self.model, &self.asked.parts[id]);
        let mut d_last = Tensor::zeros(last.shape(), DType::F32, last.device())?;
        if asked.rows.is_empty() {
            return Ok(d_last);
        }
        let rows = gather_rows(model.kernels, last, &asked.rows)?;
        let (normed, inverse_rms) = model.final_norm(&rows)?;
        let Descent { anchored, losses, gradients, totals, .. } = descent;
        let d_normed = vocabulary_backward(
            model.kernels,
            &normed,
            model.head(),
            &asked.targets,
            model.head_gradient(gradients),
            |chunk, logits| {
                let tokens = &asked.tokens[chunk.first_target..][..chunk.targets.len()];
                self.logit_gradient(id, chunk, tokens, logits, anchored, losses.as_deref(), totals)
            },
        )?;
        let d_rows = model.final_norm_backward(&d_normed, &rows, &inverse_rms, gradients)?;
        scatter_add_rows(model.kernels, &mut d_last, &asked.rows, &d_rows)?;
        Ok(d_last)
    }

    #[allow(clippy::too_many_arguments)]
    fn logit_gradient(
        &self,
        part: usize,
        chunk: &Chunk,
        tokens: &[usize],
        logits: Tensor,
        anchored: &Anchored,
        losses: Option<&[TokenLoss]>,
        totals: &mut Totals,
    ) -> Result<Tensor> {
        let (kernels, batch) = (self.model.kernels, self.batch);
        let weights: Vec<f32> = tokens.iter().map(|t| batch.weights_n[*t]).collect();
        let (values, gradient) = match (self.objective, anchored) {
            (Objective::Tokens(loss), _) => {
                return token_gradient(kernels, chunk, logits, loss.temperature(), |i, new| {
                    let t = tokens[i - chunk.first_target];
                    let of = || token_loss(&loss, self.loss_token(t, anchored), new);
                    let result = losses.map_or_else(of, |losses| losses[t]);
                    totals.add(result, new);
                    result.slope
                });
            }
            (Objective::Distill { temperature }, Anchored::Rows(anchor, rows)) => {
                let rows = rows[part].as_ref().expect("asked parts were visited");
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

    /// Per token of the batch, where a token's loss depends on the rest of its sequence; it takes a forward pass of its own.
    fn sequence_losses(&self, anchored: &Anchored, meanwhile: &mut Meanwhile) -> Result<Option<Vec<TokenLoss>>> {
        let Objective::Tokens(loss) = self.objective else { return Ok(None) };
        let in_loss: Vec<usize> = (0..self.batch.tokens_n.len()).filter(|t| self.batch.weights_n[*t] != 0.0).collect();
        let tokens: Vec<LossToken> = in_loss.iter().map(|t| self.loss_token(*t, anchored)).collect();
        let found = sequence_losses(&loss, &tokens, || {
            let all = self.distributions(self.model, loss.temperature(), meanwhile)?;
            Ok(in_loss.iter().map(|t| all[*t]).collect())
        })?;
        Ok(found.map(|found| {
            let mut losses = vec![TokenLoss::default(); self.batch.tokens_n.len()];
            in_loss.iter().zip(found).for_each(|(t, loss)| losses[*t] = loss);
            losses
        }))
    }

    fn loss_token(&self, t: usize, anchored: &Anchored) -> LossToken {
        let batch = self.batch;
        let reference_logprob = match anchored {
            Anchored::Logprobs(references) => Some(references[t]),
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
    let tree = TokenTree::new(tokens_n, offsets, true, PART_ROWS);
    Asked::of(&tree, offsets, tokens_n, |_| true).distributions(model, &tree, tokens_n.len(), temperature, &mut || {})
}

/// The k likeliest tokens after each prefix and their log-probabilities, row-major; zeros for the first of each sequence
/// and, where weights are given, for tokens of weight 0.
pub fn top_logprobs(
    model: &Model,
    tokens_n: &[u32],
    offsets: &[u32],
    weights_n: &[f32],
    temperature: f32,
    k: usize,
) -> Result<(Vec<u32>, Vec<f32>)> {
    check_tokens(model, tokens_n, offsets)?;
    if k == 0 || k > model.config.vocab_size {
        return Err(Error::BadArgument(format!("k {k} is not between 1 and the vocabulary's size")));
    }
    let tree = TokenTree::new(tokens_n, offsets, true, PART_ROWS);
    let asked = Asked::of(&tree, offsets, tokens_n, |t| weights_n.get(t) != Some(&0.0));
    let (mut ids_nk, mut logprobs_nk) = (vec![0; tokens_n.len() * k], vec![0.0; tokens_n.len() * k]);
    asked.visit(model, &tree, |part, rows| {
        let AskedPart { targets, tokens, .. } = &asked.parts[part];
        vocabulary_logits(model.kernels, &rows, model.head(), targets, |chunk, logits| {
            let logprobs = log_softmax(&logits, temperature)?.to_vec2::<f32>()?;
            for (i, target) in chunk.targets.iter().enumerate() {
                let at = tokens[chunk.first_target + i] * k;
                let row = &logprobs[target.row - chunk.first_row];
                for (j, id) in largest(row, k).into_iter().enumerate() {
                    (ids_nk[at + j], logprobs_nk[at + j]) = (id, row[id as usize]);
                }
            }
            Ok(())
        })
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

/// The tokens whose distributions are asked for, part by part.
struct Asked {
    parts: Vec<AskedPart>,
}

/// In order of the rows that predict them.
#[derive(Default)]
struct AskedPart {
    /// Rows of the part that predict one of the tokens.
    rows: Vec<u32>,
    /// Per asked token, its row as an index into `rows`.
    targets: Vec<Target>,
    /// Per asked token, its place in the batch.
    tokens: Vec<usize>,
}

impl Asked {
    fn of(tree: &TokenTree, offsets: &[u32], tokens_n: &[u32], wanted: impl Fn(usize) -> bool) -> Self {
        let mut found: Vec<Vec<(usize, usize)>> = vec![Vec::new(); tree.parts.len()];
        for (sequence, bounds) in offsets.windows(2).enumerate() {
            let later = bounds[0] as usize + 1..bounds[1] as usize;
            for ((part, row), t) in tree.rows(sequence).zip(later).filter(|(_, t)| wanted(*t)) {
                found[part].push((row, t));
            }
        }
        Self { parts: found.into_iter().map(|found| AskedPart::of(found, tokens_n)).collect() }
    }

    fn is_empty(&self) -> bool {
        self.parts.iter().all(|part| part.rows.is_empty())
    }

    /// Per token of the batch; zeros for those that were not asked for.
    fn distributions(
        &self,
        model: &Model,
        tree: &TokenTree,
        n: usize,
        temperature: f32,
        meanwhile: &mut Meanwhile,
    ) -> Result<Vec<Distribution>> {
        let mut all = vec![Distribution::default(); n];
        self.visit(model, tree, |part, rows| {
            meanwhile();
            let AskedPart { targets, tokens, .. } = &self.parts[part];
            let found = vocabulary_forward(model.kernels, &rows, model.head(), targets, temperature)?;
            tokens.iter().zip(found).for_each(|(t, distribution)| all[*t] = distribution);
            Ok(())
        })?;
        Ok(all)
    }

    /// Gives `visit` each part's asked rows after the final norm: what meets the vocabulary. No gradient, nothing is kept.
    fn visit(&self, model: &Model, tree: &TokenTree, mut visit: impl FnMut(usize, Tensor) -> Result<()>) -> Result<()> {
        let mut above = Vec::new();
        tree.roots.iter().try_for_each(|root| self.visit_part(model, tree, *root, &mut above, &mut visit))
    }

    fn visit_part(
        &self,
        model: &Model,
        tree: &TokenTree,
        id: usize,
        above: &mut Vec<Trunk>,
        visit: &mut dyn FnMut(usize, Tensor) -> Result<()>,
    ) -> Result<()> {
        let (part, asked) = (&tree.parts[id], &self.parts[id]);
        let trunks: Vec<&Trunk> = above.iter().collect();
        let (activations, trunk) =
            model.forward(part.rows.view(), &trunks, Keep::Nothing, !part.children.is_empty())?;
        if !asked.rows.is_empty() {
            let rows = gather_rows(model.kernels, &activations.last, &asked.rows)?;
            visit(id, model.final_norm(&rows)?.0)?;
        }
        drop(activations);
        let Some(trunk) = trunk else { return Ok(()) };
        above.push(trunk);
        part.children.iter().try_for_each(|child| self.visit_part(model, tree, *child, above, visit))?;
        above.pop();
        Ok(())
    }
}

impl AskedPart {
    /// From (row, token) pairs in any order.
    fn of(mut found: Vec<(usize, usize)>, tokens_n: &[u32]) -> Self {
        found.sort_unstable();
        let mut asked = Self::default();
        for (row, t) in found {
            if asked.rows.last() != Some(&(row as u32)) {
                asked.rows.push(row as u32);
            }
            asked.targets.push(Target { row: asked.rows.len() - 1, token: tokens_n[t] });
            asked.tokens.push(t);
        }
        asked
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

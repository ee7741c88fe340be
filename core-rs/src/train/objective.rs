//! Losses that read whole rows of logits, beside those of single tokens: distillation and the output's norm. Written in
//! candle operations alone, so they run on any device.
use super::loss::Loss;
use crate::error::{Error, Result};
use crate::kernels::{Chunk, log_softmax};
use candle_core::{D, Tensor};

/// What is minimised: Σ weight·ℓ over the tokens with a weight.
#[derive(Clone, Copy, Debug)]
pub enum Objective {
    Tokens(Loss),
    /// ℓ = KL(anchor ‖ π), whole vocabulary (learning without forgetting, Li & Hoiem 2016).
    Distill {
        temperature: f32,
    },
    /// ℓ = KL(stored ‖ π) over K stored tokens, the rest of the vocabulary being one outcome.
    DistillStored {
        temperature: f32,
    },
    /// ℓ = ‖logits‖² (MAS, Aljundi et al. 2018).
    OutputNorm,
}

impl From<&Loss> for Objective {
    fn from(loss: &Loss) -> Self {
        Objective::Tokens(*loss)
    }
}

impl From<&Objective> for Objective {
    fn from(objective: &Objective) -> Self {
        *objective
    }
}

/// The K likeliest tokens of each position of a batch and their log-probabilities, row-major.
#[derive(Clone, Copy)]
pub struct Stored<'a> {
    pub k: usize,
    pub ids_nk: &'a [u32],
    pub logprobs_nk: &'a [f32],
}

impl<'a> Stored<'a> {
    /// For a batch of N tokens.
    pub fn new(ids_nk: &'a [u32], logprobs_nk: &'a [f32], n: usize) -> Result<Option<Self>> {
        if ids_nk.is_empty() && logprobs_nk.is_empty() {
            return Ok(None);
        }
        if n == 0 || ids_nk.len() != logprobs_nk.len() || !ids_nk.len().is_multiple_of(n) {
            let (ids, logprobs) = (ids_nk.len(), logprobs_nk.len());
            return Err(Error::BadArgument(format!(
                "{ids} target ids and {logprobs} log-probabilities for {n} tokens"
            )));
        }
        Ok(Some(Self { k: ids_nk.len() / n, ids_nk, logprobs_nk }))
    }

    fn of(&self, token: usize) -> (&'a [u32], &'a [f32]) {
        let range = token * self.k..(token + 1) * self.k;
        (&self.ids_nk[range.clone()], &self.logprobs_nk[range])
    }
}

/// ℓ of each target of the chunk, and Σ weight·∂ℓ/∂logits `[R, V]`.
type Outcome = (Vec<f32>, Tensor);

fn column(values: Vec<f32>, like: &Tensor) -> Result<Tensor> {
    let rows = values.len();
    Ok(Tensor::from_vec(values, (rows, 1), like.device())?)
}

/// Σ of the weights of each row's targets.
fn row_weights(chunk: &Chunk, rows: usize, weights: &[f32]) -> Vec<f32> {
    chunk.by_row(rows).into_iter().map(|range| weights[range].iter().sum()).collect()
}

fn per_target(chunk: &Chunk, row_values: &[f32]) -> Vec<f32> {
    chunk.targets.iter().map(|target| row_values[target.row - chunk.first_row]).collect()
}

/// `weights`: of the chunk's targets.
pub fn distill(chunk: &Chunk, logits: &Tensor, anchor: &Tensor, weights: &[f32], temperature: f32) -> Result<Outcome> {
    let (log_q, log_p) = (log_softmax(logits, temperature)?, log_softmax(anchor, temperature)?);
    let p = log_p.exp()?;
    let values: Vec<f32> = (&p * (&log_p - &log_q)?)?.sum(D::Minus1)?.to_vec1()?;
    let scale = row_weights(chunk, values.len(), weights).into_iter().map(|w| w / temperature).collect();
    let gradient = (log_q.exp()? - p)?.broadcast_mul(&column(scale, logits)?)?;
    Ok((per_target(chunk, &values), gradient))
}

pub fn output_norm(chunk: &Chunk, logits: &Tensor, weights: &[f32]) -> Result<Outcome> {
    let values: Vec<f32> = logits.sqr()?.sum(D::Minus1)?.to_vec1()?;
    let scale = row_weights(chunk, values.len(), weights).into_iter().map(|w| 2.0 * w).collect();
    Ok((per_target(chunk, &values), logits.broadcast_mul(&column(scale, logits)?)?))
}

/// Smallest rest of a distribution, so that its logarithm is finite.
const REST_MIN: f32 = 1e-7;

/// `tokens`: the places in the batch of the chunk's targets. With q the policy, K the stored tokens and r the rest,
/// ∂ℓ/∂z_v = q_v − p_v for v in K and q_v·(1 − p_r/q_r) for the others (over T).
pub fn distill_stored(
    chunk: &Chunk,
    logits: &Tensor,
    stored: &Stored,
    tokens: &[usize],
    weights: &[f32],
    temperature: f32,
) -> Result<Outcome> {
    let (rows, vocabulary) = logits.dims2()?;
    let log_q = log_softmax(logits, temperature)?;
    let on_host: Vec<f32> = log_q.flatten_all()?.to_vec1()?;
    let mut values = Vec::with_capacity(tokens.len());
    let mut direct = vec![0f32; rows * vocabulary];
    let mut scale = vec![0f32; rows];
    for (i, target) in chunk.targets.iter().enumerate() {
        let row = target.row - chunk.first_row;
        let log_q = &on_host[row * vocabulary..(row + 1) * vocabulary];
        let (ids, log_p) = stored.of(tokens[i]);
        let (p_kept, q_kept) = ids.iter().zip(log_p).fold((0f64, 0f64), |(p, q), (id, log_p)| {
            (p + (*log_p as f64).exp(), q + (log_q[*id as usize] as f64).exp())
        });
        let (p_rest, q_rest) = ((1.0 - p_kept).max(0.0) as f32, ((1.0 - q_kept) as f32).max(REST_MIN));
        let kept: f32 = ids.iter().zip(log_p).map(|(id, log_p)| log_p.exp() * (log_p - log_q[*id as usize])).sum();
        values.push(kept + if p_rest > REST_MIN { p_rest * (p_rest / q_rest).ln() } else { 0.0 });
        let weight = weights[i] / temperature;
        let outside = 1.0 - p_rest / q_rest;
        scale[row] += weight * outside;
        for (id, log_p) in ids.iter().zip(log_p) {
            let q = log_q[*id as usize].exp();
            direct[row * vocabulary + *id as usize] += weight * (q * (1.0 - outside) - log_p.exp());
        }
    }
    let direct = Tensor::from_vec(direct, (rows, vocabulary), logits.device())?;
    let gradient = (log_q.exp()?.broadcast_mul(&column(scale, logits)?)? + direct)?;
    Ok((values, gradient))
}

//! The last product, onto the vocabulary, and what the loss needs of it, in chunks of rows: `[N, V]` never exists whole.
//! R rows of hidden state · V vocabulary · targets: tokens whose log-probability is asked for, several a row at a branch.
use super::Kernels;
use super::products::{Operand, Weight, linear, product_into};
use super::simd::{self, LANES, simd};
use super::slices::{read, uninitialised, write};
use crate::error::Result;
use candle_core::{D, Tensor};
use rayon::prelude::*;

/// Logits alive at a time (128 MiB), and rows: more of them make the products no faster.
const CHUNK_LOGITS: usize = 1 << 25;
const CHUNK_ROWS: usize = 1024;

/// A token whose log-probability is asked for, after the hidden state of `row`.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub row: usize,
    pub token: u32,
}

/// log π(target), and the entropy of the distribution it was drawn from, both at the temperature asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Distribution {
    pub logprob: f32,
    pub entropy: f32,
}

/// ∂loss/∂logprob and ∂loss/∂entropy of one target.
#[derive(Clone, Copy, Debug, Default)]
pub struct Slope {
    pub logprob: f32,
    pub entropy: f32,
}

/// Distributions of `targets` (in order of rows) for hidden `[R, H]` and weight `[V, H]`.
pub fn vocabulary_forward(
    kernels: Kernels,
    hidden: &Tensor,
    weight: &Weight,
    targets: &[Target],
    temperature: f32,
) -> Result<Vec<Distribution>> {
    let mut all = Vec::with_capacity(targets.len());
    vocabulary_logits(kernels, hidden, weight, targets, |chunk, logits| {
        all.extend(distributions(kernels, &logits, chunk, 1.0 / temperature)?.0);
        Ok(())
    })?;
    Ok(all)
}

/// Gives `visit` the logits of each chunk of rows.
pub fn vocabulary_logits(
    kernels: Kernels,
    hidden: &Tensor,
    weight: &Weight,
    targets: &[Target],
    mut visit: impl FnMut(&Chunk, Tensor) -> Result<()>,
) -> Result<()> {
    for chunk in chunks(hidden, weight, targets)? {
        let logits = linear(kernels, &chunk.hidden, weight, None)?;
        visit(&chunk, logits)?;
    }
    Ok(())
}

/// Gives `d_logits` the logits of each chunk of rows, to be turned into the loss's gradient; returns dhidden `[R, H]` and
/// adds to d_weight where there is one.
pub fn vocabulary_backward(
    kernels: Kernels,
    hidden: &Tensor,
    weight: &Weight,
    targets: &[Target],
    mut d_weight: Option<&mut Tensor>,
    mut d_logits: impl FnMut(&Chunk, Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let mut parts = Vec::new();
    for chunk in chunks(hidden, weight, targets)? {
        let logits = linear(kernels, &chunk.hidden, weight, None)?;
        let d_logits = d_logits(&chunk, logits)?;
        if let Some(d_weight) = d_weight.as_deref_mut() {
            product_into(kernels, d_weight, Operand::Transposed(&d_logits), Operand::Plain(&chunk.hidden), true)?;
        }
        let mut d_hidden = uninitialised(chunk.hidden.shape())?;
        product_into(kernels, &mut d_hidden, Operand::Plain(&d_logits), Operand::Plain(&weight.tensor), false)?;
        parts.push(d_hidden);
    }
    Ok(if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(&parts, 0)? })
}

/// dlogits of a loss that depends on the targets' log-probabilities and entropies: `slope` is asked for every target's
/// slopes, by its index among all targets.
pub fn token_gradient(
    kernels: Kernels,
    chunk: &Chunk,
    logits: Tensor,
    temperature: f32,
    mut slope: impl FnMut(usize, Distribution) -> Slope,
) -> Result<Tensor> {
    let inverse_temperature = 1.0 / temperature;
    let (found, lse) = distributions(kernels, &logits, chunk, inverse_temperature)?;
    let slopes: Vec<Slope> = found.iter().enumerate().map(|(i, d)| slope(chunk.first_target + i, *d)).collect();
    logit_gradient(kernels, logits, chunk, &found, &lse, &slopes, inverse_temperature)
}

/// log softmax(logits / T) of whole rows, `[R, V]`.
pub fn log_softmax(logits: &Tensor, temperature: f32) -> Result<Tensor> {
    let scaled = (logits / temperature as f64)?;
    let shift = scaled.max_keepdim(D::Minus1)?;
    let lse = (scaled.broadcast_sub(&shift)?.exp()?.sum_keepdim(D::Minus1)?.log()? + shift)?;
    Ok(scaled.broadcast_sub(&lse)?)
}

/// Some rows of hidden state and the targets after them.
pub struct Chunk<'a> {
    hidden: Tensor,
    pub first_row: usize,
    /// Index of `targets[0]` among all.
    pub first_target: usize,
    pub targets: &'a [Target],
}

impl<'a> Chunk<'a> {
    /// The targets of each row of the chunk, with their indices in it.
    pub fn by_row(&self, rows: usize) -> Vec<std::ops::Range<usize>> {
        let mut ranges = Vec::with_capacity(rows);
        let mut at = 0;
        for row in self.first_row..self.first_row + rows {
            let start = at;
            while at < self.targets.len() && self.targets[at].row == row {
                at += 1;
            }
            ranges.push(start..at);
        }
        ranges
    }
}

fn chunks<'a>(hidden: &Tensor, weight: &Weight, targets: &'a [Target]) -> Result<Vec<Chunk<'a>>> {
    assert!(targets.is_sorted_by_key(|target| target.row), "targets must come in order of rows");
    let rows = hidden.dim(0)?;
    let step = (CHUNK_LOGITS / weight.tensor.dim(0)?).clamp(1, CHUNK_ROWS);
    (0..rows)
        .step_by(step)
        .map(|first_row| {
            let len = step.min(rows - first_row);
            let range =
                targets.partition_point(|t| t.row < first_row)..targets.partition_point(|t| t.row < first_row + len);
            let hidden = hidden.narrow(0, first_row, len)?;
            Ok(Chunk { hidden, first_row, first_target: range.start, targets: &targets[range] })
        })
        .collect()
}

/// Distributions of the chunk's targets, and log Σ exp(logits / T) of its rows.
fn distributions(
    kernels: Kernels,
    logits: &Tensor,
    chunk: &Chunk,
    inverse_temperature: f32,
) -> Result<(Vec<Distribution>, Vec<f32>)> {
    let (rows, vocabulary) = logits.dims2()?;
    let scaled_rows: Vec<(f32, f32, Vec<f32>)> = if kernels == Kernels::Plain {
        let scaled = (logits * inverse_temperature as f64)?;
        let shift = scaled.max_keepdim(D::Minus1)?;
        let lse = (scaled.broadcast_sub(&shift)?.exp()?.sum_keepdim(D::Minus1)?.log()? + shift)?;
        let logprobs = scaled.broadcast_sub(&lse)?;
        let entropy: Vec<f32> = (logprobs.exp()? * &logprobs)?.sum(D::Minus1)?.neg()?.to_vec1()?;
        let lse: Vec<f32> = lse.squeeze(1)?.to_vec1()?;
        let by_row = chunk.by_row(rows);
        (0..rows)
            .map(|row| {
                let picked = chunk.targets[by_row[row].clone()]
                    .iter()
                    .map(|t| Ok(logprobs.get(row)?.get(t.token as usize)?.to_scalar::<f32>()?));
                Ok((lse[row], entropy[row], picked.collect::<Result<Vec<f32>>>()?))
            })
            .collect::<Result<_>>()?
    } else {
        let logits = read(logits)?;
        let by_row = chunk.by_row(rows);
        logits
            .par_chunks(vocabulary)
            .zip(&by_row)
            .map(|(row, range)| {
                let shift = simd::max(row) * inverse_temperature;
                let (sum, weighted) = exp_sums(row, inverse_temperature, shift);
                let lse = shift + sum.ln();
                let picked = chunk.targets[range.clone()]
                    .iter()
                    .map(|t| row[t.token as usize] * inverse_temperature - lse)
                    .collect();
                (lse, lse - weighted / sum * inverse_temperature, picked)
            })
            .collect()
    };
    let lse = scaled_rows.iter().map(|(lse, _, _)| *lse).collect();
    let found = scaled_rows
        .into_iter()
        .flat_map(|(_, entropy, picked)| picked.into_iter().map(move |logprob| Distribution { logprob, entropy }))
        .collect();
    Ok((found, lse))
}

simd! {
    /// (Σ e_j, Σ e_j·x_j) with e_j = exp(scale·x_j − shift); the first sum is that of `simd::sum_exp_shifted`, bit for bit.
    pub fn exp_sums(x: &[f32], scale: f32, shift: f32) -> (f32, f32) {
        let (mut sums, mut weighted) = ([0f32; LANES], [0f32; LANES]);
        let chunks = x.chunks_exact(LANES);
        let rest = chunks.remainder();
        for chunk in chunks {
            for i in 0..LANES {
                let e = simd::exp(chunk[i].mul_add(scale, -shift));
                sums[i] += e;
                weighted[i] = e.mul_add(chunk[i], weighted[i]);
            }
        }
        for (i, value) in rest.iter().enumerate() {
            let e = simd::exp(value.mul_add(scale, -shift));
            sums[i] += e;
            weighted[i] = e.mul_add(*value, weighted[i]);
        }
        (simd::join_sum(sums), simd::join_sum(weighted))
    }
}

/// dlogits_j = (Σ_targets s·([j = target] − p_j) − Σ_targets h·p_j·(log p_j + H)) / T, over the logits' memory.
fn logit_gradient(
    kernels: Kernels,
    logits: Tensor,
    chunk: &Chunk,
    found: &[Distribution],
    lse: &[f32],
    slopes: &[Slope],
    inverse_temperature: f32,
) -> Result<Tensor> {
    let (rows, vocabulary) = logits.dims2()?;
    let by_row = chunk.by_row(rows);
    let totals: Vec<(f32, f32, f32)> = by_row
        .iter()
        .map(|range| {
            let (logprob, entropy) =
                slopes[range.clone()].iter().fold((0.0, 0.0), |(a, b), s| (a + s.logprob, b + s.entropy));
            (logprob, entropy, found.get(range.start).map_or(0.0, |d| d.entropy))
        })
        .collect();
    if kernels == Kernels::Plain {
        let mut direct = vec![0f32; rows * vocabulary];
        for (row, range) in by_row.iter().enumerate() {
            for i in range.clone() {
                direct[row * vocabulary + chunk.targets[i].token as usize] += slopes[i].logprob;
            }
        }
        let device = logits.device();
        let column = |pick: fn(&(f32, f32, f32)) -> f32| {
            Tensor::from_vec(totals.iter().map(pick).collect::<Vec<f32>>(), (rows, 1), device)
        };
        let logprobs = (&logits * inverse_temperature as f64)?.broadcast_sub(&Tensor::from_vec(
            lse.to_vec(),
            (rows, 1),
            device,
        )?)?;
        let factor = logprobs
            .broadcast_add(&column(|t| t.2)?)?
            .broadcast_mul(&column(|t| t.1)?)?
            .broadcast_add(&column(|t| t.0)?)?;
        let gradient = (Tensor::from_vec(direct, (rows, vocabulary), device)? - (logprobs.exp()? * factor)?)?;
        return Ok((gradient * inverse_temperature as f64)?);
    }
    write(&logits, |logits| {
        logits.par_chunks_mut(vocabulary).zip(&totals).zip(lse).zip(&by_row).for_each(
            |(((row, totals), lse), range)| {
                logit_row_gradient(row, *lse, totals.0, totals.1, totals.2, inverse_temperature);
                for i in range.clone() {
                    row[chunk.targets[i].token as usize] += slopes[i].logprob * inverse_temperature;
                }
            },
        );
    })?;
    Ok(logits)
}

simd! {
    pub fn logit_row_gradient(row: &mut [f32], lse: f32, logprob: f32, entropy_slope: f32, entropy: f32, inverse_temperature: f32) {
        for x in row {
            let l = x.mul_add(inverse_temperature, -lse);
            *x = -(simd::exp(l) * (logprob + entropy_slope * (l + entropy))) * inverse_temperature;
        }
    }
}

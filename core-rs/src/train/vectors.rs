//! Arithmetic on named sets of f32 tensors shaped like the trained parameters: what continual-learning methods remember
//! (importances, anchors, paths, gradients, task vectors) and what they do with it. In candle operations, on any device.
//!
//! Three names are live: `weights` (the masters), `gradient` (the accumulated one) and `effective` (the dense weights that
//! the model computes with, adapters folded in).
use super::operation::{Term, WeightOp};
use super::optimizer::{CHUNK, dot};
use super::{Batch, Objective, Pass, Stored, Trainer};
use crate::error::{Error, Result};
use crate::kernels::{Kernels, read, write, zeros_like};
use crate::model::{AdapterSpec, Gradients, Model};
use candle_core::Tensor;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rayon::prelude::*;
use serde::Deserialize;
use std::collections::BTreeMap;

pub const WEIGHTS: &str = "weights";
pub const GRADIENT: &str = "gradient";
pub const EFFECTIVE: &str = "effective";

/// What of a sequence's gradient is added up.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Magnitude {
    Square,
    Absolute,
}

impl Magnitude {
    fn of(self, gradient: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Magnitude::Square => gradient.sqr()?,
            Magnitude::Absolute => gradient.abs()?,
        })
    }
}

/// Where an importance goes.
#[derive(Clone, Copy, Debug)]
pub struct Importance<'a> {
    pub into: &'a str,
    pub of: Magnitude,
    /// The anchor of the quadratic that `into` belongs to.
    pub anchor: Option<&'a str>,
}

type Vector = Vec<Tensor>;

#[derive(Default)]
pub struct Vectors {
    pub named: BTreeMap<String, Vector>,
}

impl Trainer {
    /// Carries an operation out; returns its value (0 where it has none). Those on whole models are the engine's.
    pub fn operate(&mut self, model: &mut Model, op: &WeightOp) -> Result<f64> {
        match op {
            WeightOp::Snapshot { .. } | WeightOp::Drop { .. } => {
                Err(Error::BadArgument("an operation on a whole model".into()))
            }
            WeightOp::ResetOptimizer {} => self.reset().map(|()| 0.0),
            WeightOp::AddAdapter { name, rank, alpha, target_modules, gates, seed } => {
                let (name, target_modules) = (name.clone(), target_modules.clone());
                model.add_adapter(
                    AdapterSpec { name, rank: *rank, alpha: *alpha, target_modules, gates: *gates },
                    *seed,
                )?;
                self.rebuild(model).map(|()| 0.0)
            }
            WeightOp::LoadAdapter { name, directory } => {
                model.load_adapter(name, directory)?;
                self.rebuild(model).map(|()| 0.0)
            }
            WeightOp::ActivateAdapter { column } => model.activate_adapter(column).map(|()| 0.0),
            WeightOp::AddOrthogonalPenalty { strength } => model.orthogonal_penalty(*strength, &mut self.gradients),
            WeightOp::MergeAdapters {} => {
                model.merge_adapters()?;
                self.rebuild(model).map(|()| 0.0)
            }
            WeightOp::Combine { into, terms } => self.combine(model, into, terms).map(|()| 0.0),
            WeightOp::AddProduct { into, a, b, factor } => {
                let (a, b) = (self.vector(model, a)?, self.vector(model, b)?);
                same_shapes(&a, &b)?;
                let product = zip(&a, &b, |a, b| Ok(((a * b)? * *factor)?))?;
                let sum = match self.vectors.named.get(into) {
                    Some(old) => plus(old, &product)?,
                    None => product,
                };
                self.put(model, into, sum).map(|()| 0.0)
            }
            WeightOp::Dot { a, b } => inner(&self.vector(model, a)?, &self.vector(model, b)?),
            WeightOp::Consolidate { importance, anchor, add } => self.consolidate(model, importance, anchor, add),
            WeightOp::AddQuadraticPenalty { importance, anchor, strength } => {
                let (importance, anchor) = (self.vector(model, importance)?, self.vector(model, anchor)?);
                self.add_quadratic_penalty(model, &importance, &anchor, *strength)
            }
            WeightOp::ProjectGradient { reference } => {
                let reference = self.vector(model, reference)?;
                self.project_gradient(model, &reference)
            }
            WeightOp::AddPathImportance { into, path, start, damping } => {
                let (path, start) = (self.vector(model, path)?, self.vector(model, start)?);
                let weights = self.vector(model, WEIGHTS)?;
                same_shapes(&path, &start)?;
                same_shapes(&path, &weights)?;
                let gain = (&path, &weights, &start)
                    .into_par_iter()
                    .map(|(path, weights, start)| Ok((path.relu()? / ((weights - start)?.sqr()? + *damping)?)?));
                let gain = gain.collect::<Result<Vector>>()?;
                let sum = match self.vectors.named.get(into) {
                    Some(old) => plus(old, &gain)?,
                    None => gain,
                };
                self.put(model, into, sum).map(|()| 0.0)
            }
            WeightOp::MergeTies { into, vectors, density } => {
                let merged = ties(&self.several(model, vectors)?, *density)?;
                self.put(model, into, merged).map(|()| 0.0)
            }
            WeightOp::MergeDare { into, vectors, drop_rate, seed } => {
                let merged = dare(&self.several(model, vectors)?, *drop_rate, *seed)?;
                self.put(model, into, merged).map(|()| 0.0)
            }
            WeightOp::MergeFisher { into, vectors, importances } => {
                let merged = fisher(&self.several(model, vectors)?, &self.several(model, importances)?)?;
                self.put(model, into, merged).map(|()| 0.0)
            }
        }
    }

    /// into ← into + Σ over the sequences of (∇ of the sequence's Σ weight·ℓ)², or of its absolute value. With `anchor` each
    /// sequence's is consolidated, so that nothing but the two vectors is held; returns the constant gained (else 0).
    pub fn add_importance(
        &mut self,
        model: &Model,
        reference: Option<&Model>,
        batch: &Batch,
        objective: Objective,
        Importance { into, of, anchor }: Importance,
    ) -> Result<f64> {
        [Some(into), anchor].into_iter().flatten().try_for_each(refuse_live)?;
        let zeros = || self.gradients.trained().map(zeros_like).collect::<Result<Vector>>();
        let mut sum = self.vectors.named.get(into).cloned().map_or_else(zeros, Ok)?;
        let mut centre = match anchor.and_then(|name| self.vectors.named.get(name)) {
            Some(old) => old.clone(),
            None if anchor.is_some() => map(&self.masters(), |master| Ok(master.copy()?))?,
            None => self.masters(),
        };
        same_shapes(&sum, &self.masters())?;
        same_shapes(&sum, &centre)?;
        // what is about to be replaced must not be held as well
        [Some(into), anchor].into_iter().flatten().for_each(|name| drop(self.vectors.named.remove(name)));
        let mut own = if self.gradients.are_zero()? { None } else { Some(Gradients::zeros(model)?) };
        let mut constant = 0.0;
        for bounds in batch.offsets.windows(2) {
            let one = SequenceOf::new(batch, bounds[0] as usize, bounds[1] as usize);
            let batch = one.batch();
            let pass = Pass::new(model, &batch, objective, &self.options)?;
            let anchored = pass.anchored(reference, &mut || {})?;
            let gradients = own.as_mut().unwrap_or(&mut self.gradients);
            pass.gradient(&anchored, gradients, &mut || {})?;
            let here: Vec<&Tensor> = self.optimizer.slots.iter().map(|slot| &slot.master).collect();
            let places = (&mut sum, &mut centre, gradients.trained().collect::<Vec<_>>(), here).into_par_iter();
            let gained = places.map(|(sum, centre, gradient, here)| {
                let added = of.of(gradient)?;
                if anchor.is_some() {
                    return join(model.kernels, sum, centre, &added, here);
                }
                *sum = (&*sum + added)?;
                Ok(0.0)
            });
            constant += gained.collect::<Result<Vec<f64>>>()?.iter().sum::<f64>();
            gradients.clear()?;
        }
        self.vectors.named.insert(into.into(), sum);
        if let Some(name) = anchor {
            self.vectors.named.insert(name.into(), centre);
        }
        Ok(constant)
    }

    /// False when there was none.
    pub fn drop_vector(&mut self, name: &str) -> bool {
        self.vectors.named.remove(name).is_some()
    }

    pub(super) fn vector(&self, model: &Model, name: &str) -> Result<Vector> {
        match name {
            WEIGHTS => Ok(self.masters()),
            GRADIENT => Ok(self.gradients()),
            EFFECTIVE if model.adapters().is_empty() => Ok(self.masters()),
            EFFECTIVE => (0..model.dense_parameters()).map(|id| model.effective(id)).collect(),
            name => self.vectors.named.get(name).cloned().ok_or_else(|| no_vector(name)),
        }
    }

    fn several(&self, model: &Model, names: &[String]) -> Result<Vec<Vector>> {
        let vectors = names.iter().map(|name| self.vector(model, name)).collect::<Result<Vec<_>>>()?;
        match vectors.split_first() {
            None => return Err(Error::BadArgument("a merge needs vectors".into())),
            Some((first, rest)) => rest.iter().try_for_each(|other| same_shapes(first, other))?,
        }
        Ok(vectors)
    }

    fn masters(&self) -> Vector {
        self.optimizer.slots.iter().map(|slot| slot.master.clone()).collect()
    }

    fn put(&mut self, model: &mut Model, name: &str, values: Vector) -> Result<()> {
        match name {
            GRADIENT => overwrite(&self.gradients(), &values),
            EFFECTIVE if !model.adapters().is_empty() => {
                model.set_dense(values)?;
                self.rebuild(model)
            }
            WEIGHTS | EFFECTIVE => {
                overwrite(&self.masters(), &values)?;
                self.optimizer.slots.iter().try_for_each(|slot| slot.publish(model))
            }
            name => {
                self.vectors.named.insert(name.into(), values);
                Ok(())
            }
        }
    }

    /// Tensor by tensor; the old `into` goes as its successor comes, where it is a term of its own sum.
    fn combine(&mut self, model: &mut Model, into: &str, terms: &[Term]) -> Result<()> {
        if terms.is_empty() {
            let like = if self.vectors.named.contains_key(into) || is_live(into) { into } else { WEIGHTS };
            let zeros = self.vector(model, like)?.iter().map(zeros_like).collect::<Result<_>>()?;
            return self.put(model, into, zeros);
        }
        let vectors = terms.iter().map(|term| self.vector(model, &term.vector)).collect::<Result<Vec<_>>>()?;
        vectors.iter().skip(1).try_for_each(|vector| same_shapes(&vectors[0], vector))?;
        self.vectors.named.remove(into);
        let count = vectors[0].len();
        let mut columns: Vec<_> = vectors.into_iter().map(Vec::into_iter).collect();
        let sums = (0..count).map(|_| {
            let mut sum: Option<Tensor> = None;
            for (column, term) in columns.iter_mut().zip(terms) {
                let part = (column.next().expect("all are as long") * term.factor)?;
                sum = Some(match sum {
                    None => part,
                    Some(sum) => (sum + part)?,
                });
            }
            Ok(sum.expect("there are terms"))
        });
        let sums = sums.collect::<Result<Vector>>()?;
        self.put(model, into, sums)
    }

    fn consolidate(&mut self, model: &mut Model, importance: &str, anchor: &str, add: &str) -> Result<f64> {
        let (added, here) = (self.vector(model, add)?, self.vector(model, WEIGHTS)?);
        same_shapes(&added, &here)?;
        let (mut h, mut m) = match (self.vectors.named.remove(importance), self.vectors.named.remove(anchor)) {
            (Some(h), Some(m)) => (h, m),
            _ => (added.iter().map(zeros_like).collect::<Result<_>>()?, map(&here, |here| Ok(here.copy()?))?),
        };
        same_shapes(&h, &here)?;
        let places = (&mut h, &mut m, &added, &here).into_par_iter();
        let gained =
            places.map(|(h, m, added, here)| join(model.kernels, h, m, added, here)).collect::<Result<Vec<f64>>>()?;
        self.put(model, importance, h)?;
        self.put(model, anchor, m)?;
        Ok(gained.iter().sum())
    }

    fn add_quadratic_penalty(
        &mut self,
        model: &Model,
        importance: &Vector,
        anchor: &Vector,
        strength: f64,
    ) -> Result<f64> {
        let weights = self.vector(model, WEIGHTS)?;
        same_shapes(&weights, importance)?;
        same_shapes(&weights, anchor)?;
        let mut value = 0.0;
        for (((weights, importance), anchor), gradient) in
            weights.iter().zip(importance).zip(anchor).zip(self.gradients.trained())
        {
            value += pull(model.kernels, gradient, weights, importance, anchor, strength)?;
        }
        Ok(strength / 2.0 * value)
    }

    fn project_gradient(&mut self, model: &mut Model, reference: &Vector) -> Result<f64> {
        let gradient = self.vector(model, GRADIENT)?;
        let (along, norm) = (inner(&gradient, reference)?, inner(reference, reference)?);
        if along < 0.0 && norm > 0.0 {
            let projected = zip(&gradient, reference, |g, r| Ok((g - (r * (along / norm))?)?))?;
            self.put(model, GRADIENT, projected)?;
        }
        Ok(along)
    }
}

/// One sequence of a batch, as a batch.
struct SequenceOf<'a> {
    whole: &'a Batch<'a>,
    start: usize,
    end: usize,
    offsets: [u32; 2],
}

impl<'a> SequenceOf<'a> {
    fn new(whole: &'a Batch<'a>, start: usize, end: usize) -> Self {
        Self { whole, start, end, offsets: [0, (end - start) as u32] }
    }

    fn batch(&self) -> Batch<'_> {
        let range = self.start..self.end;
        Batch {
            tokens_n: &self.whole.tokens_n[range.clone()],
            offsets: &self.offsets,
            weights_n: &self.whole.weights_n[range.clone()],
            advantages_n: &self.whole.advantages_n[range.clone()],
            old_logprobs_n: &self.whole.old_logprobs_n[range],
            stored: self.whole.stored.map(|stored| Stored {
                k: stored.k,
                ids_nk: &stored.ids_nk[self.start * stored.k..self.end * stored.k],
                logprobs_nk: &stored.logprobs_nk[self.start * stored.k..self.end * stored.k],
            }),
        }
    }
}

/// Two quadratics become one, in place: Σ H(θ−m)² + Σ F(θ−θ₀)² = Σ (H+F)(θ−m')² + Σ HF/(H+F)·(m−θ₀)²; gives the last sum.
fn join(kernels: Kernels, importance: &mut Tensor, anchor: &mut Tensor, added: &Tensor, here: &Tensor) -> Result<f64> {
    if kernels == Kernels::Fused {
        let (added, here) = (read(added)?, read(here)?);
        return write(importance, |h| {
            write(anchor, |m| {
                let chunks =
                    (h.par_chunks_mut(CHUNK), m.par_chunks_mut(CHUNK), added.par_chunks(CHUNK), here.par_chunks(CHUNK));
                chunks.into_par_iter().map(|(h, m, f, here)| join_chunk(h, m, f, here)).collect::<Vec<f64>>()
            })
        })?
        .map(|partial| partial.iter().sum());
    }
    let total = (&*importance + added)?;
    // F/(H+F), 0 where nothing matters
    let share = (added / total.maximum(f32::MIN_POSITIVE)?)?;
    let step = (here - &*anchor)?;
    let constant = dot(&(&*importance * &share)?, &step.sqr()?)?;
    *anchor = (&*anchor + (share * step)?)?;
    *importance = total;
    Ok(constant)
}

fn join_chunk(importance: &mut [f32], anchor: &mut [f32], added: &[f32], here: &[f32]) -> f64 {
    let mut constant = 0.0;
    for (((h, m), f), here) in importance.iter_mut().zip(anchor).zip(added).zip(here) {
        let total = *h + f;
        let (share, step) = (f / total.max(f32::MIN_POSITIVE), here - *m);
        constant += (*h * share * step) as f64 * step as f64;
        *m += share * step;
        *h = total;
    }
    constant
}

/// gradient += strength · importance ⊙ (weights − anchor); gives Σ importance·(weights − anchor)².
fn pull(
    kernels: Kernels,
    gradient: &Tensor,
    weights: &Tensor,
    importance: &Tensor,
    anchor: &Tensor,
    strength: f64,
) -> Result<f64> {
    if kernels == Kernels::Fused {
        let (weights, importance, anchor) = (read(weights)?, read(importance)?, read(anchor)?);
        let partial = write(gradient, |gradient| {
            let fixed = (weights.par_chunks(CHUNK), importance.par_chunks(CHUNK), anchor.par_chunks(CHUNK));
            let chunks = gradient.par_chunks_mut(CHUNK).zip(fixed.into_par_iter());
            chunks.map(|(g, (w, h, m))| pull_chunk(g, w, h, m, strength as f32)).collect::<Vec<f64>>()
        })?;
        return Ok(partial.iter().sum());
    }
    let moved = (weights - anchor)?;
    let pull = (importance * &moved)?;
    let value = dot(&pull, &moved)?;
    let sum = (gradient + (pull * strength)?)?;
    let sum = read(&sum)?;
    write(gradient, |gradient| gradient.copy_from_slice(&sum))?;
    Ok(value)
}

fn pull_chunk(gradient: &mut [f32], weights: &[f32], importance: &[f32], anchor: &[f32], strength: f32) -> f64 {
    let mut value = 0.0;
    for (((g, w), h), m) in gradient.iter_mut().zip(weights).zip(importance).zip(anchor) {
        let moved = w - m;
        let pull = h * moved;
        value += pull as f64 * moved as f64;
        *g += strength * pull;
    }
    value
}

fn is_live(name: &str) -> bool {
    [WEIGHTS, GRADIENT, EFFECTIVE].contains(&name)
}

fn refuse_live(name: &str) -> Result<()> {
    if is_live(name) {
        return Err(Error::BadArgument(format!("{name} is live; an importance needs a name of its own")));
    }
    Ok(())
}

fn no_vector(name: &str) -> Error {
    Error::BadArgument(format!("no vector is named {name}"))
}

fn same_shapes(a: &Vector, b: &Vector) -> Result<()> {
    if a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.dims() == b.dims()) {
        return Ok(());
    }
    Err(Error::BadArgument("the vectors of one operation must have the same shapes".into()))
}

fn map(a: &Vector, body: impl Fn(&Tensor) -> Result<Tensor> + Sync + Send) -> Result<Vector> {
    a.par_iter().map(body).collect()
}

fn zip(a: &Vector, b: &Vector, body: impl Fn(&Tensor, &Tensor) -> Result<Tensor> + Sync + Send) -> Result<Vector> {
    same_shapes(a, b)?;
    a.par_iter().zip(b).map(|(a, b)| body(a, b)).collect()
}

fn plus(a: &Vector, b: &Vector) -> Result<Vector> {
    zip(a, b, |a, b| Ok((a + b)?))
}

fn inner(a: &Vector, b: &Vector) -> Result<f64> {
    same_shapes(a, b)?;
    a.iter().zip(b).map(|(a, b)| dot(a, b)).sum()
}

fn overwrite(targets: &Vector, values: &Vector) -> Result<()> {
    same_shapes(targets, values)?;
    targets.iter().zip(values).try_for_each(|(target, value)| {
        let value = read(value)?;
        write(target, |target| target.copy_from_slice(&value))
    })
}

fn mean(vectors: &[Vector]) -> Result<Vector> {
    let mut sum = map(&vectors[0], |tensor| Ok((tensor * 1.0)?))?;
    for other in &vectors[1..] {
        sum = plus(&sum, other)?;
    }
    map(&sum, |tensor| Ok((tensor / vectors.len() as f64)?))
}

/// Yadav et al. 2023: of each vector the largest `density` of its entries (over all tensors) stay; each coordinate takes
/// the sign of their sum, and the mean of the entries that have it.
fn ties(vectors: &[Vector], density: f64) -> Result<Vector> {
    if !(density > 0.0 && density <= 1.0) {
        return Err(Error::BadArgument(format!("density {density} is not above 0 and at most 1")));
    }
    let trimmed = vectors.iter().map(|vector| trim(vector, density)).collect::<Result<Vec<_>>>()?;
    (0..vectors[0].len())
        .map(|i| {
            let of: Vec<&Tensor> = trimmed.iter().map(|vector| &vector[i]).collect();
            let mut sum = of[0].clone();
            for other in &of[1..] {
                sum = (sum + *other)?;
            }
            let sign = sum.sign()?;
            let (mut total, mut count) = (sum.zeros_like()?, sum.zeros_like()?);
            for tensor in of {
                let agrees = (tensor * &sign)?.gt(0.0)?.to_dtype(sum.dtype())?;
                total = (total + (tensor * &agrees)?)?;
                count = (count + agrees)?;
            }
            Ok((total / count.maximum(1.0)?)?)
        })
        .collect()
}

/// Entries below the threshold become 0; at a tie all stay.
fn trim(vector: &Vector, density: f64) -> Result<Vector> {
    let mut sizes = Vec::new();
    for tensor in vector {
        sizes.extend(read(tensor)?.iter().map(|v| v.abs()));
    }
    let kept = ((density * sizes.len() as f64).floor() as usize).max(1);
    let place = sizes.len() - kept;
    let threshold = *sizes.select_nth_unstable_by(place, f32::total_cmp).1;
    map(vector, |tensor| Ok((tensor * tensor.abs()?.ge(threshold as f64)?.to_dtype(tensor.dtype())?)?))
}

/// Yu et al. 2024: every entry is dropped with `drop_rate`, the others are divided by 1 − drop_rate; then the mean.
fn dare(vectors: &[Vector], drop_rate: f64, seed: u64) -> Result<Vector> {
    if !(0.0..1.0).contains(&drop_rate) {
        return Err(Error::BadArgument(format!("drop_rate {drop_rate} is not at least 0 and below 1")));
    }
    let thinned = vectors.iter().enumerate().map(|(stream, vector)| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream as u64);
        let keep = (1.0 / (1.0 - drop_rate)) as f32;
        vector
            .iter()
            .map(|tensor| {
                let draw = |_| {
                    let uniform = (rng.next_u32() >> 8) as f64 / 16_777_216.0;
                    if uniform < drop_rate { 0.0 } else { keep }
                };
                let mask: Vec<f32> = (0..tensor.elem_count()).map(draw).collect();
                Ok((tensor * Tensor::from_vec(mask, tensor.shape(), tensor.device())?)?)
            })
            .collect::<Result<Vector>>()
    });
    mean(&thinned.collect::<Result<Vec<_>>>()?)
}

/// Matena & Raffel 2022: Σ F·v / Σ F, and the plain mean where all importances are 0.
fn fisher(vectors: &[Vector], importances: &[Vector]) -> Result<Vector> {
    if vectors.len() != importances.len() {
        let (v, f) = (vectors.len(), importances.len());
        return Err(Error::BadArgument(format!("{v} vectors, but {f} importances")));
    }
    let plain = mean(vectors)?;
    let mut total = map(&plain, |tensor| Ok(tensor.zeros_like()?))?;
    let mut weighted = total.clone();
    for (vector, importance) in vectors.iter().zip(importances) {
        weighted = plus(&weighted, &zip(vector, importance, |v, f| Ok((v * f)?))?)?;
        total = plus(&total, importance)?;
    }
    let ratio = zip(&weighted, &total, |w, t| Ok((w / t.maximum(f32::MIN_POSITIVE)?)?))?;
    let known = map(&total, |t| Ok(t.gt(0.0)?))?;
    (0..plain.len()).map(|i| Ok(known[i].where_cond(&ratio[i], &plain[i])?)).collect()
}

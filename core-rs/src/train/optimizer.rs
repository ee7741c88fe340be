//! AdamW on f32 master weights (Loshchilov & Hutter 2019; torch.optim.AdamW's order of operations).
use crate::error::Result;
use crate::kernels::simd::{self, simd};
use crate::kernels::{Kernels, read, write, zeros_like};
use crate::model::{Dtype, Gradients, Model, Parameter};
use candle_core::Tensor;
use rayon::prelude::*;

#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    pub learning_rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    /// Spares norm weights and biases.
    pub weight_decay: f64,
    /// Global norm above which the gradient is scaled down; 0 = never.
    pub max_grad_norm: f64,
}

#[derive(Clone, Copy, Debug)]
pub struct OptimizerReport {
    /// Before clipping.
    pub grad_norm: f64,
    /// The gradient was not finite: nothing moved.
    pub skipped: bool,
}

/// Elements that one thread updates at a time; also the unit of the norm's partial sums.
pub const CHUNK: usize = 1 << 14;

/// Master weights and moments of the trained parameters.
pub struct Optimizer {
    pub slots: Vec<Slot>,
    pub steps: u64,
}

pub struct Slot {
    /// Index into the model's parameters.
    pub parameter: usize,
    /// In f32 the model's own tensor, otherwise a copy that the model's is rounded from.
    pub master: Tensor,
    pub first: Tensor,
    pub second: Tensor,
}

impl Slot {
    fn new(parameter: usize, of: &Parameter) -> Result<Self> {
        let tensor = &of.weight.tensor;
        let master = if of.dtype == Dtype::F32 { tensor.clone() } else { of.copied_values()? };
        Ok(Self { parameter, master, first: zeros_like(tensor)?, second: zeros_like(tensor)? })
    }

    /// The model's weight becomes the master's value in its type.
    pub fn publish(&self, model: &mut Model) -> Result<()> {
        let parameter = &mut model.parameters[self.parameter];
        match parameter.dtype {
            Dtype::F32 => parameter.weight.changed(),
            _ => parameter.assign(&self.master)?,
        }
        Ok(())
    }
}

impl Optimizer {
    pub fn new(model: &Model) -> Result<Self> {
        let trained = model.parameters.iter().enumerate().filter(|(_, parameter)| parameter.trained);
        Ok(Self { slots: trained.map(|(i, parameter)| Slot::new(i, parameter)).collect::<Result<_>>()?, steps: 0 })
    }

    /// Moments and step count back to zero; the masters stay.
    pub fn reset(&mut self) -> Result<()> {
        self.steps = 0;
        let moments = self.slots.iter().flat_map(|slot| [&slot.first, &slot.second]);
        moments.into_iter().try_for_each(|tensor| write(tensor, |values| values.fill(0.0)))
    }

    /// Clips, steps, rounds the masters into the model. A gradient that is not finite moves nothing.
    pub fn step(&mut self, model: &mut Model, gradients: &Gradients, options: &AdamW) -> Result<OptimizerReport> {
        let grad_norm = gradients.trained().map(sum_of_squares).sum::<Result<f64>>()?.sqrt();
        if !grad_norm.is_finite() {
            return Ok(OptimizerReport { grad_norm, skipped: true });
        }
        self.steps += 1;
        // torch.nn.utils.clip_grad_norm_
        let clip =
            if options.max_grad_norm > 0.0 { (options.max_grad_norm / (grad_norm + 1e-6)).min(1.0) } else { 1.0 };
        for (slot, gradient) in self.slots.iter().zip(gradients.trained()) {
            let name = &model.parameters[slot.parameter].name;
            let decay = if name.ends_with(".bias") || name.contains("norm") { 0.0 } else { options.weight_decay };
            slot.update(model.kernels, gradient, &Update::new(options, decay, clip, self.steps))?;
            slot.publish(model)?;
        }
        Ok(OptimizerReport { grad_norm, skipped: false })
    }
}

impl Slot {
    fn update(&self, kernels: Kernels, gradient: &Tensor, update: &Update) -> Result<()> {
        if kernels == Kernels::Plain {
            return self.plain_update(gradient, update);
        }
        let gradient = read(gradient)?;
        write(&self.master, |master| {
            write(&self.first, |first| {
                write(&self.second, |second| {
                    (
                        master.par_chunks_mut(CHUNK),
                        first.par_chunks_mut(CHUNK),
                        second.par_chunks_mut(CHUNK),
                        gradient.par_chunks(CHUNK),
                    )
                        .into_par_iter()
                        .for_each(|(master, first, second, gradient)| adamw(master, first, second, gradient, *update));
                })
            })
        })??
    }

    fn plain_update(&self, gradient: &Tensor, u: &Update) -> Result<()> {
        let gradient = (gradient * u.clip as f64)?;
        let first = ((&self.first * u.beta1 as f64)? + (&gradient * (1.0 - u.beta1) as f64)?)?;
        let second = ((&self.second * u.beta2 as f64)? + (gradient.sqr()? * (1.0 - u.beta2) as f64)?)?;
        let step = (&first * u.step as f64)?.div(&((second.sqrt()? * u.second_scale as f64)? + u.eps as f64)?)?;
        let master = ((&self.master * u.keep as f64)? - step)?;
        for (target, value) in [(&self.first, first), (&self.second, second), (&self.master, master)] {
            let value = read(&value)?;
            write(target, |target| target.copy_from_slice(&value))?;
        }
        Ok(())
    }
}

fn sum_of_squares(tensor: &Tensor) -> Result<f64> {
    dot(tensor, tensor)
}

/// Σ a·b, in chunks that do not depend on the number of threads.
pub fn dot(a: &Tensor, b: &Tensor) -> Result<f64> {
    let (a, b) = (read(a)?, read(b)?);
    let chunks = a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK));
    let partial: Vec<f64> = chunks.map(|(a, b)| simd::dot_f64(a, b)).collect();
    Ok(partial.iter().sum())
}

/// The scalars of one parameter's update.
#[derive(Clone, Copy)]
pub struct Update {
    clip: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    /// 1 − lr·decay.
    keep: f32,
    /// lr / (1 − β₁ᵗ).
    step: f32,
    /// 1 / sqrt(1 − β₂ᵗ).
    second_scale: f32,
}

impl Update {
    fn new(options: &AdamW, decay: f64, clip: f64, steps: u64) -> Self {
        Self {
            clip: clip as f32,
            beta1: options.beta1 as f32,
            beta2: options.beta2 as f32,
            eps: options.eps as f32,
            keep: (1.0 - options.learning_rate * decay) as f32,
            step: (options.learning_rate / (1.0 - options.beta1.powi(steps as i32))) as f32,
            second_scale: (1.0 / (1.0 - options.beta2.powi(steps as i32)).sqrt()) as f32,
        }
    }
}

simd! {
    pub fn adamw(master: &mut [f32], first: &mut [f32], second: &mut [f32], gradient: &[f32], u: Update) {
        for (((p, m), v), g) in master.iter_mut().zip(first).zip(second).zip(gradient) {
            let g = g * u.clip;
            *m = *m * u.beta1 + g * (1.0 - u.beta1);
            *v = *v * u.beta2 + g * g * (1.0 - u.beta2);
            *p = *p * u.keep - u.step * *m / (v.sqrt() * u.second_scale + u.eps);
        }
    }
}

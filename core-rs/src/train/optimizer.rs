//! AdamW on f32 master weights (Loshchilov & Hutter 2019; torch.optim.AdamW's order of operations).
use crate::error::{Error, Result};
use crate::kernels::simd::{self, simd};
use crate::kernels::{Kernels, Weight, read, write, zeros_like};
use crate::model::{Dtype, Gradients, Model, write_file};
use candle_core::Tensor;
use rayon::prelude::*;
use safetensors::SafeTensors;
use std::collections::HashMap;
use std::path::Path;

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
const CHUNK: usize = 1 << 14;

/// Master weights and moments, in the model's order of parameters.
pub struct Optimizer {
    /// In f32 the model's own tensors, otherwise copies that the model's are rounded from.
    masters: Vec<Tensor>,
    first: Vec<Tensor>,
    second: Vec<Tensor>,
    steps: u64,
}

impl Optimizer {
    pub fn new(model: &Model) -> Result<Self> {
        let masters = model
            .parameters
            .iter()
            .map(|p| if model.dtype == Dtype::F32 { Ok(p.weight.tensor.clone()) } else { Ok(p.weight.tensor.copy()?) });
        let zeros = || model.parameters.iter().map(|p| zeros_like(&p.weight.tensor)).collect::<Result<Vec<_>>>();
        Ok(Self { masters: masters.collect::<Result<_>>()?, first: zeros()?, second: zeros()?, steps: 0 })
    }

    /// Moments and step count back to zero; the masters stay.
    pub fn reset(&mut self) -> Result<()> {
        self.steps = 0;
        self.first.iter().chain(&self.second).try_for_each(|tensor| write(tensor, |values| values.fill(0.0)))
    }

    /// Clips, steps, rounds the masters into the model. A gradient that is not finite moves nothing.
    pub fn step(&mut self, model: &mut Model, gradients: &Gradients, options: &AdamW) -> Result<OptimizerReport> {
        let grad_norm = gradients.tensors.iter().map(sum_of_squares).sum::<Result<f64>>()?.sqrt();
        if !grad_norm.is_finite() {
            return Ok(OptimizerReport { grad_norm, skipped: true });
        }
        self.steps += 1;
        // torch.nn.utils.clip_grad_norm_
        let clip =
            if options.max_grad_norm > 0.0 { (options.max_grad_norm / (grad_norm + 1e-6)).min(1.0) } else { 1.0 };
        for i in 0..self.masters.len() {
            let name = &model.parameters[i].name;
            let decay = if name.ends_with(".bias") || name.contains("norm") { 0.0 } else { options.weight_decay };
            let update = Update::new(options, decay, clip, self.steps);
            self.update(model.kernels, i, &gradients.tensors[i], &update)?;
            publish(&mut model.parameters[i].weight, &self.masters[i], model.dtype)?;
        }
        Ok(OptimizerReport { grad_norm, skipped: false })
    }

    fn update(&mut self, kernels: Kernels, i: usize, gradient: &Tensor, update: &Update) -> Result<()> {
        if kernels == Kernels::Plain {
            return self.plain_update(i, gradient, update);
        }
        let gradient = read(gradient)?;
        write(&self.masters[i], |master| {
            write(&self.first[i], |first| {
                write(&self.second[i], |second| {
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

    fn plain_update(&mut self, i: usize, gradient: &Tensor, u: &Update) -> Result<()> {
        let gradient = (gradient * u.clip as f64)?;
        let first = ((&self.first[i] * u.beta1 as f64)? + (&gradient * (1.0 - u.beta1) as f64)?)?;
        let second = ((&self.second[i] * u.beta2 as f64)? + (gradient.sqr()? * (1.0 - u.beta2) as f64)?)?;
        let step = (&first * u.step as f64)?.div(&((second.sqrt()? * u.second_scale as f64)? + u.eps as f64)?)?;
        let master = ((&self.masters[i] * u.keep as f64)? - step)?;
        for (target, value) in [(&self.first[i], first), (&self.second[i], second), (&self.masters[i], master)] {
            let value = read(&value)?;
            write(target, |target| target.copy_from_slice(&value))?;
        }
        Ok(())
    }

    /// Masters, moments and step count, as safetensors.
    pub fn save(&self, model: &Model, file: &Path) -> Result<()> {
        let kinds = [("master", &self.masters), ("first", &self.first), ("second", &self.second)];
        let mut arrays = Vec::new();
        for (kind, tensors) in kinds {
            for (parameter, tensor) in model.parameters.iter().zip(tensors) {
                let bytes: Vec<u8> = bytemuck::cast_slice(&read(tensor)?).to_vec();
                arrays.push((format!("{kind}/{}", parameter.name), tensor.dims().to_vec(), bytes));
            }
        }
        let metadata = HashMap::from([("steps".to_string(), self.steps.to_string())]);
        write_file(
            file,
            safetensors::Dtype::F32,
            arrays.iter().map(|(name, shape, bytes)| (name.clone(), shape.clone(), bytes)),
            metadata,
        )
    }

    /// The reverse of `save`; the model's weights become those of the masters.
    pub fn load(&mut self, model: &mut Model, file: &Path) -> Result<()> {
        let problem = |problem: String| Error::File { path: file.to_path_buf(), problem };
        let bytes = std::fs::read(file).map_err(|e| problem(e.to_string()))?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| problem(e.to_string()))?;
        let steps = header.metadata().as_ref().and_then(|m| m.get("steps")).and_then(|s| s.parse().ok());
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| problem(e.to_string()))?;
        for (kind, targets) in [("master", &self.masters), ("first", &self.first), ("second", &self.second)] {
            for (parameter, target) in model.parameters.iter().zip(targets) {
                let name = format!("{kind}/{}", parameter.name);
                let view = tensors.tensor(&name).map_err(|e| problem(e.to_string()))?;
                if view.shape() != target.dims() {
                    return Err(problem(format!(
                        "{name} has shape {:?}, the model's is {:?}",
                        view.shape(),
                        target.dims()
                    )));
                }
                let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                write(target, |target| target.iter_mut().zip(values).for_each(|(t, v)| *t = v))?;
            }
        }
        self.steps = steps.ok_or_else(|| problem("lacks the number of steps".into()))?;
        for (parameter, master) in model.parameters.iter_mut().zip(&self.masters) {
            publish(&mut parameter.weight, master, model.dtype)?;
        }
        Ok(())
    }
}

/// The model's weight becomes the master's value in the model's type.
fn publish(weight: &mut Weight, master: &Tensor, dtype: Dtype) -> Result<()> {
    if dtype != Dtype::F32 {
        let master = read(master)?;
        write(&weight.tensor, |values| {
            values.copy_from_slice(&master);
            dtype.round(values);
        })?;
    }
    weight.changed();
    Ok(())
}

fn sum_of_squares(tensor: &Tensor) -> Result<f64> {
    let values = read(tensor)?;
    let partial: Vec<f64> = values.par_chunks(CHUNK).map(|chunk| simd::dot(chunk, chunk) as f64).collect();
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

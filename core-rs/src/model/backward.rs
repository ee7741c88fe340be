//! The backward pass, written by hand, layer by layer; candle's autograd is the oracle in the tests.
use super::Model;
use super::forward::{Activations, LayerActivations};
use super::weights::LayerIds;
use crate::error::Result;
use crate::kernels::{
    Attended, Node, Operand, Rotation, attention_backward, column_sums, linear_weight_gradient, product_into,
    rms_norm_backward, rotate, scatter_add_rows, sum, swiglu_backward, uninitialised, write, zeros_like,
};
use candle_core::Tensor;

/// One f32 gradient per parameter, in the model's order; contributions are added.
pub struct Gradients {
    pub tensors: Vec<Tensor>,
}

impl Gradients {
    pub fn zeros(model: &Model) -> Result<Self> {
        Ok(Self { tensors: model.parameters.iter().map(|p| zeros_like(&p.weight.tensor)).collect::<Result<_>>()? })
    }

    pub fn clear(&mut self) -> Result<()> {
        self.tensors.iter().try_for_each(|tensor| write(tensor, |values| values.fill(0.0)))
    }
}

impl Model {
    /// Gradient of the rows given to `final_norm`; adds the norm weight's own.
    pub fn final_norm_backward(
        &self,
        d_normed: &Tensor,
        rows: &Tensor,
        inverse_rms: &Tensor,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let norm = &self.parameters[self.ids.norm].weight.tensor;
        rms_norm_backward(self.kernels, d_normed, rows, norm, inverse_rms, &mut gradients.tensors[self.ids.norm])
    }

    pub fn head_gradient<'a>(&self, gradients: &'a mut Gradients) -> &'a mut Tensor {
        &mut gradients.tensors[self.ids.head]
    }

    /// From the gradient of the last layer's output `[N, H]` down to the embeddings.
    pub fn backward(
        &self,
        d_last: Tensor,
        tokens_n: &[u32],
        nodes: &[Node],
        mut activations: Activations,
        gradients: &mut Gradients,
    ) -> Result<()> {
        let mut dx = d_last;
        for (layer, ids) in self.ids.layers.iter().enumerate().rev() {
            let input = activations.inputs.pop().expect("one input a layer");
            let kept = match activations.layers[layer].take() {
                Some(kept) => kept,
                None => self.training_layer(ids, input, &activations.rotation, nodes)?.1,
            };
            dx = self.layer_backward(ids, dx, kept, &activations.rotation, nodes, gradients)?;
        }
        scatter_add_rows(self.kernels, &mut gradients.tensors[self.ids.embed], tokens_n, &dx)
    }

    fn layer_backward(
        &self,
        ids: &LayerIds,
        dy: Tensor,
        kept: LayerActivations,
        rotation: &Rotation,
        nodes: &[Node],
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let kernels = self.kernels;
        let tensor = |id: usize| &self.parameters[id].weight.tensor;
        // dx ← dy·W (added where accumulate); dW += dyᵀ·x
        let through = |dx: &mut Tensor, dy: &Tensor, id: usize, accumulate: bool| {
            product_into(kernels, dx, Operand::Plain(dy), Operand::Plain(tensor(id)), accumulate)
        };

        let mut d_activated = uninitialised(kept.activated.shape())?;
        through(&mut d_activated, &dy, ids.down, false)?;
        linear_weight_gradient(kernels, &dy, &kept.activated, &mut gradients.tensors[ids.down])?;
        let (d_gate, d_up) = swiglu_backward(kernels, &d_activated, &kept.gate, &kept.up)?;
        linear_weight_gradient(kernels, &d_gate, &kept.middle_normed, &mut gradients.tensors[ids.gate])?;
        linear_weight_gradient(kernels, &d_up, &kept.middle_normed, &mut gradients.tensors[ids.up])?;
        let mut d_normed = uninitialised(kept.middle.shape())?;
        through(&mut d_normed, &d_gate, ids.gate, false)?;
        through(&mut d_normed, &d_up, ids.up, true)?;
        let d_middle = rms_norm_backward(
            kernels,
            &d_normed,
            &kept.middle,
            tensor(ids.post_norm),
            &kept.middle_inverse_rms,
            &mut gradients.tensors[ids.post_norm],
        )?;
        let d_middle = sum(kernels, d_middle, &dy)?;

        let mut d_attended = uninitialised(kept.attended.shape())?;
        through(&mut d_attended, &d_middle, ids.o, false)?;
        linear_weight_gradient(kernels, &d_middle, &kept.attended, &mut gradients.tensors[ids.o])?;
        let saved = Attended { q: &kept.q, k: &kept.k, v: &kept.v, out: &kept.attended, lse: &kept.lse };
        let (dq, dk, dv) = attention_backward(kernels, &d_attended, &saved, nodes, self.config.heads)?;
        let (mut dq, mut dk) = (rotate(kernels, dq, rotation, true)?, rotate(kernels, dk, rotation, true)?);
        if let (Some(norms), Some([(q, q_inverse), (k, k_inverse)])) = (ids.qk_norm, &kept.raw_qk) {
            dq = self.head_norm_backward(&dq, q, q_inverse, norms[0], gradients)?;
            dk = self.head_norm_backward(&dk, k, k_inverse, norms[1], gradients)?;
        }
        for (i, (d, id)) in [(&dq, ids.q), (&dk, ids.k), (&dv, ids.v)].into_iter().enumerate() {
            linear_weight_gradient(kernels, d, &kept.normed, &mut gradients.tensors[id])?;
            if let Some(biases) = ids.qkv_bias {
                column_sums(kernels, &mut gradients.tensors[biases[i]], d)?;
            }
            through(&mut d_normed, d, id, i > 0)?;
        }
        let dx = rms_norm_backward(
            kernels,
            &d_normed,
            &kept.x,
            tensor(ids.input_norm),
            &kept.inverse_rms,
            &mut gradients.tensors[ids.input_norm],
        )?;
        sum(kernels, dx, &d_middle)
    }

    fn head_norm_backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        inverse: &Tensor,
        id: usize,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let (rows, width) = x.dims2()?;
        let dim = self.config.heads.dim;
        let heads = (rows * width / dim, dim);
        let norm = &self.parameters[id].weight.tensor;
        let dx = rms_norm_backward(
            self.kernels,
            &dy.reshape(heads)?,
            &x.reshape(heads)?,
            norm,
            inverse,
            &mut gradients.tensors[id],
        )?;
        Ok(dx.reshape((rows, width))?)
    }
}

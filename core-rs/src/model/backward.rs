//! The backward pass, written by hand, layer by layer; candle's autograd is the oracle in the tests.
use super::forward::{Activations, LayerActivations};
use super::weights::LayerIds;
use super::{Model, Parameter};
use crate::error::Result;
use crate::kernels::{
    Attended, Node, Rotation, attention_backward, column_sums, rms_norm_backward, rotate, scatter_add_rows, sum,
    swiglu_backward, uninitialised, write, zeros_like,
};
use candle_core::Tensor;

/// An f32 gradient per trained parameter, in the model's order; contributions are added.
pub struct Gradients {
    tensors: Vec<Option<Tensor>>,
}

impl Gradients {
    pub fn zeros(model: &Model) -> Result<Self> {
        let of = |p: &Parameter| p.trained.then(|| zeros_like(&p.weight.tensor)).transpose();
        Ok(Self { tensors: model.parameters.iter().map(of).collect::<Result<_>>()? })
    }

    pub fn clear(&mut self) -> Result<()> {
        self.tensors.iter().flatten().try_for_each(|tensor| write(tensor, |values| values.fill(0.0)))
    }

    /// None where the parameter is not trained.
    pub fn of(&mut self, id: usize) -> Option<&mut Tensor> {
        self.tensors[id].as_mut()
    }

    /// Those of the trained parameters.
    pub fn trained(&self) -> impl Iterator<Item = &Tensor> {
        self.tensors.iter().flatten()
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
        rms_norm_backward(self.kernels, d_normed, rows, norm, inverse_rms, gradients.of(self.ids.norm))
    }

    pub fn head_gradient<'a>(&self, gradients: &'a mut Gradients) -> Option<&'a mut Tensor> {
        gradients.of(self.ids.head)
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
        match gradients.of(self.ids.embed) {
            Some(gradient) => scatter_add_rows(self.kernels, gradient, tokens_n, &dx),
            None => Ok(()),
        }
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

        let mut d_activated = uninitialised(kept.activated.shape())?;
        self.project_backward(&mut d_activated, &dy, &kept.activated, ids.down, false, gradients)?;
        let (d_gate, d_up) = swiglu_backward(kernels, &d_activated, &kept.gate, &kept.up)?;
        let mut d_normed = uninitialised(kept.middle.shape())?;
        self.project_backward(&mut d_normed, &d_gate, &kept.middle_normed, ids.gate, false, gradients)?;
        self.project_backward(&mut d_normed, &d_up, &kept.middle_normed, ids.up, true, gradients)?;
        let d_middle = rms_norm_backward(
            kernels,
            &d_normed,
            &kept.middle,
            tensor(ids.post_norm),
            &kept.middle_inverse_rms,
            gradients.of(ids.post_norm),
        )?;
        let d_middle = sum(kernels, d_middle, &dy)?;

        let mut d_attended = uninitialised(kept.attended.shape())?;
        self.project_backward(&mut d_attended, &d_middle, &kept.attended, ids.o, false, gradients)?;
        let saved = Attended { q: &kept.q, k: &kept.k, v: &kept.v, out: &kept.attended, lse: &kept.lse };
        let (dq, dk, dv) = attention_backward(kernels, &d_attended, &saved, nodes, self.config.heads)?;
        let (mut dq, mut dk) = (rotate(kernels, dq, rotation, true)?, rotate(kernels, dk, rotation, true)?);
        if let (Some(norms), Some([(q, q_inverse), (k, k_inverse)])) = (ids.qk_norm, &kept.raw_qk) {
            dq = self.head_norm_backward(&dq, q, q_inverse, norms[0], gradients)?;
            dk = self.head_norm_backward(&dk, k, k_inverse, norms[1], gradients)?;
        }
        for (i, (d, id)) in [(&dq, ids.q), (&dk, ids.k), (&dv, ids.v)].into_iter().enumerate() {
            self.project_backward(&mut d_normed, d, &kept.normed, id, i > 0, gradients)?;
            if let Some(gradient) = ids.qkv_bias.and_then(|biases| gradients.of(biases[i])) {
                column_sums(kernels, gradient, d)?;
            }
        }
        let dx = rms_norm_backward(
            kernels,
            &d_normed,
            &kept.x,
            tensor(ids.input_norm),
            &kept.inverse_rms,
            gradients.of(ids.input_norm),
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
        let dx =
            rms_norm_backward(self.kernels, &dy.reshape(heads)?, &x.reshape(heads)?, norm, inverse, gradients.of(id))?;
        Ok(dx.reshape((rows, width))?)
    }
}

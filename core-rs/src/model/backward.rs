//! The backward pass, written by hand, layer by layer; candle's autograd is the oracle in the tests.
use super::forward::{Activations, LayerActivations, RowsOf, Trunk, behind};
use super::{Model, Parameter};
use crate::error::Result;
use crate::kernels::{
    Attended, Node, Rotation, attention_backward, column_sums, read, rms_norm_backward, rotate, scatter_add_rows, sum,
    swiglu_backward, uninitialised, write, zeros_like,
};
use candle_core::Tensor;
use rayon::prelude::*;

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

    pub fn are_zero(&self) -> Result<bool> {
        for tensor in self.tensors.iter().flatten() {
            if read(tensor)?.par_iter().any(|value| *value != 0.0) {
                return Ok(false);
            }
        }
        Ok(true)
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

/// Gradients of a trunk's keys and values, layer by layer; the parts below add theirs.
pub struct TrunkGradients {
    layers: Vec<(Tensor, Tensor)>,
}

impl TrunkGradients {
    pub fn zeros(trunk: &Trunk) -> Result<Self> {
        let zeros = |(k, v): &(Tensor, Tensor)| Ok((zeros_like(k)?, zeros_like(v)?));
        Ok(Self { layers: trunk.layers.iter().map(zeros).collect::<Result<_>>()? })
    }
}

fn add_to(sum: &mut Tensor, part: &Tensor) -> Result<()> {
    let part = read(part)?;
    write(sum, |sum| sum.iter_mut().zip(part.iter()).for_each(|(s, p)| *s += p))
}

/// What a part's backward reads beside its own activations.
pub struct Surroundings<'a> {
    /// The trunks above, root first, and where their gradients go.
    pub above: &'a [&'a Trunk],
    pub above_gradients: &'a mut [TrunkGradients],
    /// What the parts below found for this part's keys.
    pub below: Option<TrunkGradients>,
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
        rows: RowsOf,
        mut activations: Activations,
        mut around: Surroundings,
        gradients: &mut Gradients,
    ) -> Result<()> {
        let mut dx = d_last;
        for layer in (0..self.layer_ids().len()).rev() {
            let input = activations.inputs.pop().expect("one input a layer");
            let kept = match activations.layers[layer].take() {
                Some(kept) => kept,
                None => self.training_layer(layer, input, &activations.rotation, rows.nodes, around.above)?.1,
            };
            dx = self.layer_backward(layer, dx, kept, &activations.rotation, rows.nodes, &mut around, gradients)?;
        }
        match gradients.of(self.ids.embed) {
            Some(gradient) => scatter_add_rows(self.kernels, gradient, rows.tokens_n, &dx),
            None => Ok(()),
        }
    }

    /// (dq, dk, dv) of these rows; what belongs to the trunks above is added there.
    fn attention_backward(
        &self,
        layer: usize,
        d_attended: &Tensor,
        kept: &LayerActivations,
        nodes: &[Node],
        around: &mut Surroundings,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let (k, v) =
            (behind(around.above, layer, &kept.k, |(k, _)| k)?, behind(around.above, layer, &kept.v, |(_, v)| v)?);
        let saved = Attended { q: &kept.q, k: &k, v: &v, out: &kept.attended, lse: &kept.lse };
        let (dq, dk, dv) = attention_backward(self.kernels, d_attended, &saved, nodes, self.config.heads)?;
        let mut at = 0;
        for TrunkGradients { layers } in around.above_gradients.iter_mut() {
            let (trunk_dk, trunk_dv) = &mut layers[layer];
            let rows = trunk_dk.dim(0)?;
            add_to(trunk_dk, &dk.narrow(0, at, rows)?)?;
            add_to(trunk_dv, &dv.narrow(0, at, rows)?)?;
            at += rows;
        }
        let own = dk.dim(0)? - at;
        let (mut dk, mut dv) = (dk.narrow(0, at, own)?, dv.narrow(0, at, own)?);
        if let Some(TrunkGradients { layers }) = &around.below {
            dk = (dk + &layers[layer].0)?;
            dv = (dv + &layers[layer].1)?;
        }
        Ok((dq, dk, dv))
    }

    #[allow(clippy::too_many_arguments)]
    fn layer_backward(
        &self,
        layer: usize,
        dy: Tensor,
        kept: LayerActivations,
        rotation: &Rotation,
        nodes: &[Node],
        around: &mut Surroundings,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let ids = &self.layer_ids()[layer];
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
        let (dq, dk, dv) = self.attention_backward(layer, &d_attended, &kept, nodes, around)?;
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

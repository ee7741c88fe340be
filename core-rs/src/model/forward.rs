//! The forward pass of a decoder, one for sampling and training: they differ only in where attention finds its keys.
//! N rows (tokens) · H hidden · D head width.
use super::Model;
use super::weights::LayerIds;
use crate::error::Result;
use crate::kernels::{Node, Rotation, attention, gather_rows, rms_norm, rotate, sum, swiglu};
use candle_core::Tensor;

/// What one layer's backward reads again.
pub struct LayerActivations {
    pub x: Tensor,
    pub normed: Tensor,
    pub inverse_rms: Tensor,
    /// Before the head norms, and 1 / rms of each head (Qwen3).
    pub raw_qk: Option<[(Tensor, Tensor); 2]>,
    pub q: Tensor,
    pub k: Tensor,
    pub v: Tensor,
    pub attended: Tensor,
    pub lse: Tensor,
    pub middle: Tensor,
    pub middle_normed: Tensor,
    pub middle_inverse_rms: Tensor,
    pub gate: Tensor,
    pub up: Tensor,
    pub activated: Tensor,
}

/// What backward reads again, as far as it was asked to be kept.
pub struct Activations {
    pub rotation: Rotation,
    pub inputs: Vec<Tensor>,
    pub layers: Vec<Option<LayerActivations>>,
    /// Output of the last layer `[N, H]`, before the final norm.
    pub last: Tensor,
}

/// Rows of a pass: tokens, their positions, and the segments they belong to.
#[derive(Clone, Copy)]
pub struct RowsOf<'a> {
    pub tokens_n: &'a [u32],
    pub positions_n: &'a [u32],
    pub nodes: &'a [Node],
}

/// Keys and values `[N, kv_heads · D]` of a trunk, layer by layer, which the parts below it see.
pub struct Trunk {
    pub layers: Vec<(Tensor, Tensor)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    Nothing,
    /// The layers' inputs, from which backward computes each layer again (gradient checkpointing).
    Inputs,
    Everything,
}

/// The trunks' keys (or values) of a layer, then these.
pub(super) fn behind(
    above: &[&Trunk],
    layer: usize,
    own: &Tensor,
    pick: impl Fn(&(Tensor, Tensor)) -> &Tensor,
) -> Result<Tensor> {
    if above.is_empty() {
        return Ok(own.clone());
    }
    let all: Vec<&Tensor> = above.iter().map(|trunk| pick(&trunk.layers[layer])).chain([own]).collect();
    Ok(Tensor::cat(&all, 0)?)
}

/// Attention over wherever the keys are: (q, k, v) of this pass's rows → output and log-sum-exp.
pub(super) type Attend<'a> = dyn FnMut(&Tensor, &Tensor, &Tensor) -> Result<(Tensor, Tensor)> + 'a;

impl Model {
    /// Token embeddings through all layers, behind the keys of the trunks above (root first). With `keys`, those of these
    /// rows come back too.
    pub fn forward(
        &self,
        rows: RowsOf,
        above: &[&Trunk],
        keep: Keep,
        keys: bool,
    ) -> Result<(Activations, Option<Trunk>)> {
        let rotation = Rotation::new(rows.positions_n, &self.config.rotary_frequencies)?;
        let mut x = self.embed(rows.tokens_n)?;
        let (mut inputs, mut layers, mut trunk) = (Vec::new(), Vec::new(), Vec::new());
        for layer in 0..self.ids.layers.len() {
            if keep != Keep::Nothing {
                inputs.push(x.clone());
            }
            let (y, kept) = self.training_layer(layer, x, &rotation, rows.nodes, above)?;
            if keys {
                trunk.push((kept.k.clone(), kept.v.clone()));
            }
            layers.push((keep == Keep::Everything).then_some(kept));
            x = y;
        }
        Ok((Activations { rotation, inputs, layers, last: x }, keys.then_some(Trunk { layers: trunk })))
    }

    pub(super) fn training_layer(
        &self,
        layer: usize,
        x: Tensor,
        rotation: &Rotation,
        nodes: &[Node],
        above: &[&Trunk],
    ) -> Result<(Tensor, LayerActivations)> {
        self.layer(&self.ids.layers[layer], x, rotation, &mut |q, k, v| {
            let (k, v) = (behind(above, layer, k, |(k, _)| k)?, behind(above, layer, v, |(_, v)| v)?);
            attention(self.kernels, q, &k, &v, nodes, self.config.heads)
        })
    }

    pub(super) fn embed(&self, tokens_n: &[u32]) -> Result<Tensor> {
        gather_rows(self.kernels, &self.parameters[self.ids.embed].weight.tensor, tokens_n)
    }

    pub(super) fn layer_ids(&self) -> &[LayerIds] {
        &self.ids.layers
    }

    /// One decoder layer: x + attention(norm(x)), then that + mlp(norm(that)).
    pub(super) fn layer(
        &self,
        ids: &LayerIds,
        x: Tensor,
        rotation: &Rotation,
        attend: &mut Attend,
    ) -> Result<(Tensor, LayerActivations)> {
        let (kernels, eps) = (self.kernels, self.config.rms_norm_eps);
        let tensor = |id: usize| &self.parameters[id].weight.tensor;
        let project = |x: &Tensor, id: usize, bias: Option<usize>| self.project(x, id, bias);

        let (normed, inverse_rms) = rms_norm(kernels, &x, tensor(ids.input_norm), eps)?;
        let bias = |i: usize| ids.qkv_bias.map(|biases| biases[i]);
        let (q, k, v) =
            (project(&normed, ids.q, bias(0))?, project(&normed, ids.k, bias(1))?, project(&normed, ids.v, bias(2))?);
        let (q, k, raw_qk) = match ids.qk_norm {
            None => (q, k, None),
            Some([q_norm, k_norm]) => {
                let (q_normed, q_inverse) = self.head_norm(&q, tensor(q_norm))?;
                let (k_normed, k_inverse) = self.head_norm(&k, tensor(k_norm))?;
                (q_normed, k_normed, Some([(q, q_inverse), (k, k_inverse)]))
            }
        };
        let (q, k) = (rotate(kernels, q, rotation, false)?, rotate(kernels, k, rotation, false)?);
        let (attended, lse) = attend(&q, &k, &v)?;
        let middle = sum(kernels, project(&attended, ids.o, None)?, &x)?;

        let (middle_normed, middle_inverse_rms) = rms_norm(kernels, &middle, tensor(ids.post_norm), eps)?;
        let (gate, up) = (project(&middle_normed, ids.gate, None)?, project(&middle_normed, ids.up, None)?);
        let activated = swiglu(kernels, &gate, &up)?;
        let y = sum(kernels, project(&activated, ids.down, None)?, &middle)?;
        let kept = LayerActivations {
            x,
            normed,
            inverse_rms,
            raw_qk,
            q,
            k,
            v,
            attended,
            lse,
            middle,
            middle_normed,
            middle_inverse_rms,
            gate,
            up,
            activated,
        };
        Ok((y, kept))
    }

    /// RMS norm of every head of `[N, heads · D]`.
    fn head_norm(&self, x: &Tensor, w: &Tensor) -> Result<(Tensor, Tensor)> {
        let (rows, width) = x.dims2()?;
        let dim = self.config.heads.dim;
        let (y, inverse) = rms_norm(self.kernels, &x.reshape((rows * width / dim, dim))?, w, self.config.rms_norm_eps)?;
        Ok((y.reshape((rows, width))?, inverse))
    }

    /// The final norm of some rows: what meets the vocabulary, and 1 / rms.
    pub fn final_norm(&self, rows: &Tensor) -> Result<(Tensor, Tensor)> {
        rms_norm(self.kernels, rows, &self.parameters[self.ids.norm].weight.tensor, self.config.rms_norm_eps)
    }

    pub fn head(&self) -> &crate::kernels::Weight {
        &self.parameters[self.ids.head].weight
    }
}

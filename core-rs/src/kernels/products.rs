//! Matrix products: the one door to `gemm` on the CPU and to candle's product elsewhere.
use super::Kernels;
use super::gemm::{Out, Packed, Right, Threads, View, gemm};
use super::slices::{Values, read, read_stored, uninitialised, write};
use crate::error::Result;
use candle_core::{D, DType, Tensor};
use parking_lot::Mutex;
use std::sync::Arc;

/// A weight `[out, in]` of any type with its packed form of the same type, which is made at first use and lives until the weight changes or somebody
/// forgets it. Clones share both, so only a weight that never changes may be cloned.
#[derive(Clone)]
pub struct Weight {
    pub tensor: Tensor,
    packed: Arc<Mutex<Option<Arc<Packed>>>>,
}

impl Weight {
    pub fn new(tensor: Tensor) -> Self {
        Self { tensor, packed: Arc::default() }
    }
    /// To be called after every change of the tensor's values.
    pub fn changed(&mut self) {
        self.packed = Arc::default();
    }
    /// Frees the packed form; the next use makes it again. Not where clones share it.
    pub fn forget_packed(&self) {
        if Arc::strong_count(&self.packed) == 1 {
            *self.packed.lock() = None;
        }
    }
    fn packed(&self) -> Result<Arc<Packed>> {
        let mut packed = self.packed.lock();
        if let Some(packed) = &*packed {
            return Ok(packed.clone());
        }
        let (rows, columns) = self.tensor.dims2()?;
        let values = read_stored(&self.tensor)?;
        let right = Operand::Transposed(&self.tensor).right(&values)?;
        let made = Arc::new(Packed::new(right, columns, rows, Threads::All));
        *packed = Some(made.clone());
        Ok(made)
    }
}

/// An operand of `product_into`, as it is or transposed.
#[derive(Clone, Copy)]
pub enum Operand<'a> {
    Plain(&'a Tensor),
    Transposed(&'a Tensor),
}

impl Operand<'_> {
    fn tensor(&self) -> &Tensor {
        match self {
            Operand::Plain(tensor) | Operand::Transposed(tensor) => tensor,
        }
    }
    fn dims(&self) -> Result<(usize, usize)> {
        let (rows, columns) = self.tensor().dims2()?;
        Ok(match self {
            Operand::Plain(_) => (rows, columns),
            Operand::Transposed(_) => (columns, rows),
        })
    }
    fn view<'b, T>(&self, values: &'b [T]) -> Result<View<'b, T>> {
        let view = View::rows(values, self.tensor().dim(D::Minus1)?);
        Ok(match self {
            Operand::Plain(_) => view,
            Operand::Transposed(_) => view.transposed(),
        })
    }
    fn right<'b>(&self, values: &'b Values) -> Result<Right<'b>> {
        Ok(match values {
            Values::F32(values) => Right::View(self.view(values)?),
            Values::F16(values) => Right::F16(self.view(values)?),
            Values::Bf16(values) => Right::Bf16(self.view(values)?),
        })
    }
    /// In f32: candle's product on the CPU knows no bf16.
    fn candle(&self) -> Result<Tensor> {
        let tensor = self.tensor().to_dtype(DType::F32)?;
        Ok(match self {
            Operand::Plain(_) => tensor,
            Operand::Transposed(_) => tensor.t()?.contiguous()?,
        })
    }
}

/// out ← A·B, or out ← out + A·B, all f32 but B, which may be a weight of any type. In place where the kernel allows; never
/// makes a zeroed output first.
pub fn product_into(kernels: Kernels, out: &mut Tensor, a: Operand, b: Operand, accumulate: bool) -> Result<()> {
    if kernels == Kernels::Plain {
        let product = a.candle()?.matmul(&b.candle()?)?;
        *out = if accumulate { (&*out + product)? } else { product };
        return Ok(());
    }
    let ((m, k), (_, n)) = (a.dims()?, b.dims()?);
    let (left, right) = (read(a.tensor())?, read_stored(b.tensor())?);
    let (left, right) = (a.view(&left)?, b.right(&right)?);
    write(out, |data| gemm(m, n, k, left, right, Out { data, row: n, accumulate }, Threads::All))
}

/// y = x·Wᵀ + b for x `[N, in]`, W `[out, in]`.
pub fn linear(kernels: Kernels, x: &Tensor, weight: &Weight, bias: Option<&Tensor>) -> Result<Tensor> {
    let (rows, inner) = x.dims2()?;
    let outer = weight.tensor.dim(0)?;
    if kernels == Kernels::Plain {
        let y = x.matmul(&Operand::Transposed(&weight.tensor).candle()?)?;
        return Ok(match bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        });
    }
    let y = uninitialised((rows, outer))?;
    let (left, packed) = (read(x)?, weight.packed()?);
    let bias = bias.map(read).transpose()?;
    write(&y, |data| {
        if let Some(bias) = &bias {
            data.chunks_exact_mut(outer).for_each(|row| row.copy_from_slice(bias));
        }
        let out = Out { data, row: outer, accumulate: bias.is_some() };
        gemm(rows, outer, inner, View::rows(&left, inner), Right::Packed(&packed), out, Threads::All);
    })?;
    Ok(y)
}

/// dW += dyᵀ·x, in f32 whatever the weight's type, as the sum goes into an f32 gradient; the gradient of x is `product_into(dx, dy, W)`.
pub fn linear_weight_gradient(kernels: Kernels, dy: &Tensor, x: &Tensor, d_weight: &mut Tensor) -> Result<()> {
    product_into(kernels, d_weight, Operand::Transposed(dy), Operand::Plain(x), true)
}

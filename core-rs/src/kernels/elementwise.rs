//! RMS norm, rotary embedding, SwiGLU and sums, forward and backward. N rows · H width · D head width.
use super::Kernels;
use super::micro::Stored;
use super::simd::{self, simd};
use super::slices::{Values, read, read_stored, uninitialised, write};
use crate::error::Result;
use candle_core::{D, DType, Device, Tensor};
use rayon::prelude::*;

/// Rows that one thread takes at a time; partial sums are joined in this unit, so results do not depend on the threads.
const ROWS: usize = 64;

/// y = w · x / sqrt(mean(x²) + eps). Returns y and 1 / sqrt(…) `[N]`.
pub fn rms_norm(kernels: Kernels, x: &Tensor, w: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    let (rows, width) = x.dims2()?;
    if kernels == Kernels::Plain {
        let inverse = ((x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?).recip()?;
        return Ok((x.broadcast_mul(&inverse)?.broadcast_mul(w)?, inverse.squeeze(1)?));
    }
    let (y, inverse) = (uninitialised((rows, width))?, uninitialised(rows)?);
    let (x, w) = (read(x)?, read(w)?);
    write(&y, |y| {
        write(&inverse, |inverse| {
            y.par_chunks_mut(ROWS * width).zip(inverse.par_chunks_mut(ROWS)).zip(x.par_chunks(ROWS * width)).for_each(
                |((y, inverse), x)| {
                    for ((y, inverse), x) in y.chunks_exact_mut(width).zip(inverse).zip(x.chunks_exact(width)) {
                        *inverse = 1.0 / (simd::dot(x, x) / width as f32 + eps as f32).sqrt();
                        scaled_product(y, x, &w, *inverse);
                    }
                },
            )
        })
    })??;
    Ok((y, inverse))
}

simd! {
    /// y = factor · x · w
    pub fn scaled_product(y: &mut [f32], x: &[f32], w: &[f32], factor: f32) {
        for ((y, x), w) in y.iter_mut().zip(x).zip(w) { *y = (x * factor) * w; }
    }
}

/// dx = (w·dy − x̂ · mean(w·dy·x̂)) / rms with x̂ = x / rms; dw += Σ dy·x̂.
pub fn rms_norm_backward(
    kernels: Kernels,
    dy: &Tensor,
    x: &Tensor,
    w: &Tensor,
    inverse: &Tensor,
    dw: Option<&mut Tensor>,
) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    if kernels == Kernels::Plain {
        let normed = x.broadcast_mul(&inverse.unsqueeze(1)?)?;
        if let Some(dw) = dw {
            *dw = (&*dw + (dy * &normed)?.sum(0)?)?;
        }
        let g = dy.broadcast_mul(w)?;
        let mean = (&g * &normed)?.mean_keepdim(D::Minus1)?;
        return Ok((g - normed.broadcast_mul(&mean)?)?.broadcast_mul(&inverse.unsqueeze(1)?)?);
    }
    let dx = uninitialised((rows, width))?;
    let (dy, x, w, inverse) = (read(dy)?, read(x)?, read(w)?, read(inverse)?);
    let partial: Vec<Vec<f32>> = write(&dx, |dx| {
        (
            dx.par_chunks_mut(ROWS * width),
            dy.par_chunks(ROWS * width),
            x.par_chunks(ROWS * width),
            inverse.par_chunks(ROWS),
        )
            .into_par_iter()
            .map(|(dx, dy, x, inverse)| {
                let mut dw = vec![0f32; width];
                for (((dx, dy), x), inverse) in
                    dx.chunks_exact_mut(width).zip(dy.chunks_exact(width)).zip(x.chunks_exact(width)).zip(inverse)
                {
                    rms_row_backward(dx, &mut dw, dy, x, &w, *inverse);
                }
                dw
            })
            .collect()
    })?;
    if let Some(dw) = dw {
        write(dw, |dw| partial.iter().for_each(|part| add(dw, part)))?;
    }
    Ok(dx)
}

simd! {
    pub fn rms_row_backward(dx: &mut [f32], dw: &mut [f32], dy: &[f32], x: &[f32], w: &[f32], inverse: f32) {
        for (((dx, dw), dy), (x, w)) in dx.iter_mut().zip(dw).zip(dy).zip(x.iter().zip(w)) {
            *dx = dy * w;
            *dw += dy * (x * inverse);
        }
        let mean = simd::dot(dx, x) * inverse / x.len() as f32;
        for (dx, x) in dx.iter_mut().zip(x) { *dx = (*dx - (x * inverse) * mean) * inverse; }
    }
}

simd! {
    pub fn add(x: &mut [f32], y: &[f32]) {
        for (x, y) in x.iter_mut().zip(y) { *x += y; }
    }
}

/// out += Σ over rows of x.
pub fn column_sums(kernels: Kernels, out: &mut Tensor, x: &Tensor) -> Result<()> {
    if kernels == Kernels::Plain {
        *out = (&*out + x.sum(0)?)?;
        return Ok(());
    }
    let width = x.dim(1)?;
    let x = read(x)?;
    let partial: Vec<Vec<f32>> = x
        .par_chunks(ROWS * width)
        .map(|rows| {
            let mut sums = vec![0f32; width];
            rows.chunks_exact(width).for_each(|row| add(&mut sums, row));
            sums
        })
        .collect();
    write(out, |out| partial.iter().for_each(|part| add(out, part)))
}

/// x + y, reusing x.
pub fn sum(kernels: Kernels, x: Tensor, y: &Tensor) -> Result<Tensor> {
    if kernels == Kernels::Plain {
        return Ok((x + y)?);
    }
    let y = read(y)?;
    write(&x, |x| x.par_chunks_mut(1 << 14).zip(y.par_chunks(1 << 14)).for_each(|(x, y)| add(x, y)))?;
    Ok(x)
}

/// cos and sin of each row's position, `[N, D / 2]` each.
pub struct Rotation {
    pub cos: Tensor,
    pub sin: Tensor,
}

impl Rotation {
    /// Angles are formed in f32 (position · frequency), as transformers does: at long positions the rounding shows.
    pub fn new(positions_n: &[u32], frequencies: &[f32]) -> Result<Self> {
        let half = frequencies.len();
        let mut cos = vec![0f32; positions_n.len() * half];
        let mut sin = cos.clone();
        (cos.par_chunks_mut(half), sin.par_chunks_mut(half), positions_n).into_par_iter().for_each(
            |(cos, sin, position)| {
                for ((cos, sin), frequency) in cos.iter_mut().zip(sin).zip(frequencies) {
                    let angle = (*position as f32 * frequency) as f64;
                    (*cos, *sin) = (angle.cos() as f32, angle.sin() as f32);
                }
            },
        );
        let shape = (positions_n.len(), half);
        Ok(Self { cos: Tensor::from_vec(cos, shape, &Device::Cpu)?, sin: Tensor::from_vec(sin, shape, &Device::Cpu)? })
    }
}

/// Rotates pairs (i, i + D/2) of every head by the row's angle; the inverse rotation is its backward. x `[N, heads · D]`.
pub fn rotate(kernels: Kernels, x: Tensor, rotation: &Rotation, inverse: bool) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let half = rotation.cos.dim(1)?;
    if kernels == Kernels::Plain {
        let pairs = x.reshape((rows, width / (2 * half), 2 * half))?;
        let (low, high) = (pairs.narrow(2, 0, half)?, pairs.narrow(2, half, half)?);
        let (cos, sin) = (rotation.cos.unsqueeze(1)?, rotation.sin.unsqueeze(1)?);
        let sin = if inverse { sin.neg()? } else { sin };
        let turned_low = (low.broadcast_mul(&cos)? - high.broadcast_mul(&sin)?)?;
        let turned_high = (high.broadcast_mul(&cos)? + low.broadcast_mul(&sin)?)?;
        return Ok(Tensor::cat(&[turned_low, turned_high], 2)?.reshape((rows, width))?);
    }
    let (cos, sin) = (read(&rotation.cos)?, read(&rotation.sin)?);
    write(&x, |x| {
        (x.par_chunks_mut(ROWS * width), cos.par_chunks(ROWS * half), sin.par_chunks(ROWS * half))
            .into_par_iter()
            .for_each(|(x, cos, sin)| {
                for ((row, cos), sin) in
                    x.chunks_exact_mut(width).zip(cos.chunks_exact(half)).zip(sin.chunks_exact(half))
                {
                    row.chunks_exact_mut(2 * half)
                        .for_each(|head| rotate_head(head, cos, sin, if inverse { -1.0 } else { 1.0 }));
                }
            });
    })?;
    Ok(x)
}

simd! {
    pub fn rotate_head(head: &mut [f32], cos: &[f32], sin: &[f32], direction: f32) {
        let (low, high) = head.split_at_mut(cos.len());
        for ((low, high), (cos, sin)) in low.iter_mut().zip(high).zip(cos.iter().zip(sin)) {
            let (a, b, sin) = (*low, *high, sin * direction);
            *low = a * cos - b * sin;
            *high = b * cos + a * sin;
        }
    }
}

/// silu(gate) · up, where silu(g) = g / (1 + e^−g).
pub fn swiglu(kernels: Kernels, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if kernels == Kernels::Plain {
        return Ok((gate.silu()? * up)?);
    }
    let out = uninitialised(gate.shape())?;
    let (gate, up) = (read(gate)?, read(up)?);
    write(&out, |out| {
        (out.par_chunks_mut(1 << 13), gate.par_chunks(1 << 13), up.par_chunks(1 << 13))
            .into_par_iter()
            .for_each(|(out, gate, up)| swiglu_row(out, gate, up));
    })?;
    Ok(out)
}

simd! {
    pub fn swiglu_row(out: &mut [f32], gate: &[f32], up: &[f32]) {
        for ((out, g), u) in out.iter_mut().zip(gate).zip(up) { *out = g / (1.0 + simd::exp(-g)) * u; }
    }
}

/// (dgate, dup) from dout.
pub fn swiglu_backward(kernels: Kernels, dout: &Tensor, gate: &Tensor, up: &Tensor) -> Result<(Tensor, Tensor)> {
    if kernels == Kernels::Plain {
        let sigmoid = (gate.neg()?.exp()? + 1.0)?.recip()?;
        let slope = (&sigmoid * ((gate * (1.0 - &sigmoid)?)? + 1.0)?)?;
        return Ok((((dout * up)? * slope)?, (dout * (gate * sigmoid)?)?));
    }
    let (dgate, dup) = (uninitialised(gate.shape())?, uninitialised(gate.shape())?);
    let (dout, gate, up) = (read(dout)?, read(gate)?, read(up)?);
    write(&dgate, |dgate| {
        write(&dup, |dup| {
            (
                dgate.par_chunks_mut(1 << 13),
                dup.par_chunks_mut(1 << 13),
                dout.par_chunks(1 << 13),
                gate.par_chunks(1 << 13),
                up.par_chunks(1 << 13),
            )
                .into_par_iter()
                .for_each(|(dgate, dup, dout, gate, up)| swiglu_row_backward(dgate, dup, dout, gate, up));
        })
    })??;
    Ok((dgate, dup))
}

simd! {
    pub fn swiglu_row_backward(dgate: &mut [f32], dup: &mut [f32], dout: &[f32], gate: &[f32], up: &[f32]) {
        for (((dgate, dup), d), (g, u)) in dgate.iter_mut().zip(dup).zip(dout).zip(gate.iter().zip(up)) {
            let sigmoid = 1.0 / (1.0 + simd::exp(-g));
            *dgate = d * u * (sigmoid * (1.0 + g * (1.0 - sigmoid)));
            *dup = d * (g * sigmoid);
        }
    }
}

/// Rows `ids` of a table `[V, H]`, in f32.
pub fn gather_rows(kernels: Kernels, table: &Tensor, ids_n: &[u32]) -> Result<Tensor> {
    let width = table.dim(1)?;
    if kernels == Kernels::Plain {
        let ids = Tensor::from_slice(ids_n, ids_n.len(), table.device())?;
        return Ok(table.index_select(&ids, 0)?.to_dtype(DType::F32)?);
    }
    let out = uninitialised((ids_n.len(), width))?;
    let table = read_stored(table)?;
    write(&out, |out| match &table {
        Values::F32(table) => gather(out, table, width, ids_n),
        Values::F16(table) => gather(out, table, width, ids_n),
        Values::Bf16(table) => gather(out, table, width, ids_n),
    })?;
    Ok(out)
}

fn gather<T: Stored>(out: &mut [f32], table: &[T], width: usize, ids_n: &[u32]) {
    for (row, id) in out.chunks_exact_mut(width).zip(ids_n) {
        T::widen_into(&table[*id as usize * width..][..width], row);
    }
}

/// table[ids[n]] += rows[n].
pub fn scatter_add_rows(kernels: Kernels, table: &mut Tensor, ids_n: &[u32], rows: &Tensor) -> Result<()> {
    let width = rows.dim(1)?;
    if kernels == Kernels::Plain {
        let ids = Tensor::from_slice(ids_n, ids_n.len(), table.device())?;
        *table = table.index_add(&ids, rows, 0)?;
        return Ok(());
    }
    let rows = read(rows)?;
    write(table, |table| {
        for (row, id) in rows.chunks_exact(width).zip(ids_n) {
            add(&mut table[*id as usize * width..][..width], row);
        }
    })
}

/// Zeros of a shape, in f32 whatever the tensor's type, for accumulated gradients.
pub fn zeros_like(tensor: &Tensor) -> Result<Tensor> {
    Ok(Tensor::zeros(tensor.shape(), DType::F32, tensor.device())?)
}

//! The f32 memory behind a CPU tensor, for fused bodies. Tensors own all storage; nothing here outlives a call.
use crate::error::Result;
use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Shape, Storage, Tensor};
use parking_lot::RwLockReadGuard;
use std::cell::Cell;
use std::ops::{Deref, Range};

/// Read access to a contiguous f32 tensor on the CPU.
pub struct Slice<'a> {
    storage: RwLockReadGuard<'a, Storage>,
    range: Range<usize>,
}

impl Deref for Slice<'_> {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            _ => unreachable!("checked in `read`"),
        }
    }
}

pub fn read(tensor: &Tensor) -> Result<Slice<'_>> {
    let (storage, layout) = tensor.storage_and_layout();
    let range = dense(layout)?;
    if !matches!(&*storage, Storage::Cpu(CpuStorage::F32(_))) {
        let given = format!("a fused kernel was given {:?} on {:?}", tensor.dtype(), tensor.device());
        return Err(candle_core::Error::Msg(given).into());
    }
    Ok(Slice { storage, range })
}

/// Gives `body` the memory of a contiguous f32 CPU tensor. The tensor must not be among those being read.
pub fn write<R>(tensor: &Tensor, body: impl FnOnce(&mut [f32]) -> R) -> Result<R> {
    let op = Body { body: Cell::new(Some(body)), result: Cell::new(None) };
    tensor.inplace_op1(&op)?;
    Ok(op.result.into_inner().expect("an in-place operation runs its body"))
}

struct Body<F, R> {
    body: Cell<Option<F>>,
    result: Cell<Option<R>>,
}

impl<R, F: FnOnce(&mut [f32]) -> R> InplaceOp1 for Body<F, R> {
    fn name(&self) -> &'static str {
        "write"
    }
    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let range = dense(layout)?;
        let CpuStorage::F32(values) = storage else { candle_core::bail!("a fused kernel writes f32 only") };
        let body = self.body.take().expect("an in-place operation runs once");
        self.result.set(Some(body(&mut values[range])));
        Ok(())
    }
}

fn dense(layout: &Layout) -> candle_core::Result<Range<usize>> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(start..end),
        None => candle_core::bail!("a fused kernel was given a tensor with gaps"),
    }
}

/// A tensor whose every element the caller is about to write.
pub fn uninitialised(shape: impl Into<Shape>) -> Result<Tensor> {
    // SAFETY: f32 has no invalid bits, and all callers overwrite it before it is read.
    Ok(unsafe { Tensor::empty(shape, DType::F32, &Device::Cpu)? })
}

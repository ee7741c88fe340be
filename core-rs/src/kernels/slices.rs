//! The memory behind a CPU tensor, for fused bodies. Tensors own all storage; nothing here outlives a call.
use crate::error::Result;
use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Shape, Storage, Tensor, WithDType};
use half::{bf16, f16};
use parking_lot::RwLockReadGuard;
use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::{Deref, Range};

/// Read access to a contiguous tensor on the CPU.
pub struct Slice<'a, T = f32> {
    storage: RwLockReadGuard<'a, Storage>,
    range: Range<usize>,
    element: PhantomData<T>,
}

impl<T: WithDType> Deref for Slice<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        let Storage::Cpu(storage) = &*self.storage else { unreachable!("checked in `read_as`") };
        &T::cpu_storage_as_slice(storage).expect("checked in `read_as`")[self.range.clone()]
    }
}

pub fn read(tensor: &Tensor) -> Result<Slice<'_>> {
    read_as(tensor)
}

fn read_as<T: WithDType>(tensor: &Tensor) -> Result<Slice<'_, T>> {
    let (storage, layout) = tensor.storage_and_layout();
    let range = dense(layout)?;
    if !matches!(&*storage, Storage::Cpu(storage) if T::cpu_storage_as_slice(storage).is_ok()) {
        let given = format!("a fused kernel was given {:?} on {:?}", tensor.dtype(), tensor.device());
        return Err(candle_core::Error::Msg(given).into());
    }
    Ok(Slice { storage, range, element: PhantomData })
}

/// Elements of any type that weights are kept in.
pub enum Values<'a> {
    F32(Slice<'a>),
    F16(Slice<'a, f16>),
    Bf16(Slice<'a, bf16>),
}

pub fn read_stored(tensor: &Tensor) -> Result<Values<'_>> {
    Ok(match tensor.dtype() {
        DType::F16 => Values::F16(read_as(tensor)?),
        DType::BF16 => Values::Bf16(read_as(tensor)?),
        _ => Values::F32(read(tensor)?),
    })
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

//! What stands between a foreign caller and safe Rust: panics, null, alignment, lengths, codes.
use crate::engine::{Failure, panic_text};
use crate::error::Error;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    BadArgument = -1,
    BadHandle = -2,
    BufferTooSmall = -3,
    OutOfMemory = -4,
    NonFinite = -5,
    CommLost = -6,
    EngineLost = -7,
    Panic = -8,
    Cancelled = -9,
    Io = -10,
}

impl Code {
    pub const ALL: [(Code, &'static str); 10] = [
        (Code::BadArgument, "BadArgument"),
        (Code::BadHandle, "BadHandle"),
        (Code::BufferTooSmall, "BufferTooSmall"),
        (Code::OutOfMemory, "OutOfMemory"),
        (Code::NonFinite, "NonFinite"),
        (Code::CommLost, "CommLost"),
        (Code::EngineLost, "EngineLost"),
        (Code::Panic, "Panic"),
        (Code::Cancelled, "Cancelled"),
        (Code::Io, "Io"),
    ];
}

/// A code to branch on and a text for people.
#[derive(Debug)]
pub struct Fault {
    pub code: Code,
    pub message: String,
}

impl Fault {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub fn bad_argument(message: impl Into<String>) -> Self {
        Self::new(Code::BadArgument, message)
    }

    pub fn bad_handle(what: &'static str, id: u64) -> Self {
        Error::BadHandle { what, id }.into()
    }
}

pub fn code_of(failure: &Failure) -> Code {
    match failure {
        Failure::Core(error) => code_of_error(error),
        Failure::DuplicateId(_) => Code::BadArgument,
        Failure::Lost(_) => Code::EngineLost,
        Failure::Panic(_) => Code::Panic,
    }
}

fn code_of_error(error: &Error) -> Code {
    match error {
        Error::BadArgument(_) | Error::Unsupported { .. } | Error::Candle(_) => Code::BadArgument,
        Error::BadHandle { .. } => Code::BadHandle,
        Error::File { .. } => Code::Io,
        Error::NonFinite { .. } => Code::NonFinite,
        Error::Cancelled => Code::Cancelled,
    }
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        Self::new(code_of(&failure), failure.to_string())
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::new(code_of_error(&error), error.to_string())
    }
}

thread_local! {
    static LAST_ERROR: RefCell<String> = const { RefCell::new(String::new()) };
}

pub fn last_error() -> Vec<u8> {
    LAST_ERROR.with_borrow(|message| message.clone().into_bytes())
}

/// Runs an entry; 0, or a negative code with its message left for `grpo_last_error`.
pub fn boundary(entry: impl FnOnce() -> Result<(), Fault>) -> i32 {
    let outcome = catch_unwind(AssertUnwindSafe(entry))
        .unwrap_or_else(|panic| Err(Fault::new(Code::Panic, format!("panic: {}", panic_text(&*panic)))));
    match outcome {
        Ok(()) => 0,
        Err(Fault { code, message }) => {
            LAST_ERROR.set(message);
            code as i32
        }
    }
}

/// Copies bytes to the caller and returns how many there are, also when they did not fit (then nothing is written).
pub fn bytes_out(out: *mut u8, capacity: u64, bytes: impl FnOnce() -> Vec<u8>) -> i64 {
    let mut length = 0;
    let status = boundary(|| {
        let bytes = bytes();
        length = bytes.len() as i64;
        if bytes.len() as u64 <= capacity {
            slice_mut(out, bytes.len() as u64, "out")?.copy_from_slice(&bytes);
        }
        Ok(())
    });
    if status == 0 { length } else { status.into() }
}

/// A `#[repr(C)]` struct of plain numbers and pointers whose first field is its size.
///
/// # Safety
/// Every bit pattern must be a value of the type.
pub unsafe trait Sized32 {
    const NAME: &'static str;
}

/// The caller's struct, after its own size field agrees with ours.
pub fn structure<'a, T: Sized32>(pointer: *mut T, name: &'static str) -> Result<&'a mut T, Fault> {
    check(pointer, name)?;
    // SAFETY: not null and aligned; the first field of every `Sized32` is a u32, readable before the rest is.
    let size = unsafe { *pointer.cast::<u32>() };
    if size as usize != size_of::<T>() {
        let ours = size_of::<T>();
        return Err(Fault::bad_argument(format!("{name}: {} has {ours} bytes here and {size} at the caller", T::NAME)));
    }
    // SAFETY: not null, aligned, of the agreed size, valid for any bits; the caller lends it for this call alone.
    Ok(unsafe { &mut *pointer })
}

/// `length` values at `pointer`; null is fine for none.
pub fn slice<'a, T>(pointer: *const T, length: u64, name: &'static str) -> Result<&'a [T], Fault> {
    if length == 0 {
        return Ok(&[]);
    }
    check(pointer, name)?;
    // SAFETY: not null and aligned; the caller lends `length` values of plain numbers for this call.
    Ok(unsafe { std::slice::from_raw_parts(pointer, bounded::<T>(length, name)?) })
}

pub fn slice_mut<'a>(pointer: *mut u8, length: u64, name: &'static str) -> Result<&'a mut [u8], Fault> {
    if length == 0 {
        return Ok(&mut []);
    }
    check(pointer, name)?;
    // SAFETY: as in `slice`; the caller does not touch the bytes during the call, which ends before it can.
    Ok(unsafe { std::slice::from_raw_parts_mut(pointer, bounded::<u8>(length, name)?) })
}

pub fn text<'a>(pointer: *const u8, length: u64, name: &'static str) -> Result<&'a str, Fault> {
    std::str::from_utf8(slice(pointer, length, name)?).map_err(|error| Fault::bad_argument(format!("{name}: {error}")))
}

fn check<T>(pointer: *const T, name: &'static str) -> Result<(), Fault> {
    if pointer.is_null() {
        return Err(Fault::bad_argument(format!("{name} is null")));
    }
    if !pointer.is_aligned() {
        return Err(Fault::bad_argument(format!("{name} is not aligned to {} bytes", align_of::<T>())));
    }
    Ok(())
}

fn bounded<T>(length: u64, name: &'static str) -> Result<usize, Fault> {
    match usize::try_from(length).ok().filter(|length| *length <= isize::MAX as usize / size_of::<T>()) {
        Some(length) => Ok(length),
        None => Err(Fault::bad_argument(format!("{name}: {length} values cannot be"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> String {
        String::from_utf8(last_error()).unwrap()
    }

    #[test]
    fn a_panic_is_a_code() {
        assert_eq!(boundary(|| panic!("at {}", 7)), Code::Panic as i32);
        assert_eq!(message(), "panic: at 7");
    }

    #[test]
    fn pointers_are_checked() {
        let words = [1u32, 2, 3];
        let odd = words.as_ptr().cast::<u8>().wrapping_add(1).cast::<u32>();
        for (pointer, length, expected) in [
            (std::ptr::null(), 1, "x is null"),
            (odd, 1, "x is not aligned to 4 bytes"),
            (words.as_ptr(), u64::MAX, "x: 18446744073709551615 values cannot be"),
        ] {
            assert_eq!(slice(pointer, length, "x").unwrap_err().message, expected);
        }
        assert_eq!(slice(words.as_ptr(), 3, "x").unwrap(), words);
        assert!(slice::<u32>(std::ptr::null(), 0, "x").unwrap().is_empty());
        assert!(text([0xffu8].as_ptr(), 1, "x").unwrap_err().message.contains("invalid utf-8"));
    }
}

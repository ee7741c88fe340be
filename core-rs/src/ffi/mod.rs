//! The C ABI, mirrored by hand in src/core/abi.ts. Control is JSON, bulk is typed arrays, the caller owns every buffer
//! and nothing is kept after a call returns. Long work is submitted under the caller's id and its answer drained later;
//! no call here takes longer than copying its arguments.
mod boundary;
mod doorbell;
mod layout;

use crate::engine::slots::Slots;
use crate::engine::{Arrays, Engine, Kind, Request};
use boundary::{Code, Fault, boundary, bytes_out, last_error, slice, structure, text};
use doorbell::Doorbell;
use layout::{CompletionHeader, Drained, Opened, Submission, write_record};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub const ABI_VERSION: u32 = 3;

static ENGINES: Mutex<Slots<Arc<Engine>>> = Mutex::new(Slots::new());

#[unsafe(no_mangle)]
pub extern "C" fn grpo_abi_version() -> u32 {
    ABI_VERSION
}

/// JSON of struct sizes, field offsets, codes and kinds. Returns its length, or a negative code.
#[unsafe(no_mangle)]
pub extern "C" fn grpo_layout(out: *mut u8, capacity: u64) -> i64 {
    bytes_out(out, capacity, || layout::described().into_bytes())
}

/// The message of the last call of this thread that failed. Returns its length, or a negative code.
#[unsafe(no_mangle)]
pub extern "C" fn grpo_last_error(out: *mut u8, capacity: u64) -> i64 {
    bytes_out(out, capacity, last_error)
}

/// Starts an engine without a model. The caller owns `opened.doorbell_fd`: a byte arrives there when there is something
/// to drain.
#[unsafe(no_mangle)]
pub extern "C" fn grpo_open(options: *const u8, options_len: u64, opened: *mut Opened) -> i32 {
    boundary(|| {
        let opened = structure(opened, "opened")?;
        let options = serde_json::from_str(text(options, options_len, "options")?)
            .map_err(|error| Fault::bad_argument(format!("options: {error}")))?;
        let (bell, doorbell_fd) = Doorbell::new()?;
        let engine = Engine::open(options, Box::new(move || bell.ring()))?;
        let too_many = || Fault::bad_argument("open: too many engines");
        opened.engine = engines().insert(Arc::new(engine)).ok_or_else(too_many)?;
        opened.doorbell_fd = doorbell_fd.into_raw();
        Ok(())
    })
}

/// The threads end after the piece of work in hand; what was outstanding is never answered.
#[unsafe(no_mangle)]
pub extern "C" fn grpo_close(engine: u64) -> i32 {
    boundary(|| engines().remove(engine).map(drop).ok_or_else(|| Fault::bad_handle("engine", engine)))
}

/// Queues a request; its answer carries `submission.id`.
#[unsafe(no_mangle)]
pub extern "C" fn grpo_submit(engine: u64, submission: *mut Submission) -> i32 {
    boundary(|| {
        let engine = live(engine)?;
        Ok(engine.submit(request(structure(submission, "submission")?)?)?)
    })
}

/// Ends a sequence; a sample of it is answered with `Cancelled`. A sequence that is gone is no error.
#[unsafe(no_mangle)]
pub extern "C" fn grpo_release(engine: u64, sequence: u64) -> i32 {
    boundary(|| {
        live(engine)?.release(sequence);
        Ok(())
    })
}

/// Answers a sample that waits or runs with `Cancelled` and ends its sequence. Other requests go on.
#[unsafe(no_mangle)]
pub extern "C" fn grpo_cancel(engine: u64, id: u64) -> i32 {
    boundary(|| {
        live(engine)?.cancel(id);
        Ok(())
    })
}

/// Writes finished requests to `out` as records (header, text, tokens, values; each part starts at a multiple of 8)
/// until there are no more or the next one does not fit: then `drained.bytes_needed` says how much it takes.
#[unsafe(no_mangle)]
pub extern "C" fn grpo_drain(engine: u64, drained: *mut Drained, out: *mut u8, capacity: u64) -> i32 {
    boundary(|| {
        let engine = live(engine)?;
        let drained = structure(drained, "drained")?;
        let out = boundary::slice_mut(out, capacity, "out")?;
        (drained.count, drained.bytes, drained.bytes_needed) = (0, 0, 0);
        engine.drain(|completion| match write_record(&mut out[drained.bytes as usize..], completion) {
            Ok(bytes) => {
                drained.count += 1;
                drained.bytes += bytes;
                true
            }
            Err(needed) => {
                drained.bytes_needed = needed;
                false
            }
        });
        match drained.count == 0 && drained.bytes_needed > 0 {
            true => Err(Fault::new(Code::BufferTooSmall, format!("drain: needs {} bytes", drained.bytes_needed))),
            false => Ok(()),
        }
    })
}

fn engines() -> MutexGuard<'static, Slots<Arc<Engine>>> {
    ENGINES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn live(engine: u64) -> Result<Arc<Engine>, Fault> {
    engines().get(engine).cloned().ok_or_else(|| Fault::bad_handle("engine", engine))
}

/// Copies the submission, since the caller may reuse its buffers at once.
fn request(submission: &Submission) -> Result<Request, Fault> {
    let unknown = || Fault::bad_argument(format!("submit: {} is no kind of request", submission.kind));
    let values = |pointer, name| if_given(pointer, submission.values_len, name);
    Ok(Request {
        id: submission.id,
        kind: Kind::from_number(submission.kind).ok_or_else(unknown)?,
        control: text(submission.control, submission.control_len, "control")?.to_string(),
        arrays: Arrays {
            tokens_n: slice(submission.tokens, submission.tokens_len, "tokens")?.to_vec(),
            offsets: slice(submission.offsets, submission.offsets_len, "offsets")?.to_vec(),
            weights_n: values(submission.weights, "weights")?,
            advantages_n: values(submission.advantages, "advantages")?,
            old_logprobs_n: values(submission.old_logprobs, "old_logprobs")?,
            target_ids: slice(submission.target_ids, submission.targets_len, "target_ids")?.to_vec(),
            target_logprobs: slice(submission.target_logprobs, submission.targets_len, "target_logprobs")?.to_vec(),
        },
    })
}

fn if_given(pointer: *const f32, length: u64, name: &'static str) -> Result<Vec<f32>, Fault> {
    Ok(slice(pointer, length, name)?.to_vec())
}

const _: () = assert!(size_of::<CompletionHeader>().is_multiple_of(8), "the text after a header must be aligned");

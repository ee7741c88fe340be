//! Structs that cross the boundary, records of finished requests, and a description of both for the drift test.
use super::ABI_VERSION;
use super::boundary::{Code, Sized32, code_of};
use crate::engine::{Completion, Kind, Reply};
use serde_json::{Map, Value as Json, json};
use std::mem::offset_of;

/// Parts of a record start at multiples of this.
const ALIGNMENT: usize = 8;

#[repr(C)]
pub struct Opened {
    pub size: u32,
    pub doorbell_fd: i32,
    pub engine: u64,
}

/// Lengths count values, not bytes. Arrays that a kind does not need are null with length 0.
#[repr(C)]
pub struct Submission {
    pub size: u32,
    pub kind: u32,
    pub id: u64,
    pub control: *const u8,
    pub control_len: u64,
    pub tokens: *const u32,
    pub tokens_len: u64,
    pub offsets: *const u32,
    pub offsets_len: u64,
    pub weights: *const f32,
    pub advantages: *const f32,
    pub old_logprobs: *const f32,
    /// Length of each of the three before.
    pub values_len: u64,
    pub target_ids: *const u32,
    pub target_logprobs: *const f32,
    /// Length of each of the two before.
    pub targets_len: u64,
}

#[repr(C)]
pub struct Drained {
    pub size: u32,
    pub count: u32,
    pub bytes: u64,
    /// Of the next record, when it did not fit.
    pub bytes_needed: u64,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct CompletionHeader {
    pub size: u32,
    /// 0, or a code; then the text is the message.
    pub status: i32,
    pub id: u64,
    /// Bytes of UTF-8.
    pub text_len: u32,
    pub tokens_len: u32,
    pub values_len: u32,
    /// Of the whole record, padding included.
    pub record_bytes: u32,
}

// SAFETY: plain numbers and raw pointers; every bit pattern is a value.
unsafe impl Sized32 for Opened {
    const NAME: &'static str = "Opened";
}
// SAFETY: as above.
unsafe impl Sized32 for Submission {
    const NAME: &'static str = "Submission";
}
// SAFETY: as above.
unsafe impl Sized32 for Drained {
    const NAME: &'static str = "Drained";
}

/// Writes one record and returns its bytes; `Err` with the bytes needed when it does not fit.
pub fn write_record(out: &mut [u8], completion: &Completion) -> Result<u64, u64> {
    let failed;
    let (status, reply) = match &completion.outcome {
        Ok(reply) => (0, reply),
        Err(failure) => {
            failed = Reply { text: failure.to_string(), ..Reply::default() };
            (code_of(failure) as i32, &failed)
        }
    };
    let parts: [&[u8]; 3] =
        [reply.text.as_bytes(), bytemuck::cast_slice(&reply.tokens), bytemuck::cast_slice(&reply.values)];
    let header_bytes = size_of::<CompletionHeader>();
    let record_bytes = header_bytes + parts.iter().map(|part| part.len().next_multiple_of(ALIGNMENT)).sum::<usize>();
    if record_bytes > out.len() {
        return Err(record_bytes as u64);
    }
    let header = CompletionHeader {
        size: header_bytes as u32,
        status,
        id: completion.id,
        text_len: reply.text.len() as u32,
        tokens_len: reply.tokens.len() as u32,
        values_len: reply.values.len() as u32,
        record_bytes: record_bytes as u32,
    };
    out[..header_bytes].copy_from_slice(bytemuck::bytes_of(&header));
    let mut at = header_bytes;
    for part in parts {
        out[at..at + part.len()].copy_from_slice(part);
        at += part.len().next_multiple_of(ALIGNMENT);
    }
    Ok(record_bytes as u64)
}

macro_rules! fields {
    ($type:ident { $($field:ident),+ }) => {
        (stringify!($type), json!({
            "size": size_of::<$type>(),
            "fields": { $(stringify!($field): offset_of!($type, $field)),+ },
        }))
    };
}

/// What tests/core/abi.test.ts compares with abi.ts.
pub fn described() -> String {
    let structs = [
        fields!(Opened { size, doorbell_fd, engine }),
        fields!(Submission {
            size,
            kind,
            id,
            control,
            control_len,
            tokens,
            tokens_len,
            offsets,
            offsets_len,
            weights,
            advantages,
            old_logprobs,
            values_len,
            target_ids,
            target_logprobs,
            targets_len
        }),
        fields!(Drained { size, count, bytes, bytes_needed }),
        fields!(CompletionHeader { size, status, id, text_len, tokens_len, values_len, record_bytes }),
    ];
    let named =
        |entries: Vec<(&str, Json)>| entries.into_iter().map(|(k, v)| (k.to_string(), v)).collect::<Map<_, _>>();
    json!({
        "abi_version": ABI_VERSION,
        "alignment": ALIGNMENT,
        "structs": named(structs.into()),
        "codes": named(Code::ALL.iter().map(|(code, name)| (*name, json!(*code as i32))).collect()),
        "kinds": named(Kind::ALL.iter().map(|(kind, name)| (*name, json!(*kind as u32))).collect()),
    })
    .to_string()
}

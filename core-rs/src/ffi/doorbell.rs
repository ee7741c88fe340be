//! A socket pair whose far end the caller's event loop watches. Rust never calls up: it writes one byte.
use super::boundary::{Code, Fault};
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

pub struct Doorbell {
    near: UnixStream,
}

/// The end that the caller will own.
pub struct FarEnd(OwnedFd);

impl FarEnd {
    pub fn into_raw(self) -> RawFd {
        self.0.into_raw_fd()
    }
}

impl Doorbell {
    pub fn new() -> Result<(Self, FarEnd), Fault> {
        let io = |error: std::io::Error| Fault::new(Code::Io, format!("doorbell: {error}"));
        let (near, far) = UnixStream::pair().map_err(io)?;
        near.set_nonblocking(true).map_err(io)?;
        far.set_nonblocking(true).map_err(io)?;
        Ok((Self { near }, FarEnd(far.into())))
    }

    /// A full pipe has a byte to be read already, and a closed one has nobody to wake: both are fine.
    pub fn ring(&self) {
        // SAFETY: one readable byte and a descriptor that `self` keeps open; MSG_NOSIGNAL keeps a closed far end from
        // raising SIGPIPE in the host process.
        unsafe { libc::send(self.near.as_raw_fd(), [1u8].as_ptr().cast(), 1, libc::MSG_NOSIGNAL) };
    }
}

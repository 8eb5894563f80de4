//! What the two sides of a container's start say to each other.
//!
//! `launch` writes the plan's init steps behind the init program, in the same memory file, before the program is
//! executed; from then on they talk over one SOCK_SEQPACKET pair:
//!
//! ```text
//!   berth (launch/)                                   first process (init/)
//!     │ clone3 ───────────────────────────────────────► │ child of the same memory
//!     │ id maps, cgroups v1                             │ (waits, only if one of these is needed)
//!     │ 1 byte ───────────────────────────────────────► │ execveat(sealed file: program + plan)
//!     │                                                 │ step 0, 1, 2 …
//!     │ ◄─────────────────────────── Report::Reached(p) │ Step::Sync: before pivot_root, if there are hooks
//!     │ ◄───────────────── Report::Source(n), its root  │ Step::TakeSource: of a bind that earlier mounts cover
//!     │ the tree ─────────────────────────────────────► │ …
//!     │ prestart, createRuntime hooks                   │
//!     │ 1 byte ───────────────────────────────────────► │ …
//!     │ ◄──────────────────────────────── Report::Ready │ Step::Park: waits on the gate socket (create)
//!     ╎ (a later `berth start` connects, sends 1 byte)  │   or on this one (run)
//!     │ ◄────────────────────────────── end of file     │ execve of the user's program closed the socket
//!     │ ◄──────────── Report::Failed at any time instead│ and exits
//! ```
//!
//! This module is compiled into both: into `berth` with the owned [`InitStep`] and the encoder, into the tiny init
//! with the borrowed [`Step`] and the decoder only. The decoder checks every length: a plan that was cut or
//! damaged is an error, never a wild access.

#[cfg(not(berth_init))]
pub mod encode;
mod fields;
mod reader;
mod report;
mod steps;

#[cfg(all(test, not(berth_init)))]
mod tests;

pub use fields::*;
pub use reader::{Malformed, Reader, TextList};
pub use report::*;
pub use steps::*;

/// First bytes of a plan.
pub const MAGIC: u32 = u32::from_le_bytes(*b"brth");
/// Bytes before the first step: two lengths, then [`Header`]'s numbers.
pub const HEADER_LENGTH: usize = 16 + 5 * 4;

/// What stands before the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The init's end of the socket.
    pub socket: i32,
    /// First descriptor that the user's program does not get.
    pub first_private: u32,
    /// How many steps follow.
    pub steps: u32,
}

/// Decodes a plan: its header and an iterator over its steps.
pub fn decode(plan: &[u8]) -> Result<(Header, Steps<'_>), Malformed> {
    let mut reader = Reader::new(plan);
    let length = reader.u64()?;
    reader.u64()?;
    if length != plan.len() as u64 || reader.u32()? != MAGIC || reader.u32()? != env_version() {
        return Err(Malformed);
    }
    let header = Header {
        socket: reader.fd()?,
        first_private: reader.u32()?,
        steps: reader.u32()?,
    };
    Ok((
        header,
        Steps {
            reader,
            left: header.steps,
        },
    ))
}

/// Version of this wire format: the two sides are always built together, this only catches mistakes.
const fn env_version() -> u32 {
    1
}

/// The steps of a plan, decoded one by one.
#[derive(Debug, Clone)]
pub struct Steps<'a> {
    reader: Reader<'a>,
    left: u32,
}

impl<'a> Steps<'a> {
    fn read(&mut self) -> Result<(u32, Step<'a>), Malformed> {
        let tag = self.reader.u32()?;
        let mut body = Reader::new(self.reader.bytes()?);
        let step = Step::decode_body(tag, &mut body)?;
        if body.is_empty() {
            Ok((tag, step))
        } else {
            Err(Malformed)
        }
    }
}

impl<'a> Iterator for Steps<'a> {
    type Item = Result<(u32, Step<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let item = self.read();
        if item.is_err() {
            self.left = 0;
        }
        Some(item)
    }
}

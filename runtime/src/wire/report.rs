//! What the init tells its parent.

use super::reader::{Malformed, Reader};

/// Longest report in bytes.
pub const REPORT_LENGTH: usize = 512;

/// What the init tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report<'a> {
    /// A [`Step::Sync`] is reached.
    Reached(u32),
    /// Everything is done, and the process waits for its start.
    Ready,
    /// A seccomp listener's descriptor comes with this message.
    Listener,
    /// The source of a mount with this number is wanted; a descriptor of the root comes with this message.
    Source(u32),
    /// A step failed; the process ends.
    Failed {
        /// Index of the step in the plan.
        step: u32,
        /// Kind of the step.
        tag: u32,
        /// Error number, or 0.
        errno: i32,
        /// What exactly, for steps that can fail in several ways: see `reason`.
        reason: u32,
        /// Index of a hook in its list.
        number: u32,
        /// A path or message; no NUL.
        detail: &'a [u8],
    },
}

/// Ways a step can fail that an error number does not tell.
pub mod reason {
    /// The system call failed.
    pub const CALL: u32 = 0;
    /// The program was not found in any folder of PATH.
    pub const NOT_IN_PATH: u32 = 1;
    /// The program is a folder.
    pub const IS_FOLDER: u32 = 2;
    /// A handle is not what it should be: somebody put something else there.
    pub const UNSAFE: u32 = 3;
    /// A hook took too long.
    pub const TIMEOUT: u32 = 4;
    /// A hook ended with the status in `errno`.
    pub const STATUS: u32 = 5;
    /// A hook was killed by the signal in `errno`.
    pub const SIGNAL: u32 = 6;
    /// The target of a mount could not be made or opened.
    pub const TARGET: u32 = 7;
    /// The source of a bind mount could not be opened.
    pub const SOURCE: u32 = 8;
    /// The file system refused an option; `detail` is its message.
    pub const OPTION: u32 = 9;
    /// The program exists, but stat(2) failed.
    pub const STAT: u32 = 10;
    /// The plan could not be decoded, or its scratch memory is too small.
    pub const PLAN: u32 = 11;
    /// The working directory is outside of the container's root.
    pub const OUTSIDE: u32 = 12;
    /// The target of a mount is in procfs, whose files must be the kernel's.
    pub const IN_PROC: u32 = 13;
    /// An attribute that a mount was to lose, or an access time that it was to get, is locked.
    pub const LOCKED: u32 = 14;
}

impl<'a> Report<'a> {
    /// Writes the report into `buffer`; returns its length. A detail that is too long is cut.
    pub fn encode(&self, buffer: &mut [u8; REPORT_LENGTH]) -> usize {
        let mut length = 0;
        let mut put = |bytes: &[u8]| {
            let end = (length + bytes.len()).min(REPORT_LENGTH);
            buffer[length..end].copy_from_slice(&bytes[..end - length]);
            length = end;
        };
        match *self {
            Self::Reached(point) => {
                put(&1u32.to_le_bytes());
                put(&point.to_le_bytes());
            }
            Self::Ready => put(&2u32.to_le_bytes()),
            Self::Listener => put(&3u32.to_le_bytes()),
            Self::Source(slot) => {
                put(&5u32.to_le_bytes());
                put(&slot.to_le_bytes());
            }
            Self::Failed {
                step,
                tag,
                errno,
                reason,
                number,
                detail,
            } => {
                for word in [4, step, tag, errno as u32, reason, number] {
                    put(&word.to_le_bytes());
                }
                put(detail);
            }
        }
        length
    }

    /// Reads a report.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let report = match reader.u32()? {
            1 => Self::Reached(reader.u32()?),
            2 => Self::Ready,
            3 => Self::Listener,
            5 => Self::Source(reader.u32()?),
            4 => Self::Failed {
                step: reader.u32()?,
                tag: reader.u32()?,
                errno: reader.u32()? as i32,
                reason: reader.u32()?,
                number: reader.u32()?,
                detail: reader.rest(),
            },
            _ => return Err(Malformed),
        };
        if reader.is_empty() {
            Ok(report)
        } else {
            Err(Malformed)
        }
    }
}

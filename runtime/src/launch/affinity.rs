//! The processors that `exec` itself runs on while it makes a process (`process.execCPUAffinity.initial`).

use std::fmt::Write as _;

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::LaunchError;

/// This process, of a single thread.
const SELF: Pid = Pid::from_raw(0);

/// Binds this process to the processors of `mask`, a bit each; returns what it was bound to before.
pub(super) fn narrow(mask: &[u8]) -> Result<CpuSet, LaunchError> {
    let before = sched_getaffinity(SELF).map_err(fail)?;
    let mut wanted = CpuSet::new();
    for (byte, bits) in mask.iter().enumerate() {
        for bit in (0..8).filter(|bit| bits & 1 << bit != 0) {
            wanted.set(byte * 8 + bit).map_err(fail)?;
        }
    }
    sched_setaffinity(SELF, &wanted).map_err(fail)?;
    Ok(before)
}

/// A mask as one number, the first processor its lowest bit.
pub(super) fn number(mask: &[u8]) -> String {
    let mut digits = String::new();
    for byte in mask.iter().rev() {
        // Writing to a String cannot fail.
        let _ = write!(digits, "{byte:02x}");
    }
    let digits = digits.trim_start_matches('0');
    format!("0x{}", if digits.is_empty() { "0" } else { digits })
}

/// Binds it to these processors again.
pub(super) fn restore(before: &CpuSet) {
    // They may be gone meanwhile; what is left to do can be done on any.
    let _ = sched_setaffinity(SELF, before);
}

fn fail(errno: Errno) -> LaunchError {
    LaunchError::Affinity { source: errno.into() }
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn masks_are_shown_as_one_number() {
        assert_eq!(number(&[3]), "0x3");
        assert_eq!(number(&[0, 1]), "0x100");
        assert_eq!(number(&[0xff, 0, 0]), "0xff");
        assert_eq!(number(&[]), "0x0");
    }
}

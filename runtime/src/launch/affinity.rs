//! The processors that `exec` itself runs on while it makes a process (`process.execCPUAffinity.initial`).

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

/// Binds it to these processors again.
pub(super) fn restore(before: &CpuSet) {
    // They may be gone meanwhile; what is left to do can be done on any.
    let _ = sched_setaffinity(SELF, before);
}

fn fail(errno: Errno) -> LaunchError {
    LaunchError::Affinity { source: errno.into() }
}

//! What std's process builder leaves to its user.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::SigSet;

/// Lets the command start with no signal blocked, whatever this thread blocks: the standard library passes the mask
/// on, and a program that starts with SIGTERM blocked does not die of it.
pub fn unblock_signals(command: &mut Command) -> io::Result<&mut Command> {
    if SigSet::thread_get_mask()? == SigSet::empty() {
        return Ok(command);
    }
    // SAFETY: the closure runs in the child between fork and exec and makes one async-signal-safe call
    // (pthread_sigmask), with no allocation and no lock.
    let command = unsafe { command.pre_exec(|| Ok(SigSet::empty().thread_set_mask()?)) };
    Ok(command)
}

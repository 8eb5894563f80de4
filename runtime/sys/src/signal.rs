//! Signals as readable descriptors, without blocking them.

use std::io;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// The descriptor that the handler writes to; it is never closed.
static WAKE: AtomicI32 = AtomicI32::new(-1);

/// The signals that have come and were not taken, a bit each.
static SEEN: AtomicU64 = AtomicU64::new(0);

/// Signals that have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen(u64);

impl Seen {
    /// Whether this one has come.
    pub fn contains(self, signal: Signal) -> bool {
        self.0 & bit(signal as i32) != 0
    }
}

fn bit(signal: i32) -> u64 {
    1 << (signal & 63)
}

/// Ignores SIGCHLD: the kernel then collects every child that ends, also an orphan that this process has got
/// (sigaction(2), SA_NOCLDWAIT).
pub fn ignore_children() -> io::Result<()> {
    let action = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: no handler is installed that could run; nobody else in this process relies on the old disposition.
    unsafe { sigaction(Signal::SIGCHLD, &action) }?;
    Ok(())
}

/// Makes each of `signals` wake an event descriptor, which is returned for polling; [`take`] tells which have come.
///
/// The signals are neither blocked nor ignored but handled. So children need no preparation: what is blocked or
/// ignored would be inherited through execve(2), a handler is reset by it; and the standard library can start them by
/// the quick way (posix_spawn(3)), as nothing has to run between fork and exec.
///
/// One set a process: a second call replaces the descriptor.
pub fn wake_on(signals: &[Signal]) -> io::Result<OwnedFd> {
    let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
    let kept = event.as_fd().try_clone_to_owned()?;
    WAKE.store(kept.into_raw_fd(), Ordering::SeqCst);
    let action = SigAction::new(
        SigHandler::Handler(wake),
        SaFlags::SA_RESTART | SaFlags::SA_NOCLDSTOP,
        SigSet::empty(),
    );
    for signal in signals {
        // SAFETY: the handler is async-signal-safe: it loads an atomic, calls write(2) and restores errno.
        unsafe { sigaction(*signal, &action) }?;
    }
    event.as_fd().try_clone_to_owned()
}

/// Takes back what has come since the last time.
pub fn take(wake: &OwnedFd) -> Seen {
    // First the descriptor: a signal between the two wakes once more.
    let _ = nix::unistd::read(wake.as_fd(), &mut [0; 8]);
    Seen(SEEN.swap(0, Ordering::SeqCst))
}

extern "C" fn wake(signal: i32) {
    SEEN.fetch_or(bit(signal), Ordering::SeqCst);
    let errno = nix::errno::Errno::last_raw();
    let one = 1u64.to_ne_bytes();
    // SAFETY: write(2) reads eight bytes of a local array. A full counter (EAGAIN) still wakes.
    let _ = unsafe { libc::write(WAKE.load(Ordering::SeqCst), one.as_ptr().cast(), one.len()) };
    nix::errno::Errno::set_raw(errno);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_seen_and_taken_back() {
        let wake = wake_on(&[Signal::SIGUSR2]).unwrap();
        assert!(!take(&wake).contains(Signal::SIGUSR2));
        nix::sys::signal::raise(Signal::SIGUSR2).unwrap();
        assert!(take(&wake).contains(Signal::SIGUSR2));
        assert!(!take(&wake).contains(Signal::SIGUSR2));
        let status = std::process::Command::new("sh")
            .args(["-c", "grep SigCgt /proc/self/status; kill -USR2 $$"])
            .status()
            .unwrap();
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(libc::SIGUSR2)
        );
    }
}

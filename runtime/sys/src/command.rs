//! What std's process builder leaves to its user.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
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

/// Gives the command descriptors from number 3 on, in this order, without close-on-exec.
pub fn pass_descriptors(command: &mut Command, descriptors: &[OwnedFd]) -> io::Result<()> {
    const FIRST: i32 = 3;
    let count = descriptors.len() as i32;
    // Copies above all targets: putting one into its place then never overwrites another that waits for its turn.
    let high: Vec<OwnedFd> = descriptors
        .iter()
        .map(|fd| {
            // SAFETY: F_DUPFD_CLOEXEC takes a number; the kernel returns a descriptor that nobody else owns.
            let copy = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, FIRST + count) };
            if copy < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: as above.
            Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(copy) })
        })
        .collect::<io::Result<_>>()?;
    let place = move || {
        for (target, fd) in (FIRST..).zip(&high) {
            // SAFETY: dup2 takes two numbers; the target belongs to nobody in the child, which is about to exec.
            if unsafe { libc::dup2(fd.as_raw_fd(), target) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the closure runs in the child between fork and exec and only calls dup2, which is async-signal-safe.
    unsafe { command.pre_exec(place) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn descriptors_arrive_in_their_order() {
        let (first, mut first_writer) = io::pipe().unwrap();
        let (second, mut second_writer) = io::pipe().unwrap();
        let (mut out, out_writer) = io::pipe().unwrap();
        first_writer.write_all(b"one").unwrap();
        second_writer.write_all(b"two").unwrap();
        drop((first_writer, second_writer));
        let mut command = Command::new("sh");
        command.args(["-c", "cat <&4 >&5; cat <&3 >&5"]);
        let passed = [first.into(), second.into(), out_writer.into()];
        pass_descriptors(&mut command, &passed).unwrap();
        assert!(command.status().unwrap().success());
        drop((command, passed));
        let mut text = String::new();
        out.read_to_string(&mut text).unwrap();
        assert_eq!(text, "twoone");
    }
}

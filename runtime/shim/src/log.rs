//! The shim's log: lines for the FIFO `log` in the bundle, which containerd copies into its own log.
//!
//! The FIFO is never waited for: a line that does not fit is lost, as is one that nobody reads.

use nix::fcntl::OFlag;
use std::fmt;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

/// A line of level `warning`.
macro_rules! warning {
    ($($text:tt)*) => { $crate::log::write("warning", format_args!($($text)*)) };
}

pub(crate) use warning;

/// Makes the FIFO `log` of the working directory standard error.
///
/// Opened for reading as well, so that it can be written to at any time: containerd may come back after a restart.
pub fn open() {
    let fifo = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open("log");
    let Ok(fifo) = fifo.or_else(|_| OpenOptions::new().write(true).open("/dev/null")) else {
        return;
    };
    // Without standard error there is nowhere to say that it failed.
    let _ = nix::unistd::dup2_stderr(&fifo);
}

/// Writes a line in the form of containerd's own log lines.
pub fn write(level: &str, text: fmt::Arguments<'_>) {
    let text = text.to_string();
    let line = format!("level={level} msg={text:?} runtime=io.containerd.berth.v2\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

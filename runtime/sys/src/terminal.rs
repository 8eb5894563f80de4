//! Sizes of terminals (ioctl_tty(2)).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub columns: u16,
}

/// Asks a terminal for its size. `ENOTTY` when it is none.
pub fn size(terminal: BorrowedFd<'_>) -> io::Result<WindowSize> {
    let mut raw = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ writes one struct winsize, which `raw` is and which outlives the call.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut raw) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(WindowSize {
        rows: raw.ws_row,
        columns: raw.ws_col,
    })
}

/// Sets a terminal's size; its foreground process group gets SIGWINCH.
pub fn set_size(terminal: BorrowedFd<'_>, size: WindowSize) -> io::Result<()> {
    let raw = libc::winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads one struct winsize, which `raw` is and which outlives the call.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const raw) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

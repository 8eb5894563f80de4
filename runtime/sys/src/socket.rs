//! Unix sockets that keep message boundaries, and descriptors sent over them (unix(7)).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::raw::{self, Errno, Fd};

fn error(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno.0)
}

fn owned(fd: Fd) -> OwnedFd {
    // SAFETY: called with descriptors the kernel has just returned, which nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd.0) }
}

/// A connected pair of SOCK_SEQPACKET sockets that close on execve(2).
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (a, b) = raw::socket_pair().map_err(error)?;
    Ok((owned(a), owned(b)))
}

/// Sends one message; no SIGPIPE.
pub fn send(socket: BorrowedFd<'_>, message: &[u8]) -> io::Result<()> {
    raw::send(Fd(socket.as_raw_fd()), message).map_err(error)
}

/// Receives one message: its length, 0 when the other side is gone.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    raw::recv(Fd(socket.as_raw_fd()), buffer).map_err(error)
}

/// Sends one message with a descriptor.
pub fn send_fd(socket: BorrowedFd<'_>, message: &[u8], fd: BorrowedFd<'_>) -> io::Result<()> {
    raw::send_fd(Fd(socket.as_raw_fd()), message, Fd(fd.as_raw_fd())).map_err(error)
}

/// Receives one message and the descriptor that came with it.
pub fn receive_fd(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let (length, fd) = raw::recv_fd(Fd(socket.as_raw_fd()), buffer).map_err(error)?;
    Ok((length, fd.map(owned)))
}

/// Listens for packet connections on `path`, of at most 107 bytes.
pub fn listen(path: &[u8]) -> io::Result<OwnedFd> {
    raw::listen_packets(path).map(owned).map_err(error)
}

/// Connects to a socket made by [`listen`].
pub fn connect(path: &[u8]) -> io::Result<OwnedFd> {
    raw::connect_packets(path).map(owned).map_err(error)
}

/// Connects to a stream socket on `path`.
pub fn connect_stream(path: &[u8]) -> io::Result<OwnedFd> {
    raw::connect_stream(path).map(owned).map_err(error)
}

//! The socket between the two sides, and the loopback device.

use super::arch::{nr, syscall};
use super::{Errno, Fd, Res, check, check_fd, check_unit};

const MSG_NOSIGNAL: u32 = 0x4000;
const MSG_CMSG_CLOEXEC: u32 = 0x4000_0000;

/// send(2) of one message, without SIGPIPE.
pub fn send(socket: Fd, message: &[u8]) -> Res<()> {
    loop {
        // SAFETY: the bytes are valid and as many as told.
        let value = unsafe {
            syscall(
                nr::SENDTO,
                [
                    socket.arg(),
                    message.as_ptr() as usize,
                    message.len(),
                    MSG_NOSIGNAL as usize,
                    0,
                    0,
                ],
            )
        };
        match check(value) {
            Err(Errno::EINTR) => {}
            result => return result.map(|_| ()),
        }
    }
}

/// recv(2) of one message: its length, 0 when the other side is gone.
pub fn recv(socket: Fd, buffer: &mut [u8]) -> Res<usize> {
    loop {
        // SAFETY: the buffer is exclusive and as long as told.
        let value = unsafe {
            syscall(
                nr::RECVFROM,
                [socket.arg(), buffer.as_mut_ptr() as usize, buffer.len(), 0, 0, 0],
            )
        };
        match check(value) {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

#[repr(C)]
struct Vector {
    base: usize,
    length: usize,
}

#[repr(C)]
struct Header {
    name: usize,
    name_length: u32,
    vectors: *const Vector,
    vector_count: usize,
    control: *mut Rights,
    control_length: usize,
    flags: i32,
}

/// One SCM_RIGHTS control message with one descriptor, as cmsg(3) lays it out.
#[repr(C, align(8))]
struct Rights {
    length: usize,
    level: i32,
    kind: i32,
    fd: i32,
    pad: i32,
}

const RIGHTS_LENGTH: usize = 20;
const SOL_SOCKET: i32 = 1;
const SCM_RIGHTS: i32 = 1;

/// sendmsg(2) of `message` with one descriptor (SCM_RIGHTS, unix(7)).
pub fn send_fd(socket: Fd, message: &[u8], fd: Fd) -> Res<()> {
    let vector = Vector {
        base: message.as_ptr() as usize,
        length: message.len(),
    };
    let mut rights = Rights {
        length: RIGHTS_LENGTH,
        level: SOL_SOCKET,
        kind: SCM_RIGHTS,
        fd: fd.0,
        pad: 0,
    };
    let header = Header {
        name: 0,
        name_length: 0,
        vectors: &raw const vector,
        vector_count: 1,
        control: &raw mut rights,
        control_length: size_of::<Rights>(),
        flags: 0,
    };
    loop {
        // SAFETY: header, vector, rights and message live through the call and are only read.
        let value = unsafe {
            syscall(
                nr::SENDMSG,
                [
                    socket.arg(),
                    core::ptr::from_ref(&header) as usize,
                    MSG_NOSIGNAL as usize,
                    0,
                    0,
                    0,
                ],
            )
        };
        match check(value) {
            Err(Errno::EINTR) => {}
            result => return result.map(|_| ()),
        }
    }
}

/// recvmsg(2): one message and the descriptor that came with it, which closes on execve(2).
pub fn recv_fd(socket: Fd, buffer: &mut [u8]) -> Res<(usize, Option<Fd>)> {
    let vector = Vector {
        base: buffer.as_mut_ptr() as usize,
        length: buffer.len(),
    };
    let mut rights = Rights {
        length: 0,
        level: 0,
        kind: 0,
        fd: -1,
        pad: 0,
    };
    let mut header = Header {
        name: 0,
        name_length: 0,
        vectors: &raw const vector,
        vector_count: 1,
        control: &raw mut rights,
        control_length: size_of::<Rights>(),
        flags: 0,
    };
    loop {
        // SAFETY: the kernel writes into buffer and rights, at most as many bytes as told.
        let value = unsafe {
            syscall(
                nr::RECVMSG,
                [
                    socket.arg(),
                    core::ptr::from_mut(&mut header) as usize,
                    MSG_CMSG_CLOEXEC as usize,
                    0,
                    0,
                    0,
                ],
            )
        };
        match check(value) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
            Ok(length) => {
                // SAFETY: rights is a live local that the kernel has filled.
                let rights = unsafe { core::ptr::read_volatile(&raw const rights) };
                let came = header.control_length >= RIGHTS_LENGTH
                    && rights.level == SOL_SOCKET
                    && rights.kind == SCM_RIGHTS;
                return Ok((length, came.then_some(Fd(rights.fd))));
            }
        }
    }
}

/// accept4(2) with close-on-exec.
pub fn accept(listener: Fd) -> Res<Fd> {
    const SOCK_CLOEXEC: usize = 0o2_000_000;
    loop {
        // SAFETY: no address is asked for.
        let value = unsafe { syscall(nr::ACCEPT4, [listener.arg(), 0, 0, SOCK_CLOEXEC, 0, 0]) };
        match check_fd(value) {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

/// A unix(7) socket that keeps message boundaries, connected to the path `path`.
pub fn connect_stream(path: &[u8]) -> Res<Fd> {
    let fd = unix_socket(SOCK_STREAM)?;
    match with_address(fd, path, nr::CONNECT) {
        Ok(()) => Ok(fd),
        Err(errno) => {
            super::close(fd);
            Err(errno)
        }
    }
}

const AF_UNIX: u16 = 1;
const SOCK_STREAM: usize = 1;
const SOCK_SEQPACKET: usize = 5;
const SOCK_CLOEXEC: usize = 0o2_000_000;

/// A connected pair of unix(7) sockets that keep message boundaries.
pub fn socket_pair() -> Res<(Fd, Fd)> {
    let mut fds = [0i32; 2];
    // SAFETY: two ints are written.
    check(unsafe {
        syscall(
            nr::SOCKETPAIR,
            [
                AF_UNIX as usize,
                SOCK_SEQPACKET | SOCK_CLOEXEC,
                0,
                fds.as_mut_ptr() as usize,
                0,
                0,
            ],
        )
    })?;
    Ok((Fd(fds[0]), Fd(fds[1])))
}

fn unix_socket(kind: usize) -> Res<Fd> {
    // SAFETY: no memory is involved.
    check_fd(unsafe { syscall(nr::SOCKET, [AF_UNIX as usize, kind | SOCK_CLOEXEC, 0, 0, 0, 0]) })
}

fn with_address(fd: Fd, path: &[u8], call: usize) -> Res<()> {
    let mut address = [0u8; 110];
    if path.is_empty() || path.len() > 107 {
        return Err(Errno::ENAMETOOLONG);
    }
    address[..2].copy_from_slice(&AF_UNIX.to_ne_bytes());
    address[2..2 + path.len()].copy_from_slice(path);
    // SAFETY: a struct sockaddr_un whose path ends with a NUL is read, as long as told.
    check_unit(unsafe {
        syscall(
            call,
            [fd.arg(), address.as_ptr() as usize, path.len() + 3, 0, 0, 0],
        )
    })
}

/// A listening unix(7) socket that keeps message boundaries, bound to `path` (at most 107 bytes).
pub fn listen_packets(path: &[u8]) -> Res<Fd> {
    let fd = unix_socket(SOCK_SEQPACKET)?;
    let listening = with_address(fd, path, nr::BIND).and_then(|()| {
        // SAFETY: no memory is involved.
        check_unit(unsafe { syscall(nr::LISTEN, [fd.arg(), 4, 0, 0, 0, 0]) })
    });
    match listening {
        Ok(()) => Ok(fd),
        Err(errno) => {
            super::close(fd);
            Err(errno)
        }
    }
}

/// Connects to a socket made by [`listen_packets`].
pub fn connect_packets(path: &[u8]) -> Res<Fd> {
    let fd = unix_socket(SOCK_SEQPACKET)?;
    match with_address(fd, path, nr::CONNECT) {
        Ok(()) => Ok(fd),
        Err(errno) => {
            super::close(fd);
            Err(errno)
        }
    }
}

/// A socket that stands for this network namespace (netdevice(7)).
fn inet_socket() -> Res<Fd> {
    const AF_INET: usize = 2;
    const SOCK_DGRAM: usize = 2;
    // SAFETY: no memory is involved.
    check_fd(unsafe { syscall(nr::SOCKET, [AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0, 0, 0, 0]) })
}

/// Sets the flag IFF_UP of the device `lo` in the socket's network namespace.
fn set_loopback_up(socket: Fd) -> Res<()> {
    const SIOCSIFFLAGS: usize = 0x8914;
    const IFF_UP_RUNNING: u16 = 0x41;
    let mut request = [0u8; 40];
    request[..2].copy_from_slice(b"lo");
    request[16..18].copy_from_slice(&IFF_UP_RUNNING.to_ne_bytes());
    // SAFETY: a struct ifreq of 40 bytes is read.
    check_unit(unsafe {
        syscall(
            nr::IOCTL,
            [socket.arg(), SIOCSIFFLAGS, request.as_ptr() as usize, 0, 0, 0],
        )
    })
}

/// Sets the flag IFF_UP of the device `lo` in this network namespace (netdevice(7)).
pub fn loopback_up() -> Res<()> {
    let socket = inet_socket()?;
    let result = set_loopback_up(socket);
    super::close(socket);
    result
}

/// Opens this network namespace (SIOCGSKNS: no path in procfs has to be trusted), tells `opened`, and then sets `lo` up,
/// which may have to wait for whoever else changes any network namespace of the host.
pub fn network_with_loopback(opened: impl FnOnce(Fd)) -> Res<()> {
    const SIOCGSKNS: usize = 0x894c;
    let socket = inet_socket()?;
    // SAFETY: no memory is involved; the answer is a new descriptor.
    let network = check_fd(unsafe { syscall(nr::IOCTL, [socket.arg(), SIOCGSKNS, 0, 0, 0, 0]) });
    let result = network.and_then(|network| {
        opened(network);
        set_loopback_up(socket)
    });
    super::close(socket);
    result
}

//! Passing on that a container is ready (sd_notify(3)): a service manager that starts `berth` with NOTIFY_SOCKET waits
//! for `READY=1`, which the container's program says to a socket of its own, in /run/notify.
//!
//! As with runc: `create` gives the container the folder and the variable, `start` or `run` makes the socket and goes
//! on when the program was heard or has ended, and the manager is told to watch the container's process.

use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_spec::{LinuxNamespaceType, Mount, Spec};
use berth_sys::{files, socket};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use thiserror::Error;

use crate::log;

/// The variable by which both sides find their socket.
const VARIABLE: &str = "NOTIFY_SOCKET";
/// The folder with the socket, in the container.
const INSIDE: &str = "/run/notify";
/// The same in the container's state directory.
const FOLDER: &str = "notify";
/// The socket in it.
const SOCKET: &str = "notify.sock";
/// How long the manager may take to have read what it was told.
const BARRIER: Duration = Duration::from_secs(30);

/// Why a container's readiness cannot be passed on.
#[derive(Debug, Error)]
pub enum NotifyError {
    /// The container's folder or socket cannot be made.
    #[error("NOTIFY_SOCKET: {action} {}", path.display())]
    Own {
        /// What was attempted.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The service manager cannot be told.
    #[error("NOTIFY_SOCKET: cannot tell the service manager at {}", Path::new(host).display())]
    Manager {
        /// Its socket, as the variable says it.
        host: OsString,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

/// The service manager's socket, if there is one: the variable with its value.
#[derive(Debug, Clone)]
pub struct Manager {
    host: OsString,
}

impl Manager {
    /// Looks into the environment.
    pub fn from_environment() -> Option<Self> {
        let host = env::var_os(VARIABLE).filter(|host| !host.is_empty())?;
        Some(Self { host })
    }

    /// Gives the container its folder and variable; makes the folder in its state directory.
    ///
    /// # Errors
    /// [`NotifyError::Own`].
    pub fn prepare(&self, spec: &mut Spec, state_dir: &Path) -> Result<(), NotifyError> {
        let namespaces = spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.namespaces().as_ref());
        let private = namespaces
            .iter()
            .flat_map(|list| list.iter())
            .any(|entry| entry.typ() == LinuxNamespaceType::Mount);
        let Some(process) = spec.process.as_mut() else {
            return Ok(());
        };
        if !private {
            log::warn("NOTIFY_SOCKET: not passed on, since the container has no mount namespace");
            return Ok(());
        }
        let folder = state_dir.join(FOLDER);
        let fail = |action, source| NotifyError::Own {
            action,
            path: folder.clone(),
            source,
        };
        DirBuilder::new()
            .mode(0o755)
            .create(&folder)
            .map_err(|source| fail("create", source))?;
        process
            .env
            .get_or_insert_default()
            .push(format!("{VARIABLE}={INSIDE}/{SOCKET}"));
        spec.mounts.get_or_insert_default().push(mount(folder));
        Ok(())
    }

    /// Listens to the container, if its creation gave it a folder.
    ///
    /// # Errors
    /// [`NotifyError::Own`].
    pub fn listen(self, state_dir: &Path) -> Result<Option<Proxy>, NotifyError> {
        let folder = state_dir.join(FOLDER);
        if !folder.is_dir() {
            return Ok(None);
        }
        let bound = || -> io::Result<UnixDatagram> {
            // By a descriptor, so that the length of the state root does not matter.
            let handle = files::open(&folder, files::O_PATH | files::O_DIRECTORY)?;
            let path = format!("/proc/self/fd/{}/{SOCKET}", handle.as_raw_fd());
            let socket = UnixDatagram::bind(&path)?;
            socket.set_nonblocking(true)?;
            // Whoever the container's user is.
            fs::set_permissions(&path, Permissions::from_mode(0o777))?;
            Ok(socket)
        };
        let socket = bound().map_err(|source| NotifyError::Own {
            action: "listen on",
            path: folder.join(SOCKET),
            source,
        })?;
        Ok(Some(Proxy {
            socket,
            manager: self,
        }))
    }

    fn connect(&self) -> io::Result<UnixDatagram> {
        let socket = UnixDatagram::unbound()?;
        match self.host.as_bytes().strip_prefix(b"@") {
            Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
            None => socket.connect(Path::new(&self.host))?,
        }
        Ok(socket)
    }

    /// Says what the container said, and which process to watch from now on.
    fn tell(&self, ready: &[u8], pid: i32) -> Result<UnixDatagram, NotifyError> {
        let tell = || -> io::Result<UnixDatagram> {
            let manager = self.connect()?;
            manager.send(&[ready, b"\n"].concat())?;
            manager.send(format!("MAINPID={pid}\n").as_bytes())?;
            Ok(manager)
        };
        tell().map_err(|source| NotifyError::Manager {
            host: self.host.clone(),
            source,
        })
    }
}

fn mount(folder: PathBuf) -> Mount {
    let options = ["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned);
    Mount {
        destination: PathBuf::from(INSIDE),
        typ: Some("bind".to_owned()),
        source: Some(folder),
        options: Some(options.to_vec()),
        ..Mount::default()
    }
}

/// A container's socket.
#[derive(Debug)]
pub struct Proxy {
    socket: UnixDatagram,
    manager: Manager,
}

impl Proxy {
    /// To wait on for messages.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Reads what has come; passes it on if the container is ready, with `pid` as the process to watch. True when there
    /// is nothing more to wait for.
    pub fn pump(&self, pid: i32) -> bool {
        let Some(ready) = self.ready() else { return false };
        if let Err(error) = self.manager.tell(&ready, pid) {
            log::warn(&crate::error::chain(&error));
        }
        true
    }

    /// Waits until the container is ready or its process has ended, and passes it on. The manager has read it when
    /// this returns, as it may only trust a process that still is there.
    pub fn wait(&self, pid: i32, pidfd: BorrowedFd<'_>) {
        loop {
            let mut fds = [
                PollFd::new(self.fd(), PollFlags::POLLIN),
                PollFd::new(pidfd, PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return log::warn(&format!("NOTIFY_SOCKET: poll: {}", errno.desc())),
            }
            let ended = fds[1].any().unwrap_or(false);
            if let Some(ready) = self.ready() {
                let told = self.manager.tell(&ready, pid).and_then(|manager| {
                    barrier(&manager).map_err(|source| NotifyError::Manager {
                        host: self.manager.host.clone(),
                        source,
                    })
                });
                if let Err(error) = told {
                    log::warn(&crate::error::chain(&error));
                }
                return;
            }
            if ended {
                return;
            }
        }
    }

    /// The line `READY=…` of the messages that have come. Others are not the manager's: it watches `berth` until then.
    fn ready(&self) -> Option<Vec<u8>> {
        let mut message = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut message) {
            let mut lines = message[..length].split(|byte| *byte == b'\n');
            if let Some(line) = lines.find(|line| line.starts_with(b"READY=")) {
                return Some(line.to_vec());
            }
        }
        None
    }
}

/// Waits until the manager has handled what it was sent (sd_notify_barrier(3)): it closes its copy of a pipe's end.
fn barrier(manager: &UnixDatagram) -> io::Result<()> {
    let (mut reader, writer) = io::pipe()?;
    socket::send_fd(manager.as_fd(), b"BARRIER=1", writer.as_fd())?;
    drop(writer);
    let timeout = PollTimeout::try_from(BARRIER).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(0) => {
                log::warn("NOTIFY_SOCKET: the service manager did not answer the barrier within 30 s");
                return Ok(());
            }
            Ok(_) => break,
        }
    }
    match reader.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

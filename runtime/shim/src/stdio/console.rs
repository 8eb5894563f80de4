//! The socket by which the runtime hands a terminal's master side over (OCI: `--console-socket`).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// A socket in a folder of its own, gone with the value.
#[derive(Debug)]
pub struct ConsoleSocket {
    dir: PathBuf,
    path: PathBuf,
    listener: UnixListener,
}

impl ConsoleSocket {
    /// Listens on a fresh socket below /tmp or TMPDIR: the bundle's path may be longer than a socket's may be.
    ///
    /// # Errors
    /// The system's answer.
    pub fn new(number: u64) -> io::Result<ConsoleSocket> {
        use std::os::unix::fs::DirBuilderExt;
        // The time tells shims apart that share the folder but not the numbers of processes.
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let time = time.unwrap_or_default().subsec_nanos();
        let pid = std::process::id();
        let dir = std::env::temp_dir().join(format!("berth-console-{pid}-{number}-{time}"));
        std::fs::DirBuilder::new().mode(0o700).create(&dir)?;
        let path = dir.join("s");
        match UnixListener::bind(&path) {
            Ok(listener) => Ok(ConsoleSocket { dir, path, listener }),
            Err(error) => {
                let _ = std::fs::remove_dir(&dir);
                Err(error)
            }
        }
    }

    /// For the runtime.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The terminal. The runtime has sent it before its successful end, so there is nothing to wait for.
    ///
    /// # Errors
    /// The system's answer, `WouldBlock` if the runtime has not connected, `InvalidData` if it sent none.
    pub fn receive(&self) -> io::Result<OwnedFd> {
        self.listener.set_nonblocking(true)?;
        let (stream, _) = self.listener.accept()?;
        stream.set_nonblocking(true)?;
        let (_, fd) = berth_sys::socket::receive_fd(stream.as_fd(), &mut [0; 256])?;
        fd.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no descriptor came with the message"))
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        let _ = std::fs::remove_dir(&self.dir);
    }
}

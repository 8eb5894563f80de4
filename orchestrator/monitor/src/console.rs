//! Receives a terminal's master side from the runtime (`--console-socket` of runc).

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// A socket that waits for one terminal. Dropping it removes its file.
#[derive(Debug)]
pub struct Console {
    listener: UnixListener,
    /// Held so that [`Console::path`] leads somewhere.
    _dir: File,
    path: PathBuf,
    file: PathBuf,
}

impl Console {
    /// Listens in `dir`; `number` makes the file's name unique.
    ///
    /// # Errors
    /// The system's answer.
    pub fn listen(dir: &Path, number: u64) -> std::io::Result<Console> {
        let handle = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags((OFlag::O_PATH | OFlag::O_DIRECTORY).bits())
            .open(dir)?;
        let name = format!("console-{number}.sock");
        let file = dir.join(&name);
        let _ = std::fs::remove_file(&file);
        // By the descriptor of the folder, for us and for the runtime: a socket's path is limited to 107 bytes.
        let path = PathBuf::from(format!(
            "/proc/{}/fd/{}/{name}",
            std::process::id(),
            handle.as_raw_fd()
        ));
        let listener = UnixListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        Ok(Console {
            listener,
            _dir: handle,
            path,
            file,
        })
    }

    /// What the runtime is told.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The terminal that the runtime has sent before it ended; None if there is none. Its reads and writes do not
    /// block.
    pub fn receive(&self) -> Option<OwnedFd> {
        let (connection, _) = self.listener.accept().ok()?;
        // An unaccepted connection was blocking for its sender only: the message is there already.
        connection.set_nonblocking(true).ok()?;
        let (_, master) = berth_sys::socket::receive_fd(connection.as_fd(), &mut [0; 4096]).ok()?;
        let master = master?;
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK | OFlag::O_RDWR)).ok()?;
        Some(master)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

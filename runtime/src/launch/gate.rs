//! The gate: a listening socket in the state directory. A parked first process accepts one connection on it; the
//! connection ends when the user's program runs, or brings the reason why it does not. A named pipe, which runc
//! uses, has no way back: a failed startContainer hook or execve(2) would go unnoticed by `start`.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use berth_sys::{files, socket};

use super::LaunchError;
use super::error::Failed;
use crate::wire::{REPORT_LENGTH, Report};

/// The socket's name in the state directory.
const NAME: &str = "start.sock";

fn fail(action: &'static str, folder: &Path) -> impl FnOnce(io::Error) -> LaunchError {
    let folder = folder.to_path_buf();
    move |source| LaunchError::Gate {
        action,
        folder,
        source,
    }
}

/// A path to the socket that is always short enough for sun_path (unix(7)), whatever the folder's.
fn short(folder: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}/{NAME}", folder.as_raw_fd())
}

/// Makes the socket.
pub(super) fn listen(folder: &Path) -> Result<OwnedFd, LaunchError> {
    let made = || -> io::Result<OwnedFd> {
        let handle = files::open(folder, files::O_PATH | files::O_DIRECTORY)?;
        socket::listen(short(handle.as_fd()).as_bytes())
    };
    made().map_err(fail("make", folder))
}

/// Takes the socket away.
pub(super) fn remove(folder: &Path) {
    // Without it the container is not parked, which is what the caller wants; the folder goes as a whole later.
    let _ = fs::remove_file(folder.join(NAME));
}

/// Whether a container's first process may be waiting for its start: the socket is there. Whether the process
/// still lives is another question.
pub fn is_parked(folder: &Path) -> bool {
    folder.join(NAME).exists()
}

/// Lets a parked container go; returns once its process has become the user's program.
pub fn start(folder: &Path) -> Result<(), LaunchError> {
    let connected = || -> io::Result<OwnedFd> {
        let handle = files::open(folder, files::O_PATH | files::O_DIRECTORY)?;
        let connection = socket::connect(short(handle.as_fd()).as_bytes())?;
        socket::send(connection.as_fd(), &[0])?;
        Ok(connection)
    };
    let connection = connected().map_err(fail("connect to", folder))?;
    remove(folder);
    let mut buffer = [0u8; REPORT_LENGTH];
    let length = match socket::receive(connection.as_fd(), &mut buffer) {
        Ok(length) => length,
        // The process ended, by its own doing or a signal, and not by a step that failed.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
        Err(error) => return Err(fail("read from", folder)(error)),
    };
    if length == 0 {
        return Ok(());
    }
    let report = Report::decode(&buffer[..length]).map_err(|_| LaunchError::Protocol)?;
    match Failed::of(&report) {
        Some((_, tag, failed)) => Err(failed.explain_late(tag)),
        None => Err(LaunchError::Protocol),
    }
}

//! FIFOs between containerd's clients and the shim (fifo(7)).

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::libc::ENXIO;

use super::stream::Sink;

/// The two descriptors of a container's standard input.
#[derive(Debug)]
pub struct Input {
    /// Read from.
    pub reader: OwnedFd,
    /// Held until CloseIO, so that a client may go and another one come without the container seeing the end.
    pub held: OwnedFd,
}

/// Opens a FIFO for writing; `None` while nobody has opened it for reading, or is about to (open(2) with O_NONBLOCK
/// fails with ENXIO then). A file that is no FIFO is appended to.
pub fn open_writer(path: &Path) -> io::Result<Option<Sink>> {
    if !std::fs::metadata(path)?.file_type().is_fifo() {
        let file = OpenOptions::new().append(true).open(path)?;
        return Ok(Some(Sink::File { file, failing: false }));
    }
    let open = |options: &mut OpenOptions| options.custom_flags(OFlag::O_NONBLOCK.bits()).open(path);
    match open(OpenOptions::new().write(true)) {
        Ok(writer) => Ok(Some(Sink::Fifo {
            writer: writer.into(),
            _held: open(OpenOptions::new().read(true))?.into(),
        })),
        Err(error) if error.raw_os_error() == Some(ENXIO) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens a FIFO for reading, without waiting for a writer.
pub fn open_reader(path: &Path) -> io::Result<Input> {
    let open = |options: &mut OpenOptions| options.custom_flags(OFlag::O_NONBLOCK.bits()).open(path);
    let reader = open(OpenOptions::new().read(true))?;
    let held = open(OpenOptions::new().write(true))?;
    Ok(Input {
        reader: reader.into(),
        held: held.into(),
    })
}

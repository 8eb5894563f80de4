//! Writes a tar archive of plain files, the same bytes each time: no owner, no time.

use std::io::{self, Write};

const BLOCK: u64 = 512;

pub(super) struct Writer<W>(W);

impl<W: Write> Writer<W> {
    pub(super) fn new(out: W) -> Self {
        Self(out)
    }

    /// Begins a file of `size` bytes; they follow by [`Self::data`], then [`Self::end`].
    pub(super) fn begin(&mut self, name: &str, size: u64) -> io::Result<()> {
        let mut header = ::tar::Header::new_gnu();
        header.set_path(name)?;
        header.set_entry_type(::tar::EntryType::Regular);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        header.set_cksum();
        self.0.write_all(header.as_bytes())
    }

    pub(super) fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    pub(super) fn end(&mut self, size: u64) -> io::Result<()> {
        let padding = (BLOCK - size % BLOCK) % BLOCK;
        self.0.write_all(&[0; BLOCK as usize][..padding as usize])
    }

    /// A whole small file.
    pub(super) fn document(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.begin(name, bytes.len() as u64)?;
        self.data(bytes)?;
        self.end(bytes.len() as u64)
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.0.write_all(&[0; 2 * BLOCK as usize])?;
        self.0.flush()
    }
}

//! Reads tar archives from people one does not trust.
//!
//! Header fields are decoded by the `tar` crate; the walk is our own, because extended headers
//! must be bounded (a compressed gigabyte of zeros as a "long name" is a memory bomb) and sparse
//! files of every form must be understood: an entry that is silently misread is a wrong layer.
//! Formats: v7, ustar, GNU (long names, sparse) and pax (POSIX.1-2017 pax, "pax Header Block").

mod pax;
mod sparse;

use std::io::{self, Read};

use pax::Pax;
pub(crate) use sparse::Segment;

const BLOCK: usize = 512;
/// Most bytes of extended header an entry may have: paths and extended attributes fit many times.
const EXTENDED_LIMIT: u64 = 1 << 20;

/// What an archive entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    Character,
    Block,
    Directory,
    Fifo,
}

/// One entry, with its extended headers applied. Its data, if any, is read from the archive.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    /// As written: may be absolute, may contain `..`.
    pub(crate) path: Vec<u8>,
    /// Target of a hard or symbolic link, as written.
    pub(crate) link: Vec<u8>,
    /// Permission bits including set-id and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds since the epoch.
    pub(crate) mtime: (i64, u32),
    /// Size of the file once unpacked, holes included.
    pub(crate) size: u64,
    /// Major and minor number of a device node.
    pub(crate) device: (u32, u32),
    /// Extended attributes in the archive's order.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the entry's data goes, for a sparse file.
    pub(crate) sparse: Option<Vec<Segment>>,
}

/// Why an archive cannot be read on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TarError {
    #[error("reading the archive at byte {offset}")]
    Read {
        offset: u64,
        #[source]
        source: io::Error,
    },
    #[error("the archive ends in the middle of an entry, at byte {offset}: it is truncated")]
    Truncated { offset: u64 },
    #[error("no tar header at byte {offset}: the checksum does not match")]
    Checksum { offset: u64 },
    #[error("entry {path:?}: {field} in the tar header is malformed")]
    Field { path: String, field: &'static str },
    #[error("entry {path:?}: {field} {value} is out of range")]
    Range {
        path: String,
        field: &'static str,
        value: u64,
    },
    #[error("extended header of {size} bytes at byte {offset}: at most {EXTENDED_LIMIT} are accepted")]
    Extended { offset: u64, size: u64 },
    #[error("extended header before byte {offset} is malformed at {record:?}")]
    PaxRecord { offset: u64, record: String },
    #[error("entry {path:?} has type {kind:?}, which has no meaning in an image")]
    Type { path: String, kind: char },
    #[error("entry {path:?}: the map of its sparse regions is malformed")]
    Sparse { path: String },
}

/// A tar archive being read from its beginning to its end.
pub(crate) struct Archive<R> {
    reader: R,
    offset: u64,
    data_left: u64,
    padding: u64,
    ended: bool,
}

impl<R: Read> Archive<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self {
            reader,
            offset: 0,
            data_left: 0,
            padding: 0,
            ended: false,
        }
    }

    /// The next entry; what was left of the previous one's data is skipped.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, TarError> {
        let mut pax = Pax::default();
        let (mut long_path, mut long_link) = (None, None);
        loop {
            self.skip_data()?;
            let Some(block) = self.header()? else {
                return Ok(None);
            };
            let header = tar::Header::from_byte_slice(&block);
            let path = printable(&header.path_bytes());
            let size = header.entry_size().map_err(|_| TarError::Field {
                path: path.clone(),
                field: "size",
            })?;
            match header.entry_type().as_byte() {
                b'L' => long_path = Some(self.long_name(size)?),
                b'K' => long_link = Some(self.long_name(size)?),
                b'x' | b'X' => {
                    let records = self.extended(size)?;
                    pax = Pax::parse(&records).map_err(|record| TarError::PaxRecord {
                        offset: self.offset,
                        record,
                    })?;
                }
                b'g' => {
                    self.extended(size)?;
                }
                _ => return self.entry(header, size, &pax, long_path, long_link).map(Some),
            }
        }
    }

    /// Reads the rest of the stream, so that whoever hashes it has seen every byte.
    pub(crate) fn drain(mut self) -> Result<(), TarError> {
        self.skip_data()?;
        io::copy(&mut self.reader, &mut io::sink()).map_err(|source| TarError::Read {
            offset: self.offset,
            source,
        })?;
        Ok(())
    }

    /// The next header block, or nothing at the end (two zero blocks, or the end of the stream at
    /// a block boundary, which Go's reader accepts, too).
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        if self.ended {
            return Ok(None);
        }
        let mut block = [0u8; BLOCK];
        let start = self.offset;
        match self.fill(&mut block)? {
            0 => {
                self.ended = true;
                return Ok(None);
            }
            BLOCK => {}
            _ => return Err(TarError::Truncated { offset: self.offset }),
        }
        if block.iter().all(|&byte| byte == 0) {
            self.ended = true;
            return Ok(None);
        }
        if !checksum_matches(&block) {
            return Err(TarError::Checksum { offset: start });
        }
        Ok(Some(block))
    }

    fn entry(
        &mut self,
        header: &tar::Header,
        header_size: u64,
        pax: &Pax,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, TarError> {
        let path = pax
            .path
            .clone()
            .or(long_path)
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let name = printable(&path);
        let wrong = |field| TarError::Field {
            path: name.clone(),
            field,
        };
        let type_byte = header.entry_type().as_byte();
        let kind = match type_byte {
            b'0' | 0 | b'7' | b'S' if path.ends_with(b"/") => Kind::Directory,
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::Character,
            b'4' => Kind::Block,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => {
                return Err(TarError::Type {
                    path: name,
                    kind: char::from(other),
                });
            }
        };
        let stored = if kind == Kind::File {
            pax.size.unwrap_or(header_size)
        } else {
            0
        };
        self.begin_data(stored);
        let mut entry = Entry {
            kind,
            link: pax
                .link
                .clone()
                .or(long_link)
                .or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned))
                .unwrap_or_default(),
            mode: header.mode().map_err(|_| wrong("mode"))? & 0o7777,
            uid: id(
                &name,
                "uid",
                pax.uid
                    .map_or_else(|| header.uid(), Ok)
                    .map_err(|_| wrong("uid"))?,
            )?,
            gid: id(
                &name,
                "gid",
                pax.gid
                    .map_or_else(|| header.gid(), Ok)
                    .map_err(|_| wrong("gid"))?,
            )?,
            mtime: match pax.mtime {
                Some(mtime) => mtime,
                None => (header.mtime().map_err(|_| wrong("mtime"))? as i64, 0),
            },
            size: stored,
            device: device(header, kind).ok_or_else(|| wrong("device number"))?,
            xattrs: pax.xattrs.clone(),
            sparse: None,
            path,
        };
        if kind == Kind::File {
            self.apply_sparse(header, type_byte, pax, stored, &mut entry)?;
        }
        Ok(entry)
    }

    /// Fills in the sparse map, from wherever the writer put it.
    fn apply_sparse(
        &mut self,
        header: &tar::Header,
        type_byte: u8,
        pax: &Pax,
        stored: u64,
        entry: &mut Entry,
    ) -> Result<(), TarError> {
        if type_byte != b'S' && pax.sparse.is_none() {
            return Ok(());
        }
        let malformed = || TarError::Sparse {
            path: printable(&entry.path),
        };
        let (segments, size) = if let Some(described) = &pax.sparse {
            let size = described.real_size.ok_or_else(malformed)?;
            let segments = if described.in_data {
                sparse::read_map(self, &printable(&entry.path))?
            } else {
                described.segments.clone().ok_or_else(malformed)?
            };
            (segments, size)
        } else {
            // The map's further blocks stand between the header and the data, and are not counted in its size.
            (self.data_left, self.padding) = (0, 0);
            let gnu = header.as_gnu().ok_or_else(malformed)?;
            let segments = sparse::gnu_map(self, gnu, &printable(&entry.path))?;
            self.begin_data(stored);
            (segments, gnu.real_size().map_err(|_| malformed())?)
        };
        if let Some(name) = pax.sparse.as_ref().and_then(|described| described.name.clone()) {
            entry.path = name;
        }
        if !sparse::consistent(&segments, size, self.data_left) {
            return Err(TarError::Sparse {
                path: printable(&entry.path),
            });
        }
        entry.size = size;
        entry.sparse = Some(segments);
        Ok(())
    }

    fn begin_data(&mut self, size: u64) {
        self.data_left = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    fn long_name(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        let mut name = self.extended(size)?;
        if let Some(end) = name.iter().position(|&byte| byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    fn extended(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > EXTENDED_LIMIT {
            return Err(TarError::Extended {
                offset: self.offset,
                size,
            });
        }
        self.begin_data(size);
        let mut bytes = vec![0; size as usize];
        self.read_data(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads exactly `bytes.len()` bytes of the current entry's data.
    fn read_data(&mut self, bytes: &mut [u8]) -> Result<(), TarError> {
        self.read_exact(bytes).map_err(|source| {
            if source.kind() == io::ErrorKind::UnexpectedEof {
                TarError::Truncated { offset: self.offset }
            } else {
                TarError::Read {
                    offset: self.offset,
                    source,
                }
            }
        })
    }

    /// One whole block outside any entry's data.
    fn raw_block(&mut self) -> Result<[u8; BLOCK], TarError> {
        let mut block = [0u8; BLOCK];
        if self.fill(&mut block)? < BLOCK {
            return Err(TarError::Truncated { offset: self.offset });
        }
        Ok(block)
    }

    fn skip_data(&mut self) -> Result<(), TarError> {
        let left = self.data_left + self.padding;
        let skipped = io::copy(&mut (&mut self.reader).take(left), &mut io::sink()).map_err(|source| {
            TarError::Read {
                offset: self.offset,
                source,
            }
        })?;
        self.offset += skipped;
        // Some writers leave out the last entry's padding.
        if skipped < self.data_left {
            return Err(TarError::Truncated { offset: self.offset });
        }
        (self.data_left, self.padding) = (0, 0);
        Ok(())
    }

    fn fill(&mut self, block: &mut [u8]) -> Result<usize, TarError> {
        let mut filled = 0;
        while filled < block.len() {
            match self.reader.read(&mut block[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(TarError::Read {
                        offset: self.offset,
                        source,
                    });
                }
            }
        }
        self.offset += filled as u64;
        Ok(filled)
    }
}

/// The current entry's data. The archive's end inside it is an error, not an end.
impl<R: Read> Read for Archive<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.data_left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let count = self.reader.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the archive is truncated",
            ));
        }
        self.data_left -= count as u64;
        self.offset += count as u64;
        Ok(count)
    }
}

/// A path or name for a message: what is no UTF-8 is replaced.
pub(crate) fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Historic writers summed signed bytes; both sums are accepted, as everywhere.
fn checksum_matches(block: &[u8; BLOCK]) -> bool {
    let Ok(expected) = tar::Header::from_byte_slice(block).cksum() else {
        return false;
    };
    let (mut unsigned, mut signed) = (0i64, 0i64);
    for (index, &byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&index) { b' ' } else { byte };
        unsigned += i64::from(byte);
        signed += i64::from(byte as i8);
    }
    unsigned == i64::from(expected) || signed == i64::from(expected)
}

/// Checks that an owner fits the kernel's 32 bits, without the value that means "unchanged".
fn id(path: &str, field: &'static str, value: u64) -> Result<u32, TarError> {
    u32::try_from(value)
        .ok()
        .filter(|&id| id != u32::MAX)
        .ok_or_else(|| TarError::Range {
            path: path.to_owned(),
            field,
            value,
        })
}

fn device(header: &tar::Header, kind: Kind) -> Option<(u32, u32)> {
    if !matches!(kind, Kind::Character | Kind::Block) {
        return Some((0, 0));
    }
    Some((header.device_major().ok()??, header.device_minor().ok()??))
}

#[cfg(test)]
mod tests;

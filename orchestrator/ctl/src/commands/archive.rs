//! What is uploaded: a file as it is, or a folder as a tar archive made on the way.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use hyper::body::Bytes;
use tar::{Builder, EntryType, Header};
use tokio::sync::mpsc;

use super::image::is_layout;
use crate::client::Piece;
use crate::error::CtlError;

/// Size of the pieces that are sent.
const PIECE: usize = 256 * 1024;

/// Something to be uploaded.
pub(super) enum Source {
    /// An archive, or a root file system's tar.
    Stream {
        reader: Box<dyn Read + Send>,
        path: PathBuf,
        root: bool,
    },
    /// A folder: a root file system, or an OCI layout.
    Folder { path: PathBuf, root: bool },
}

impl Source {
    /// Opens what is named; `root` says that a file is a root file system's tar.
    pub(super) fn open(path: &Path, root: bool) -> Result<Self, CtlError> {
        let path = path.to_owned();
        if path.as_os_str() == "-" {
            return Ok(Self::Stream {
                reader: Box::new(io::stdin()),
                path,
                root,
            });
        }
        let failed = |source| CtlError::File {
            path: path.clone(),
            source,
        };
        if fs::metadata(&path).map_err(failed)?.is_dir() {
            let root = root || !is_layout(&path);
            return Ok(Self::Folder { path, root });
        }
        let reader = Box::new(File::open(&path).map_err(failed)?);
        Ok(Self::Stream { reader, path, root })
    }

    pub(super) fn is_root(&self) -> bool {
        match self {
            Self::Stream { root, .. } | Self::Folder { root, .. } => *root,
        }
    }
}

/// Sends the source piece by piece, and its end only if all of it could be read.
pub(super) fn send(source: Source, pieces: mpsc::Sender<Piece>) -> Result<(), CtlError> {
    let mut sink = Sink {
        pieces,
        buffer: Vec::with_capacity(PIECE),
    };
    match source {
        Source::Stream { mut reader, path, .. } => {
            io::copy(&mut reader, &mut sink).map_err(|source| CtlError::File { path, source })?;
        }
        Source::Folder { path, .. } => write_folder(&path, &mut sink)?,
    }
    // If nobody takes it any more, the node has said why.
    let _ = sink.flush();
    let _ = sink.pieces.blocking_send(Piece::End);
    Ok(())
}

struct Sink {
    pieces: mpsc::Sender<Piece>,
    buffer: Vec<u8>,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE)));
        self.pieces
            .blocking_send(Piece::Data(piece))
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the node takes no more"))
    }
}

/// Writes a folder's contents as tar, in the order of names, so that the same folder always gives
/// the same archive. Owners, modes, times, hard links, devices and extended attributes are kept.
fn write_folder(folder: &Path, out: impl Write) -> Result<(), CtlError> {
    let mut writer = FolderWriter {
        folder,
        tar: Builder::new(out),
        links: HashMap::new(),
    };
    writer.children(Path::new(""))?;
    writer.tar.into_inner().map_err(|source| CtlError::File {
        path: folder.to_owned(),
        source,
    })?;
    Ok(())
}

struct FolderWriter<'a, W: Write> {
    folder: &'a Path,
    tar: Builder<W>,
    /// Where a file with several names was written first, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> FolderWriter<'_, W> {
    fn children(&mut self, inside: &Path) -> Result<(), CtlError> {
        let folder = self.folder.join(inside);
        let failed = |source| CtlError::File {
            path: folder.clone(),
            source,
        };
        let mut names = fs::read_dir(&folder)
            .map_err(failed)?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(failed)?;
        names.sort();
        for name in names {
            let path = inside.join(name);
            let full = self.folder.join(&path);
            let metadata = self.entry(&full, &path).map_err(|source| CtlError::File {
                path: full.clone(),
                source,
            })?;
            if metadata.is_dir() {
                self.children(&path)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, full: &Path, path: &Path) -> io::Result<Metadata> {
        let metadata = fs::symlink_metadata(full)?;
        let mut header = Header::new_gnu();
        header.set_metadata(&metadata);
        header.set_size(0);
        // Nothing runs here to listen on a socket: it has no meaning in an image.
        if is_socket(&metadata) {
            return Ok(metadata);
        }
        if !metadata.is_dir() && metadata.nlink() > 1 {
            let first = self
                .links
                .entry((metadata.dev(), metadata.ino()))
                .or_insert_with(|| path.to_owned());
            if first != path {
                header.set_entry_type(EntryType::Link);
                let first = first.clone();
                self.tar.append_link(&mut header, path, &first)?;
                return Ok(metadata);
            }
        }
        self.attributes(full, &metadata)?;
        if metadata.is_symlink() {
            self.tar.append_link(&mut header, path, fs::read_link(full)?)?;
        } else if metadata.is_file() {
            header.set_size(metadata.len());
            self.tar
                .append_data(&mut header, path, Exact::new(File::open(full)?, metadata.len()))?;
        } else {
            if matches!(header.entry_type(), EntryType::Char | EntryType::Block) {
                let device = metadata.rdev();
                header.set_device_major(rustix::fs::major(device))?;
                header.set_device_minor(rustix::fs::minor(device))?;
            }
            self.tar.append_data(&mut header, path, io::empty())?;
        }
        Ok(metadata)
    }

    /// Extended attributes that mean something in another place, as a pax header before the entry.
    fn attributes(&mut self, full: &Path, metadata: &Metadata) -> io::Result<()> {
        if metadata.is_symlink() {
            return Ok(());
        }
        let mut names = vec![0u8; 64 * 1024];
        let length = match rustix::fs::llistxattr(full, &mut names[..]) {
            Err(rustix::io::Errno::OPNOTSUPP) => return Ok(()),
            length => length?,
        };
        let mut records = Vec::new();
        for name in names[..length].split(|&byte| byte == 0) {
            let kept = name.starts_with(b"user.") || name == b"security.capability";
            let Ok(text) = std::str::from_utf8(name) else {
                continue;
            };
            if kept {
                let mut value = vec![0u8; 64 * 1024];
                let length = rustix::fs::lgetxattr(full, name, &mut value[..])?;
                value.truncate(length);
                records.push((format!("SCHILY.xattr.{text}"), value));
            }
        }
        if records.is_empty() {
            return Ok(());
        }
        self.tar.append_pax_extensions(
            records
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_slice())),
        )
    }
}

fn is_socket(metadata: &Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    metadata.file_type().is_socket()
}

/// Exactly as many bytes as the header says: a file that shrinks meanwhile is an error, not an
/// archive in disorder.
struct Exact {
    file: io::Take<File>,
}

impl Exact {
    fn new(file: File, size: u64) -> Self {
        Self {
            file: file.take(size),
        }
    }
}

impl Read for Exact {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.file.read(buffer)? {
            0 if self.file.limit() > 0 && !buffer.is_empty() => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file became shorter while it was read",
            )),
            count => Ok(count),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_becomes_an_archive_that_is_always_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::create_dir(path.join("bin")).unwrap();
        fs::write(path.join("bin/app"), "program").unwrap();
        fs::hard_link(path.join("bin/app"), path.join("bin/same")).unwrap();
        std::os::unix::fs::symlink("bin/app", path.join("link")).unwrap();
        let long = "long-name-".repeat(15);
        fs::write(path.join(&long), "").unwrap();
        let archive = || {
            let mut bytes = Vec::new();
            write_folder(path, &mut bytes).unwrap();
            bytes
        };
        let bytes = archive();
        assert_eq!(bytes, archive());
        let mut reader = tar::Archive::new(&bytes[..]);
        let entries: Vec<(String, EntryType, String)> = reader
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let link = entry.link_name().unwrap().map(|link| link.display().to_string());
                (
                    entry.path().unwrap().display().to_string(),
                    entry.header().entry_type(),
                    link.unwrap_or_default(),
                )
            })
            .collect();
        let expected = [
            ("bin", EntryType::Directory, ""),
            ("bin/app", EntryType::Regular, ""),
            ("bin/same", EntryType::Link, "bin/app"),
            ("link", EntryType::Symlink, "bin/app"),
            (long.as_str(), EntryType::Regular, ""),
        ];
        let found: Vec<(&str, EntryType, &str)> = entries
            .iter()
            .map(|(path, kind, link)| (path.trim_end_matches('/'), *kind, link.as_str()))
            .collect();
        assert_eq!(found, expected);
    }
}

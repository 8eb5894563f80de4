//! The files of an outer archive, each staged under its digest while the stream goes by.

use std::collections::BTreeMap;
use std::io::Read;

use crate::blob::{Stage, Staged};
use crate::digest::Digest;
use crate::error::ImportError;
use crate::tar::{Archive, Kind, printable};

use super::{Document, read_document};

/// An image has tens of members, a huge multi-image archive thousands.
const MEMBER_LIMIT: u64 = 100_000;
/// As many links as are followed from member to member.
const LINK_LIMIT: usize = 16;

#[derive(Debug)]
enum Member {
    File(Staged),
    /// `docker save` of old writes a layer that two images share as a link.
    Link(String),
}

/// The members of an archive by their normalised path.
#[derive(Debug)]
pub(super) struct Members(BTreeMap<String, Member>);

impl Members {
    /// Reads the whole archive. Content that a member's name promises (`blobs/sha256/<hex>`) is
    /// checked at once.
    pub(super) fn read(stream: impl Read, stage: &mut Stage) -> Result<Self, ImportError> {
        let mut archive = Archive::new(stream);
        let mut members = BTreeMap::new();
        let mut count = 0;
        while let Some(entry) = archive.next().map_err(ImportError::tar)? {
            count += 1;
            if count > MEMBER_LIMIT {
                return Err(ImportError::TooBig {
                    what: "a number of members".to_owned(),
                    found: count,
                    limit: MEMBER_LIMIT,
                });
            }
            let path = printable(&entry.path);
            let member = match entry.kind {
                Kind::File => {
                    let staged = stage.write(&mut archive)?.map_err(ImportError::read)?;
                    verify_name(&path, &staged)?;
                    Member::File(staged)
                }
                Kind::Symlink => {
                    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                    Member::Link(format!("{folder}/{}", printable(&entry.link)))
                }
                Kind::HardLink => Member::Link(printable(&entry.link)),
                // Folders say nothing; devices have no business here and are not made.
                _ => continue,
            };
            members.insert(normalised(&path), member);
        }
        archive.drain().map_err(ImportError::tar)?;
        Ok(Self(members))
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    /// A file member, links followed. `wanted_by` is the document that names it.
    pub(super) fn file(&self, path: &str, wanted_by: &str) -> Result<&Staged, ImportError> {
        self.find(path).ok_or_else(|| ImportError::Missing {
            member: path.to_owned(),
            wanted_by: wanted_by.to_owned(),
        })
    }

    pub(super) fn find(&self, path: &str) -> Option<&Staged> {
        let mut path = normalised(path);
        for _ in 0..LINK_LIMIT {
            match self.0.get(&path)? {
                Member::File(staged) => return Some(staged),
                Member::Link(target) => path = normalised(target),
            }
        }
        None
    }

    /// A JSON member.
    pub(super) fn document(&self, path: &str, wanted_by: &str) -> Result<Document, ImportError> {
        read_document(path, self.file(path, wanted_by)?)
    }
}

/// The path without empty, `.` and `..` components; members are keys here, never opened.
fn normalised(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn verify_name(path: &str, staged: &Staged) -> Result<(), ImportError> {
    let path = normalised(path);
    let Some(expected) = path.strip_prefix("blobs/sha256/").and_then(Digest::from_hex) else {
        return Ok(());
    };
    if staged.digest == expected {
        Ok(())
    } else {
        Err(ImportError::Digest {
            member: path,
            expected,
            found: staged.digest,
        })
    }
}

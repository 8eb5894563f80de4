//! Places below the container's root. Every path is resolved by the kernel with RESOLVE_IN_ROOT from the root's
//! descriptor, so that neither `..` nor a symbolic link, even one exchanged meanwhile, leads out of it
//! (CVE-2021-30465 and its kin).

use core::ffi::CStr;

use super::sys::{self, Errno, Fd, O_DIRECTORY, O_NOFOLLOW, O_PATH, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS};
use super::{Buffer, PATH_MAX};

/// Links that are followed while missing folders are made, at most: the kernel's own limit.
const MAX_LINKS: usize = 40;

/// What is made where nothing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Make {
    /// A folder, with these permissions.
    Folder(u32),
    /// An empty file, with these permissions.
    File(u32),
}

/// A handle on a place below `root`.
pub(super) fn open(root: Fd, path: &CStr, flags: u64) -> Result<Fd, Errno> {
    sys::openat2(root, path, flags, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
}

/// A handle on a place below `root`, which is made if it is missing, with the folders above it.
pub(super) fn ensure(root: Fd, path: &CStr, make: Make, nofollow: bool) -> Result<Fd, Errno> {
    let mut flags = O_PATH;
    if let Make::Folder(_) = make {
        flags |= O_DIRECTORY;
    }
    if nofollow {
        flags |= O_NOFOLLOW;
    }
    let mut way = Buffer::new();
    way.push(path.to_bytes())?;
    for _ in 0..MAX_LINKS {
        match open(root, way.text(), flags) {
            Err(Errno::ENOENT) => {}
            result => return result,
        }
        // Nearly always only the last name is missing.
        if make_last(root, &way, make) {
            match open(root, way.text(), flags) {
                Err(Errno::ENOENT) => {}
                result => return result,
            }
        }
        if let Some(changed) = make_missing(root, &way, make)? {
            way = changed;
        }
    }
    Err(Errno::ELOOP)
}

/// Makes the last name of `way` in the folder above it, if that exists.
fn make_last(root: Fd, way: &Buffer, make: Make) -> bool {
    let Some((folder, name)) = split(way.bytes()) else {
        return false;
    };
    let (mut above, mut last) = (Buffer::new(), Buffer::new());
    if above.push(b"/").and_then(|()| above.push(folder)).is_err() || last.push(name).is_err() {
        return false;
    }
    let Ok(parent) = open(root, above.text(), O_PATH | O_DIRECTORY) else {
        return false;
    };
    let made = make_one(parent, last.text(), make, true);
    sys::close(parent);
    made.is_ok()
}

/// The folder's part of a path, and the name in it; `None` for a path that ends in no name.
pub(super) fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut bytes = path;
    while let Some((b'/', rest)) = bytes.split_last() {
        bytes = rest;
    }
    let at = bytes.iter().rposition(|b| *b == b'/').map_or(0, |n| n + 1);
    let (folder, name) = bytes.split_at(at);
    let named = !name.is_empty() && name != b"." && name != b"..";
    named.then_some((folder, name))
}

/// Makes what is missing of `way`. A symbolic link to nowhere is an answer: the way with the link's text in its
/// place.
fn make_missing(root: Fd, way: &Buffer, make: Make) -> Result<Option<Buffer>, Errno> {
    let bytes = way.bytes();
    let mut parent = open(root, c"/", O_PATH | O_DIRECTORY)?;
    let mut at = 0;
    let result = loop {
        while bytes.get(at) == Some(&b'/') {
            at += 1;
        }
        let end = bytes[at..]
            .iter()
            .position(|b| *b == b'/')
            .map_or(bytes.len(), |n| at + n);
        if at == end {
            break Ok(None);
        }
        let last = bytes[end..].iter().all(|b| *b == b'/');
        let mut name = Buffer::new();
        name.push(&bytes[at..end])?;
        let mut prefix = Buffer::new();
        prefix.push(&bytes[..end])?;
        let here = open(root, prefix.text(), O_PATH);
        let here = match here {
            Err(Errno::ENOENT) => match make_one(parent, name.text(), make, last) {
                Ok(()) => open(root, prefix.text(), O_PATH),
                Err(Errno::EEXIST) => {
                    break through_link(parent, &bytes[..at], name.text(), &bytes[end..]).map(Some);
                }
                Err(errno) => Err(errno),
            },
            result => result,
        };
        sys::close(parent);
        parent = here?;
        at = end;
    };
    sys::close(parent);
    result
}

fn make_one(parent: Fd, name: &CStr, make: Make, last: bool) -> Result<(), Errno> {
    match make {
        Make::File(mode) if last => {
            let flags = sys::O_WRONLY | sys::O_CREAT | sys::O_EXCL | O_NOFOLLOW;
            sys::close(sys::openat(parent, name, flags, mode)?);
            Ok(())
        }
        Make::Folder(mode) => sys::mkdirat(parent, name, mode),
        Make::File(_) => sys::mkdirat(parent, name, 0o755),
    }
}

/// `before` + what the link `name` says + `after`.
fn through_link(parent: Fd, before: &[u8], name: &CStr, after: &[u8]) -> Result<Buffer, Errno> {
    let mut text = [0u8; PATH_MAX];
    let length = match sys::readlinkat(parent, name, &mut text) {
        Ok(length) => length,
        // No link: somebody made it meanwhile; the way as it is may work now.
        Err(Errno::EINVAL) => {
            let mut way = Buffer::new();
            way.push(before)?;
            way.push(name.to_bytes())?;
            way.push(after)?;
            return Ok(way);
        }
        Err(errno) => return Err(errno),
    };
    let mut way = Buffer::new();
    if text[0] != b'/' {
        way.push(before)?;
    }
    way.push(&text[..length])?;
    way.push(after)?;
    Ok(way)
}

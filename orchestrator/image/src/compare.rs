//! Whether an unpacked layer still is what its blob says.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Bytes of two files that are compared at once.
const PIECE: usize = 64 << 10;

/// Compares two trees of files: names, types, modes, owners, sizes, times of change, device numbers, targets of links,
/// extended attributes, contents. Gives back the first difference, as a path in the tree and what is wrong there.
pub(crate) fn difference(expected: &Path, found: &Path) -> io::Result<Option<(PathBuf, &'static str)>> {
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let (mut wanted, mut there) = (
            names(&expected.join(&folder))?,
            names(&found.join(&folder))?.into_iter().peekable(),
        );
        wanted.reverse();
        loop {
            let name = match (wanted.pop(), there.peek()) {
                (None, None) => break,
                (Some(name), Some(other)) if name == *other => name,
                (Some(name), Some(other)) if name > *other => {
                    return Ok(Some((folder.join(other), "does not belong there")));
                }
                (Some(name), _) => return Ok(Some((folder.join(name), "is missing"))),
                (None, Some(other)) => return Ok(Some((folder.join(other), "does not belong there"))),
            };
            there.next();
            let path = folder.join(name);
            let (ours, theirs) = (expected.join(&path), found.join(&path));
            let meta = fs::symlink_metadata(&ours)?;
            if let Some(wrong) = entry(&ours, &theirs, &meta)? {
                return Ok(Some((path, wrong)));
            }
            if meta.is_dir() {
                folders.push(path);
            }
        }
    }
    Ok(None)
}

fn names(folder: &Path) -> io::Result<Vec<OsString>> {
    let names: io::Result<Vec<OsString>> = fs::read_dir(folder)?
        .map(|entry| Ok(entry?.file_name()))
        .collect();
    let mut names = names?;
    names.sort_unstable();
    Ok(names)
}

/// What is wrong with one entry.
fn entry(ours: &Path, theirs: &Path, meta: &Metadata) -> io::Result<Option<&'static str>> {
    let other = fs::symlink_metadata(theirs)?;
    let wrong = if meta.file_type() != other.file_type() {
        Some("is of another type")
    } else if meta.mode() != other.mode() {
        Some("has another mode")
    } else if (meta.uid(), meta.gid()) != (other.uid(), other.gid()) {
        Some("has another owner")
    } else if meta.rdev() != other.rdev() {
        Some("is another device")
    } else if meta.is_file() && meta.len() != other.len() {
        Some("has another size")
    } else if meta.is_symlink() && fs::read_link(ours)? != fs::read_link(theirs)? {
        Some("leads elsewhere")
    } else if attributes(ours)? != attributes(theirs)? {
        Some("has other extended attributes")
    } else if meta.is_file() && !same_content(ours, theirs)? {
        Some("has another content")
    } else if meta.is_file() && (meta.mtime(), meta.mtime_nsec()) != (other.mtime(), other.mtime_nsec()) {
        // A folder that the layer leaves out has the time of its making.
        Some("has another time of change")
    } else {
        None
    };
    Ok(wrong)
}

fn attributes(path: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut list = vec![0; 64 << 10];
    let length = match rustix::fs::llistxattr(path, &mut list[..]) {
        Ok(length) => length,
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(error.into()),
    };
    let mut found = BTreeMap::new();
    for name in list[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(path, std::ffi::OsStr::from_bytes(name), &mut value[..])?;
        value.truncate(length);
        found.insert(name.to_vec(), value);
    }
    Ok(found)
}

fn same_content(ours: &Path, theirs: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(ours)?, File::open(theirs)?);
    let (mut first, mut second) = (vec![0; PIECE], vec![0; PIECE]);
    loop {
        let (a, b) = (fill(&mut one, &mut first)?, fill(&mut other, &mut second)?);
        if first[..a] != second[..b] {
            return Ok(false);
        }
        if a == 0 {
            return Ok(true);
        }
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn tree(root: &Path) {
        fs::create_dir_all(root.join("d/e")).unwrap();
        for (name, content) in [("a", "1"), ("d/b", "22"), ("d/e/c", "333")] {
            fs::write(root.join(name), content).unwrap();
            let file = File::options().write(true).open(root.join(name)).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
        }
        symlink("a", root.join("link")).unwrap();
    }

    type Damage = fn(&Path);

    #[test]
    fn each_kind_of_damage_is_named_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let whole = dir.path().join("whole");
        tree(&whole);
        let damages: [(Damage, Option<(&str, &str)>); 9] = [
            (|_| {}, None),
            (
                |root| fs::remove_file(root.join("d/e/c")).unwrap(),
                Some(("d/e/c", "is missing")),
            ),
            (
                |root| fs::remove_dir_all(root.join("d")).unwrap(),
                Some(("d", "is missing")),
            ),
            (
                |root| fs::write(root.join("d/z"), "").unwrap(),
                Some(("d/z", "does not belong there")),
            ),
            (
                |root| fs::write(root.join("0"), "").unwrap(),
                Some(("0", "does not belong there")),
            ),
            (
                |root| fs::write(root.join("d/b"), "21").unwrap(),
                Some(("d/b", "has another content")),
            ),
            (
                |root| fs::write(root.join("d/b"), "2").unwrap(),
                Some(("d/b", "has another size")),
            ),
            (
                |root| fs::set_permissions(root.join("a"), PermissionsExt::from_mode(0o755)).unwrap(),
                Some(("a", "has another mode")),
            ),
            (
                |root| {
                    fs::remove_file(root.join("link")).unwrap();
                    symlink("/etc/passwd", root.join("link")).unwrap();
                },
                Some(("link", "leads elsewhere")),
            ),
        ];
        for (number, (damage, expected)) in damages.into_iter().enumerate() {
            let other = dir.path().join(number.to_string());
            tree(&other);
            damage(&other);
            let expected = expected.map(|(path, why)| (PathBuf::from(path), why));
            assert_eq!(difference(&whole, &other).unwrap(), expected, "{number}");
        }
    }
}

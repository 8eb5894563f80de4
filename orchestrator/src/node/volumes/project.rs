//! Files of ConfigMaps, Secrets and the downward API in a volume.
//!
//! Laid out as kubelet's AtomicWriter does, so that a change reaches the container whole:
//!
//! ```text
//! ..2026_01_02_03_04_05.123   the files
//! ..data                      symbolic link to it, replaced by rename
//! key                         symbolic link to ..data/key
//! ```

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use super::VolumeError;

/// One file: content and permission bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Content.
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// Relative path of a file in the volume, checked: no `..`, not absolute, and no first part beginning
/// with `..`.
///
/// # Errors
/// [`VolumeError::Path`].
pub fn checked(volume: &str, path: &str) -> Result<PathBuf, VolumeError> {
    let given = Path::new(path);
    let plain = given
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if path.is_empty() || !plain || path.starts_with("..") {
        return Err(VolumeError::Path {
            volume: volume.to_owned(),
            path: path.to_owned(),
        });
    }
    Ok(given.to_owned())
}

/// Writes the files into `dir`, replacing what an earlier call wrote. Nothing is touched when they are the
/// same. Files and folders get `group` as their group, readable for it, if one is given.
///
/// # Errors
/// [`VolumeError::File`].
pub fn write(dir: &Path, files: &BTreeMap<PathBuf, File>, group: Option<u32>) -> Result<(), VolumeError> {
    let link = dir.join("..data");
    let old = std::fs::read_link(&link).ok();
    if old.as_ref().is_some_and(|old| same(&dir.join(old), files)) {
        return Ok(());
    }
    let stamp = jiff::Timestamp::now()
        .strftime("..%Y_%m_%d_%H_%M_%S.%f")
        .to_string();
    let fresh = dir.join(&stamp);
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |source| VolumeError::File { path, source }
    };
    make_dir(&fresh, group).map_err(fail(&fresh))?;
    for (path, file) in files {
        let target = fresh.join(path);
        for parent in path
            .ancestors()
            .skip(1)
            .filter(|p| !p.as_os_str().is_empty())
            .collect::<Vec<_>>()
            .iter()
            .rev()
        {
            let parent = fresh.join(parent);
            if !parent.is_dir() {
                make_dir(&parent, group).map_err(fail(&parent))?;
            }
        }
        std::fs::write(&target, &file.data).map_err(fail(&target))?;
        // Group access is what fsGroup is for (kubelet sets 0440 at least).
        let mode = if group.is_some() {
            file.mode | 0o040
        } else {
            file.mode
        };
        std::fs::set_permissions(&target, PermissionsExt::from_mode(mode)).map_err(fail(&target))?;
        own(&target, group).map_err(fail(&target))?;
    }
    let next = dir.join("..data_tmp");
    let _ = std::fs::remove_file(&next);
    symlink(&stamp, &next).map_err(fail(&next))?;
    std::fs::rename(&next, &link).map_err(fail(&link))?;
    let names: std::collections::BTreeSet<PathBuf> = files
        .keys()
        .filter_map(|path| path.iter().next())
        .map(PathBuf::from)
        .collect();
    for name in &names {
        let visible = dir.join(name);
        if std::fs::symlink_metadata(&visible).is_err() {
            symlink(Path::new("..data").join(name), &visible).map_err(fail(&visible))?;
        }
    }
    for entry in std::fs::read_dir(dir).map_err(fail(dir))?.flatten() {
        let name = PathBuf::from(entry.file_name());
        if !name.to_string_lossy().starts_with("..") && !names.contains(&name) {
            let _ = std::fs::remove_file(dir.join(name));
        }
    }
    if let Some(old) = old {
        let _ = std::fs::remove_dir_all(dir.join(old));
    }
    Ok(())
}

fn make_dir(path: &Path, group: Option<u32>) -> std::io::Result<()> {
    std::fs::create_dir(path)?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755))?;
    own(path, group)
}

fn own(path: &Path, group: Option<u32>) -> std::io::Result<()> {
    match group {
        Some(group) => std::os::unix::fs::lchown(path, None, Some(group)),
        None => Ok(()),
    }
}

/// Whether the folder has exactly these contents.
fn same(dir: &Path, files: &BTreeMap<PathBuf, File>) -> bool {
    let mut found = 0;
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            return false;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let Ok(relative) = path.strip_prefix(dir) else {
                return false;
            };
            let equal = files
                .get(relative)
                .is_some_and(|file| std::fs::read(&path).is_ok_and(|data| data == file.data));
            if !equal {
                return false;
            }
            found += 1;
        }
    }
    found == files.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> BTreeMap<PathBuf, File> {
        list.iter()
            .map(|(path, data)| {
                (
                    PathBuf::from(path),
                    File {
                        data: data.as_bytes().to_vec(),
                        mode: 0o644,
                    },
                )
            })
            .collect()
    }

    #[test]
    fn a_change_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &files(&[("a", "1"), ("sub/b", "2")]), None).unwrap();
        assert_eq!(std::fs::read(dir.path().join("a")).unwrap(), b"1");
        assert_eq!(std::fs::read(dir.path().join("sub/b")).unwrap(), b"2");
        let before = std::fs::read_link(dir.path().join("..data")).unwrap();
        write(dir.path(), &files(&[("a", "1"), ("sub/b", "2")]), None).unwrap();
        assert_eq!(
            std::fs::read_link(dir.path().join("..data")).unwrap(),
            before,
            "nothing changed"
        );
        write(dir.path(), &files(&[("c", "3")]), None).unwrap();
        assert_eq!(std::fs::read(dir.path().join("c")).unwrap(), b"3");
        assert!(!dir.path().join("a").exists());
        let mut names: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names.len(), 3, "{names:?}");
    }

    #[test]
    fn paths_stay_inside() {
        for bad in ["", "/etc/passwd", "../x", "a/../../x", "..data", "./x"] {
            assert!(checked("v", bad).is_err(), "{bad}");
        }
        for good in ["a", "a/b.txt", ".hidden"] {
            assert!(checked("v", good).is_ok(), "{good}");
        }
    }
}

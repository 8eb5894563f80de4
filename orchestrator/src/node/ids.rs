//! Which users of the host are the users of a pod with `hostUsers: false`.
//!
//! The node has one range of ids, cut into parts of 65,536, as kubelet gives each pod. A part that is taken is a file
//! in the run directory: its name is the first id, its content the pod's uid. So a part stays taken while anything of
//! its pod may be left, also when `berthd` is killed and when the pod's own state is lost.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Ids of one pod.
pub const LENGTH: u32 = 65_536;

/// The host's ids for pods: `FIRST:LENGTH`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    first: u32,
    length: u32,
}

impl Default for Range {
    /// 1,024 pods between what systemd-nspawn takes (up to 0x6fff_ffff) and where signed 32-bit numbers end; the ids
    /// that useradd(8) gives out for subuid(5) are below (<https://systemd.io/UIDS-GIDS>).
    fn default() -> Range {
        Range {
            first: 0x7000_0000,
            length: 1024 * LENGTH,
        }
    }
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Range, String> {
        let parts = text.split_once(':').and_then(|(first, length)| {
            let length: u32 = length.parse().ok()?;
            Some((first.parse::<u32>().ok()?, length))
        });
        let Some((first, length)) = parts else {
            return Err("must be FIRST:LENGTH, two numbers".to_owned());
        };
        if length < LENGTH {
            return Err(format!("LENGTH must be at least {LENGTH}, the ids of one pod"));
        }
        if first < LENGTH {
            return Err(format!(
                "FIRST must be at least {LENGTH}: below are the host's own users"
            ));
        }
        // The last id means "none" to many system calls.
        if first.checked_add(length).is_none() {
            return Err("FIRST plus LENGTH must be less than 4294967296".to_owned());
        }
        Ok(Range { first, length })
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.first, self.length)
    }
}

/// Why a pod has no ids.
#[derive(Debug, thiserror::Error)]
pub enum IdsError {
    /// All are taken.
    #[error(
        "no user ids are left for hostUsers: false: {pods} pods have all of {range}; give more with berthd --pod-ids, or delete some"
    )]
    Exhausted {
        /// How many have some.
        pods: usize,
        /// The node's ids.
        range: Range,
    },
    /// The file that says who has them.
    #[error("note the user ids of a pod in {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
}

/// Who has which ids.
#[derive(Debug)]
pub struct Ids {
    dir: PathBuf,
    range: Range,
    taken: Mutex<BTreeMap<u32, String>>,
}

impl Ids {
    /// Reads what an earlier `berthd` has given out. Blocks.
    ///
    /// # Errors
    /// The system's answer about the folder.
    pub fn open(dir: &Path, range: Range) -> std::io::Result<Ids> {
        std::fs::create_dir_all(dir)?;
        let mut taken = BTreeMap::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let first = entry.file_name().to_str().and_then(|name| name.parse().ok());
            match first {
                Some(first) => {
                    taken.insert(first, std::fs::read_to_string(entry.path())?);
                }
                // One that was being written: nobody has got its ids.
                None => std::fs::remove_file(entry.path())?,
            }
        }
        Ok(Ids {
            dir: dir.to_owned(),
            range,
            taken: Mutex::new(taken),
        })
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<u32, String>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first id of a pod, if it has any.
    pub fn of(&self, uid: &str) -> Option<u32> {
        let taken = self.taken();
        taken.iter().find(|(_, pod)| *pod == uid).map(|(first, _)| *first)
    }

    /// Gives a pod its ids, the same again if it has some. Blocks.
    ///
    /// # Errors
    /// [`IdsError`].
    pub fn take(&self, uid: &str) -> Result<u32, IdsError> {
        let mut taken = self.taken();
        if let Some((first, _)) = taken.iter().find(|(_, pod)| *pod == uid) {
            return Ok(*first);
        }
        let free = (0..self.range.length / LENGTH)
            .map(|number| self.range.first + number * LENGTH)
            .find(|first| {
                // Ids given out under another range may overlap.
                let before = taken.range(..=*first).next_back();
                let after = taken.range(*first..).next();
                before.is_none_or(|(other, _)| first - other >= LENGTH)
                    && after.is_none_or(|(other, _)| other - first >= LENGTH)
            });
        let first = free.ok_or(IdsError::Exhausted {
            pods: taken.len(),
            range: self.range,
        })?;
        let path = self.dir.join(first.to_string());
        let beside = self.dir.join(format!("{first}.new"));
        std::fs::write(&beside, uid)
            .and_then(|()| std::fs::rename(&beside, &path))
            .map_err(|source| IdsError::File { path, source })?;
        taken.insert(first, uid.to_owned());
        Ok(first)
    }

    /// Takes a pod's ids back: nothing of it is left. One without is no error. Blocks.
    ///
    /// # Errors
    /// [`IdsError::File`].
    pub fn release(&self, uid: &str) -> Result<(), IdsError> {
        self.retain(|pod| pod != uid)
    }

    /// Takes back what belongs to pods that are not to be kept. Blocks.
    ///
    /// # Errors
    /// [`IdsError::File`].
    pub fn retain(&self, keep: impl Fn(&str) -> bool) -> Result<(), IdsError> {
        let mut taken = self.taken();
        let free: Vec<u32> = taken
            .iter()
            .filter(|(_, pod)| !keep(pod))
            .map(|(first, _)| *first)
            .collect();
        for first in free {
            let path = self.dir.join(first.to_string());
            match std::fs::remove_file(&path) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(IdsError::File { path, source });
                }
                _ => {}
            }
            taken.remove(&first);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_disjoint_remembered_and_given_again() {
        let dir = tempfile::tempdir().unwrap();
        let range: Range = "100000:200000".parse().unwrap();
        let ids = Ids::open(dir.path(), range).unwrap();
        assert_eq!(ids.of("a"), None);
        let (a, b, c) = (
            ids.take("a").unwrap(),
            ids.take("b").unwrap(),
            ids.take("c").unwrap(),
        );
        assert_eq!((a, b, c), (100_000, 165_536, 231_072));
        assert_eq!(ids.take("b").unwrap(), b, "a pod keeps its ids");
        let full = ids.take("d").unwrap_err().to_string();
        assert!(
            full.contains("3 pods have all of 100000:200000") && full.contains("--pod-ids"),
            "{full}"
        );
        // A killed berthd leaves files, perhaps one half made.
        std::fs::write(dir.path().join("1.new"), "x").unwrap();
        drop(ids);
        let ids = Ids::open(dir.path(), range).unwrap();
        assert_eq!((ids.of("a"), ids.of("b")), (Some(a), Some(b)));
        ids.release("b").unwrap();
        ids.release("b").unwrap();
        assert_eq!(ids.take("d").unwrap(), b);
        ids.retain(|pod| pod == "d").unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        // Another range: what was given out under the old one is not given twice.
        let ids = Ids::open(dir.path(), "165000:196608".parse().unwrap()).unwrap();
        assert!(ids.take("e").unwrap() >= b + LENGTH);
    }

    #[test]
    fn a_range_is_checked() {
        assert_eq!(Range::default().to_string().parse(), Ok(Range::default()));
        for (text, part) in [
            ("", "FIRST:LENGTH"),
            ("1:x", "FIRST:LENGTH"),
            ("0:65536", "FIRST must be"),
            ("65536:65535", "LENGTH must be"),
            ("4294900000:67296", "less than"),
        ] {
            let error = text.parse::<Range>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}

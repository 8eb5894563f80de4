//! Mounts that a program makes: `fuse.…` and `fuse3.…`, as fuse-overlayfs' snapshotter hands them over.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use berth_sys::files::memory_file;
use containerd_shim_protos::api::Mount;

/// The most that is told of what a program has said.
const MAX_WORDS: u64 = 1024;

/// The programs that may be asked, by the beginning of the type (containerd's `mount` package knows the same).
const PROGRAMS: [(&str, &str); 2] = [("fuse.", "mount.fuse"), ("fuse3.", "mount.fuse3")];

/// The program for mounts of this type, and the type that it is to be told.
pub(super) fn program(kind: &str) -> Option<(&'static str, &str)> {
    PROGRAMS
        .iter()
        .find_map(|(prefix, program)| Some((*program, kind.strip_prefix(prefix)?)))
}

/// A program at work, a child of this process. The file system that it serves outlives it.
#[derive(Debug)]
pub struct Helper {
    pid: i32,
    /// What it says.
    words: File,
}

impl Helper {
    /// Starts `program` to mount `one` as a file system of `kind` onto `target`.
    ///
    /// # Errors
    /// The system's answer.
    pub(super) fn start(program: &str, kind: &str, one: &Mount, target: &Path) -> io::Result<Helper> {
        let words = File::from(memory_file(c"mount-helper")?);
        let mut command = Command::new(program);
        command.arg(&one.source).arg(target);
        for option in &one.options {
            command.args(["-o", option]);
        }
        command
            .args(["-t", kind])
            .stdin(Stdio::null())
            .stdout(words.try_clone()?)
            .stderr(words.try_clone()?);
        let pid = command.spawn()?.id() as i32;
        Ok(Helper { pid, words })
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Judges its end: on failure, what it has said in one line, and how it ended.
    pub(super) fn finish(mut self, status: ExitStatus) -> Result<(), String> {
        if status.success() {
            return Ok(());
        }
        let mut words = Vec::new();
        // Best effort: without its words there is still the exit status.
        let _ = self.words.rewind();
        let _ = self.words.take(MAX_WORDS).read_to_end(&mut words);
        let words = String::from_utf8_lossy(&words);
        let words: Vec<&str> = words.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        Err(match words.join("; ") {
            words if words.is_empty() => status.to_string(),
            words => format!("{words} ({status})"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_for_types_of_their_own() {
        assert_eq!(
            program("fuse3.fuse-overlayfs"),
            Some(("mount.fuse3", "fuse-overlayfs"))
        );
        assert_eq!(program("fuse.a.b"), Some(("mount.fuse", "a.b")));
        for kind in ["fuse", "fuseblk", "overlay", "fuse2.x"] {
            assert_eq!(program(kind), None, "{kind}");
        }
    }
}

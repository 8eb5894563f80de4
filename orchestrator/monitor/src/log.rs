//! Container logs in the CRI format, with rotation by size.
//!
//! ```text
//! 2026-01-02T03:04:05.000000006Z stdout F a whole line
//! 2026-01-02T03:04:05.000000006Z stderr P the first 16 KiB of a longer one, or what came before the end
//! ```
//! (Kubernetes `staging/src/k8s.io/cri-client/pkg/logs`: P joins the next entry of the stream without a
//! line break.) A full file is renamed to `<name>.<time stamp>`; the newest `max_files - 1` of those stay.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use berth_client::protocol::LogTarget;

use crate::clock;

/// Longest content of one entry, in bytes: longer lines are written as partial ones.
pub const MAX_ENTRY: usize = 16 << 10;

/// An open log file.
#[derive(Debug)]
pub struct Log {
    target: LogTarget,
    file: File,
    size: u64,
    /// Entries that are gathered before one write.
    out: Vec<u8>,
    /// Bytes that could not be written since the last success (the disk is full, say).
    lost: u64,
}

/// What a stream has not ended with a line break yet.
#[derive(Debug)]
pub struct Pending {
    name: &'static str,
    bytes: Vec<u8>,
}

impl Pending {
    /// For the stream of that name, `stdout` or `stderr`.
    pub fn new(name: &'static str) -> Pending {
        Pending {
            name,
            bytes: Vec::new(),
        }
    }
}

impl Log {
    /// Opens the file for appending.
    ///
    /// # Errors
    /// The system's answer.
    pub fn open(target: LogTarget) -> std::io::Result<Log> {
        let file = open(&target.path)?;
        let size = file.metadata()?.len();
        Ok(Log {
            target,
            file,
            size,
            out: Vec::new(),
            lost: 0,
        })
    }

    /// Adds what a stream has produced; keeps an unfinished line in `pending`.
    pub fn add(&mut self, pending: &mut Pending, mut data: &[u8]) {
        let stamp = clock::now();
        while !data.is_empty() {
            let room = MAX_ENTRY - pending.bytes.len();
            let head = &data[..data.len().min(room + 1)];
            if let Some(end) = head.iter().position(|&byte| byte == b'\n') {
                self.entry(&stamp, pending.name, b'F', &pending.bytes, &data[..end]);
                pending.bytes.clear();
                data = &data[end + 1..];
            } else if data.len() > room {
                self.entry(&stamp, pending.name, b'P', &pending.bytes, &data[..room]);
                pending.bytes.clear();
                data = &data[room..];
            } else {
                pending.bytes.extend_from_slice(data);
                data = &[];
            }
        }
        if pending.bytes.is_empty() {
            pending.bytes = Vec::new();
        }
        self.flush();
    }

    /// Writes an unfinished last line, as a partial entry.
    pub fn end(&mut self, pending: &mut Pending) {
        if !pending.bytes.is_empty() {
            let rest = std::mem::take(&mut pending.bytes);
            self.entry(&clock::now(), pending.name, b'P', &rest, &[]);
            self.flush();
        }
    }

    fn entry(&mut self, stamp: &str, stream: &str, tag: u8, first: &[u8], second: &[u8]) {
        for part in [
            stamp.as_bytes(),
            b" ",
            stream.as_bytes(),
            b" ",
            &[tag],
            b" ",
            first,
            second,
            b"\n",
        ] {
            self.out.extend_from_slice(part);
        }
    }

    /// A container must never wait for its log: what cannot be written is dropped and counted.
    fn flush(&mut self) {
        let out = std::mem::take(&mut self.out);
        if out.is_empty() {
            return;
        }
        if self.size > 0 && self.size + out.len() as u64 > self.target.max_bytes {
            match rotate(&self.target) {
                Ok(file) => (self.file, self.size) = (file, 0),
                Err(error) => eprintln!("rotate the log {}: {error}", self.target.path.display()),
            }
        }
        match self.file.write_all(&out) {
            Ok(()) => {
                self.size += out.len() as u64;
                if self.lost > 0 {
                    eprintln!(
                        "write the log {}: {} bytes were lost",
                        self.target.path.display(),
                        self.lost
                    );
                    self.lost = 0;
                }
            }
            Err(error) => {
                if self.lost == 0 {
                    eprintln!("write the log {}: {error}", self.target.path.display());
                }
                self.lost += out.len() as u64;
            }
        }
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o640)
        .open(path)
}

/// Renames the full file, removes the oldest ones and opens a new one.
fn rotate(target: &LogTarget) -> std::io::Result<File> {
    let keep = target.max_files.saturating_sub(1) as usize;
    if keep == 0 {
        std::fs::remove_file(&target.path)?;
        return open(&target.path);
    }
    let mut old = rotated(&target.path)?;
    old.sort();
    let surplus = (old.len() + 1).saturating_sub(keep);
    for path in old.into_iter().take(surplus) {
        std::fs::remove_file(path)?;
    }
    // Digits only, so that names sort by time.
    let stamp: String = clock::now().chars().filter(char::is_ascii_digit).collect();
    let mut name = target.path.clone().into_os_string();
    name.push(format!(".{stamp}"));
    std::fs::rename(&target.path, name)?;
    open(&target.path)
}

/// The rotated files of a log.
fn rotated(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return Ok(Vec::new());
    };
    let prefix = format!("{name}.");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|n| n.starts_with(&prefix)) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(dir: &Path, max_bytes: u64, max_files: u32) -> Log {
        Log::open(LogTarget {
            path: dir.join("0.log"),
            max_bytes,
            max_files,
        })
        .unwrap()
    }

    /// Stream, tag and content of every entry.
    fn entries(path: &Path) -> Vec<(String, String, String)> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines()
            .map(|line| {
                let mut parts = line.splitn(4, ' ');
                assert_eq!(parts.next().unwrap().len(), clock::STAMP_LENGTH);
                let mut next = || parts.next().unwrap().to_owned();
                (next(), next(), next())
            })
            .collect()
    }

    #[test]
    fn lines_are_cut_only_where_they_must() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(dir.path(), u64::MAX, 1);
        let (mut out, mut err) = (Pending::new("stdout"), Pending::new("stderr"));
        log.add(&mut out, b"one\ntw");
        log.add(&mut err, b"oops\n\n");
        log.add(&mut out, b"o\nthree");
        log.end(&mut out);
        log.end(&mut err);
        let found = entries(&dir.path().join("0.log"));
        let want = [
            ("stdout", "F", "one"),
            ("stderr", "F", "oops"),
            ("stderr", "F", ""),
            ("stdout", "F", "two"),
            ("stdout", "P", "three"),
        ];
        assert_eq!(found.len(), want.len());
        for (have, want) in found.iter().zip(want) {
            assert_eq!((have.0.as_str(), have.1.as_str(), have.2.as_str()), want);
        }
    }

    #[test]
    fn long_lines_become_partial_entries_of_16_kib() {
        for length in [
            MAX_ENTRY - 1,
            MAX_ENTRY,
            MAX_ENTRY + 1,
            2 * MAX_ENTRY,
            2 * MAX_ENTRY + 5,
        ] {
            for step in [1000, 4096, MAX_ENTRY, 65536] {
                let dir = tempfile::tempdir().unwrap();
                let mut log = log(dir.path(), u64::MAX, 1);
                let mut pending = Pending::new("stdout");
                let mut line: Vec<u8> = (0..length).map(|i| b'a' + (i % 26) as u8).collect();
                line.push(b'\n');
                for part in line.chunks(step) {
                    log.add(&mut pending, part);
                }
                let found = entries(&dir.path().join("0.log"));
                let (last, partial) = found.split_last().unwrap();
                assert_eq!(last.1, "F");
                assert!(
                    partial.iter().all(|e| e.1 == "P" && e.2.len() == MAX_ENTRY),
                    "{length} by {step}"
                );
                let joined: String = found.iter().map(|e| e.2.as_str()).collect();
                assert_eq!(joined.as_bytes(), &line[..length], "{length} by {step}");
            }
        }
    }

    #[test]
    fn rotation_keeps_the_newest_files() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(dir.path(), 100, 3);
        let mut pending = Pending::new("stdout");
        for i in 0..20 {
            log.add(&mut pending, format!("line {i} {}\n", "x".repeat(40)).as_bytes());
        }
        let mut old = rotated(&dir.path().join("0.log")).unwrap();
        old.sort();
        assert_eq!(old.len(), 2);
        assert!(entries(&dir.path().join("0.log"))[0].2.starts_with("line 19"));
        assert!(entries(&old[1])[0].2.starts_with("line 18"));
        assert!(entries(&old[0])[0].2.starts_with("line 17"));
    }
}

//! Serves containers' logs: from files in CRI format, over rotations, to people.

use std::io::SeekFrom;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_api::kinds;
use bytes::Bytes;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as api;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;

use super::paths::PodPaths;
use crate::store::{Key, Object, Store};

/// Pause between two looks at a log that is followed.
const POLL: Duration = Duration::from_millis(100);
/// Size of the pieces in which files are read and answers are sent.
const PIECE: usize = 32 << 10;

/// What is asked for (`PodLogOptions`).
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The container; not needed when the pod has one only.
    pub container: Option<String>,
    /// Go on until the container ends.
    pub follow: bool,
    /// The run before the present one.
    pub previous: bool,
    /// Nothing that was written before.
    pub since: Option<Timestamp>,
    /// A time stamp before each line.
    pub timestamps: bool,
    /// The last lines only.
    pub tail: Option<u64>,
    /// So many bytes at most.
    pub limit_bytes: Option<u64>,
}

/// Why there is no log; each is a bad request or an absence, with kubelet's text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The pod has more than one container.
    #[error("a container name must be specified for pod {pod}, choose one of: [{choices}]")]
    Choose {
        /// Name of the pod.
        pod: String,
        /// Its containers.
        choices: String,
    },
    /// It has no such container.
    #[error("container {container} is not valid for pod {pod}")]
    Unknown {
        /// Name of the pod.
        pod: String,
        /// Name of the container.
        container: String,
    },
    /// The container has not run yet.
    #[error("container {container:?} in pod {pod:?} is waiting to start: {reason}")]
    Waiting {
        /// Name of the pod.
        pod: String,
        /// Name of the container.
        container: String,
        /// Why it waits.
        reason: String,
    },
    /// There was no run before the present one.
    #[error("previous terminated container {container:?} in pod {pod:?} not found")]
    NoPrevious {
        /// Name of the pod.
        pod: String,
        /// Name of the container.
        container: String,
    },
    /// The stored object is not a pod.
    #[error("the stored pod cannot be read: {0}")]
    Pod(String),
}

/// Opens a container's log; the pieces arrive in the receiver until the log ends.
///
/// # Errors
/// [`LogError`], before the first byte.
pub fn stream(
    store: &Store,
    run_dir: &Path,
    data_dir: &Path,
    pod: &Object,
    options: Options,
) -> Result<mpsc::Receiver<Bytes>, LogError> {
    let parsed: api::Pod = pod.parse().map_err(|error| LogError::Pod(error.to_string()))?;
    let container = choose(&parsed, pod.name(), options.container.as_deref())?;
    let status = container_status(&parsed, &container);
    let restarts = status.map_or(0, |s| u32::try_from(s.restart_count).unwrap_or(0));
    let attempt = if options.previous {
        let none = || LogError::NoPrevious {
            pod: pod.name().to_owned(),
            container: container.clone(),
        };
        restarts.checked_sub(1).ok_or_else(none)?
    } else {
        restarts
    };
    let paths = PodPaths::new(run_dir, data_dir, pod.namespace(), pod.name(), pod.uid());
    let path = paths.log(&container, attempt);
    if !path.exists() {
        if options.previous {
            return Err(LogError::NoPrevious {
                pod: pod.name().to_owned(),
                container,
            });
        }
        let waiting = status
            .and_then(|s| s.state.as_ref())
            .and_then(|s| s.waiting.as_ref());
        let reason = waiting
            .and_then(|w| w.reason.clone())
            .unwrap_or_else(|| "ContainerCreating".to_owned());
        return Err(LogError::Waiting {
            pod: pod.name().to_owned(),
            container,
            reason,
        });
    }
    let source = Source {
        store: store.clone(),
        key: Key::new(kinds::POD, pod.namespace(), pod.name()),
        uid: pod.uid().to_owned(),
        container,
        attempt,
    };
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        let mut reader = Reader {
            sender,
            options,
            source,
            out: Vec::new(),
            sent: 0,
        };
        if let Err(error) = reader.run(&path).await {
            tracing::debug!(file = %path.display(), %error, "serve a log");
        }
    });
    Ok(receiver)
}

/// The container that is meant.
fn choose(pod: &api::Pod, name: &str, wanted: Option<&str>) -> Result<String, LogError> {
    let Some(spec) = &pod.spec else {
        return Err(LogError::Pod("it has no spec".to_owned()));
    };
    let inits = spec.init_containers.iter().flatten();
    match wanted.filter(|w| !w.is_empty()) {
        Some(wanted) => {
            let ephemeral = spec.ephemeral_containers.iter().flatten();
            let known = spec.containers.iter().chain(inits).any(|c| c.name == wanted)
                || ephemeral.into_iter().any(|c| c.name == wanted);
            let unknown = || LogError::Unknown {
                pod: name.to_owned(),
                container: wanted.to_owned(),
            };
            known.then(|| wanted.to_owned()).ok_or_else(unknown)
        }
        None => match spec.containers.as_slice() {
            [only] => Ok(only.name.clone()),
            all => {
                let choices: Vec<&str> = all.iter().map(|c| c.name.as_str()).collect();
                Err(LogError::Choose {
                    pod: name.to_owned(),
                    choices: choices.join(" "),
                })
            }
        },
    }
}

fn container_status<'a>(pod: &'a api::Pod, name: &str) -> Option<&'a api::ContainerStatus> {
    let status = pod.status.as_ref()?;
    [
        &status.container_statuses,
        &status.init_container_statuses,
        &status.ephemeral_container_statuses,
    ]
    .into_iter()
    .flatten()
    .flatten()
    .find(|s| s.name == name)
}

/// The run whose log is read.
struct Source {
    store: Store,
    key: Key,
    uid: String,
    container: String,
    attempt: u32,
}

impl Source {
    /// Whether the run is over.
    fn ended(&self) -> bool {
        let Ok(Some(object)) = self.store.get(&self.key) else {
            return true;
        };
        if object.uid() != self.uid {
            return true;
        }
        let Ok(pod) = object.parse::<api::Pod>() else {
            return true;
        };
        container_status(&pod, &self.container).is_some_and(|status| {
            let running = status.state.as_ref().is_some_and(|s| s.running.is_some());
            u32::try_from(status.restart_count).unwrap_or(0) != self.attempt || !running
        })
    }
}

struct Reader {
    sender: mpsc::Sender<Bytes>,
    options: Options,
    source: Source,
    out: Vec<u8>,
    sent: u64,
}

impl Reader {
    async fn run(&mut self, path: &Path) -> std::io::Result<()> {
        let mut files = rotated(path);
        files.push(path.to_owned());
        let mut start = 0;
        if let Some(lines) = self.options.tail {
            let (first, offset) = tail(&files, lines).await?;
            files.drain(..first);
            start = offset;
        }
        let Some(mut open) = first(&files).await? else {
            return Ok(());
        };
        open.seek(SeekFrom::Start(start)).await?;
        let mut rest = Vec::new();
        loop {
            // Asked before reading, so that what was written before the end is not missed.
            let ended = !self.options.follow || self.source.ended();
            if !self.copy(&mut open, &mut rest).await? {
                return Ok(());
            }
            if let Some(next) = successor(path, &open).await? {
                // The rest of this file was written before it was renamed.
                if !self.copy(&mut open, &mut rest).await? {
                    return Ok(());
                }
                open = next;
                continue;
            }
            if !self.flush().await || ended {
                return Ok(());
            }
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = self.sender.closed() => return Ok(()),
            }
        }
    }

    /// Takes everything up to the present end of a file; false when nobody wants more.
    async fn copy(&mut self, file: &mut File, rest: &mut Vec<u8>) -> std::io::Result<bool> {
        let mut buffer = vec![0; PIECE];
        loop {
            let length = file.read(&mut buffer).await?;
            if length == 0 {
                return Ok(true);
            }
            rest.extend_from_slice(&buffer[..length]);
            let mut from = 0;
            while let Some(end) = rest[from..].iter().position(|byte| *byte == b'\n') {
                self.entry_at(&rest[from..from + end]);
                from += end + 1;
            }
            rest.drain(..from);
            if self.out.len() >= PIECE && !self.flush().await {
                return Ok(false);
            }
        }
    }

    fn entry_at(&mut self, line: &[u8]) {
        if let Some(entry) = parse(line) {
            let early = self.options.since.is_some_and(|since| {
                std::str::from_utf8(entry.stamp)
                    .ok()
                    .and_then(|t| t.parse::<Timestamp>().ok())
                    .is_some_and(|t| t < since)
            });
            if early {
                return;
            }
            if self.options.timestamps {
                self.out.extend_from_slice(entry.stamp);
                self.out.push(b' ');
            }
            self.out.extend_from_slice(entry.text);
            if entry.whole {
                self.out.push(b'\n');
            }
        }
    }

    /// Sends what is gathered; false when nobody wants more.
    async fn flush(&mut self) -> bool {
        let mut out = std::mem::take(&mut self.out);
        let left = self
            .options
            .limit_bytes
            .map_or(u64::MAX, |limit| limit.saturating_sub(self.sent));
        out.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        self.sent += out.len() as u64;
        if !out.is_empty() && self.sender.send(Bytes::from(out)).await.is_err() {
            return false;
        }
        self.options.limit_bytes.is_none_or(|limit| self.sent < limit)
    }
}

/// One entry of the CRI format.
struct Entry<'a> {
    stamp: &'a [u8],
    whole: bool,
    text: &'a [u8],
}

/// `<time> <stream> <tags> <text>`; None for a line that is none.
fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let (stamp, _stream, tags) = (parts.next()?, parts.next()?, parts.next()?);
    let text = parts.next().unwrap_or_default();
    Some(Entry {
        stamp,
        whole: tags.first() == Some(&b'F'),
        text,
    })
}

/// The rotated files of a log, oldest first.
fn rotated(path: &Path) -> Vec<PathBuf> {
    let Some(name) = path.file_name().and_then(|n| n.to_str()) else {
        return Vec::new();
    };
    let prefix = format!("{name}.");
    let mut found: Vec<PathBuf> = path
        .parent()
        .and_then(|dir| std::fs::read_dir(dir).ok())
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(|n| n.starts_with(&prefix)))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

/// The first of these files that is there: the oldest may have been removed since they were listed.
async fn first(files: &[PathBuf]) -> std::io::Result<Option<File>> {
    for file in files {
        match File::open(file).await {
            Ok(open) => return Ok(Some(open)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// The file that the log goes on in after `open`; None if that is the newest. A log may have been rotated more than once
/// between two looks, and again during this one; and for a moment there is no newest file.
async fn successor(path: &Path, open: &File) -> std::io::Result<Option<File>> {
    let inode = open.metadata().await?.ino();
    loop {
        // Before the others are listed: renamed meanwhile, it is among them, or found to be another one when it is opened.
        let newest = match tokio::fs::metadata(path).await {
            Ok(newest) if newest.ino() == inode => return Ok(None),
            Ok(newest) => Some(newest.ino()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let mut files = Vec::new();
        for file in rotated(path) {
            if let Ok(meta) = tokio::fs::metadata(&file).await {
                files.push((file, meta.ino()));
            }
        }
        if let Some(newest) = newest.filter(|newest| files.iter().all(|(_, other)| other != newest)) {
            files.push((path.to_owned(), newest));
        }
        // One that is not there any more was the oldest.
        let next = files
            .iter()
            .position(|(_, other)| *other == inode)
            .map_or(0, |at| at + 1);
        let Some((file, wanted)) = files.get(next) else {
            return Ok(None);
        };
        // Renamed since it was listed, it is found under its new name.
        if let Some(open) = first(std::slice::from_ref(file)).await?
            && open.metadata().await?.ino() == *wanted
        {
            return Ok(Some(open));
        }
    }
}

/// Where the last `lines` lines begin: number of the file, and offset in it.
async fn tail(files: &[PathBuf], lines: u64) -> std::io::Result<(usize, u64)> {
    let mut wanted = lines;
    for (number, path) in files.iter().enumerate().rev() {
        let mut file = match File::open(path).await {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let length = file.metadata().await?.len();
        if wanted == 0 {
            return Ok((number, length));
        }
        let mut end = length;
        let mut buffer = vec![0; PIECE];
        while end > 0 {
            let size = end.min(PIECE as u64);
            file.seek(SeekFrom::Start(end - size)).await?;
            let piece = &mut buffer[..usize::try_from(size).unwrap_or(PIECE)];
            file.read_exact(piece).await?;
            for (at, byte) in piece.iter().enumerate().rev() {
                let offset = end - size + at as u64;
                // The break that ends the last line begins none.
                if *byte == b'\n' && offset + 1 < length {
                    wanted -= 1;
                    if wanted == 0 {
                        return Ok((number, offset + 1));
                    }
                }
            }
            end -= size;
        }
        // The file's first line.
        wanted = wanted.saturating_sub(u64::from(length > 0));
        if wanted == 0 {
            return Ok((number, 0));
        }
    }
    Ok((0, 0))
}

/// The end of a log as text: at most so many lines and bytes. Blocks; reads the end of the file only.
pub(super) fn last_words(path: &Path, lines: usize, bytes: usize) -> String {
    use std::io::{Read, Seek};
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(4 * bytes as u64)))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        Ok(text)
    };
    let raw = read().unwrap_or_default();
    let mut out = Vec::new();
    let all: Vec<&[u8]> = raw.split(|byte| *byte == b'\n').collect();
    for entry in all[all.len().saturating_sub(lines + 1)..]
        .iter()
        .filter_map(|line| parse(line))
    {
        out.extend_from_slice(entry.text);
        if entry.whole {
            out.push(b'\n');
        }
    }
    String::from_utf8_lossy(&out[out.len().saturating_sub(bytes)..]).into_owned()
}

#[cfg(test)]
#[path = "logs_tests.rs"]
mod tests;

//! Blobs on their way into the store: `<store>/partial/<hex>` grows while it is downloaded, and
//! stays when the transfer is cut, so that the next one goes on where it ended.
//!
//! Whoever needs the content reads the growing file ([`Tail`]): unpacking runs beside the
//! transfer and several transfers of one blob are one, while the only memory that this takes is
//! the kernel's page cache. A download never waits for its readers, so nothing can go in circles.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::blob::failed;
use crate::digest::{Digest, Running};
use crate::error::StoreError;

/// How often a waiting reader looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(200);

/// How a download ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The blob is in the store.
    Done,
    /// It came to nothing; somebody else may try.
    Failed,
}

#[derive(Debug, Default)]
struct State {
    available: u64,
    outcome: Option<Outcome>,
}

/// One blob on its way.
#[derive(Debug)]
pub(crate) struct Download {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    path: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

/// What [`Downloads::claim`] found.
pub(crate) enum Claim {
    /// The caller is to download it.
    Mine(Writer),
    /// Somebody else does.
    Others(Arc<Download>),
}

/// All blobs on their way into one store.
#[derive(Debug)]
pub(crate) struct Downloads {
    folder: PathBuf,
    active: Mutex<BTreeMap<Digest, Arc<Download>>>,
}

impl Downloads {
    /// Opens `<store>/partial`. Foreign files in it are left alone.
    pub(crate) fn open(store: &Path) -> Result<Self, StoreError> {
        let folder = store.join("partial");
        fs::create_dir_all(&folder).map_err(failed("create", &folder))?;
        Ok(Self {
            folder,
            active: Mutex::default(),
        })
    }

    /// Begins a download, or joins the one that is under way. What an earlier one has left is
    /// kept: the writer hashes it and goes on behind it.
    pub(crate) fn claim(self: &Arc<Self>, digest: &Digest, size: u64) -> Result<Claim, StoreError> {
        let mut active = self.active();
        if let Some(download) = active.get(digest) {
            return Ok(Claim::Others(Arc::clone(download)));
        }
        let path = self.folder.join(digest.hex());
        let file = File::options()
            .create(true)
            .read(true)
            .append(true)
            .open(&path)
            .map_err(failed("open", &path))?;
        let download = Arc::new(Download {
            digest: *digest,
            size,
            path,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        active.insert(*digest, Arc::clone(&download));
        Ok(Claim::Mine(Writer {
            downloads: Arc::clone(self),
            download,
            file,
            hash: Running::default(),
            resumed: 0,
        }))
    }

    /// Takes over a file of the store as a download that can be gone on with; its content is hashed
    /// when it is.
    pub(crate) fn adopt(&self, digest: &Digest, file: &Path) -> Result<(), StoreError> {
        let place = self.folder.join(digest.hex());
        fs::rename(file, &place).map_err(failed("keep as a partial download", file))
    }

    /// The download of a blob that is under way.
    pub(crate) fn find(&self, digest: &Digest) -> Option<Arc<Download>> {
        self.active().get(digest).map(Arc::clone)
    }

    /// Partial downloads that nobody works on: digest and bytes.
    pub(crate) fn idle(&self) -> Result<Vec<(Digest, u64)>, StoreError> {
        let active = self.active();
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed("list", &self.folder))? {
            let entry = entry.map_err(failed("list", &self.folder))?;
            let Some(digest) = entry.file_name().to_str().and_then(Digest::from_hex) else {
                continue;
            };
            if !active.contains_key(&digest) {
                let size = entry.metadata().map_err(failed("inspect", &entry.path()))?.len();
                found.push((digest, size));
            }
        }
        Ok(found)
    }

    /// Deletes partial downloads that nobody works on and `unwanted` does not want; gives back how
    /// many bytes that freed.
    pub(crate) fn sweep(&self, unwanted: impl Fn(&Digest, Duration) -> bool) -> Result<u64, StoreError> {
        let mut freed = 0;
        for (digest, size) in self.idle()? {
            let active = self.active();
            let path = self.folder.join(digest.hex());
            let age = fs::metadata(&path)
                .and_then(|metadata| metadata.modified())
                .ok()
                .and_then(|time| time.elapsed().ok())
                .unwrap_or_default();
            if !active.contains_key(&digest) && unwanted(&digest, age) {
                fs::remove_file(&path).map_err(failed("delete", &path))?;
                freed += size;
            }
        }
        Ok(freed)
    }

    fn active(&self) -> MutexGuard<'_, BTreeMap<Digest, Arc<Download>>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Download {
    /// Opens the growing file for reading from its beginning. It may have ended meanwhile: then
    /// the blob is in the store, or it has failed.
    pub(crate) fn tail(self: &Arc<Self>) -> io::Result<Tail> {
        Ok(Tail {
            file: File::open(&self.path)?,
            download: Arc::clone(self),
            position: 0,
        })
    }

    /// Waits for the end; `unwanted` ends the wait early.
    pub(crate) fn wait(&self, unwanted: &dyn Fn() -> bool) -> Outcome {
        let mut state = self.state();
        loop {
            if let Some(outcome) = state.outcome {
                return outcome;
            }
            if unwanted() {
                return Outcome::Failed;
            }
            state = self.pause(state);
        }
    }

    fn pause<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed
            .wait_timeout(state, LOOK)
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one that downloads. Dropping it without [`Writer::finish`] leaves the partial file.
pub(crate) struct Writer {
    downloads: Arc<Downloads>,
    pub(crate) download: Arc<Download>,
    file: File,
    hash: Running,
    /// Bytes that an earlier transfer had left.
    pub(crate) resumed: u64,
}

impl Writer {
    /// Takes over what an earlier transfer has left. More than there should be is no beginning
    /// of the blob.
    pub(crate) fn resume(&mut self) -> Result<(), StoreError> {
        let path = self.download.path.clone();
        let length = self.file.metadata().map_err(failed("inspect", &path))?.len();
        if length > self.download.size {
            return self.restart();
        }
        let mut buffer = vec![0u8; 128 * 1024];
        let mut left = length;
        while left > 0 {
            let most = buffer.len().min(left as usize);
            let count = self
                .file
                .read(&mut buffer[..most])
                .map_err(failed("read", &path))?;
            if count == 0 {
                break;
            }
            self.hash.update(&buffer[..count]);
            left -= count as u64;
        }
        self.resumed = self.hash.bytes();
        self.announce();
        Ok(())
    }

    fn restart(&mut self) -> Result<(), StoreError> {
        self.file
            .set_len(0)
            .map_err(failed("empty", &self.download.path))?;
        self.hash = Running::default();
        Ok(())
    }

    /// Bytes that are there.
    pub(crate) fn position(&self) -> u64 {
        self.hash.bytes()
    }

    /// Adds what has come.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file
            .write_all(bytes)
            .map_err(failed("write", &self.download.path))?;
        self.hash.update(bytes);
        self.announce();
        Ok(())
    }

    fn announce(&self) {
        self.download.state().available = self.hash.bytes();
        self.download.changed.notify_all();
    }

    /// Ends the download: what has come is moved to `place` if it is what was wanted, and deleted
    /// otherwise. Gives back the digest of what has come where it is a wrong one.
    pub(crate) fn finish(self, place: &Path, durable: bool) -> Result<Option<Digest>, StoreError> {
        let found = self.hash.digest();
        let path = &self.download.path;
        if found != self.download.digest || self.hash.bytes() != self.download.size {
            fs::remove_file(path).map_err(failed("delete", path))?;
            return Ok(Some(found));
        }
        if durable {
            self.file.sync_all().map_err(failed("write out", path))?;
        }
        fs::rename(path, place).map_err(failed("move into place", place))?;
        self.download.state().outcome = Some(Outcome::Done);
        Ok(None)
    }

    /// Gives up, and deletes what has come: it is not what was wanted.
    pub(crate) fn discard(self) {
        // What cannot be deleted is found out by its digest the next time.
        let _ = fs::remove_file(&self.download.path);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut active = self.downloads.active();
        active.remove(&self.download.digest);
        self.download.state().outcome.get_or_insert(Outcome::Failed);
        drop(active);
        self.download.changed.notify_all();
    }
}

/// Reads a blob while it is downloaded.
pub(crate) struct Tail {
    download: Arc<Download>,
    file: File,
    position: u64,
}

impl Tail {
    /// The same, but reading fails as soon as `unwanted`.
    pub(crate) fn until<F: Fn() -> bool>(self, unwanted: F) -> impl Read {
        Watched { tail: self, unwanted }
    }
}

struct Watched<F> {
    tail: Tail,
    unwanted: F,
}

impl<F: Fn() -> bool> Read for Watched<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let tail = &mut self.tail;
        let mut state = tail.download.state();
        let ahead = loop {
            let ahead = state.available - tail.position;
            if ahead > 0 || state.outcome == Some(Outcome::Done) {
                break ahead;
            }
            if state.outcome.is_some() || (self.unwanted)() {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the layer's download ended early",
                ));
            }
            state = tail.download.pause(state);
        };
        drop(state);
        let most = buffer.len().min(usize::try_from(ahead).unwrap_or(usize::MAX));
        let count = tail.file.read(&mut buffer[..most])?;
        tail.position += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mine(downloads: &Arc<Downloads>, content: &[u8]) -> Writer {
        match downloads
            .claim(&Digest::of(content), content.len() as u64)
            .unwrap()
        {
            Claim::Mine(writer) => writer,
            Claim::Others(_) => panic!("nobody else is here"),
        }
    }

    #[test]
    fn a_reader_follows_the_download_and_a_second_claim_joins_it() {
        let folder = tempfile::tempdir().unwrap();
        let downloads = Arc::new(Downloads::open(folder.path()).unwrap());
        let mut writer = mine(&downloads, b"hello world");
        writer.append(b"hello").unwrap();
        let Claim::Others(download) = downloads.claim(&Digest::of(b"hello world"), 11).unwrap() else {
            panic!("it is under way");
        };
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            let mut tail = download.tail().unwrap().until(|| false);
            tail.read_to_string(&mut text).map(|_| text)
        });
        writer.append(b" world").unwrap();
        let place = folder.path().join("blob");
        assert_eq!(writer.finish(&place, true).unwrap(), None);
        assert_eq!(reader.join().unwrap().unwrap(), "hello world");
        assert_eq!(fs::read(place).unwrap(), b"hello world");
        assert_eq!(downloads.idle().unwrap(), []);
    }

    #[test]
    fn a_cut_download_is_resumed_and_a_wrong_one_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let downloads = Arc::new(Downloads::open(folder.path()).unwrap());
        let content = b"0123456789";
        let mut writer = mine(&downloads, content);
        writer.append(b"01234").unwrap();
        drop(writer);
        assert_eq!(downloads.idle().unwrap(), [(Digest::of(content), 5)]);
        let mut writer = mine(&downloads, content);
        writer.resume().unwrap();
        assert_eq!((writer.position(), writer.resumed), (5, 5));
        writer.append(b"xxxxx").unwrap();
        let place = folder.path().join("blob");
        assert_eq!(
            writer.finish(&place, false).unwrap(),
            Some(Digest::of(b"01234xxxxx"))
        );
        assert!(!place.exists());
        assert_eq!(downloads.idle().unwrap(), []);

        // More than there should be is begun anew.
        fs::write(
            folder.path().join("partial").join(Digest::of(content).hex()),
            b"much too long",
        )
        .unwrap();
        let mut writer = mine(&downloads, content);
        writer.resume().unwrap();
        assert_eq!(writer.position(), 0);
        writer.append(content).unwrap();
        assert_eq!(writer.finish(&place, false).unwrap(), None);
    }

    #[test]
    fn a_reader_of_a_failed_download_gets_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let downloads = Arc::new(Downloads::open(folder.path()).unwrap());
        let mut writer = mine(&downloads, b"hello");
        writer.append(b"he").unwrap();
        let tail = writer.download.tail().unwrap();
        drop(writer);
        let mut bytes = Vec::new();
        assert!(tail.until(|| false).read_to_end(&mut bytes).is_err());
        assert_eq!(bytes, b"he");
    }
}

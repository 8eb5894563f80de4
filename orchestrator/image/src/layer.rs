//! Unpacked layers: each once, by chain id, shared by every image that has it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::blob::{Blobs, failed};
use crate::compare::difference;
use crate::decompress::decompress;
use crate::digest::{ChainId, Digest, Hashing};
use crate::error::{LayerError, StoreError};
use crate::unpack::{Contents, Limits, Lower, unpack};

/// How often a thread that waits for a layer looks whether it still comes.
const LOOK: Duration = Duration::from_millis(100);

/// What `layer.json` records.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    diff_id: String,
    /// The layer's number: its name under `l/`, in base 36.
    number: u32,
    /// Bytes of file contents.
    bytes: u64,
    entries: u64,
    /// Bytes of the plain archive; stores of before this was recorded do not know.
    #[serde(default)]
    plain_bytes: Option<u64>,
}

#[derive(Debug, Default)]
struct State {
    ready: BTreeMap<ChainId, Record>,
    /// Being unpacked right now by some thread.
    busy: BTreeSet<ChainId>,
    next_number: u32,
}

/// The unpacked layers of a store.
#[derive(Debug)]
pub(crate) struct Layers {
    folder: PathBuf,
    links: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

/// Unpacks a layer into `made`/fs, and holds its plain archive against its name.
fn unpack_into(
    made: &Path,
    wanted: &Wanted,
    lower: &Lower<'_>,
    source: impl Read,
    limits: &Limits,
) -> Result<(Contents, u64), LayerError> {
    let root_path = made.join("fs");
    for (folder, mode) in [(made, 0o700), (root_path.as_path(), 0o755)] {
        fs::DirBuilder::new()
            .mode(mode)
            .create(folder)
            .map_err(failed("create", folder))?;
    }
    let root = File::open(&root_path).map_err(failed("open", &root_path))?;
    let plain = decompress(source).map_err(|source| LayerError::read(wanted.blob, source))?;
    let mut hashing = Hashing::new(plain);
    let contents = unpack(&mut hashing, root.as_fd(), lower, limits)
        .map_err(|source| LayerError::unpack(wanted.blob, source))?;
    let (_, found, plain_bytes) = hashing.finish();
    if found != wanted.diff_id {
        return Err(LayerError::DiffId {
            layer: wanted.blob,
            expected: wanted.diff_id,
            found,
        });
    }
    Ok((contents, plain_bytes))
}

/// A layer to be made ready.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) chain: ChainId,
    pub(crate) diff_id: Digest,
    /// The blob it is unpacked from.
    pub(crate) blob: Digest,
}

impl Layers {
    /// Finds the layers that are there. A folder without a readable record is no layer: it is
    /// deleted, and unpacked again from its blob when it is wanted.
    pub(crate) fn open(store: &Path) -> Result<Self, StoreError> {
        let layers = Self {
            folder: store.join("layers"),
            links: store.join("l"),
            state: Mutex::default(),
            changed: Condvar::new(),
        };
        for folder in [&layers.folder, &layers.links] {
            fs::create_dir_all(folder).map_err(failed("create", folder))?;
        }
        let mut state = State::default();
        for entry in fs::read_dir(&layers.folder).map_err(failed("list", &layers.folder))? {
            let entry = entry.map_err(failed("list", &layers.folder))?;
            let Some(chain) = entry.file_name().to_str().and_then(ChainId::from_hex) else {
                continue;
            };
            let record = fs::read(entry.path().join("layer.json"))
                .ok()
                .and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
            if let Some(record) = record {
                state.next_number = state.next_number.max(record.number + 1);
                state.ready.insert(chain, record);
            } else {
                fs::remove_dir_all(entry.path()).map_err(failed("sweep", &entry.path()))?;
            }
        }
        layers.restore_links(&state)?;
        *layers.lock() = state;
        Ok(layers)
    }

    /// The folder that mount options are relative to.
    pub(crate) fn links(&self) -> &Path {
        &self.links
    }

    /// The layer's name under [`Self::links`].
    pub(crate) fn link(&self, chain: &ChainId) -> Option<String> {
        self.lock().ready.get(chain).map(|record| base36(record.number))
    }

    /// Bytes of file contents in a layer.
    pub(crate) fn bytes(&self, chain: &ChainId) -> u64 {
        self.lock().ready.get(chain).map_or(0, |record| record.bytes)
    }

    /// All layers that are ready.
    pub(crate) fn list(&self) -> Vec<ChainId> {
        self.lock().ready.keys().copied().collect()
    }

    /// The unpacked folder of a layer.
    pub(crate) fn path(&self, chain: &ChainId) -> PathBuf {
        self.folder.join(chain.digest().hex()).join("fs")
    }

    /// Makes a stack of layers ready from its blobs, lowest first. Gives back whether there was
    /// anything to do.
    pub(crate) fn ensure(
        &self,
        stack: &[Wanted],
        blobs: &Blobs,
        limits: &Limits,
    ) -> Result<bool, LayerError> {
        let mut changed = false;
        for (position, wanted) in stack.iter().enumerate() {
            let path = blobs.path(&wanted.blob);
            let below = Lower::new(|| self.open_all(&stack[..position], &|| true));
            let open = || File::open(&path).map_err(|source| failed("open", &path)(source).into());
            changed |= self.make(wanted, &below, open, blobs, limits)?;
        }
        Ok(changed)
    }

    /// Makes one layer ready from the stream that `open` gives. Threads that want the same layer
    /// share the work: one unpacks, the others wait. False if it was ready already.
    pub(crate) fn make<R: Read>(
        &self,
        wanted: &Wanted,
        lower: &Lower<'_>,
        open: impl FnOnce() -> Result<R, LayerError>,
        blobs: &Blobs,
        limits: &Limits,
    ) -> Result<bool, LayerError> {
        if !self.claim(wanted.chain) {
            return Ok(false);
        }
        let unpacked = open().and_then(|source| self.unpack(wanted, lower, source, blobs, limits));
        let mut state = self.lock();
        state.busy.remove(&wanted.chain);
        if let Ok(record) = &unpacked {
            state.ready.insert(wanted.chain, record.clone());
        }
        drop(state);
        self.changed.notify_all();
        unpacked.map(|_| true)
    }

    /// Whether a layer is unpacked.
    pub(crate) fn is_ready(&self, chain: &ChainId) -> bool {
        self.lock().ready.contains_key(chain)
    }

    /// Opens the folders of a stack, the topmost first. Those that are not ready yet are waited
    /// for, until `given_up`.
    pub(crate) fn open_all(&self, stack: &[Wanted], given_up: &dyn Fn() -> bool) -> io::Result<Vec<OwnedFd>> {
        let mut layers = Vec::with_capacity(stack.len());
        for wanted in stack.iter().rev() {
            let mut state = self.lock();
            while !state.ready.contains_key(&wanted.chain) {
                if given_up() && !state.busy.contains(&wanted.chain) {
                    return Err(io::Error::other(format!(
                        "layer {} below it is not there",
                        wanted.blob
                    )));
                }
                state = self
                    .changed
                    .wait_timeout(state, LOOK)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            }
            drop(state);
            layers.push(OwnedFd::from(File::open(self.path(&wanted.chain))?));
        }
        Ok(layers)
    }

    /// Bytes of the plain archive that a layer was unpacked from, if that is known.
    pub(crate) fn plain_bytes(&self, chain: &ChainId) -> Option<u64> {
        self.lock().ready.get(chain)?.plain_bytes
    }

    /// Whether a layer's folder is there, and not empty though it was unpacked with content. Single
    /// files are not looked at: only their blob has a digest.
    pub(crate) fn is_present(&self, chain: &ChainId) -> bool {
        let bytes = self.bytes(chain);
        fs::read_dir(self.path(chain)).is_ok_and(|mut found| bytes == 0 || found.next().is_some())
    }

    /// Moves a layer away whose content cannot be trusted; it is unpacked again when wanted.
    pub(crate) fn distrust(&self, chain: &ChainId, blobs: &Blobs) -> Result<(), StoreError> {
        self.delete(chain, blobs).map(|_| ())
    }

    /// Deletes a layer. The caller has made sure that no mount uses it.
    pub(crate) fn delete(&self, chain: &ChainId, blobs: &Blobs) -> Result<u64, StoreError> {
        let Some(record) = self.lock().ready.remove(chain) else {
            return Ok(0);
        };
        let link = self.links.join(base36(record.number));
        if let Err(error) = fs::remove_file(&link)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(failed("delete", &link)(error));
        }
        // First out of the way in one step, so that a kill leaves no half-deleted layer.
        let stage = blobs.stage()?;
        let folder = self.folder.join(chain.digest().hex());
        let doomed = stage.folder().join("layer");
        fs::rename(&folder, &doomed).map_err(failed("delete", &folder))?;
        fs::remove_dir_all(&doomed).map_err(failed("delete", &doomed))?;
        Ok(record.bytes)
    }

    /// Whether the caller is to unpack the layer; waits while another thread does.
    fn claim(&self, chain: ChainId) -> bool {
        let mut state = self.lock();
        loop {
            if state.ready.contains_key(&chain) {
                return false;
            }
            if state.busy.insert(chain) {
                return true;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn unpack(
        &self,
        wanted: &Wanted,
        lower: &Lower<'_>,
        source: impl Read,
        blobs: &Blobs,
        limits: &Limits,
    ) -> Result<Record, LayerError> {
        let stage = blobs.stage()?;
        let made = stage.folder().join("layer");
        let (contents, plain_bytes) = unpack_into(&made, wanted, lower, source, limits)?;
        let number = {
            let mut state = self.lock();
            state.next_number += 1;
            state.next_number - 1
        };
        let record = Record {
            diff_id: wanted.diff_id.to_string(),
            number,
            bytes: contents.bytes,
            entries: contents.entries,
            plain_bytes: Some(plain_bytes),
        };
        self.publish(wanted, &record, &made)?;
        Ok(record)
    }

    /// Unpacks the topmost layer of a stack once more, beside the store, and compares: the first file that is not as
    /// its blob says, and what is wrong with it.
    pub(crate) fn verify(
        &self,
        stack: &[Wanted],
        blobs: &Blobs,
    ) -> Result<Option<(PathBuf, &'static str)>, LayerError> {
        let Some((wanted, below)) = stack.split_last() else {
            return Ok(None);
        };
        let stage = blobs.stage()?;
        let made = stage.folder().join("layer");
        let path = blobs.path(&wanted.blob);
        let source = File::open(&path).map_err(failed("open", &path))?;
        let lower = Lower::new(|| self.open_all(below, &|| true));
        unpack_into(&made, wanted, &lower, source, &Limits::default())?;
        let found = self.path(&wanted.chain);
        let compared = difference(&made.join("fs"), &found).map_err(failed("compare", &found))?;
        Ok(compared)
    }

    /// Puts a finished layer into place. Whoever enters an image that needs it sees to it that it
    /// survives a power cut, see [`crate::store`].
    fn publish(&self, wanted: &Wanted, record: &Record, made: &Path) -> Result<(), StoreError> {
        let record_path = made.join("layer.json");
        let bytes = serde_json::to_vec_pretty(record)
            .map_err(|source| failed("write", &record_path)(io::Error::other(source)))?;
        fs::write(&record_path, bytes).map_err(failed("write", &record_path))?;
        let link = self.links.join(base36(record.number));
        match fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("replace", &link)(error));
            }
            _ => {}
        }
        symlink(link_target(&wanted.chain), &link).map_err(failed("create", &link))?;
        let place = self.folder.join(wanted.chain.digest().hex());
        fs::rename(made, &place).map_err(failed("move into place", &place))
    }

    /// Makes `l/` match the layers: exactly one link a layer.
    fn restore_links(&self, state: &State) -> Result<(), StoreError> {
        let mut wanted: BTreeMap<String, PathBuf> = state
            .ready
            .iter()
            .map(|(chain, record)| (base36(record.number), link_target(chain)))
            .collect();
        for entry in fs::read_dir(&self.links).map_err(failed("list", &self.links))? {
            let path = entry.map_err(failed("list", &self.links))?.path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            if fs::read_link(&path)
                .ok()
                .is_some_and(|target| wanted.get(name) == Some(&target))
            {
                wanted.remove(name);
            } else {
                fs::remove_file(&path).map_err(failed("sweep", &path))?;
            }
        }
        for (name, target) in wanted {
            let link = self.links.join(name);
            symlink(target, &link).map_err(failed("create", &link))?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock; if one did, the state is still consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn link_target(chain: &ChainId) -> PathBuf {
    PathBuf::from("../layers").join(chain.digest().hex()).join("fs")
}

/// Digits and letters: 1,679,616 layers have names of at most four characters.
fn base36(mut number: u32) -> String {
    let mut digits = Vec::new();
    loop {
        digits.extend(char::from_digit(number % 36, 36));
        number /= 36;
        if number == 0 {
            return digits.iter().rev().collect();
        }
    }
}

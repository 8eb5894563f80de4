//! Content-addressed files: written to the side, hashed on the way, renamed into place.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::digest::{Digest, Hashing, Running};
use crate::error::StoreError;

/// Most bytes of a JSON document (manifest, config, index): containerd's limit is 8 MiB, too.
pub(crate) const DOCUMENT_LIMIT: u64 = 8 << 20;

/// Wraps an operating system error with what was attempted in the store.
pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::File { action, path, source }
}

/// The blobs and the folder for half-made files.
#[derive(Debug)]
pub(crate) struct Blobs {
    folder: PathBuf,
    staging: PathBuf,
    sequence: AtomicU64,
}

impl Blobs {
    /// Opens `<store>/blobs/sha256` and empties `<store>/tmp`: what is there was left by a kill.
    pub(crate) fn open(store: &Path) -> Result<Self, StoreError> {
        let blobs = Self {
            folder: store.join("blobs/sha256"),
            staging: store.join("tmp"),
            sequence: AtomicU64::new(0),
        };
        fs::create_dir_all(&blobs.folder).map_err(failed("create", &blobs.folder))?;
        match fs::remove_dir_all(&blobs.staging) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("sweep", &blobs.staging)(error));
            }
            _ => {}
        }
        fs::create_dir_all(&blobs.staging).map_err(failed("create", &blobs.staging))?;
        Ok(blobs)
    }

    /// Where a blob is or would be.
    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(digest.hex())
    }

    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.path(digest).exists()
    }

    /// Reads a document and checks it against its digest.
    pub(crate) fn document(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.path(digest);
        let file = File::open(&path).map_err(failed("open", &path))?;
        let mut bytes = Vec::new();
        file.take(DOCUMENT_LIMIT)
            .read_to_end(&mut bytes)
            .map_err(failed("read", &path))?;
        if Digest::of(&bytes) == *digest {
            Ok(bytes)
        } else {
            Err(StoreError::Damaged { digest: *digest })
        }
    }

    /// Whether a blob has the content that its name promises.
    pub(crate) fn is_sound(&self, digest: &Digest) -> Result<bool, StoreError> {
        let path = self.path(digest);
        let mut file = File::open(&path).map_err(failed("open", &path))?;
        let mut buffer = vec![0u8; 128 * 1024];
        let mut hash = Running::default();
        loop {
            match file.read(&mut buffer).map_err(failed("read", &path))? {
                0 => return Ok(hash.digest() == *digest),
                count => hash.update(&buffer[..count]),
            }
        }
    }

    /// Bytes of a blob.
    pub(crate) fn size(&self, digest: &Digest) -> Result<u64, StoreError> {
        let path = self.path(digest);
        Ok(fs::metadata(&path).map_err(failed("inspect", &path))?.len())
    }

    /// All blobs. Foreign files in the folder are left alone.
    pub(crate) fn list(&self) -> Result<Vec<Digest>, StoreError> {
        let entries = fs::read_dir(&self.folder).map_err(failed("list", &self.folder))?;
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed("list", &self.folder))?;
            found.extend(entry.file_name().to_str().and_then(Digest::from_hex));
        }
        Ok(found)
    }

    /// Deletes a blob and says how many bytes that freed.
    pub(crate) fn delete(&self, digest: &Digest) -> Result<u64, StoreError> {
        let path = self.path(digest);
        let size = fs::metadata(&path).map_err(failed("inspect", &path))?.len();
        fs::remove_file(&path).map_err(failed("delete", &path))?;
        Ok(size)
    }

    /// A folder for one import or one layer, removed with everything in it when dropped.
    pub(crate) fn stage(&self) -> Result<Stage, StoreError> {
        let number = self.sequence.fetch_add(1, Ordering::Relaxed);
        let folder = self.staging.join(number.to_string());
        fs::create_dir(&folder).map_err(failed("create", &folder))?;
        Ok(Stage { folder, next: 0 })
    }

    /// Moves a staged file into place. One that is there already is replaced: should it have been
    /// damaged, that repairs it. Only [`Self::sync`] makes it survive a power cut.
    pub(crate) fn commit(&self, staged: &Staged) -> Result<(), StoreError> {
        let path = self.path(&staged.digest);
        match fs::rename(&staged.path, &path) {
            // The same layer twice in one image: it has been moved already.
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.exists() => Ok(()),
            moved => moved.map_err(failed("move into place", &path)),
        }
    }

    /// Makes everything that was written to the store's file system so far survive a power cut.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        let folder = File::open(&self.folder).map_err(failed("open", &self.folder))?;
        nix::unistd::syncfs(&folder).map_err(|error| failed("write out", &self.folder)(error.into()))
    }
}

/// Makes renames into a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    File::open(folder)
        .and_then(|file| file.sync_all())
        .map_err(failed("write out", folder))
}

/// Replaces a small file: readers see the old or the new content, also after a power cut.
pub(crate) fn replace_file(path: &Path, bytes: &[u8], stage: &Stage) -> Result<(), StoreError> {
    let temporary = stage.folder.join("replacement");
    let mut file = File::create(&temporary).map_err(failed("create", &temporary))?;
    file.write_all(bytes).map_err(failed("write", &temporary))?;
    file.sync_all().map_err(failed("write out", &temporary))?;
    fs::rename(&temporary, path).map_err(failed("replace", path))?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// A folder of half-made files.
#[derive(Debug)]
pub(crate) struct Stage {
    folder: PathBuf,
    next: u64,
}

/// A file in a [`Stage`], with what went into it.
#[derive(Debug, Clone)]
pub(crate) struct Staged {
    pub(crate) path: PathBuf,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

impl Stage {
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes a stream out. The inner result is the reader's failure, the outer the store's.
    pub(crate) fn write(&mut self, mut reader: impl Read) -> Result<io::Result<Staged>, StoreError> {
        let path = self.folder.join(format!("blob-{}", self.next));
        self.next += 1;
        let file = File::create(&path).map_err(failed("create", &path))?;
        let mut writer = Hashing::new(file);
        let mut buffer = vec![0u8; 128 * 1024];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => writer
                    .write_all(&buffer[..count])
                    .map_err(failed("write", &path))?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Ok(Err(error)),
            }
        }
        let (_, digest, size) = writer.finish();
        Ok(Ok(Staged { path, digest, size }))
    }

    /// Writes a document that is in memory.
    pub(crate) fn document(&mut self, bytes: &[u8]) -> Result<Staged, StoreError> {
        let folder = self.folder.clone();
        self.write(bytes)?.map_err(failed("write", &folder))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // What cannot be removed now is swept when the store is opened next.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

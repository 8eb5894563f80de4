//! The store: opening, looking up, listing, removing, collecting garbage.
//!
//! An image is entered into `index.json` when its blobs and layers are in place. Imports have all
//! of it on the disk before that. Pulls do not wait for the disk: their images are marked with the
//! id of the boot until [`ImageStore::settle`] has had everything written out. Where the mark is of
//! another boot when the store is opened, the power has failed in between: then the blobs are
//! hashed again, and the layers unpacked anew when they are wanted.

mod collect;
mod enter;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use oci_spec::image::{ImageConfiguration, ImageManifest};

use crate::blob::{Blobs, failed};
use crate::digest::{ChainId, Digest};
use crate::download::Downloads;
use crate::error::{LayerError, RootfsError, StoreError};
use crate::index::{self, Index};
use crate::layer::{Layers, Wanted};
use crate::reference::Reference;
use crate::rootfs::Rootfs;
use crate::unpack::Limits;
pub(crate) use enter::Entry;
use enter::boot_id;

/// How long a lock is waited for: a program that was killed while it started another one holds its
/// locks until that one has come so far as to close them.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// How long a download that nobody goes on with is kept.
const PARTIAL_AGE: Duration = Duration::from_hours(7 * 24);

/// A content-addressed image store in one folder. Clones share it; it may be used from any thread.
#[derive(Debug, Clone)]
pub struct ImageStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    /// Keeps other processes out for as long as the store is open.
    _lock: Flock<File>,
    blobs: Blobs,
    layers: Layers,
    downloads: Arc<Downloads>,
    images: Mutex<Images>,
    /// What transfers that are under way need: never collected.
    pins: Mutex<Pins>,
    /// Id of this boot of the kernel.
    boot: String,
    /// Held shared by whoever adds or uses content, alone by whoever deletes it.
    gate: RwLock<()>,
}

#[derive(Debug, Default)]
struct Pins {
    blobs: BTreeMap<Digest, usize>,
    chains: BTreeMap<ChainId, usize>,
}

#[derive(Debug)]
struct Images {
    index: Index,
    known: BTreeMap<Digest, Arc<Parsed>>,
    /// Images whose documents are damaged: never used, and their content never collected.
    damaged: BTreeSet<Digest>,
}

/// What manifest and config of an image say.
#[derive(Debug)]
struct Parsed {
    id: Digest,
    config: ImageConfiguration,
    layers: Vec<Wanted>,
}

/// An image that containers can be made from.
#[derive(Debug, Clone)]
pub struct Image {
    /// The image id: digest of its config, as Docker, containerd and the kubelet report it.
    pub id: Digest,
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Its names; an image that a newer one took the name from has none.
    pub names: Vec<Reference>,
    /// Repositories and digests under which registries have it.
    pub digests: Vec<Reference>,
    /// Entrypoint, environment, user and so on.
    pub config: ImageConfiguration,
    /// Its layers, lowest first.
    pub layers: Vec<ChainId>,
    /// Bytes of file contents, shared layers counted.
    pub size: u64,
}

/// A line of the image list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSummary {
    /// The image id.
    pub id: Digest,
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Its names.
    pub names: Vec<Reference>,
    /// Repositories and digests under which registries have it.
    pub digests: Vec<Reference>,
    /// Bytes of file contents, shared layers counted.
    pub size: u64,
    /// Bytes of file contents in layers that no other image has.
    pub unique_size: u64,
    /// When it was imported, in seconds since the epoch.
    pub imported: u64,
}

/// What [`ImageStore::remove`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// Names that are gone.
    pub untagged: Vec<Reference>,
    /// The image, if that was its last name.
    pub deleted: Option<Digest>,
    /// What became garbage with it and was deleted.
    pub collected: Collected,
}

/// What a garbage collection deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Images without a name and without a container.
    pub images: u64,
    /// Unpacked layers.
    pub layers: u64,
    /// Blobs.
    pub blobs: u64,
    /// Bytes of blobs and of file contents.
    pub bytes: u64,
}

impl ImageStore {
    /// Opens or creates a store, and sweeps what a kill left half-made. One process at a time
    /// can have a store open.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(folder).map_err(failed("create", folder))?;
        let folder = fs::canonicalize(folder).map_err(failed("resolve", folder))?;
        let lock = lock(&folder)?;
        let blobs = Blobs::open(&folder)?;
        let index = index::load(&folder, &blobs.stage()?)?;
        let layers = Layers::open(&folder)?;
        let downloads = Arc::new(Downloads::open(&folder)?);
        let mut images = Images {
            index,
            known: BTreeMap::new(),
            damaged: BTreeSet::new(),
        };
        for manifest in images.index.keys() {
            match parse(&blobs, manifest) {
                Ok(parsed) => {
                    images.known.insert(*manifest, Arc::new(parsed));
                }
                Err(_) => {
                    images.damaged.insert(*manifest);
                }
            }
        }
        let store = Self(Arc::new(Inner {
            folder,
            _lock: lock,
            blobs,
            layers,
            downloads,
            images: Mutex::new(images),
            pins: Mutex::default(),
            boot: boot_id(),
            gate: RwLock::default(),
        }));
        // Nobody else has the store yet, so the gate need not be held.
        store.recheck()?;
        store.keep_unfinished()?;
        store.sweep()?;
        store.0.downloads.sweep(|_, age| age > PARTIAL_AGE)?;
        Ok(store)
    }

    /// The store's folder.
    pub fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// Manifests whose documents cannot be read or do not match their digests. Importing the
    /// image again repairs them.
    pub fn damaged(&self) -> Vec<Digest> {
        self.images().damaged.iter().copied().collect()
    }

    /// Finds an image by name (`user-service:v1.0.0`), by name and digest (`repo@sha256:…`), or
    /// by image id (`sha256:…`, or at least 12 of its digits).
    pub fn resolve(&self, name: &str) -> Result<Option<Image>, StoreError> {
        let images = self.images();
        Ok(find(&images, name)?.and_then(|manifest| self.image(&images, manifest)))
    }

    /// All images, by name; those without one last.
    pub fn list(&self) -> Vec<ImageSummary> {
        let images = self.images();
        let mut users: BTreeMap<ChainId, u32> = BTreeMap::new();
        for parsed in images.known.values() {
            for layer in &parsed.layers {
                *users.entry(layer.chain).or_default() += 1;
            }
        }
        let bytes = |layer: &Wanted| self.0.layers.bytes(&layer.chain);
        let mut summaries: Vec<ImageSummary> = images
            .known
            .iter()
            .filter_map(|(manifest, parsed)| {
                let named = images.index.get(manifest)?;
                let unique = parsed
                    .layers
                    .iter()
                    .filter(|layer| users.get(&layer.chain) == Some(&1));
                Some(ImageSummary {
                    id: parsed.id,
                    manifest: *manifest,
                    names: named.names.clone(),
                    digests: named.digests.clone(),
                    size: parsed.layers.iter().map(bytes).sum(),
                    unique_size: unique.map(bytes).sum(),
                    imported: named.imported,
                })
            })
            .collect();
        summaries.sort_by_key(|summary| (summary.names.is_empty(), summary.names.clone(), summary.manifest));
        summaries
    }

    /// Makes the folders of a container's root file system below `container_dir`, which must
    /// exist, and describes its overlay. The caller counts the image as in use from before this
    /// call until the container is deleted.
    pub fn prepare_rootfs(&self, image: &Image, container_dir: &Path) -> Result<Rootfs, RootfsError> {
        let _shared = self.gate_shared();
        let stack = self
            .images()
            .known
            .get(&image.manifest)
            .map(|parsed| parsed.layers.clone());
        // A layer whose folder was lost is unpacked again from its blob.
        if let Some(stack) = stack
            && self.0.layers.ensure(&stack, &self.0.blobs, &Limits::default())?
        {
            // The index has named it all the time.
            self.0.blobs.sync().map_err(LayerError::from)?;
        }
        let topmost_first = || image.layers.iter().rev();
        let lower = topmost_first().map(|chain| self.0.layers.path(chain)).collect();
        let names = topmost_first()
            .filter_map(|chain| self.0.layers.link(chain))
            .collect();
        Rootfs::prepare(container_dir, lower, (self.0.layers.links().to_owned(), names))
    }

    /// The media type of a manifest, and its layers' blobs, lowest first.
    pub(crate) fn contents(&self, manifest: &Digest) -> Result<(String, Vec<Digest>), StoreError> {
        let images = self.images();
        let gone = || StoreError::NotFound {
            name: manifest.to_string(),
        };
        let media_type = images.index.get(manifest).ok_or_else(gone)?.media_type.clone();
        let parsed = images.known.get(manifest).ok_or_else(gone)?;
        Ok((media_type, parsed.layers.iter().map(|layer| layer.blob).collect()))
    }

    /// The layers of a manifest.
    pub(crate) fn chains(&self, manifest: &Digest) -> Vec<ChainId> {
        let images = self.images();
        let parsed = images.known.get(manifest);
        parsed.map_or_else(Vec::new, |parsed| {
            parsed.layers.iter().map(|layer| layer.chain).collect()
        })
    }

    /// Every image with its names and its layers' blobs.
    pub(crate) fn needs(&self) -> Vec<(Digest, Vec<Reference>, Vec<Digest>)> {
        let images = self.images();
        let one = |(manifest, parsed): (&Digest, &Arc<Parsed>)| {
            let names = images.index.get(manifest).map(|named| named.names.clone());
            let blobs = parsed.layers.iter().map(|layer| layer.blob).collect();
            (*manifest, names.unwrap_or_default(), blobs)
        };
        images.known.iter().map(one).collect()
    }

    /// The layers of every image, lowest first.
    pub(crate) fn stacks(&self) -> Vec<Vec<Wanted>> {
        let images = self.images();
        images
            .known
            .values()
            .map(|parsed| parsed.layers.clone())
            .collect()
    }

    /// Gives an image another name, taking it over from whichever image had it.
    pub fn tag(&self, name: &str, new: &str) -> Result<Reference, StoreError> {
        let reference: Reference = new.parse()?;
        if reference.digest().is_some() {
            return Err(StoreError::TagDigest { name: reference });
        }
        let mut images = self.images();
        let manifest = find(&images, name)?.ok_or_else(|| StoreError::NotFound {
            name: name.to_owned(),
        })?;
        let mut index = images.index.clone();
        for named in index.values_mut() {
            named.names.retain(|other| *other != reference);
        }
        if let Some(named) = index.get_mut(&manifest) {
            named.names.push(reference.clone());
            named.names.sort();
        }
        self.replace_index(&mut images, index)?;
        Ok(reference)
    }

    /// An image's documents as they are: manifest and config.
    pub fn documents(&self, image: &Image) -> Result<(Vec<u8>, Vec<u8>), StoreError> {
        Ok((
            self.0.blobs.document(&image.manifest)?,
            self.0.blobs.document(&image.id)?,
        ))
    }

    /// Bytes of the files of each of an image's layers, and of its blob, lowest first.
    pub fn layer_sizes(&self, image: &Image) -> Result<Vec<(Digest, u64, u64)>, StoreError> {
        let (_, blobs) = self.contents(&image.manifest)?;
        let pairs = blobs.into_iter().zip(&image.layers);
        pairs
            .map(|(blob, chain)| Ok((blob, self.0.layers.bytes(chain), self.0.blobs.size(&blob)?)))
            .collect()
    }

    pub(crate) fn blobs(&self) -> &Blobs {
        &self.0.blobs
    }

    pub(crate) fn layers(&self) -> &Layers {
        &self.0.layers
    }

    pub(crate) fn gate_shared(&self) -> RwLockReadGuard<'_, ()> {
        self.0.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn downloads(&self) -> &Arc<Downloads> {
        &self.0.downloads
    }

    fn image(&self, images: &Images, manifest: Digest) -> Option<Image> {
        let parsed = images.known.get(&manifest)?;
        Some(Image {
            id: parsed.id,
            manifest,
            names: images.index.get(&manifest)?.names.clone(),
            digests: images.index.get(&manifest)?.digests.clone(),
            config: parsed.config.clone(),
            layers: parsed.layers.iter().map(|layer| layer.chain).collect(),
            size: parsed
                .layers
                .iter()
                .map(|layer| self.0.layers.bytes(&layer.chain))
                .sum(),
        })
    }

    fn replace_index(&self, images: &mut Images, index: Index) -> Result<(), StoreError> {
        index::save(&self.0.folder, &index, &self.0.blobs.stage()?)?;
        images.known.retain(|manifest, _| index.contains_key(manifest));
        images.damaged.retain(|manifest| index.contains_key(manifest));
        images.index = index;
        Ok(())
    }

    fn pins(&self) -> MutexGuard<'_, Pins> {
        self.0.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn images(&self) -> MutexGuard<'_, Images> {
        self.0.images.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gate_alone(&self) -> RwLockWriteGuard<'_, ()> {
        self.0.gate.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lock(folder: &Path) -> Result<Flock<File>, StoreError> {
    let path = folder.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(failed("open", &path))?;
    let mut file = file;
    let end = Instant::now() + LOCK_PATIENCE;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((again, Errno::EWOULDBLOCK)) if Instant::now() < end => file = again,
            Err((_, Errno::EWOULDBLOCK)) => {
                return Err(StoreError::Locked {
                    path: folder.to_owned(),
                });
            }
            Err((_, error)) => return Err(failed("lock", &path)(error.into())),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The manifest that a name, a name by digest or an id means.
fn find(images: &Images, name: &str) -> Result<Option<Digest>, StoreError> {
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    let id_like = hex.len() <= 64
        && (hex.len() >= 12 || name.starts_with("sha256:"))
        && !hex.is_empty()
        && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !name.starts_with("sha256:") {
        let reference: Reference = name.parse()?;
        let found = images
            .index
            .iter()
            .find(|(manifest, named)| match reference.digest() {
                Some(digest) => {
                    named.digests.contains(&reference)
                        || named.names.contains(&reference)
                        || (**manifest == digest
                            && named
                                .names
                                .iter()
                                .any(|name| name.repository() == reference.repository()))
                }
                None => named.names.contains(&reference),
            });
        if let Some((manifest, _)) = found {
            return Ok(Some(*manifest));
        }
    }
    if !id_like {
        return Ok(None);
    }
    // One image may be known under several manifests: any of them will do.
    let matching: BTreeMap<Digest, Digest> = images
        .known
        .iter()
        .filter(|(_, parsed)| parsed.id.hex().starts_with(hex))
        .map(|(manifest, parsed)| (parsed.id, *manifest))
        .collect();
    if matching.len() > 1 {
        return Err(StoreError::Ambiguous {
            name: name.to_owned(),
        });
    }
    Ok(matching.into_values().next())
}

/// Reads an image's documents from the store, each checked against its digest.
fn parse(blobs: &Blobs, manifest: &Digest) -> Result<Parsed, StoreError> {
    let damaged = |digest: &Digest| StoreError::Damaged { digest: *digest };
    let document: ImageManifest =
        serde_json::from_slice(&blobs.document(manifest)?).map_err(|_| damaged(manifest))?;
    let digest = |text: &str| text.parse::<Digest>().map_err(|_| damaged(manifest));
    let id = digest(document.config().digest().as_ref())?;
    let config: ImageConfiguration =
        serde_json::from_slice(&blobs.document(&id)?).map_err(|_| damaged(&id))?;
    let diff_ids = config
        .rootfs()
        .diff_ids()
        .iter()
        .map(|text| digest(text))
        .collect::<Result<Vec<_>, _>>()?;
    let layers = document.layers();
    if layers.len() != diff_ids.len() {
        return Err(damaged(manifest));
    }
    let stack = layers.iter().zip(&diff_ids).zip(ChainId::chain(&diff_ids));
    let layers = stack
        .map(|((layer, diff_id), chain)| {
            Ok(Wanted {
                chain,
                diff_id: *diff_id,
                blob: digest(layer.digest().as_ref())?,
            })
        })
        .collect::<Result<_, StoreError>>()?;
    Ok(Parsed { id, config, layers })
}

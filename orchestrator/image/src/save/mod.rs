//! Saving images as an archive that Docker, Podman, skopeo, containerd and Berth itself load.

mod tar;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};

use serde_json::{Value, json};

use self::tar::Writer;
use crate::blob::failed;
use crate::decompress::decompress;
use crate::digest::Digest;
use crate::error::StoreError;
use crate::index::NAME;
use crate::reference::Reference;
use crate::store::{Image, ImageStore};

/// containerd's annotation with the whole name.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// What kind of archive is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SaveFormat {
    /// `docker save`'s: manifest.json, configs, plain layers.
    #[default]
    Docker,
    /// An OCI image layout as a tar archive, blobs as they are in the store.
    Oci,
}

/// Why images were not saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// A blob does not hold what a layer should.
    #[error("layer {layer} in the store cannot be read: import or pull its image again")]
    Layer {
        /// Its blob.
        layer: Digest,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Whoever reads the archive has gone, or its disk is full.
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
    /// The store failed, or has no such image.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An image to be saved, under the names asked for.
struct Chosen {
    image: Image,
    names: Vec<Reference>,
    media_type: String,
    layers: Vec<Digest>,
}

impl ImageStore {
    /// Writes images as one archive. Those given by id are saved with all their names.
    pub fn save(&self, names: &[String], format: SaveFormat, out: impl Write) -> Result<(), SaveError> {
        let mut chosen: Vec<Chosen> = Vec::new();
        for name in names {
            let image = self
                .resolve(name)?
                .ok_or_else(|| StoreError::NotFound { name: name.clone() })?;
            let asked = name
                .parse::<Reference>()
                .ok()
                .filter(|reference| image.names.contains(reference));
            let names = match asked {
                Some(name) => vec![name],
                None => image.names.clone(),
            };
            let known = chosen
                .iter_mut()
                .find(|known| known.image.manifest == image.manifest);
            if let Some(known) = known {
                known.names.extend(names);
                known.names.sort();
                known.names.dedup();
            } else {
                let (media_type, layers) = self.contents(&image.manifest)?;
                chosen.push(Chosen {
                    image,
                    names,
                    media_type,
                    layers,
                });
            }
        }
        let pins = chosen.iter().flat_map(|one| {
            one.layers
                .iter()
                .copied()
                .chain([one.image.manifest, one.image.id])
        });
        let _pinned = self.pin(pins.collect(), Vec::new());
        match format {
            SaveFormat::Docker => self.save_docker(&chosen, out),
            SaveFormat::Oci => self.save_oci(&chosen, out),
        }
    }

    fn save_oci(&self, chosen: &[Chosen], out: impl Write) -> Result<(), SaveError> {
        let mut writer = Writer::new(out);
        let layout = json!({ "imageLayoutVersion": "1.0.0" }).to_string();
        writer
            .document("oci-layout", layout.as_bytes())
            .map_err(SaveError::Write)?;
        let mut written = BTreeSet::new();
        let mut manifests = Vec::new();
        for one in chosen {
            let blobs = one.layers.iter().chain([&one.image.id, &one.image.manifest]);
            for blob in blobs {
                if written.insert(*blob) {
                    self.copy_blob(&mut writer, &format!("blobs/sha256/{}", blob.hex()), blob)?;
                }
            }
            let size = self.blobs().size(&one.image.manifest)?;
            let entry = |annotations: Value| {
                json!({
                    "mediaType": one.media_type,
                    "digest": one.image.manifest.to_string(),
                    "size": size,
                    "annotations": annotations,
                })
            };
            let named = one.names.iter().filter(|name| name.tag().is_some());
            let before = manifests.len();
            manifests.extend(
                named.map(|name| entry(json!({ NAME: name.to_string(), CONTAINERD_NAME: name.to_string() }))),
            );
            if manifests.len() == before {
                manifests.push(entry(json!({})));
            }
        }
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": manifests,
        });
        writer
            .document("index.json", index.to_string().as_bytes())
            .map_err(SaveError::Write)?;
        writer.finish().map_err(SaveError::Write)
    }

    fn copy_blob(&self, writer: &mut Writer<impl Write>, name: &str, blob: &Digest) -> Result<(), SaveError> {
        let path = self.blobs().path(blob);
        let file = File::open(&path).map_err(failed("open", &path))?;
        let size = file.metadata().map_err(failed("inspect", &path))?.len();
        copy(writer, name, size, file, blob)
    }

    fn save_docker(&self, chosen: &[Chosen], out: impl Write) -> Result<(), SaveError> {
        let mut writer = Writer::new(out);
        let mut written = BTreeSet::new();
        let mut entries = Vec::new();
        let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for one in chosen {
            let diff_ids = one.image.config.rootfs().diff_ids();
            let mut layers = Vec::new();
            for ((blob, diff_id), chain) in one.layers.iter().zip(diff_ids).zip(&one.image.layers) {
                let hex = diff_id.rsplit(':').next().unwrap_or_default();
                let member = format!("{hex}.tar");
                if written.insert(member.clone()) {
                    let size = match self.layers().plain_bytes(chain) {
                        Some(size) => size,
                        None => self.plain_size(blob)?,
                    };
                    copy(&mut writer, &member, size, self.plain(blob)?, blob)?;
                }
                layers.push(member);
            }
            let config = format!("{}.json", one.image.id.hex());
            if written.insert(config.clone()) {
                self.copy_blob(&mut writer, &config, &one.image.id)?;
            }
            let tags: Vec<&Reference> = one.names.iter().filter(|name| name.tag().is_some()).collect();
            if let Some(top) = layers.last() {
                for name in &tags {
                    repositories
                        .entry(name.familiar_repository())
                        .or_default()
                        .insert(
                            name.tag().unwrap_or_default().to_owned(),
                            top.trim_end_matches(".tar").to_owned(),
                        );
                }
            }
            let tags: Vec<String> = tags.iter().map(|name| name.familiar()).collect();
            entries.push(json!({ "Config": config, "RepoTags": tags, "Layers": layers }));
        }
        let manifest = Value::from(entries).to_string();
        writer
            .document("manifest.json", manifest.as_bytes())
            .map_err(SaveError::Write)?;
        // What Docker before 1.10 read, and some tools still look at.
        writer
            .document("repositories", json!(repositories).to_string().as_bytes())
            .map_err(SaveError::Write)?;
        writer.finish().map_err(SaveError::Write)
    }

    fn plain(&self, blob: &Digest) -> Result<Box<dyn Read>, SaveError> {
        let path = self.blobs().path(blob);
        let file = File::open(&path).map_err(failed("open", &path))?;
        decompress(file).map_err(|source| SaveError::Layer { layer: *blob, source })
    }

    fn plain_size(&self, blob: &Digest) -> Result<u64, SaveError> {
        io::copy(&mut self.plain(blob)?, &mut io::sink())
            .map_err(|source| SaveError::Layer { layer: *blob, source })
    }
}

fn copy(
    writer: &mut Writer<impl Write>,
    name: &str,
    size: u64,
    mut content: impl Read,
    blob: &Digest,
) -> Result<(), SaveError> {
    writer.begin(name, size).map_err(SaveError::Write)?;
    let mut buffer = vec![0u8; 128 * 1024];
    let unreadable = |source| SaveError::Layer { layer: *blob, source };
    let mut left = size;
    loop {
        let count = content.read(&mut buffer).map_err(unreadable)?;
        if count as u64 > left || (count == 0 && left > 0) {
            return Err(unreadable(io::Error::other("its size has changed")));
        }
        if count == 0 {
            return writer.end(size).map_err(SaveError::Write);
        }
        left -= count as u64;
        writer.data(&buffer[..count]).map_err(SaveError::Write)?;
    }
}

//! Imports: an archive in, an image in the store out, or nothing at all.
//!
//! ```text
//! stream -> members (staged, hashed)  -> candidates: manifest, config, layers, names
//!        -> checks: documents, digests, sizes, platform                       nothing stored yet
//!        -> blobs moved into place -> layers unpacked, diff ids checked -> index.json replaced
//! ```
//!
//! The index is replaced last and in one step: a kill before it leaves garbage that the next open
//! sweeps, never half an image.

mod docker;
mod members;
mod oci;
mod root;

use std::io::Read;
use std::time::{SystemTime, UNIX_EPOCH};

use oci_spec::image::{ImageConfiguration, ImageManifest};

use crate::blob::{DOCUMENT_LIMIT, Stage, Staged};
use crate::decompress::decompress;
use crate::digest::{ChainId, Digest};
use crate::error::ImportError;
use crate::layer::Wanted;
use crate::reference::Reference;
use crate::store::{Entry, ImageStore};
use crate::unpack::Limits;
use members::Members;

pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";

/// What kind of stream is imported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ImportFormat {
    /// `docker save` or an OCI layout as tar, whichever it turns out to be; may be compressed.
    #[default]
    Archive,
    /// A root file system as tar, which becomes the image's one layer; may be compressed.
    Root,
}

/// How to import.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// The kind of stream.
    pub format: ImportFormat,
    /// The image's name; without one the archive's own names are used.
    pub name: Option<String>,
    /// What goes into the config of a root file system's image.
    pub root: RootOptions,
    /// How much a layer may contain.
    pub limits: Limits,
}

/// The configuration of an image made from a root file system (OCI image specification,
/// config.md), in the forms that a Dockerfile's instructions take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RootOptions {
    /// The program and its fixed arguments.
    pub entrypoint: Vec<String>,
    /// Default arguments, or the default command where there is no entrypoint.
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Working directory, absolute.
    pub working_dir: Option<String>,
    /// `user`, `user:group`, by name or number.
    pub user: Option<String>,
    /// `8080`, `53/udp`.
    pub ports: Vec<String>,
    /// `name=value`.
    pub labels: Vec<String>,
    /// Such as `SIGTERM`.
    pub stop_signal: Option<String>,
}

/// An image that was imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The image id.
    pub id: Digest,
    /// Digest of its manifest.
    pub manifest: Digest,
    /// The names it got.
    pub names: Vec<Reference>,
}

/// An image found in an archive, its documents parsed and its layers located.
struct Candidate {
    manifest: Document,
    media_type: String,
    config: Document,
    layers: Vec<Layer>,
    names: Vec<Reference>,
}

/// A JSON document and its staged blob.
struct Document {
    staged: Staged,
    bytes: Vec<u8>,
}

/// A layer's blob: staged, or in the store already.
struct Layer {
    digest: Digest,
    staged: Option<Staged>,
}

impl ImageStore {
    /// Imports every image of a stream, verifying every byte. On an error nothing is imported.
    pub fn import(&self, reader: impl Read, options: &ImportOptions) -> Result<Vec<Imported>, ImportError> {
        let name = options.name.as_deref().map(tagged_name).transpose()?;
        let mut stage = self.blobs().stage()?;
        let mut candidates = match options.format {
            ImportFormat::Root => vec![root::candidate(reader, &options.root, &mut stage)?],
            ImportFormat::Archive => {
                let plain = decompress(reader).map_err(ImportError::read)?;
                let members = Members::read(plain, &mut stage)?;
                if members.has("index.json") {
                    oci::candidates(&members, self.blobs())?
                } else if members.has("manifest.json") {
                    docker::candidates(&members, &mut stage)?
                } else {
                    return Err(ImportError::Unknown);
                }
            }
        };
        if let Some(name) = name {
            let [candidate] = candidates.as_mut_slice() else {
                return Err(ImportError::Several {
                    count: candidates.len(),
                });
            };
            candidate.names = vec![name];
        }
        if candidates.iter().any(|candidate| candidate.names.is_empty()) {
            return Err(ImportError::Unnamed);
        }
        let stacks = candidates.iter().map(check).collect::<Result<Vec<_>, _>>()?;
        self.enter_all(&candidates, &stacks, &options.limits)
    }

    fn enter_all(
        &self,
        candidates: &[Candidate],
        stacks: &[Vec<Wanted>],
        limits: &Limits,
    ) -> Result<Vec<Imported>, ImportError> {
        let _shared = self.gate_shared();
        for candidate in candidates {
            self.commit(candidate)?;
        }
        for stack in stacks {
            self.layers().ensure(stack, self.blobs(), limits)?;
        }
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let mut imported = Vec::new();
        for candidate in candidates {
            let manifest = &candidate.manifest.staged;
            self.enter(&Entry {
                manifest: manifest.digest,
                media_type: &candidate.media_type,
                size: manifest.size,
                names: &candidate.names,
                digests: &[],
                now,
                settled: true,
            })?;
            imported.push(Imported {
                id: candidate.config.staged.digest,
                manifest: manifest.digest,
                names: candidate.names.clone(),
            });
        }
        Ok(imported)
    }

    fn commit(&self, candidate: &Candidate) -> Result<(), ImportError> {
        for layer in &candidate.layers {
            match &layer.staged {
                Some(staged) => self.blobs().commit(staged)?,
                // It was there when the archive was read; a removal may have come between.
                None if self.blobs().has(&layer.digest) => {}
                None => {
                    return Err(ImportError::Missing {
                        member: oci::blob_member(&layer.digest),
                        wanted_by: "the image's manifest".to_owned(),
                    });
                }
            }
        }
        self.blobs().commit(&candidate.config.staged)?;
        self.blobs().commit(&candidate.manifest.staged)?;
        Ok(())
    }
}

/// Parses the name the caller wants. A name by digest is a content and cannot be given.
fn tagged_name(text: &str) -> Result<Reference, ImportError> {
    let name: Reference = text.parse()?;
    if name.digest().is_some() {
        Err(ImportError::NameByDigest { name })
    } else {
        Ok(name)
    }
}

/// Everything that can be checked before anything is stored.
fn check(candidate: &Candidate) -> Result<Vec<Wanted>, ImportError> {
    let json = |document: &str| {
        let document = document.to_owned();
        move |source| ImportError::Json { document, source }
    };
    let config: ImageConfiguration =
        serde_json::from_slice(&candidate.config.bytes).map_err(json("the image's config"))?;
    let _: ImageManifest =
        serde_json::from_slice(&candidate.manifest.bytes).map_err(json("the image's manifest"))?;
    let found = format!("{}/{}", config.os(), config.architecture());
    let host = host_platform();
    if found != host {
        return Err(ImportError::Platform { found, host });
    }
    let diff_ids = diff_ids(&config)?;
    if diff_ids.len() != candidate.layers.len() {
        return Err(ImportError::LayerCount {
            layers: candidate.layers.len(),
            diff_ids: diff_ids.len(),
        });
    }
    let stack = ChainId::chain(&diff_ids)
        .into_iter()
        .zip(&diff_ids)
        .zip(&candidate.layers);
    Ok(stack
        .map(|((chain, diff_id), layer)| Wanted {
            chain,
            diff_id: *diff_id,
            blob: layer.digest,
        })
        .collect())
}

fn diff_ids(config: &ImageConfiguration) -> Result<Vec<Digest>, ImportError> {
    config
        .rootfs()
        .diff_ids()
        .iter()
        .map(|text| {
            text.parse().map_err(|source| ImportError::DigestText {
                document: "the image's config".to_owned(),
                source,
            })
        })
        .collect()
}

/// `linux/amd64`: Go's names, as image configs have them.
pub(crate) fn host_platform() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    };
    format!("linux/{architecture}")
}

/// Reads a staged document whole.
fn read_document(name: &str, staged: &Staged) -> Result<Document, ImportError> {
    if staged.size > DOCUMENT_LIMIT {
        return Err(ImportError::TooBig {
            what: format!("a document {name:?}"),
            found: staged.size,
            limit: DOCUMENT_LIMIT,
        });
    }
    let bytes = std::fs::read(&staged.path).map_err(crate::blob::failed("read", &staged.path))?;
    Ok(Document {
        staged: staged.clone(),
        bytes,
    })
}

/// Stages a document of our own making.
fn stage_document(value: &serde_json::Value, stage: &mut Stage) -> Result<Document, ImportError> {
    let bytes = value.to_string().into_bytes();
    Ok(Document {
        staged: stage.document(&bytes)?,
        bytes,
    })
}

#[cfg(test)]
mod tests;

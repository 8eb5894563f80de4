//! `index.json`: which images the store has, and their names. It is a valid OCI image index, in
//! which a name is the usual annotation, so that other OCI tools can read the store.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::blob::{Stage, failed, replace_file};
use crate::digest::Digest;
use crate::error::StoreError;
use crate::reference::Reference;

const LAYOUT_FILE: &str = "oci-layout";
const LAYOUT_VERSION: &str = "1.0.0";
const INDEX_FILE: &str = "index.json";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
/// OCI's annotation for a name in an image layout (annotations.md).
pub(crate) const NAME: &str = "org.opencontainers.image.ref.name";
const IMPORTED: &str = "dev.berth.image.imported";
/// Repository and digest that the image was pulled by; blank-separated.
const DIGESTS: &str = "dev.berth.image.digests";
/// Id of the boot during which the image was entered before its content was on the disk.
const UNSETTLED: &str = "dev.berth.image.unsettled";

/// The names of one manifest; an image without a name has an empty set.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    pub(crate) media_type: String,
    pub(crate) size: u64,
    pub(crate) names: Vec<Reference>,
    /// Seconds since the epoch.
    pub(crate) imported: u64,
    /// Repositories and digests under which registries have it: of this manifest, or of an index
    /// that names it.
    pub(crate) digests: Vec<Reference>,
    /// Until its content is known to be on the disk: the id of the boot that wrote it.
    pub(crate) unsettled: Option<String>,
}

/// All images of the store by manifest digest.
pub(crate) type Index = BTreeMap<Digest, Named>;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    manifests: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
struct Layout {
    #[serde(rename = "imageLayoutVersion")]
    version: String,
}

/// Reads the index, or starts an empty store.
pub(crate) fn load(store: &Path, stage: &Stage) -> Result<Index, StoreError> {
    let layout_path = store.join(LAYOUT_FILE);
    match fs::read(&layout_path) {
        Ok(bytes) => {
            let layout: Layout = serde_json::from_slice(&bytes).map_err(|source| StoreError::Index {
                path: layout_path,
                source,
            })?;
            if layout.version != LAYOUT_VERSION {
                return Err(StoreError::Layout {
                    path: store.to_owned(),
                    found: layout.version,
                });
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let layout = serde_json::json!({ "imageLayoutVersion": LAYOUT_VERSION });
            replace_file(&layout_path, layout.to_string().as_bytes(), stage)?;
        }
        Err(error) => return Err(failed("read", &layout_path)(error)),
    }
    let path = store.join(INDEX_FILE);
    let document: Document = match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| StoreError::Index {
            path: path.clone(),
            source,
        })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let index = Index::new();
            save(store, &index, stage)?;
            return Ok(index);
        }
        Err(error) => return Err(failed("read", &path)(error)),
    };
    let mut index = Index::new();
    for entry in document.manifests {
        let malformed = |text: &str| StoreError::Index {
            path: path.clone(),
            source: serde::de::Error::custom(format!("{text:?} is malformed")),
        };
        let digest: Digest = entry.digest.parse().map_err(|_| malformed(&entry.digest))?;
        let imported = entry
            .annotations
            .get(IMPORTED)
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        let named = index.entry(digest).or_insert_with(|| Named {
            media_type: entry.media_type.clone(),
            size: entry.size,
            names: Vec::new(),
            imported,
            digests: Vec::new(),
            unsettled: entry.annotations.get(UNSETTLED).cloned(),
        });
        if named.digests.is_empty() {
            let texts = entry.annotations.get(DIGESTS).map_or("", String::as_str);
            for text in texts.split_ascii_whitespace() {
                named.digests.push(text.parse().map_err(|_| malformed(text))?);
            }
        }
        if let Some(name) = entry.annotations.get(NAME) {
            named.names.push(name.parse().map_err(|_| malformed(name))?);
        }
    }
    Ok(index)
}

/// Writes the index so that a kill leaves the old or the new one.
pub(crate) fn save(store: &Path, index: &Index, stage: &Stage) -> Result<(), StoreError> {
    let mut manifests = Vec::new();
    for (digest, named) in index {
        let entry = |name: Option<&Reference>| {
            let mut annotations = BTreeMap::from([(IMPORTED.to_owned(), named.imported.to_string())]);
            annotations.extend(name.map(|name| (NAME.to_owned(), name.to_string())));
            let digests: Vec<String> = named.digests.iter().map(ToString::to_string).collect();
            if !digests.is_empty() {
                annotations.insert(DIGESTS.to_owned(), digests.join(" "));
            }
            let unsettled = named.unsettled.clone();
            annotations.extend(unsettled.map(|boot| (UNSETTLED.to_owned(), boot)));
            Entry {
                media_type: named.media_type.clone(),
                digest: digest.to_string(),
                size: named.size,
                annotations,
            }
        };
        if named.names.is_empty() {
            manifests.push(entry(None));
        }
        manifests.extend(named.names.iter().map(|name| entry(Some(name))));
    }
    let document = Document {
        schema_version: 2,
        media_type: INDEX_TYPE.to_owned(),
        manifests,
    };
    let path = store.join(INDEX_FILE);
    let bytes = serde_json::to_vec_pretty(&document).map_err(|source| StoreError::Index {
        path: path.clone(),
        source,
    })?;
    replace_file(&path, &bytes, stage)
}

//! `docker save`: manifest.json names each image's config, tags and layer tars (Docker image
//! specification v1.2, "Combined Image JSON + Filesystem Changeset Format").

use std::fs::File;

use serde::Deserialize;
use serde_json::json;

use crate::blob::{Stage, Staged, failed};
use crate::decompress::{Compression, peek};
use crate::digest::Digest;
use crate::error::ImportError;

use super::members::Members;
use super::{CONFIG_TYPE, Candidate, Layer, MANIFEST_TYPE, stage_document, tagged_name};

const MANIFEST: &str = "manifest.json";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Image {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// The archive's images. Such an archive has no OCI manifest, so each image gets one, with the
/// layers as they are in the archive.
pub(super) fn candidates(members: &Members, stage: &mut Stage) -> Result<Vec<Candidate>, ImportError> {
    let document = members.document(MANIFEST, "docker save's format")?;
    let images: Vec<Image> = serde_json::from_slice(&document.bytes).map_err(|source| ImportError::Json {
        document: MANIFEST.to_owned(),
        source,
    })?;
    images
        .iter()
        .map(|image| candidate(image, members, stage))
        .collect()
}

fn candidate(image: &Image, members: &Members, stage: &mut Stage) -> Result<Candidate, ImportError> {
    let config = members.document(&image.config, MANIFEST)?;
    let stem = image.config.rsplit('/').next().unwrap_or_default();
    let stem = stem.strip_suffix(".json").unwrap_or(stem);
    if let Some(expected) = Digest::from_hex(stem)
        && expected != config.staged.digest
    {
        return Err(ImportError::Digest {
            member: image.config.clone(),
            expected,
            found: config.staged.digest,
        });
    }
    let (mut layers, mut descriptors) = (Vec::new(), Vec::new());
    for path in image.layers.iter().flatten() {
        let staged = members.file(path, MANIFEST)?;
        descriptors.push(json!({
            "mediaType": compression(staged)?.layer_media_type(),
            "digest": staged.digest.to_string(),
            "size": staged.size,
        }));
        layers.push(Layer {
            digest: staged.digest,
            staged: Some(staged.clone()),
        });
    }
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {
            "mediaType": CONFIG_TYPE,
            "digest": config.staged.digest.to_string(),
            "size": config.staged.size,
        },
        "layers": descriptors,
    });
    let names = image
        .repo_tags
        .iter()
        .flatten()
        .map(|tag| tagged_name(tag))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Candidate {
        manifest: stage_document(&manifest, stage)?,
        media_type: MANIFEST_TYPE.to_owned(),
        config,
        layers,
        names,
    })
}

/// How a staged layer is compressed.
pub(super) fn compression(staged: &Staged) -> Result<Compression, ImportError> {
    let mut file = File::open(&staged.path).map_err(failed("open", &staged.path))?;
    peek(&mut file)
        .and_then(|start| Compression::of(&start))
        .map_err(ImportError::read)
}

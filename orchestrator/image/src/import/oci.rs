//! OCI image layout (image-layout.md): index.json names manifests, which name blobs by digest.
//! Newer `docker save`, `podman save`, `buildah`, `skopeo` and `ctr image export` write it.

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};

use crate::blob::Blobs;
use crate::digest::Digest;
use crate::error::ImportError;
use crate::index::NAME;
use crate::reference::Reference;

use super::members::Members;
use super::{Candidate, Document, Layer, host_platform};

const INDEX: &str = "index.json";
/// containerd's annotation with the whole name, where OCI's may be only a tag.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// Indexes may nest (a multi-platform image in a layout): real ones do so once or twice.
const NESTING_LIMIT: usize = 4;

/// The member that holds a blob.
pub(super) fn blob_member(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// The layout's images for this machine. Attestations and other platforms' images are passed over.
pub(super) fn candidates(members: &Members, blobs: &Blobs) -> Result<Vec<Candidate>, ImportError> {
    let document = members.document(INDEX, "the OCI layout")?;
    let index: ImageIndex = serde_json::from_slice(&document.bytes).map_err(|source| ImportError::Json {
        document: INDEX.to_owned(),
        source,
    })?;
    let (mut found, mut others): (Vec<Candidate>, Vec<String>) = (Vec::new(), Vec::new());
    for descriptor in index.manifests() {
        if let Some(platform) = foreign_platform(descriptor) {
            others.push(platform);
            continue;
        }
        let Some((manifest, media_type)) = select(descriptor, members, &mut others, NESTING_LIMIT)? else {
            continue;
        };
        let names = names(descriptor)?;
        match found
            .iter_mut()
            .find(|known| known.manifest.staged.digest == manifest.staged.digest)
        {
            Some(known) => known.names.extend(names),
            None => found.push(candidate(manifest, media_type, names, members, blobs)?),
        }
    }
    if found.is_empty() {
        others.sort();
        others.dedup();
        let found = if others.is_empty() {
            "no platform".to_owned()
        } else {
            others.join(", ")
        };
        return Err(ImportError::Platform {
            found,
            host: host_platform(),
        });
    }
    Ok(found)
}

/// Finds the manifest for this machine behind a descriptor.
fn select(
    descriptor: &Descriptor,
    members: &Members,
    others: &mut Vec<String>,
    nesting: usize,
) -> Result<Option<(Document, String)>, ImportError> {
    let (document, digest) = blob_document(descriptor, members, INDEX)?;
    let name = blob_member(&digest);
    let media_type = descriptor.media_type().to_string();
    if is_manifest(&media_type) {
        return Ok(Some((document, media_type)));
    }
    if !is_index(&media_type) || nesting == 0 {
        return Err(ImportError::MediaType {
            document: name,
            media_type,
        });
    }
    let index: ImageIndex = serde_json::from_slice(&document.bytes).map_err(|source| ImportError::Json {
        document: name,
        source,
    })?;
    for inner in index.manifests() {
        if let Some(platform) = foreign_platform(inner) {
            others.push(platform);
        // A layout may carry only some of the platforms that its index names.
        } else if members.find(&blob_member(&digest_of(inner, INDEX)?)).is_some()
            && let Some(found) = select(inner, members, others, nesting - 1)?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn is_manifest(media_type: &str) -> bool {
    matches!(
        media_type,
        super::MANIFEST_TYPE | "application/vnd.docker.distribution.manifest.v2+json"
    )
}

fn is_index(media_type: &str) -> bool {
    matches!(
        media_type,
        "application/vnd.oci.image.index.v1+json"
            | "application/vnd.docker.distribution.manifest.list.v2+json"
    )
}

/// The platform of a descriptor that says it is for other machines.
fn foreign_platform(descriptor: &Descriptor) -> Option<String> {
    let platform = descriptor.platform().as_ref()?;
    let text = format!("{}/{}", platform.os(), platform.architecture());
    (text != host_platform()).then_some(text)
}

fn names(descriptor: &Descriptor) -> Result<Vec<Reference>, ImportError> {
    let Some(annotations) = descriptor.annotations() else {
        return Ok(Vec::new());
    };
    if let Some(name) = annotations.get(CONTAINERD_NAME) {
        return Ok(vec![super::tagged_name(name)?]);
    }
    // skopeo and buildah write only a tag here: that is no name.
    let whole = annotations.get(NAME).filter(|name| name.contains([':', '/']));
    Ok(whole
        .map(|name| super::tagged_name(name))
        .transpose()?
        .into_iter()
        .collect())
}

fn digest_of(descriptor: &Descriptor, document: &str) -> Result<Digest, ImportError> {
    descriptor
        .digest()
        .as_ref()
        .parse()
        .map_err(|source| ImportError::DigestText {
            document: document.to_owned(),
            source,
        })
}

/// A document by its descriptor: present, of the descriptor's digest (the member's name was
/// checked against its content) and size.
fn blob_document(
    descriptor: &Descriptor,
    members: &Members,
    wanted_by: &str,
) -> Result<(Document, Digest), ImportError> {
    let digest = digest_of(descriptor, wanted_by)?;
    let member = blob_member(&digest);
    let document = members.document(&member, wanted_by)?;
    check_size(&member, descriptor.size(), document.staged.size)?;
    Ok((document, digest))
}

fn check_size(member: &str, expected: u64, found: u64) -> Result<(), ImportError> {
    if expected == found {
        Ok(())
    } else {
        Err(ImportError::Size {
            member: member.to_owned(),
            expected,
            found,
        })
    }
}

fn candidate(
    manifest: Document,
    media_type: String,
    names: Vec<Reference>,
    members: &Members,
    blobs: &Blobs,
) -> Result<Candidate, ImportError> {
    let name = blob_member(&manifest.staged.digest);
    let parsed: ImageManifest =
        serde_json::from_slice(&manifest.bytes).map_err(|source| ImportError::Json {
            document: name.clone(),
            source,
        })?;
    let (config, _) = blob_document(parsed.config(), members, &name)?;
    let mut layers = Vec::new();
    for descriptor in parsed.layers() {
        let digest = digest_of(descriptor, &name)?;
        let member = blob_member(&digest);
        let staged = match members.find(&member) {
            Some(staged) => {
                check_size(&member, descriptor.size(), staged.size)?;
                Some(staged.clone())
            }
            // An archive may leave out what the receiver has; foreign layers are never in one.
            None if blobs.has(&digest) => None,
            None => {
                return Err(ImportError::Missing {
                    member,
                    wanted_by: name,
                });
            }
        };
        layers.push(Layer { digest, staged });
    }
    Ok(Candidate {
        manifest,
        media_type,
        config,
        layers,
        names,
    })
}

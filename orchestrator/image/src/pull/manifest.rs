//! From a name to the manifest for this machine: index, platform, config.

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};

use super::error::PullError;
use crate::digest::{ChainId, Digest};
use crate::import::host_platform;
use crate::layer::Wanted;
use crate::reference::Reference;
use crate::registry::{Fetched, Http, Session};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// What we say that we understand.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";
/// Indexes may name indexes; real ones do so once.
const NESTING: usize = 4;
/// More layers cannot be mounted (fs/overlayfs/params.h, OVL_MAX_STACK).
const LAYERS: usize = 500;

/// A layer as the manifest describes it, and what it is to become.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layer {
    pub(crate) wanted: Wanted,
    pub(crate) size: u64,
}

/// The documents of an image.
#[derive(Debug)]
pub(crate) struct Documents {
    pub(crate) manifest: Fetched,
    /// The digest that the name led to: the manifest's own, or an index's.
    pub(crate) named: Digest,
    pub(crate) config: Vec<u8>,
    pub(crate) config_digest: Digest,
    pub(crate) layers: Vec<Layer>,
}

/// Whether a media type is an index of manifests.
pub(crate) fn is_index(media_type: &str) -> bool {
    matches!(media_type, INDEX | DOCKER_LIST)
}

/// Gets the document that a name means, checked against the name's digest.
pub(crate) fn named(session: &Session, http: &mut Http<'_>, name: &Reference) -> Result<Fetched, PullError> {
    let version = match (name.digest(), name.tag()) {
        (Some(digest), _) => digest.to_string(),
        (None, tag) => tag.unwrap_or("latest").to_owned(),
    };
    let fetched = session
        .manifest(http, &version, ACCEPT)
        .map_err(PullError::registry(name, "the manifest"))?;
    expect(name, "the manifest", name.digest(), None, &fetched)?;
    Ok(fetched)
}

fn expect(
    name: &Reference,
    what: &str,
    digest: Option<Digest>,
    size: Option<u64>,
    fetched: &Fetched,
) -> Result<(), PullError> {
    if let Some(expected) = digest.filter(|digest| *digest != fetched.digest) {
        return Err(PullError::Digest {
            name: Box::new(name.clone()),
            what: what.to_owned(),
            expected,
            found: fetched.digest,
        });
    }
    let found = fetched.bytes.len() as u64;
    match size.filter(|size| *size != found) {
        Some(expected) => Err(PullError::Size {
            name: Box::new(name.clone()),
            what: what.to_owned(),
            expected,
            found,
        }),
        None => Ok(()),
    }
}

/// The media type of a document: what the registry says, and the document must not contradict it
/// (one that can be read as two things is an attack: CVE-2021-41190).
fn media_type(name: &Reference, fetched: &Fetched) -> Result<String, PullError> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        #[serde(default)]
        media_type: String,
        #[serde(default)]
        schema_version: i64,
        #[serde(default)]
        layers: Option<serde::de::IgnoredAny>,
        #[serde(default)]
        manifests: Option<serde::de::IgnoredAny>,
    }
    let shape: Shape = serde_json::from_slice(&fetched.bytes).map_err(|source| PullError::Json {
        name: Box::new(name.clone()),
        what: "manifest",
        source,
    })?;
    let said = fetched.media_type.as_str();
    let refused = |media_type: &str, why| PullError::MediaType {
        name: Box::new(name.clone()),
        what: "the manifest".to_owned(),
        media_type: media_type.to_owned(),
        why,
    };
    if shape.schema_version == 1 || said.contains("manifest.v1+") && !said.contains("oci") {
        return Err(refused(
            said,
            "the form that Docker gave up in 2019: push it again with a current tool",
        ));
    }
    let generic = said.is_empty()
        || said.starts_with("application/json")
        || said.starts_with("text/plain")
        || said == "application/octet-stream";
    let media_type = match (generic, shape.media_type.is_empty()) {
        (false, _) => said.to_owned(),
        (true, false) => shape.media_type.clone(),
        (true, true) if shape.manifests.is_some() => INDEX.to_owned(),
        (true, true) => MANIFEST.to_owned(),
    };
    if !shape.media_type.is_empty() && shape.media_type != media_type {
        return Err(refused(
            &media_type,
            "but the document itself says something else",
        ));
    }
    if (is_index(&media_type) && shape.layers.is_some())
        || (!is_index(&media_type) && shape.manifests.is_some())
    {
        return Err(refused(
            &media_type,
            "but it can be read as an index and as a manifest",
        ));
    }
    if !is_index(&media_type) && !matches!(media_type.as_str(), MANIFEST | DOCKER_MANIFEST) {
        return Err(refused(&media_type, "which is no image manifest or index"));
    }
    Ok(media_type)
}

/// Goes from the named document to the manifest for this machine.
pub(crate) fn select(
    session: &Session,
    http: &mut Http<'_>,
    name: &Reference,
    mut fetched: Fetched,
) -> Result<Fetched, PullError> {
    for _ in 0..NESTING {
        fetched.media_type = media_type(name, &fetched)?;
        if !is_index(&fetched.media_type) {
            return Ok(fetched);
        }
        let index: ImageIndex = serde_json::from_slice(&fetched.bytes).map_err(|source| PullError::Json {
            name: Box::new(name.clone()),
            what: "index",
            source,
        })?;
        let descriptor = for_host(index.manifests()).ok_or_else(|| PullError::Platform {
            name: Box::new(name.clone()),
            found: platforms(index.manifests()),
            host: host_platform(),
        })?;
        let digest = digest(name, "index", descriptor.digest().as_ref())?;
        let what = format!("the manifest {digest}");
        fetched = session
            .manifest(http, &digest.to_string(), ACCEPT)
            .map_err(PullError::registry(name, what.clone()))?;
        expect(name, &what, Some(digest), Some(descriptor.size()), &fetched)?;
    }
    Err(PullError::MediaType {
        name: Box::new(name.clone()),
        what: "the manifest".to_owned(),
        media_type: fetched.media_type,
        why: "nested in more indexes than any real image",
    })
}

/// The manifest for this machine. Of several for one architecture the most general is taken.
fn for_host(manifests: &[Descriptor]) -> Option<&Descriptor> {
    let rank = |descriptor: &&Descriptor| {
        let variant = descriptor
            .platform()
            .as_ref()
            .and_then(|platform| platform.variant().clone());
        match variant.as_deref() {
            None | Some("" | "v1" | "v8") => 0,
            Some(_) => 1,
        }
    };
    let fits = |descriptor: &&Descriptor| {
        let platform = descriptor.platform().as_ref();
        // An artifact that is attached to another manifest is no image, whatever platform it says.
        descriptor.artifact_type().is_none()
            && platform.is_some_and(|platform| {
                format!("{}/{}", platform.os(), platform.architecture()) == host_platform()
            })
    };
    let nested = |descriptor: &&Descriptor| {
        descriptor.platform().is_none() && is_index(descriptor.media_type().as_ref())
    };
    let unsaid =
        |descriptor: &&Descriptor| descriptor.platform().is_none() && descriptor.artifact_type().is_none();
    manifests
        .iter()
        .filter(fits)
        .min_by_key(rank)
        .or_else(|| manifests.iter().find(nested))
        .or_else(|| match manifests {
            [only] if unsaid(&only) => Some(only),
            _ => None,
        })
}

fn platforms(manifests: &[Descriptor]) -> String {
    let mut names: Vec<String> = manifests
        .iter()
        .filter_map(|descriptor| descriptor.platform().as_ref())
        .map(|platform| format!("{}/{}", platform.os(), platform.architecture()))
        .filter(|name| name != "unknown/unknown")
        .collect();
    names.sort();
    names.dedup();
    if names.is_empty() {
        "no platform".to_owned()
    } else {
        names.join(", ")
    }
}

fn digest(name: &Reference, what: &'static str, text: &str) -> Result<Digest, PullError> {
    text.parse().map_err(|source| PullError::DigestText {
        name: Box::new(name.clone()),
        what,
        source,
    })
}

/// A config's digest and size, and those of the layers.
type Described = (Digest, u64, Vec<(Digest, u64)>);

/// Reads a manifest: its config's digest, and its layers' digests and sizes.
pub(crate) fn read(name: &Reference, manifest: &Fetched) -> Result<Described, PullError> {
    let document: ImageManifest =
        serde_json::from_slice(&manifest.bytes).map_err(|source| PullError::Json {
            name: Box::new(name.clone()),
            what: "manifest",
            source,
        })?;
    let config_type = document.config().media_type().to_string();
    let refused = |what: &str, media_type: &str, why| PullError::MediaType {
        name: Box::new(name.clone()),
        what: what.to_owned(),
        media_type: media_type.to_owned(),
        why,
    };
    if !matches!(
        config_type.as_str(),
        "application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json"
    ) {
        return Err(refused(
            "its config",
            &config_type,
            "so it is an artifact, no container image",
        ));
    }
    if document.layers().len() > LAYERS {
        return Err(refused(
            "its manifest",
            &manifest.media_type,
            "with more than 500 layers, which overlayfs cannot stack",
        ));
    }
    let mut layers = Vec::new();
    for layer in document.layers() {
        let media_type = layer.media_type().to_string();
        if let Some(why) = layer_refused(&media_type) {
            return Err(refused("a layer", &media_type, why));
        }
        layers.push((digest(name, "manifest", layer.digest().as_ref())?, layer.size()));
    }
    let config = digest(name, "manifest", document.config().digest().as_ref())?;
    Ok((config, document.config().size(), layers))
}

/// Why a layer of this media type cannot be used; nothing if it can.
fn layer_refused(media_type: &str) -> Option<&'static str> {
    match media_type {
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => None,
        text if text.contains("foreign") || text.contains("nondistributable") => Some(
            "a foreign layer, which its registry may not hand out (Windows base images): such images are not supported",
        ),
        text if text.ends_with("+encrypted") => Some("which is encrypted: decrypt it first"),
        _ => Some("which is no layer of a container image"),
    }
}

/// Gets and reads the config, and pairs its layers with the manifest's.
pub(crate) fn complete(
    session: &Session,
    http: &mut Http<'_>,
    name: &Reference,
    named: Digest,
    manifest: Fetched,
    stored_config: impl FnOnce(&Digest) -> Option<Vec<u8>>,
) -> Result<Documents, PullError> {
    let (config_digest, size, described) = read(name, &manifest)?;
    let config = match stored_config(&config_digest) {
        Some(bytes) => bytes,
        None => session
            .document(http, &config_digest)
            .map_err(PullError::registry(name, "the config"))?,
    };
    if config.len() as u64 != size {
        return Err(PullError::Size {
            name: Box::new(name.clone()),
            what: "the config".to_owned(),
            expected: size,
            found: config.len() as u64,
        });
    }
    let document: ImageConfiguration = serde_json::from_slice(&config).map_err(|source| PullError::Json {
        name: Box::new(name.clone()),
        what: "config",
        source,
    })?;
    let found = format!("{}/{}", document.os(), document.architecture());
    let host = host_platform();
    if found != host {
        return Err(PullError::Platform {
            name: Box::new(name.clone()),
            found,
            host,
        });
    }
    let diff_ids = document
        .rootfs()
        .diff_ids()
        .iter()
        .map(|text| digest(name, "config", text))
        .collect::<Result<Vec<_>, _>>()?;
    if diff_ids.len() != described.len() {
        return Err(PullError::LayerCount {
            name: Box::new(name.clone()),
            layers: described.len(),
            diff_ids: diff_ids.len(),
        });
    }
    let chains = ChainId::chain(&diff_ids);
    let layers = described
        .into_iter()
        .zip(diff_ids)
        .zip(chains)
        .map(|(((blob, size), diff_id), chain)| Layer {
            wanted: Wanted { chain, diff_id, blob },
            size,
        })
        .collect();
    Ok(Documents {
        manifest,
        named,
        config,
        config_digest,
        layers,
    })
}

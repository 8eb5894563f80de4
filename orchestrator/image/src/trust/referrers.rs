//! What is attached to an image (distribution specification 1.1, "Listing Referrers"): the
//! referrers API, or the tag `sha256-<hex>` where a registry does not have it.

use std::collections::BTreeMap;

use http::Method;
use serde::Deserialize;

use super::{Subject, TrustError};
use crate::blob::DOCUMENT_LIMIT;
use crate::digest::Digest;
use crate::pull::PullOptions;
use crate::pull::manifest::{ACCEPT, INDEX};
use crate::reference::{Reference, ReferenceError};
use crate::registry::{Access, Call, Http, Origin, RegistryError, Session, Settings};
use crate::store::ImageStore;

/// Manifests whose subject is looked at to find one of a kind.
const LOOKED_AT: usize = 100;

/// Something that is attached to an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Referrer {
    /// Digest of its manifest.
    pub digest: Digest,
    /// What it is, such as `application/spdx+json`.
    pub artifact_type: String,
    /// Bytes of its manifest.
    pub size: u64,
    /// What its maker says about it.
    pub annotations: BTreeMap<String, String>,
}

/// Why referrers could not be listed.
#[derive(Debug, thiserror::Error)]
pub enum ReferrersError {
    /// The name is no image name.
    #[error("cannot use the image name")]
    Name(#[from] ReferenceError),
    /// The registry does not say.
    #[error("cannot list what is attached to {name}")]
    Registry {
        /// The image.
        name: Box<Reference>,
        /// Why.
        #[source]
        source: RegistryError,
    },
}

/// Lists what is attached to an image, by its registry's digest for it and by that of its manifest.
pub(crate) fn referrers_of(
    store: &ImageStore,
    name: &str,
    options: &PullOptions<'_>,
) -> Result<Vec<Referrer>, ReferrersError> {
    let name: Reference = name.parse()?;
    let failed = |source| ReferrersError::Registry {
        name: Box::new(name.clone()),
        source,
    };
    let source = options
        .registries
        .sources(&name)
        .map_err(failed)?
        .pop()
        .ok_or_else(|| failed(RegistryError::Cancelled))?;
    let settings = Settings::new(options.registries, std::slice::from_ref(&source));
    let session = Session::new(source, Access::Pull, options.credentials.matching(&name));
    let tls = |origin: &Origin| settings.tls(origin);
    let mut http = Http::new(&tls, options.cancelled).map_err(failed)?;
    let here = store.resolve(&name.to_string()).ok().flatten();
    let mut digests: Vec<Digest> = here.iter().map(|image| image.manifest).collect();
    digests.extend(here.iter().flat_map(|image| {
        let repository = name.repository();
        image
            .digests
            .iter()
            .filter(move |digest| digest.repository() == repository)
            .filter_map(Reference::digest)
    }));
    if digests.is_empty() {
        let version = match (name.digest(), name.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or("latest").to_owned(),
        };
        digests.push(
            session
                .manifest(&mut http, &version, ACCEPT)
                .map_err(failed)?
                .digest,
        );
    }
    digests.sort();
    digests.dedup();
    let mut found = Vec::new();
    for digest in digests {
        found.extend(list(&session, &mut http, &digest).map_err(failed)?);
    }
    Ok(found)
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    digest: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    artifact_type: String,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// Lists what is attached to a manifest.
pub(crate) fn list(
    session: &Session,
    http: &mut Http<'_>,
    digest: &Digest,
) -> Result<Vec<Referrer>, RegistryError> {
    let call = Call::new(Method::GET).header(http::header::ACCEPT, INDEX);
    let api = session.call(http, &format!("referrers/{digest}"), &call);
    let (place, bytes) = match api {
        Ok((url, response)) => {
            let place = url.to_string();
            (place, http.whole(&url, response, DOCUMENT_LIMIT)?)
        }
        Err(RegistryError::Status { status, .. }) if (400..500).contains(&status) && status != 429 => {
            let tag = format!("sha256-{}", digest.hex());
            match session.manifest(http, &tag, INDEX) {
                Ok(fetched) => (format!("{}:{tag}", session.place()), fetched.bytes),
                Err(error) if error.is_not_found() => return Ok(Vec::new()),
                Err(error) => return Err(error),
            }
        }
        Err(error) => return Err(error),
    };
    let wrong = |why: String| RegistryError::Answer {
        url: place.clone(),
        why,
    };
    let document: Document = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
    document
        .manifests
        .into_iter()
        .map(|descriptor| {
            Ok(Referrer {
                digest: descriptor
                    .digest
                    .parse()
                    .map_err(|error: crate::digest::DigestError| wrong(error.to_string()))?,
                artifact_type: descriptor.artifact_type,
                size: descriptor.size,
                annotations: descriptor.annotations.unwrap_or_default(),
            })
        })
        .collect()
}

/// Requires something of a kind to be attached. A list is only a hint: the manifest itself must say
/// what it is and what it belongs to.
pub(super) fn require(
    artifact_type: &str,
    subject: &Subject<'_>,
    scope: &str,
    session: &Session,
    http: &mut Http<'_>,
) -> Result<(), TrustError> {
    for digest in subject.digests() {
        let lookup = |source| TrustError::Lookup {
            digest,
            source: Box::new(source),
        };
        let attached = list(session, http, &digest).map_err(lookup)?;
        let candidates = attached
            .iter()
            .filter(|referrer| referrer.artifact_type.is_empty() || referrer.artifact_type == artifact_type);
        for referrer in candidates.take(LOOKED_AT) {
            let fetched = match session.manifest(http, &referrer.digest.to_string(), super::signature::ANY) {
                Ok(fetched) => fetched,
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(lookup(error)),
            };
            if fetched.digest == referrer.digest && belongs(&fetched.bytes, artifact_type, &digest) {
                return Ok(());
            }
        }
    }
    Err(TrustError::Referrer {
        scope: scope.to_owned(),
        digest: subject.manifest,
        artifact_type: artifact_type.to_owned(),
    })
}

/// Whether a manifest is an artifact of this kind, attached to this image. Without an artifact type
/// the config's media type says what it is (image specification, manifest.md).
fn belongs(manifest: &[u8], artifact_type: &str, digest: &Digest) -> bool {
    let document: serde_json::Value = serde_json::from_slice(manifest).unwrap_or_default();
    let kind = match document["artifactType"].as_str() {
        Some(kind) if !kind.is_empty() => kind,
        _ => document["config"]["mediaType"].as_str().unwrap_or_default(),
    };
    kind == artifact_type && document["subject"]["digest"].as_str() == Some(&digest.to_string())
}

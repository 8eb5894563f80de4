//! cosign's signatures (cosign's specs/SIGNATURE_SPEC.md): beside an image, under the tag
//! `sha256-<hex>.sig` or attached as a referrer, is a manifest whose layers are signed statements
//! about the image's digest.

use base64::Engine as _;
use serde::Deserialize;

use super::policy::Signed;
use super::{Subject, TrustError, referrers};
use crate::digest::Digest;
use crate::pull::manifest::MANIFEST;
use crate::registry::{Http, RegistryError, Session};

/// Manifests of any kind, for signatures and attachments.
pub(super) const ANY: &str =
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";
const STATEMENT: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
const ARTIFACT: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
const KIND: &str = "cosign container image signature";
/// Signatures of one image that are looked at.
const LIMIT: usize = 100;

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    media_type: String,
    digest: String,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

/// The signed statement ("simple signing").
#[derive(Deserialize)]
struct Statement {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    identity: StatementIdentity,
    image: StatementImage,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct StatementIdentity {
    docker_reference: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct StatementImage {
    docker_manifest_digest: String,
}

/// Looks for one signature that the requirement accepts.
pub(super) fn verify(
    signed: &Signed,
    subject: &Subject<'_>,
    scope: &str,
    session: &Session,
    http: &mut Http<'_>,
) -> Result<(), TrustError> {
    let keys = signed.keys()?;
    let mut reasons: Vec<String> = Vec::new();
    let mut count = 0;
    for digest in subject.digests() {
        let lookup = |source| TrustError::Lookup {
            digest,
            source: Box::new(source),
        };
        for layer in signatures(session, http, &digest).map_err(lookup)? {
            count += 1;
            let verdict = judge(&layer, session, http).map_err(lookup)?;
            let why = match verdict {
                Err(why) => why,
                Ok((payload, signature)) => {
                    if keys.iter().any(|key| key.verifies(&payload, &signature)) {
                        match statement(&payload, signed, subject, &digest) {
                            Ok(()) => return Ok(()),
                            Err(why) => why,
                        }
                    } else {
                        "it was made with another key".to_owned()
                    }
                }
            };
            if !reasons.contains(&why) {
                reasons.push(why);
            }
        }
    }
    let scope = scope.to_owned();
    let digest = subject.manifest;
    if count == 0 {
        return Err(TrustError::Unsigned { scope, digest });
    }
    Err(TrustError::Signature {
        scope,
        digest,
        count,
        why: reasons.join("; "),
    })
}

/// The signed statements about a digest, wherever they are kept.
fn signatures(session: &Session, http: &mut Http<'_>, digest: &Digest) -> Result<Vec<Layer>, RegistryError> {
    let mut found = Vec::new();
    let mut take = |bytes: &[u8]| {
        let manifest: Manifest = serde_json::from_slice(bytes).unwrap_or(Manifest { layers: Vec::new() });
        let statements = manifest
            .layers
            .into_iter()
            .filter(|layer| layer.media_type == STATEMENT);
        found.extend(statements);
    };
    match session.manifest(http, &format!("sha256-{}.sig", digest.hex()), MANIFEST) {
        Ok(fetched) => take(&fetched.bytes),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
    }
    for referrer in referrers::list(session, http, digest)?.into_iter().take(LIMIT) {
        if referrer.artifact_type != ARTIFACT {
            continue;
        }
        let fetched = session.manifest(http, &referrer.digest.to_string(), ANY)?;
        if fetched.digest == referrer.digest {
            take(&fetched.bytes);
        }
    }
    found.truncate(LIMIT);
    Ok(found)
}

type Verdict = Result<(Vec<u8>, Vec<u8>), String>;

/// Gets statement and signature of one layer. The outer error is the registry's.
fn judge(layer: &Layer, session: &Session, http: &mut Http<'_>) -> Result<Verdict, RegistryError> {
    let Some(code) = layer.annotations.get(SIGNATURE) else {
        return Ok(Err(format!("it has no annotation {SIGNATURE}")));
    };
    let Ok(signature) = base64::engine::general_purpose::STANDARD.decode(code.trim()) else {
        return Ok(Err("it is no base64".to_owned()));
    };
    let Ok(blob) = layer.digest.parse::<Digest>() else {
        return Ok(Err("its statement has an unusable digest".to_owned()));
    };
    Ok(Ok((session.document(http, &blob)?, signature)))
}

/// Holds a statement, whose signature is good, against image and policy.
fn statement(payload: &[u8], signed: &Signed, subject: &Subject<'_>, digest: &Digest) -> Result<(), String> {
    let statement: Statement =
        serde_json::from_slice(payload).map_err(|error| format!("its statement is malformed: {error}"))?;
    let critical = statement.critical;
    if critical.kind != KIND {
        return Err(format!("its statement is a {:?}", critical.kind));
    }
    if critical.image.docker_manifest_digest != digest.to_string() {
        return Err(format!(
            "it is for another image, {}",
            critical.image.docker_manifest_digest
        ));
    }
    let reference = &critical.identity.docker_reference;
    if !signed.identity.accepts(subject.name, reference) {
        return Err(format!(
            "it is for the name {reference:?} (signedIdentity says which names count; cosign signs a repository without a tag: matchRepository)"
        ));
    }
    Ok(())
}

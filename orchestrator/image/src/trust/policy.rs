//! `policy.json` (containers-policy.json(5)): which images may be pulled.
//!
//! Understood of the transport `docker`, which is registries, and of `default`:
//! `insecureAcceptAnything`, `reject`, `sigstoreSigned` with keys, and Berth's own `referrer`
//! (something of an artifact type must be attached). What a policy asks for that cannot be
//! checked here (`signedBy`, keyless signatures) rejects the images it is asked for.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde::Deserialize;
use serde_json::Value;

use super::key::Key;
use super::{PolicyError, Subject, TrustError, referrers, signature};
use crate::reference::Reference;
use crate::registry::{Http, Session};

/// One thing that must hold.
#[derive(Debug, Clone)]
enum Requirement {
    Accept,
    Reject,
    Signed(Signed),
    Referrer(String),
    Unsupported(String),
}

/// `sigstoreSigned`.
#[derive(Debug, Clone)]
pub(crate) struct Signed {
    keys: Vec<KeySource>,
    pub(crate) identity: Identity,
}

#[derive(Debug, Clone)]
enum KeySource {
    File(PathBuf),
    Data(Vec<u8>),
}

/// `signedIdentity`: what a signature must say about the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Identity {
    MatchExact,
    MatchRepoDigestOrExact,
    MatchRepository,
    ExactReference(Reference),
    ExactRepository(String),
    Remap { prefix: String, signed: String },
}

/// A trust policy.
#[derive(Debug, Clone)]
pub struct Policy {
    default: Vec<Requirement>,
    scopes: BTreeMap<String, Vec<Requirement>>,
}

#[derive(Deserialize)]
struct File {
    default: Vec<Value>,
    #[serde(default)]
    transports: BTreeMap<String, BTreeMap<String, Vec<Value>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SignedFields {
    key_path: Option<PathBuf>,
    #[serde(default)]
    key_paths: Vec<PathBuf>,
    key_data: Option<String>,
    #[serde(default)]
    key_datas: Vec<String>,
    signed_identity: Option<IdentityFields>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct IdentityFields {
    #[serde(rename = "type")]
    kind: String,
    docker_reference: Option<String>,
    docker_repository: Option<String>,
    prefix: Option<String>,
    signed_prefix: Option<String>,
}

impl Policy {
    /// Everything is accepted: what counts without a policy file.
    pub fn accept_anything() -> Self {
        Self {
            default: vec![Requirement::Accept],
            scopes: BTreeMap::new(),
        }
    }

    /// Reads a policy file; without one everything is accepted.
    pub fn load(path: &Path) -> Result<Self, PolicyError> {
        match fs::read(path) {
            Ok(bytes) => Self::parse(&bytes).map_err(|why| PolicyError::Malformed {
                path: path.to_owned(),
                why,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::accept_anything()),
            Err(source) => Err(PolicyError::File {
                path: path.to_owned(),
                source,
            }),
        }
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let file: File = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let list = |place: &str, values: &[Value]| -> Result<Vec<Requirement>, String> {
            if values.is_empty() {
                return Err(format!("{place} has no requirements: give at least one"));
            }
            values
                .iter()
                .map(|value| requirement(value).map_err(|why| format!("{place}: {why}")))
                .collect()
        };
        let mut scopes = BTreeMap::new();
        for (scope, values) in file.transports.get("docker").into_iter().flatten() {
            scopes.insert(
                scope.clone(),
                list(&format!("transports.docker[{scope:?}]"), values)?,
            );
        }
        Ok(Self {
            default: list("default", &file.default)?,
            scopes,
        })
    }

    /// What counts for a name: the most exact scope (policy.json(5), "docker:").
    fn find(&self, name: &Reference) -> (String, &[Requirement]) {
        let repository = name.repository();
        let mut scopes = vec![name.to_string(), repository.clone()];
        let mut parent = repository.as_str();
        while let Some((shorter, _)) = parent.rsplit_once('/') {
            scopes.push(shorter.to_owned());
            parent = shorter;
        }
        let host = name.domain().split(':').next().unwrap_or_default();
        let mut rest = host;
        while let Some((_, domain)) = rest.split_once('.') {
            scopes.push(format!("*.{domain}"));
            rest = domain;
        }
        scopes.push(String::new());
        for scope in scopes {
            if let Some(requirements) = self.scopes.get(&scope) {
                let said = if scope.is_empty() {
                    "all registries".to_owned()
                } else {
                    scope
                };
                return (said, requirements);
            }
        }
        ("all images".to_owned(), &self.default)
    }

    /// What can be said before anything is asked of the registry.
    pub(crate) fn before_contact(&self, name: &Reference) -> Result<(), TrustError> {
        let (scope, requirements) = self.find(name);
        for requirement in requirements {
            match requirement {
                Requirement::Reject => return Err(TrustError::Rejected { scope }),
                Requirement::Unsupported(what) => {
                    return Err(TrustError::Unsupported {
                        scope,
                        what: what.clone(),
                    });
                }
                Requirement::Signed(signed) => drop(signed.keys()?),
                _ => {}
            }
        }
        Ok(())
    }

    /// Holds an image against the policy; all requirements of its scope must be met.
    pub(crate) fn verify(
        &self,
        subject: &Subject<'_>,
        session: &Session,
        http: &mut Http<'_>,
    ) -> Result<(), TrustError> {
        self.before_contact(subject.name)?;
        let (scope, requirements) = self.find(subject.name);
        for requirement in requirements {
            match requirement {
                Requirement::Signed(signed) => {
                    signature::verify(signed, subject, &scope, session, http)?;
                }
                Requirement::Referrer(artifact_type) => {
                    referrers::require(artifact_type, subject, &scope, session, http)?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn requirement(value: &Value) -> Result<Requirement, String> {
    let kind = value["type"].as_str().ok_or("a requirement has no \"type\"")?;
    Ok(match kind {
        "insecureAcceptAnything" => Requirement::Accept,
        "reject" => Requirement::Reject,
        "sigstoreSigned" => signed(value)?,
        "signedBy" => Requirement::Unsupported(
            "a GPG signature (signedBy), which is not supported: use sigstoreSigned with a cosign key"
                .to_owned(),
        ),
        "referrer" => Requirement::Referrer(
            value["artifactType"]
                .as_str()
                .filter(|text| !text.is_empty())
                .ok_or("referrer needs an \"artifactType\"")?
                .to_owned(),
        ),
        other => {
            return Err(format!(
                "unknown requirement type {other:?}: known are insecureAcceptAnything, reject, sigstoreSigned, referrer"
            ));
        }
    })
}

fn signed(value: &Value) -> Result<Requirement, String> {
    for keyless in [
        "fulcio",
        "pki",
        "rekorPublicKeyPath",
        "rekorPublicKeyData",
        "rekorPublicKeyPaths",
        "rekorPublicKeyDatas",
    ] {
        if value.get(keyless).is_some() {
            return Ok(Requirement::Unsupported(format!(
                "a signature with {keyless:?}, which is not supported: use keyPath with the signer's public key"
            )));
        }
    }
    let fields: SignedFields =
        serde_json::from_value(value.clone()).map_err(|error| format!("sigstoreSigned: {error}"))?;
    let mut keys: Vec<KeySource> = fields
        .key_path
        .into_iter()
        .chain(fields.key_paths)
        .map(KeySource::File)
        .collect();
    for text in fields.key_data.into_iter().chain(fields.key_datas) {
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(&text)
            .map_err(|error| format!("sigstoreSigned.keyData is no base64: {error}"))?;
        keys.push(KeySource::Data(bytes));
    }
    if keys.is_empty() {
        return Err("sigstoreSigned needs keyPath, keyPaths, keyData or keyDatas".to_owned());
    }
    let identity = fields
        .signed_identity
        .map_or(Ok(Identity::MatchRepoDigestOrExact), identity)?;
    Ok(Requirement::Signed(Signed { keys, identity }))
}

fn identity(fields: IdentityFields) -> Result<Identity, String> {
    let needed = |value: Option<String>, name: &str| {
        value.ok_or_else(|| format!("signedIdentity {} needs {name:?}", fields.kind))
    };
    Ok(match fields.kind.as_str() {
        "matchExact" => Identity::MatchExact,
        "matchRepoDigestOrExact" => Identity::MatchRepoDigestOrExact,
        "matchRepository" => Identity::MatchRepository,
        "exactReference" => Identity::ExactReference(
            needed(fields.docker_reference, "dockerReference")?
                .parse()
                .map_err(|error| format!("signedIdentity.dockerReference: {error}"))?,
        ),
        "exactRepository" => Identity::ExactRepository(
            needed(fields.docker_repository, "dockerRepository")?
                .parse::<Reference>()
                .map_err(|error| format!("signedIdentity.dockerRepository: {error}"))?
                .repository(),
        ),
        "remapIdentity" => Identity::Remap {
            prefix: needed(fields.prefix, "prefix")?,
            signed: needed(fields.signed_prefix, "signedPrefix")?,
        },
        other => return Err(format!("unknown signedIdentity type {other:?}")),
    })
}

impl Signed {
    /// The keys, read now: a key that was exchanged counts at once.
    pub(crate) fn keys(&self) -> Result<Vec<Key>, TrustError> {
        self.keys
            .iter()
            .map(|source| {
                let (path, bytes) = match source {
                    KeySource::File(path) => {
                        let text = path.display().to_string();
                        let bytes = fs::read(path).map_err(|error| TrustError::Key {
                            path: text.clone(),
                            why: error.to_string(),
                        })?;
                        (text, bytes)
                    }
                    KeySource::Data(bytes) => ("keyData".to_owned(), bytes.clone()),
                };
                Key::parse(&bytes).map_err(|why| TrustError::Key { path, why })
            })
            .collect()
    }
}

impl Identity {
    /// Whether a signature that names `signed` is one for `name`.
    pub(crate) fn accepts(&self, name: &Reference, signed: &str) -> bool {
        let Ok(parsed) = signed.parse::<Reference>() else {
            return false;
        };
        // cosign names only the repository; parsing would make that the tag "latest".
        let whole = signed.contains('@') || signed.rsplit('/').next().is_some_and(|last| last.contains(':'));
        let exact = |name: &Reference| whole && parsed == *name;
        let repository = |text: &str| parsed.repository() == text;
        match self {
            Self::MatchRepoDigestOrExact if name.digest().is_some() => repository(&name.repository()),
            Self::MatchExact | Self::MatchRepoDigestOrExact => exact(name),
            Self::MatchRepository => repository(&name.repository()),
            Self::ExactReference(wanted) => exact(wanted),
            Self::ExactRepository(wanted) => repository(wanted),
            Self::Remap { prefix, signed } => {
                let text = name.to_string();
                let mapped = text
                    .strip_prefix(prefix.as_str())
                    .filter(|rest| rest.is_empty() || rest.starts_with(['/', ':', '@']))
                    .map_or(text.clone(), |rest| format!("{signed}{rest}"));
                mapped.parse::<Reference>().is_ok_and(|mapped| {
                    Self::MatchRepoDigestOrExact.accepts(&mapped, &parsed.to_string()) && whole
                        || mapped.digest().is_some() && repository(&mapped.repository())
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Policy {
        Policy::parse(text.as_bytes()).unwrap_or_else(|why| panic!("{why}"))
    }

    #[test]
    fn the_most_exact_scope_counts() {
        let policy = policy(
            r#"{"default": [{"type": "reject"}], "transports": {"docker": {
                "r.example": [{"type": "insecureAcceptAnything"}],
                "r.example/bad": [{"type": "reject"}],
                "r.example/bad/good:1": [{"type": "insecureAcceptAnything"}],
                "*.corp.example": [{"type": "insecureAcceptAnything"}],
                "old.example": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}]
            }, "oci": {"": [{"type": "whatever"}]}}}"#,
        );
        for (name, expected) in [
            ("r.example/a", None),
            ("r.example/bad/a", Some("r.example/bad")),
            ("r.example/bad/good:1", None),
            ("r.example/bad/good:2", Some("rejects r.example/bad")),
            ("a.b.corp.example:5000/x", None),
            ("corp.example/x", Some("rejects all images")),
            ("busybox", Some("rejects all images")),
            ("old.example/x", Some("GPG")),
        ] {
            let verdict = policy.before_contact(&name.parse().unwrap());
            match (verdict, expected) {
                (Ok(()), None) => {}
                (Err(error), Some(expected)) => {
                    assert!(error.to_string().contains(expected), "{name}: {error}");
                }
                (verdict, _) => panic!("{name}: {verdict:?}"),
            }
        }
    }

    #[test]
    fn malformed_policies_are_refused_with_the_field() {
        for (text, expected) in [
            ("{}", "default"),
            (r#"{"default": []}"#, "default has no requirements"),
            (r#"{"default": [{"type": "acceptAnything"}]}"#, "acceptAnything"),
            (r#"{"default": [{"type": "sigstoreSigned"}]}"#, "keyPath"),
            (
                r#"{"default": [{"type": "sigstoreSigned", "keyData": "%"}]}"#,
                "keyData",
            ),
            (
                r#"{"default": [{"type": "sigstoreSigned", "keyPath": "/k", "signedIdentity": {"type": "x"}}]}"#,
                "signedIdentity",
            ),
            (r#"{"default": [{"type": "referrer"}]}"#, "artifactType"),
        ] {
            let why = Policy::parse(text.as_bytes()).expect_err(text);
            assert!(why.contains(expected), "{text}: {why}");
        }
        let missing = policy(r#"{"default": [{"type": "sigstoreSigned", "keyPath": "/nowhere/k"}]}"#);
        let error = missing.before_contact(&"a".parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("/nowhere/k"), "{error}");
    }

    #[test]
    fn identities_are_compared() {
        let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let by_digest = format!("r.example/a@{digest}");
        let remap = Identity::Remap {
            prefix: "mirror.example/x".to_owned(),
            signed: "r.example".to_owned(),
        };
        for (identity, name, signed, expected) in [
            (&Identity::MatchRepository, "r.example/a:1", "r.example/a", true),
            (&Identity::MatchRepository, "r.example/a:1", "r.example/b", false),
            (&Identity::MatchExact, "r.example/a:1", "r.example/a:1", true),
            (&Identity::MatchExact, "r.example/a:latest", "r.example/a", false),
            (
                &Identity::MatchRepoDigestOrExact,
                "r.example/a:1",
                "r.example/a:2",
                false,
            ),
            (
                &Identity::MatchRepoDigestOrExact,
                by_digest.as_str(),
                "r.example/a:2",
                true,
            ),
            (&remap, "mirror.example/x/a:1", "r.example/a:1", true),
            (&remap, "mirror.example/x/a:1", "mirror.example/x/a:1", false),
            (&remap, "mirror.example/xy/a:1", "r.example/a:1", false),
            (&Identity::MatchRepository, "r.example/a:1", "Not A Name", false),
        ] {
            assert_eq!(
                identity.accepts(&name.parse().unwrap(), signed),
                expected,
                "{identity:?} {name} {signed}"
            );
        }
    }
}

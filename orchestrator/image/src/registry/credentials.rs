//! Who we are to a registry: Docker's config.json, as `docker login` and `podman login` write it
//! and pull secrets carry it (kubernetes.io/dockerconfigjson, kubernetes.io/dockercfg).

use std::collections::BTreeMap;

use base64::Engine as _;
use serde::Deserialize;

use crate::reference::Reference;

/// One way to prove who we are.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A name and a password.
    Basic {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// A refresh token, for the registry's token server.
    Identity(String),
    /// A bearer token for the registry itself.
    Registry(String),
}

// Secrets do not belong into logs.
impl std::fmt::Debug for Credential {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Basic { .. } => "Basic",
            Self::Identity(_) => "Identity",
            Self::Registry(_) => "Registry",
        })
    }
}

/// Why a config.json cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// No JSON, or not of its form.
    #[error("the registry credentials are malformed")]
    Json(#[source] serde_json::Error),
    /// `auth` is no base64 of `user:password`.
    #[error("the registry credentials for {registry:?} have an \"auth\" that is no base64 of user:password")]
    Auth {
        /// The entry.
        registry: String,
    },
}

#[derive(Debug, Deserialize)]
struct File {
    #[serde(default)]
    auths: Option<BTreeMap<String, Entry>>,
}

#[derive(Debug, Default, Deserialize)]
struct Entry {
    #[serde(default)]
    auth: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default, rename = "identitytoken")]
    identity_token: Option<String>,
    #[serde(default, rename = "registrytoken")]
    registry_token: Option<String>,
}

/// Credentials by registry, or by a part of it.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// Key as written, without scheme and version path.
    entries: Vec<(String, Credential)>,
}

impl Credentials {
    /// None: public images only.
    pub fn none() -> Self {
        Self::default()
    }

    /// Reads a config.json, or the older form that has only what is below `auths`.
    pub fn parse(text: &[u8]) -> Result<Self, CredentialsError> {
        let file: File = serde_json::from_slice(text).map_err(CredentialsError::Json)?;
        let entries = match file.auths {
            Some(entries) => entries,
            None => legacy(text)?,
        };
        let mut credentials = Self::none();
        for (registry, entry) in entries {
            if let Some(credential) = credential(&registry, entry)? {
                credentials.entries.push((normalised(&registry), credential));
            }
        }
        Ok(credentials)
    }

    /// One credential for everything that is pulled with it.
    pub fn of(registry: &str, credential: Credential) -> Self {
        Self {
            entries: vec![(normalised(registry), credential)],
        }
    }

    /// Takes the entries of another one over, after its own.
    pub fn extend(&mut self, other: Self) {
        self.entries.extend(other.entries);
    }

    /// Credentials that fit a repository, the most exact first (kubelet's rules: a key is a host,
    /// with `*` for one of its parts, and may go on with a path).
    pub(crate) fn matching(&self, name: &Reference) -> Vec<Credential> {
        let repository = name.repository();
        let mut found: Vec<&(String, Credential)> = self
            .entries
            .iter()
            .filter(|(key, _)| fits(key, &repository))
            .collect();
        found.sort_by_key(|(key, _)| (key.contains('*'), std::cmp::Reverse(key.len())));
        let mut list: Vec<Credential> = Vec::new();
        for (_, credential) in found {
            if !list.contains(credential) {
                list.push(credential.clone());
            }
        }
        list
    }
}

/// Kubernetes' dockercfg: the entries without `auths` around them. Other members of a config.json
/// without `auths` are no entries.
fn legacy(text: &[u8]) -> Result<BTreeMap<String, Entry>, CredentialsError> {
    let all: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(text).map_err(CredentialsError::Json)?;
    let is_entry = |value: &serde_json::Value| {
        ["auth", "username", "identitytoken", "registrytoken"]
            .iter()
            .any(|key| value.get(key).is_some())
    };
    all.into_iter()
        .filter(|(_, value)| is_entry(value))
        .map(|(key, value)| {
            Ok((
                key,
                serde_json::from_value(value).map_err(CredentialsError::Json)?,
            ))
        })
        .collect()
}

fn credential(registry: &str, entry: Entry) -> Result<Option<Credential>, CredentialsError> {
    let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
    if let Some(token) = filled(entry.identity_token) {
        return Ok(Some(Credential::Identity(token)));
    }
    if let Some(token) = filled(entry.registry_token) {
        return Ok(Some(Credential::Registry(token)));
    }
    if let Some(code) = filled(entry.auth) {
        let wrong = || CredentialsError::Auth {
            registry: registry.to_owned(),
        };
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(code.trim())
            .or_else(|_| base64::engine::general_purpose::STANDARD_NO_PAD.decode(code.trim()))
            .map_err(|_| wrong())?;
        let text = String::from_utf8(bytes).map_err(|_| wrong())?;
        let (user, password) = text.split_once(':').ok_or_else(wrong)?;
        return Ok(Some(Credential::Basic {
            user: user.to_owned(),
            // Some versions of docker login padded it with zero bytes.
            password: password.trim_end_matches('\0').to_owned(),
        }));
    }
    Ok(match (filled(entry.username), entry.password) {
        (Some(user), Some(password)) => Some(Credential::Basic { user, password }),
        _ => None,
    })
}

/// `https://index.docker.io/v1/` is Docker Hub; otherwise scheme and API version go.
fn normalised(key: &str) -> String {
    let key = key.split_once("://").map_or(key, |(_, rest)| rest);
    let key = key.trim_end_matches('/');
    let key = key
        .strip_suffix("/v1")
        .or_else(|| key.strip_suffix("/v2"))
        .unwrap_or(key);
    match key {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        key => key.to_owned(),
    }
}

fn fits(key: &str, repository: &str) -> bool {
    let (host, path) = key.split_once('/').unwrap_or((key, ""));
    let (wanted, rest) = repository.split_once('/').unwrap_or((repository, ""));
    let ports = |text: &str| text.rsplit_once(':').map(|(_, port)| port.to_owned());
    let labels = |text: &str| {
        let name = text.rsplit_once(':').map_or(text, |(name, _)| name);
        name.split('.').map(str::to_owned).collect::<Vec<_>>()
    };
    let (have, want) = (labels(host), labels(wanted));
    let host_fits = host == wanted
        || (host.contains('*')
            && ports(host) == ports(wanted)
            && have.len() == want.len()
            && have.iter().zip(&want).all(|(have, want)| glob(have, want)));
    host_fits && (path.is_empty() || rest == path || rest.starts_with(&format!("{path}/")))
}

/// A label with `*` for any letters.
fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|text| {
            (0..=text.len()).any(|at| text.is_char_boundary(at) && glob(rest, &text[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_and_kubernetes_forms_are_read() {
        let code = base64::engine::general_purpose::STANDARD.encode("u:p:w");
        for text in [
            format!(r#"{{"auths":{{"r.example":{{"auth":"{code}"}}}},"credsStore":"x"}}"#),
            format!(r#"{{"https://r.example/v1/":{{"auth":"{code}","email":"a@b"}}}}"#),
            r#"{"auths":{"r.example/":{"username":"u","password":"p:w"}}}"#.to_owned(),
        ] {
            let found = Credentials::parse(text.as_bytes())
                .unwrap()
                .matching(&"r.example/a/b".parse().unwrap());
            let expected = Credential::Basic {
                user: "u".to_owned(),
                password: "p:w".to_owned(),
            };
            assert_eq!(found, [expected], "{text}");
        }
        assert!(
            Credentials::parse(br#"{"HttpHeaders":{}}"#)
                .unwrap()
                .entries
                .is_empty()
        );
        assert!(Credentials::parse(b"x").is_err());
        let error = Credentials::parse(br#"{"auths":{"r":{"auth":"%"}}}"#).unwrap_err();
        assert!(error.to_string().contains("\"r\""), "{error}");
    }

    #[test]
    fn the_most_exact_key_comes_first() {
        let text = r#"{"auths":{
            "r.example": {"username":"host","password":""},
            "r.example/team": {"username":"path","password":""},
            "*.example": {"username":"glob","password":""},
            "https://index.docker.io/v1/": {"username":"hub","password":""},
            "r.example:5000": {"username":"port","password":""}
        }}"#;
        let credentials = Credentials::parse(text.as_bytes()).unwrap();
        let users = |name: &str| -> Vec<String> {
            let found = credentials.matching(&name.parse().unwrap());
            found
                .into_iter()
                .map(|credential| match credential {
                    Credential::Basic { user, .. } => user,
                    other => panic!("{other:?}"),
                })
                .collect()
        };
        assert_eq!(users("r.example/team/app"), ["path", "host", "glob"]);
        assert_eq!(users("r.example/teams/app"), ["host", "glob"]);
        assert_eq!(users("busybox"), ["hub"]);
        assert_eq!(users("r.example:5000/a"), ["port"]);
        assert_eq!(users("a.b.example/a"), Vec::<String>::new());
    }
}

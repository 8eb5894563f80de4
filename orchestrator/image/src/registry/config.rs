//! `registries.conf` (containers-registries.conf(5), version 2): which registries are insecure,
//! blocked, or have mirrors. Files of `<name>.d/*.conf` are read after the main one; of two
//! entries with one prefix the later counts.
//!
//! Names without a registry always mean docker.io, as for the kubelet, so
//! `unqualified-search-registries`, `short-name-mode`, `aliases` and the like are accepted and
//! have no effect.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::RegistryError;
use crate::reference::Reference;

/// What the file calls a place to pull from.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Mirror {
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default, rename = "pull-from-mirror")]
    pull_from: PullFrom,
}

/// For which names a mirror may be asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PullFrom {
    #[default]
    #[serde(alias = "")]
    All,
    DigestOnly,
    TagOnly,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Entry {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<Mirror>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    #[serde(default)]
    registry: Vec<Entry>,
    // Accepted without effect: see above.
    #[serde(default, rename = "unqualified-search-registries")]
    _unqualified_search_registries: Option<toml::Value>,
    #[serde(default, rename = "short-name-mode")]
    _short_name_mode: Option<toml::Value>,
    #[serde(default, rename = "aliases")]
    _aliases: Option<toml::Value>,
    #[serde(default, rename = "credential-helpers")]
    _credential_helpers: Option<toml::Value>,
    #[serde(default, rename = "additional-layer-store-auth-helper")]
    _additional_layer_store_auth_helper: Option<toml::Value>,
}

/// How registries are reached.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    entries: BTreeMap<String, (Entry, PathBuf)>,
    /// Roots of `certs.d`: `<root>/<host[:port]>/*.crt`.
    pub(crate) certificates: Vec<PathBuf>,
}

/// A place that has a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// `host[:port]`.
    pub(crate) authority: String,
    /// The repository there.
    pub(crate) repository: String,
    pub(crate) insecure: bool,
    /// It is a mirror of what was asked for.
    pub(crate) mirror: bool,
}

impl Registries {
    /// Reads `path` and `<path>.d/*.conf`; a file that does not exist says nothing.
    /// `certificates` are the roots of certs.d.
    pub fn load(path: &Path, certificates: Vec<PathBuf>) -> Result<Self, RegistryError> {
        let mut registries = Self {
            entries: BTreeMap::new(),
            certificates,
        };
        registries.read(path)?;
        let mut folder = path.as_os_str().to_owned();
        folder.push(".d");
        let mut files: Vec<PathBuf> = match fs::read_dir(&folder) {
            Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
            Err(_) => Vec::new(),
        };
        files.retain(|file| file.extension().is_some_and(|extension| extension == "conf"));
        files.sort();
        for file in files {
            registries.read(&file)?;
        }
        Ok(registries)
    }

    fn read(&mut self, path: &Path) -> Result<(), RegistryError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => {
                return Err(RegistryError::ConfigFile {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        self.add(&text, path)
    }

    /// Takes over what a file says.
    pub(crate) fn add(&mut self, text: &str, path: &Path) -> Result<(), RegistryError> {
        let wrong = |why: String| RegistryError::Config {
            path: path.to_owned(),
            why,
        };
        let file: File = toml::from_str(text).map_err(|error| wrong(error.to_string().trim().to_owned()))?;
        for mut entry in file.registry {
            if entry.prefix.is_empty() {
                entry.prefix.clone_from(&entry.location);
            }
            if entry.prefix.is_empty() {
                return Err(wrong("a [[registry]] has neither prefix nor location".to_owned()));
            }
            if entry.location.is_empty() && !entry.prefix.starts_with("*.") {
                entry.location.clone_from(&entry.prefix);
            }
            if entry.prefix.contains("://") || entry.location.contains("://") {
                return Err(wrong(format!(
                    "registry {:?}: prefix and location are host[:port][/path], without a scheme",
                    entry.prefix
                )));
            }
            if let Some(mirror) = entry
                .mirror
                .iter()
                .find(|mirror| mirror.location.is_empty() || mirror.location.contains("://"))
            {
                return Err(wrong(format!(
                    "registry {:?}: mirror location {:?} must be host[:port][/path]",
                    entry.prefix, mirror.location
                )));
            }
            self.entries
                .insert(entry.prefix.clone(), (entry, path.to_owned()));
        }
        Ok(())
    }

    /// The places to pull a name from, in order; pushes go to the last one.
    pub(crate) fn sources(&self, name: &Reference) -> Result<Vec<Source>, RegistryError> {
        let repository = name.repository();
        let entry = self
            .entries
            .iter()
            .filter(|(prefix, _)| matched(prefix, &repository).is_some())
            .max_by_key(|(prefix, _)| prefix.len());
        let Some((prefix, (entry, path))) = entry else {
            return Ok(vec![source(&repository, false, false)]);
        };
        if entry.blocked {
            return Err(RegistryError::Blocked {
                registry: prefix.clone(),
                path: path.clone(),
            });
        }
        let rest = &repository[matched(prefix, &repository).unwrap_or(0)..];
        let by_digest = name.digest().is_some();
        let mut sources = Vec::new();
        for mirror in &entry.mirror {
            let wanted = match mirror.pull_from {
                PullFrom::All => by_digest || !entry.mirror_by_digest_only,
                PullFrom::DigestOnly => by_digest,
                PullFrom::TagOnly => !by_digest,
            };
            if wanted {
                sources.push(source(
                    &format!("{}{rest}", mirror.location),
                    mirror.insecure,
                    true,
                ));
            }
        }
        let own = if entry.location.is_empty() {
            repository.clone()
        } else {
            format!("{}{rest}", entry.location)
        };
        sources.push(source(&own, entry.insecure, false));
        Ok(sources)
    }
}

/// How much of the repository a prefix stands for; nothing where it does not match.
fn matched(prefix: &str, repository: &str) -> Option<usize> {
    if let Some(domain) = prefix.strip_prefix("*.") {
        let host = repository.split('/').next().unwrap_or_default();
        let name = host.split(':').next().unwrap_or_default();
        return name
            .strip_suffix(domain)
            .is_some_and(|rest| rest.ends_with('.'))
            .then_some(host.len());
    }
    let rest = repository.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(prefix.len())
}

fn source(text: &str, insecure: bool, mirror: bool) -> Source {
    let (authority, repository) = text.split_once('/').unwrap_or((text, ""));
    // Docker Hub's name is not the host that speaks the protocol.
    let authority = match authority {
        "docker.io" | "index.docker.io" => "registry-1.docker.io",
        other => other,
    };
    Source {
        authority: authority.to_owned(),
        repository: repository.to_owned(),
        insecure,
        mirror,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registries(text: &str) -> Result<Registries, RegistryError> {
        let mut registries = Registries::default();
        registries.add(text, Path::new("registries.conf"))?;
        Ok(registries)
    }

    fn places(text: &str, name: &str) -> Vec<String> {
        let sources = registries(text).unwrap().sources(&name.parse().unwrap()).unwrap();
        sources
            .iter()
            .map(|source| {
                format!(
                    "{}{}/{}",
                    if source.insecure { "!" } else { "" },
                    source.authority,
                    source.repository
                )
            })
            .collect()
    }

    #[test]
    fn mirrors_come_first_and_the_longest_prefix_counts() {
        let text = r#"
            unqualified-search-registries = ["docker.io"]
            [[registry]]
            prefix = "docker.io"
            location = "registry-1.docker.io"
            [[registry.mirror]]
            location = "mirror.example:5000/hub"
            insecure = true
            [[registry]]
            prefix = "docker.io/me"
            location = "mine.example/x"
            [[registry]]
            location = "10.0.0.1:5000"
            insecure = true
            [[registry]]
            prefix = "*.corp.example"
            [[registry.mirror]]
            location = "corp.mirror"
            pull-from-mirror = "digest-only"
        "#;
        let digest = "@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        for (name, expected) in [
            (
                "busybox",
                &[
                    "!mirror.example:5000/hub/library/busybox",
                    "registry-1.docker.io/library/busybox",
                ][..],
            ),
            ("me/app", &["mine.example/x/app"]),
            ("10.0.0.1:5000/a/b", &["!10.0.0.1:5000/a/b"]),
            ("a.corp.example/b", &["a.corp.example/b"]),
            (
                &format!("a.corp.example/b{digest}"),
                &["corp.mirror/b", "a.corp.example/b"],
            ),
            ("quay.io/a/b", &["quay.io/a/b"]),
            (
                "docker.io/mex/app",
                &["!mirror.example:5000/hub/mex/app", "registry-1.docker.io/mex/app"],
            ),
        ] {
            assert_eq!(places(text, name), expected, "{name}");
        }
    }

    #[test]
    fn malformed_files_are_refused_with_the_field() {
        for (text, expected) in [
            ("[[registry]]\ninsecure = 1\nlocation='a'", "insecure"),
            ("[[registry]]\nlocatoin = 'a'", "locatoin"),
            ("[[registry]]\n", "neither prefix nor location"),
            ("[[registry]]\nlocation = 'https://a'", "without a scheme"),
            (
                "[[registry]]\nlocation = 'a'\n[[registry.mirror]]\nlocation=''",
                "mirror location",
            ),
            ("[registries.search]\nregistries = []", "registries"),
        ] {
            let message = registries(text).expect_err(text).to_string();
            assert!(
                message.contains(expected) && message.contains("registries.conf"),
                "{message}"
            );
        }
        let blocked = registries("[[registry]]\nlocation = 'evil.example'\nblocked = true").unwrap();
        let error = blocked.sources(&"evil.example/a".parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("blocked"), "{error}");
    }
}

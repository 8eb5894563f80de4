//! Image names, read as Docker, containerd and the kubelet read them.

use std::fmt;
use std::str::FromStr;

use crate::digest::{Digest, DigestError};

/// The registry that a name without one means.
const DEFAULT_DOMAIN: &str = "docker.io";
/// The folder on the default registry that a one-word name means.
const OFFICIAL: &str = "library/";
/// Longest `domain/path` (distribution specification, "Repository names").
const NAME_LIMIT: usize = 255;
const TAG_LIMIT: usize = 128;

/// A complete image name: registry, repository, and a tag or a digest.
///
/// `user-service:v1.0.0` and `docker.io/library/user-service:v1.0.0` are the same reference
/// (distribution's `reference.ParseNormalizedNamed`, which containerd and the kubelet use).
/// With both a tag and a digest the digest decides and the tag is dropped, as the kubelet does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    version: Version,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Version {
    Tag(String),
    Digest(Digest),
}

/// Why a text is no image name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing where a repository should be.
    #[error("image name {text:?} has no repository: expected [registry/]repository[:tag][@sha256:digest]")]
    Empty {
        /// The name as given.
        text: String,
    },
    /// A repository component with characters that registries do not allow.
    #[error(
        "image name {text:?}: repository component {component:?} must be lower-case letters and digits, \
         separated by single '.', '_', '__' or dashes"
    )]
    Component {
        /// The name as given.
        text: String,
        /// The component at fault.
        component: String,
    },
    /// The registry part is no host name with optional port.
    #[error("image name {text:?}: registry {domain:?} is not a host name with an optional :port")]
    Domain {
        /// The name as given.
        text: String,
        /// The registry part.
        domain: String,
    },
    /// A tag with characters that are not allowed, or too long.
    #[error(
        "image name {text:?}: tag {tag:?} must be 1 to 128 letters, digits, '_', '.' or '-', not starting with '.' or '-'"
    )]
    Tag {
        /// The name as given.
        text: String,
        /// The tag.
        tag: String,
    },
    /// The part after `@` is no usable digest.
    #[error("image name {text:?} has an unusable digest")]
    Digest {
        /// The name as given.
        text: String,
        /// What is wrong with it.
        #[source]
        source: DigestError,
    },
    /// Longer than 255 characters.
    #[error("image name {text:?} is longer than 255 characters")]
    TooLong {
        /// The name as given.
        text: String,
    },
}

impl Reference {
    /// The registry, `docker.io` where the name had none.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository on the registry, such as `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if the name is not by digest.
    pub fn tag(&self) -> Option<&str> {
        match &self.version {
            Version::Tag(tag) => Some(tag),
            Version::Digest(_) => None,
        }
    }

    /// The manifest digest, if the name is by digest.
    pub fn digest(&self) -> Option<Digest> {
        match &self.version {
            Version::Tag(_) => None,
            Version::Digest(digest) => Some(*digest),
        }
    }

    /// The same repository, by digest.
    pub fn by_digest(&self, digest: Digest) -> Self {
        Self {
            version: Version::Digest(digest),
            ..self.clone()
        }
    }

    /// `domain/path`, without tag or digest.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The repository as people write it: without the default registry and `library/`.
    pub fn familiar_repository(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.repository();
        }
        match self.path.strip_prefix(OFFICIAL) {
            Some(name) if !name.contains('/') => name.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// The whole name as people write it, such as `user-service:v1.0.0`.
    pub fn familiar(&self) -> String {
        match &self.version {
            Version::Tag(tag) => format!("{}:{tag}", self.familiar_repository()),
            Version::Digest(digest) => format!("{}@{digest}", self.familiar_repository()),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Version::Tag(tag) => write!(formatter, "{}/{}:{tag}", self.domain, self.path),
            Version::Digest(digest) => write!(formatter, "{}/{}@{digest}", self.domain, self.path),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                let digest = digest.parse().map_err(|source| ReferenceError::Digest {
                    text: text.to_owned(),
                    source,
                })?;
                (name, Some(digest))
            }
            None => (text, None),
        };
        // A colon after the last slash starts the tag; one before it is the registry's port.
        let tag_at = name.rfind(':').filter(|&colon| !name[colon..].contains('/'));
        let (name, tag) = match tag_at {
            Some(colon) => (&name[..colon], Some(&name[colon + 1..])),
            None => (name, None),
        };
        let (domain, path) = split_domain(name);
        check_domain(text, &domain)?;
        check_path(text, &path)?;
        if domain.len() + 1 + path.len() > NAME_LIMIT {
            return Err(ReferenceError::TooLong {
                text: text.to_owned(),
            });
        }
        if let Some(tag) = tag {
            check_tag(text, tag)?;
        }
        let version = match (digest, tag) {
            (Some(digest), _) => Version::Digest(digest),
            (None, tag) => Version::Tag(tag.unwrap_or("latest").to_owned()),
        };
        Ok(Self {
            domain,
            path,
            version,
        })
    }
}

/// The first component is a registry if it looks like a host: has a dot, a port, an upper-case
/// letter, or is `localhost` (distribution's `splitDockerDomain`).
fn split_domain(name: &str) -> (String, String) {
    let (domain, path) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.chars().any(|letter| letter.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    };
    let domain = if domain == "index.docker.io" {
        DEFAULT_DOMAIN
    } else {
        domain
    };
    let path = if domain == DEFAULT_DOMAIN && !path.contains('/') && !path.is_empty() {
        format!("{OFFICIAL}{path}")
    } else {
        path.to_owned()
    };
    (domain.to_owned(), path)
}

fn check_domain(text: &str, domain: &str) -> Result<(), ReferenceError> {
    let wrong = || ReferenceError::Domain {
        text: text.to_owned(),
        domain: domain.to_owned(),
    };
    let (host, port) = match domain.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(wrong());
            }
            return check_port(port).ok_or_else(wrong);
        }
        None => match domain.split_once(':') {
            Some((host, _)) => (host, &domain[host.len()..]),
            None => (domain, ""),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if !host.split('.').all(label) {
        return Err(wrong());
    }
    check_port(port).ok_or_else(wrong)
}

/// `""` or `:digits`.
fn check_port(port: &str) -> Option<()> {
    if port.is_empty() {
        return Some(());
    }
    let digits = port.strip_prefix(':')?;
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some(())
}

fn check_path(text: &str, path: &str) -> Result<(), ReferenceError> {
    if path.is_empty() {
        return Err(ReferenceError::Empty {
            text: text.to_owned(),
        });
    }
    for component in path.split('/') {
        if !valid_component(component) {
            return Err(ReferenceError::Component {
                text: text.to_owned(),
                component: component.to_owned(),
            });
        }
    }
    Ok(())
}

/// Lower-case words joined by `.`, `_`, `__` or any number of dashes.
fn valid_component(component: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !word(first) || !word(last) {
        return false;
    }
    bytes.split(|&byte| word(byte)).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|&byte| byte == b'-')
    })
}

fn check_tag(text: &str, tag: &str) -> Result<(), ReferenceError> {
    let valid = (1..=TAG_LIMIT).contains(&tag.len())
        && !tag.starts_with(['.', '-'])
        && tag
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    if valid {
        Ok(())
    } else {
        Err(ReferenceError::Tag {
            text: text.to_owned(),
            tag: tag.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised_as_the_kubelet_does() {
        let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let cases = [
            (
                "user-service:v1.0.0",
                "docker.io/library/user-service:v1.0.0",
                "user-service:v1.0.0",
            ),
            (
                "docker.io/library/user-service:v1.0.0",
                "docker.io/library/user-service:v1.0.0",
                "user-service:v1.0.0",
            ),
            ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            (
                "index.docker.io/busybox",
                "docker.io/library/busybox:latest",
                "busybox:latest",
            ),
            (
                "docker.io/busybox",
                "docker.io/library/busybox:latest",
                "busybox:latest",
            ),
            ("me/app:1", "docker.io/me/app:1", "me/app:1"),
            ("quay.io/me/app", "quay.io/me/app:latest", "quay.io/me/app:latest"),
            ("localhost/app:x", "localhost/app:x", "localhost/app:x"),
            (
                "localhost:5000/app",
                "localhost:5000/app:latest",
                "localhost:5000/app:latest",
            ),
            ("[::1]:5000/app:y", "[::1]:5000/app:y", "[::1]:5000/app:y"),
            ("Upper/app", "Upper/app:latest", "Upper/app:latest"),
            (
                "a__b/c--d.e_f:T-1.x_",
                "docker.io/a__b/c--d.e_f:T-1.x_",
                "a__b/c--d.e_f:T-1.x_",
            ),
        ];
        for (text, canonical, familiar) in cases {
            let reference: Reference = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(reference.to_string(), canonical, "{text}");
            assert_eq!(reference.familiar(), familiar, "{text}");
            assert_eq!(
                canonical.parse::<Reference>().unwrap(),
                reference,
                "{text} is stable"
            );
        }
        let by_digest: Reference = format!("busybox:1@{digest}").parse().unwrap();
        assert_eq!(
            by_digest.to_string(),
            format!("docker.io/library/busybox@{digest}")
        );
        assert_eq!(
            (by_digest.tag(), by_digest.digest()),
            (None, Some(Digest::of(b"")))
        );
    }

    #[test]
    fn malformed_names_are_refused_with_the_reason() {
        let long = "a".repeat(256);
        let cases = [
            ("", "no repository"),
            (":tag", "no repository"),
            ("Busybox", "lower-case"),
            ("a//b", "lower-case"),
            ("../../etc/passwd", "registry"),
            ("a/../b", "lower-case"),
            ("-a", "lower-case"),
            ("a___b", "lower-case"),
            ("a:", "tag"),
            ("a:.x", "tag"),
            ("a:b c", "tag"),
            ("a@sha512:00", "digest"),
            ("ex_ample.com/a", "registry"),
            ("host.:x/a", "registry"),
            (long.as_str(), "255"),
        ];
        for (text, expected) in cases {
            let message = text.parse::<Reference>().expect_err(text).to_string();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }
}

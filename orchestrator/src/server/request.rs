//! What a request is about: its path, its query, who sent it.

use axum::extract::Query as UrlQuery;
use berth_api::kinds::{self, Kind};
use berth_api::status::ApiError;
use http::Uri;
use std::sync::Arc;

use super::auth::Caller;
use crate::store::Key;

/// The object or collection that a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub kind: &'static Kind,
    /// `None` for all namespaces, and for cluster-wide kinds.
    pub namespace: Option<String>,
    /// `None` for the collection.
    pub name: Option<String>,
    /// Such as `status`.
    pub subresource: Option<String>,
    /// Who asks.
    pub caller: Arc<Caller>,
}

impl Target {
    /// Reads `/api/v1/...` and `/apis/GROUP/VERSION/...`; `None` if it names nothing served.
    pub fn parse(path: &str) -> Option<Self> {
        let mut parts: Vec<String> = Vec::new();
        for part in path.strip_prefix('/')?.trim_end_matches('/').split('/') {
            parts.push(decode(part)?);
        }
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] if !group.is_empty() => (*group, *version, rest),
            _ => return None,
        };
        let (namespace, rest) = match rest {
            // `namespaces` alone, one of them and its subresources are the kind Namespace itself.
            ["namespaces"] | ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => (None, rest),
            ["namespaces", namespace, rest @ ..] => (Some((*namespace).to_owned()), rest),
            rest => (None, rest),
        };
        let (plural, name, subresource) = match rest {
            [plural] => (plural, None, None),
            [plural, name] => (plural, Some(name), None),
            [plural, name, subresource] => (plural, Some(name), Some(subresource)),
            _ => return None,
        };
        let kind = kinds::lookup(group, version, plural)?;
        if kind.namespaced != namespace.is_some() && (namespace.is_some() || name.is_some()) {
            return None;
        }
        if subresource.is_some_and(|s| !kind.has(s)) || name.is_some_and(|n| n.is_empty()) {
            return None;
        }
        let owned = |text: Option<&&str>| text.map(|t| (*t).to_owned());
        Some(Self {
            kind,
            namespace,
            name: owned(name),
            subresource: owned(subresource),
            caller: Arc::default(),
        })
    }

    /// The key of the object; an error if the path names a collection.
    pub fn key(&self) -> Result<Key, ApiError> {
        let name = self.name.as_deref().ok_or_else(ApiError::no_such_resource)?;
        Ok(Key::new(
            self.kind,
            self.namespace.clone().unwrap_or_default(),
            name,
        ))
    }
}

/// Percent-decodes one segment; a slash inside is refused.
pub(super) fn decode(segment: &str) -> Option<String> {
    let mut out = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digit = |b: Option<u8>| char::from(b?).to_digit(16);
            let value = digit(bytes.next())? * 16 + digit(bytes.next())?;
            out.push(u8::try_from(value).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok().filter(|s| !s.contains('/'))
}

/// Query parameters.
#[derive(Debug, Clone, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub fn of(uri: &Uri) -> Result<Self, ApiError> {
        UrlQuery::try_from_uri(uri)
            .map(|UrlQuery(pairs)| Self(pairs))
            .map_err(|e| ApiError::bad_request(format!("cannot read the query of the URL: {e}")))
    }

    /// A parameter that is there and not empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
            .filter(|v| !v.is_empty())
    }

    /// The same with another value of a parameter.
    #[must_use]
    pub fn with(&self, name: &str, value: String) -> Self {
        let others = self.0.iter().filter(|(n, _)| n != name).cloned();
        Self(others.chain([(name.to_owned(), value)]).collect())
    }

    /// All values of a parameter.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(move |(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }

    /// A flag: absent, `0`, `f`, `false` are false; there without value is true, as in Go.
    pub fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self
            .0
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.to_ascii_lowercase())
        {
            None => Ok(false),
            Some(text) => match text.as_str() {
                "" | "1" | "t" | "true" => Ok(true),
                "0" | "f" | "false" => Ok(false),
                _ => Err(ApiError::bad_request(format!(
                    "query parameter {name}={text}: must be true or false"
                ))),
            },
        }
    }

    /// A number that is there.
    pub fn number(&self, name: &str) -> Result<Option<i64>, ApiError> {
        self.text(name)
            .map(|text| {
                text.parse().map_err(|_| {
                    ApiError::bad_request(format!("query parameter {name}={text}: must be a number"))
                })
            })
            .transpose()
    }

    /// `dryRun=All`.
    pub fn dry_run(&self) -> Result<bool, ApiError> {
        let mut any = false;
        for value in self.all("dryRun") {
            if value != "All" {
                return Err(ApiError::bad_request(format!(
                    "dryRun: Unsupported value: {value:?}: supported values: \"All\""
                )));
            }
            any = true;
        }
        Ok(any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let target = |path: &str| {
            Target::parse(path).map(|t| {
                let (ns, name) = (t.namespace.unwrap_or_default(), t.name.unwrap_or_default());
                (t.kind.plural, ns, name, t.subresource.unwrap_or_default())
            })
        };
        let made = |kind, ns: &str, name: &str, sub: &str| {
            Some((kind, ns.to_owned(), name.to_owned(), sub.to_owned()))
        };
        assert_eq!(target("/api/v1/pods"), made("pods", "", "", ""));
        assert_eq!(
            target("/api/v1/namespaces/d/pods/p/log"),
            made("pods", "d", "p", "log")
        );
        assert_eq!(target("/api/v1/namespaces"), made("namespaces", "", "", ""));
        assert_eq!(target("/api/v1/namespaces/d"), made("namespaces", "", "d", ""));
        assert_eq!(
            target("/api/v1/namespaces/d/status"),
            made("namespaces", "", "d", "status")
        );
        assert_eq!(
            target("/apis/apps/v1/namespaces/d/deployments/w/scale"),
            made("deployments", "d", "w", "scale")
        );
        assert_eq!(target("/api/v1/nodes/a%2eb"), made("nodes", "", "a.b", ""));
        for bad in [
            "/api/v1",
            "/api/v2/pods",
            "/api/v1/pods/p",
            "/api/v1/namespaces/d/nodes",
            "/api/v1/namespaces/d/pods/p/x",
            "/api/v1/nodes/a%2fb",
            "/api/v1/nodes/%zz",
            "/apis/apps/v1/pods",
            "/x",
        ] {
            assert_eq!(target(bad), None, "{bad}");
        }
    }
}

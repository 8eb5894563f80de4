//! URLs as registries use them: absolute, or relative to the request they answer.

use std::fmt::{self, Write as _};

use http::Uri;

use super::error::RegistryError;

/// Where a request goes: scheme, host, port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Origin {
    pub(crate) secure: bool,
    /// Without the brackets of an IPv6 address.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Origin {
    /// Reads `host[:port]`.
    pub(crate) fn of(authority: &str, secure: bool) -> Result<Self, RegistryError> {
        Ok(Url::parse(&format!(
            "{}://{authority}/",
            if secure { "https" } else { "http" }
        ))?
        .origin)
    }

    /// Host and port, as people write them.
    pub(crate) fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        if self.port == default_port(self.secure) {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }

    /// Whether it is this machine, as far as the name says.
    pub(crate) fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self
                .host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }
}

const fn default_port(secure: bool) -> u16 {
    if secure { 443 } else { 80 }
}

/// An absolute URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) origin: Origin,
    /// Path and query, with its leading slash.
    pub(crate) path: String,
}

impl fmt::Display for Url {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.origin.secure { "https" } else { "http" };
        // Queries may carry signatures of a storage service: they are not for messages.
        let path = self.path.split('?').next().unwrap_or_default();
        write!(formatter, "{scheme}://{}{path}", self.origin.authority())
    }
}

impl Url {
    pub(crate) fn parse(text: &str) -> Result<Self, RegistryError> {
        let wrong = |why: &str| RegistryError::Url {
            url: text.to_owned(),
            why: why.to_owned(),
        };
        let uri: Uri = text
            .parse()
            .map_err(|error: http::uri::InvalidUri| wrong(&error.to_string()))?;
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong("it must begin with https:// or http://")),
        };
        let host = uri.host().ok_or_else(|| wrong("it has no host"))?;
        if uri
            .authority()
            .is_some_and(|authority| authority.as_str().contains('@'))
        {
            return Err(wrong("credentials do not belong into a URL"));
        }
        Ok(Self {
            origin: Origin {
                secure,
                host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
                port: uri.port_u16().unwrap_or(default_port(secure)),
            },
            path: uri
                .path_and_query()
                .map_or_else(|| "/".to_owned(), ToString::to_string),
        })
    }

    /// What a `Location` header of an answer to this URL means.
    pub(crate) fn join(&self, location: &str) -> Result<Self, RegistryError> {
        if location.contains("://") {
            return Self::parse(location);
        }
        if let Some(rest) = location.strip_prefix("//") {
            let scheme = if self.origin.secure { "https" } else { "http" };
            return Self::parse(&format!("{scheme}://{rest}"));
        }
        let path = if location.starts_with('/') {
            location.to_owned()
        } else {
            let path = self.path.split('?').next().unwrap_or_default();
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{folder}/{location}")
        };
        // Checked like any other: it came from outside.
        let scheme = if self.origin.secure { "https" } else { "http" };
        Self::parse(&format!("{scheme}://{}{path}", self.origin.authority()))
    }

    /// The URL with one more query parameter.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.path.push(if self.path.contains('?') { '&' } else { '?' });
        self.path.push_str(name);
        self.path.push('=');
        self.path.push_str(&encoded(value));
        self
    }
}

/// Percent-encoding of everything but unreserved characters (RFC 3986, section 2.3).
pub(crate) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            // Writing to a text cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_joined() {
        let base = Url::parse("https://r.example:5000/v2/a/blobs/uploads/?x=1").unwrap();
        for (location, expected) in [
            ("/v2/u/1?state=a%2Fb", "https://r.example:5000/v2/u/1?state=a%2Fb"),
            ("https://cdn.example/x", "https://cdn.example/x"),
            ("//cdn.example/x", "https://cdn.example/x"),
            ("2?y", "https://r.example:5000/v2/a/blobs/uploads/2?y"),
        ] {
            let joined = base.join(location).unwrap();
            assert_eq!(joined, Url::parse(expected).unwrap(), "{location}");
        }
        assert!(base.join("ftp://x/").is_err());
        assert!(base.join("https://user:secret@x/").is_err());
        assert_eq!(
            Url::parse("http://[::1]:5000/v2/").unwrap().origin.authority(),
            "[::1]:5000"
        );
        assert_eq!(
            base.clone().with("digest", "sha256:0").path,
            "/v2/a/blobs/uploads/?x=1&digest=sha256%3A0"
        );
        assert_eq!(base.to_string(), "https://r.example:5000/v2/a/blobs/uploads/");
    }
}

//! From an origin to an open connection: proxy, TCP, TLS.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::error::RegistryError;
use super::tls;
use super::url::{Origin, Url};

/// Longest answer of a proxy to CONNECT, in bytes.
const PROXY_ANSWER: usize = 8192;

/// A connection with or without TLS.
pub(crate) enum Stream {
    Plain(TcpStream),
    Secure(Box<TlsStream<TcpStream>>),
}

/// Opens a connection. `secure` origins get TLS with `config`.
pub(crate) async fn connect(
    origin: &Origin,
    config: Option<std::sync::Arc<rustls::ClientConfig>>,
) -> Result<Stream, RegistryError> {
    let authority = origin.authority();
    let refused = |source| RegistryError::Connect {
        authority: authority.clone(),
        source,
    };
    let proxy = Proxy::of(origin)?;
    let target = proxy.as_ref().map_or(origin, |proxy| &proxy.url.origin);
    let stream = TcpStream::connect((target.host.as_str(), target.port))
        .await
        .map_err(refused)?;
    stream.set_nodelay(true).map_err(refused)?;
    let stream = match &proxy {
        Some(proxy) => proxy.tunnel(stream, origin).await?,
        None => stream,
    };
    let Some(config) = config else {
        return Ok(Stream::Plain(stream));
    };
    let name = ServerName::try_from(origin.host.clone()).map_err(|error| RegistryError::Url {
        url: authority.clone(),
        why: error.to_string(),
    })?;
    match TlsConnector::from(config).connect(name, stream).await {
        Ok(stream) => Ok(Stream::Secure(Box::new(stream))),
        Err(source) => Err(RegistryError::Tls {
            hint: if tls::speaks_no_tls(&source) {
                " (it speaks plain HTTP: set insecure = true for it in registries.conf if that is intended)"
            } else if source.to_string().contains("UnknownIssuer") {
                " (put its authority's certificate into /etc/containers/certs.d/HOST/ca.crt)"
            } else {
                ""
            },
            authority,
            source,
        }),
    }
}

/// What `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` say, in either case of letters (curl(1)).
struct Proxy {
    url: Url,
    /// `user:password`.
    credentials: Option<String>,
}

impl Proxy {
    fn of(origin: &Origin) -> Result<Option<Self>, RegistryError> {
        let variable = |name: &str| {
            [name.to_ascii_lowercase(), name.to_owned()]
                .iter()
                .find_map(|name| std::env::var(name).ok())
                .filter(|value| !value.is_empty())
        };
        let name = if origin.secure {
            "HTTPS_PROXY"
        } else {
            "HTTP_PROXY"
        };
        let Some(text) = variable(name) else {
            return Ok(None);
        };
        if origin.is_loopback() || is_exempt(&origin.host, &variable("NO_PROXY").unwrap_or_default()) {
            return Ok(None);
        }
        let whole = if text.contains("://") {
            text
        } else {
            format!("http://{text}")
        };
        let (scheme, rest) = whole.split_once("://").unwrap_or(("http", &whole));
        let (credentials, host) = match rest.rsplit_once('@') {
            Some((credentials, host)) => (Some(credentials.to_owned()), host),
            None => (None, rest),
        };
        Ok(Some(Self {
            url: Url::parse(&format!("{scheme}://{host}"))?,
            credentials,
        }))
    }

    async fn tunnel(&self, mut stream: TcpStream, origin: &Origin) -> Result<TcpStream, RegistryError> {
        use base64::Engine as _;
        use std::fmt::Write as _;
        let target = if origin.host.contains(':') {
            format!("[{}]:{}", origin.host, origin.port)
        } else {
            format!("{}:{}", origin.host, origin.port)
        };
        let refused = |answer: String| RegistryError::Proxy {
            proxy: self.url.origin.authority(),
            authority: target.clone(),
            answer,
        };
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
        if let Some(credentials) = &self.credentials {
            let code = base64::engine::general_purpose::STANDARD.encode(credentials);
            // Writing to a text cannot fail.
            let _ = write!(request, "Proxy-Authorization: Basic {code}\r\n");
        }
        request.push_str("\r\n");
        let broken = |error: io::Error| refused(error.to_string());
        stream.write_all(request.as_bytes()).await.map_err(broken)?;
        let mut answer = Vec::new();
        // Byte by byte: what follows the head belongs to the tunnel.
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() > PROXY_ANSWER {
                return Err(refused("an endless answer".to_owned()));
            }
            answer.push(stream.read_u8().await.map_err(broken)?);
        }
        let text = String::from_utf8_lossy(&answer);
        let status = text.lines().next().unwrap_or_default();
        if status.split(' ').nth(1).is_some_and(|code| code.starts_with('2')) {
            Ok(stream)
        } else {
            Err(refused(status.to_owned()))
        }
    }
}

fn is_exempt(host: &str, list: &str) -> bool {
    list.split(',').map(str::trim).any(|entry| {
        let entry = entry.split(':').next().unwrap_or(entry).trim_start_matches('.');
        entry == "*"
            || (!entry.is_empty()
                && (host == entry || host.strip_suffix(entry).is_some_and(|rest| rest.ends_with('.'))))
    })
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Secure(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Secure(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Secure(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Secure(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_without_a_proxy() {
        for (host, list, expected) in [
            ("a.example", "a.example", true),
            ("b.a.example", ".a.example", true),
            ("b.a.example", "x, a.example:443", true),
            ("ba.example", "a.example", false),
            ("a.example", "*", true),
            ("a.example", "", false),
        ] {
            assert_eq!(is_exempt(host, list), expected, "{host} {list}");
        }
    }
}

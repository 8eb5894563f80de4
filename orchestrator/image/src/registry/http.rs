//! Requests of one thread: connections are kept for the next request to the same origin.
//!
//! Every thread of a transfer has its own, with an executor of its own: a slow registry holds up
//! nobody else, and the API's thread never decrypts a layer.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::runtime::Runtime;

use super::body::Content;
use super::connect::connect;
use super::error::RegistryError;
use super::url::{Origin, Url};

/// How long a connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// How long may be between two pieces of an answer.
const SILENCE_LIMIT: Duration = Duration::from_mins(1);
/// How often is looked whether the transfer is still wanted.
const LOOK: Duration = Duration::from_millis(200);
/// What hyper may hold of one answer.
const READ_BUFFER: usize = 128 * 1024;

/// Tells whether a transfer is still wanted.
pub(crate) type Cancelled<'a> = &'a (dyn Fn() -> bool + Sync);

/// TLS settings by origin.
pub(crate) type TlsFor<'a> = &'a (dyn Fn(&Origin) -> Result<Arc<rustls::ClientConfig>, RegistryError> + Sync);

/// The connections of one thread.
pub(crate) struct Http<'a> {
    runtime: Runtime,
    idle: BTreeMap<Origin, http1::SendRequest<Content>>,
    tls: TlsFor<'a>,
    cancelled: Cancelled<'a>,
}

impl<'a> Http<'a> {
    pub(crate) fn new(tls: TlsFor<'a>, cancelled: Cancelled<'a>) -> Result<Self, RegistryError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .build()
            .map_err(|source| RegistryError::Connect {
                authority: "the network".to_owned(),
                source,
            })?;
        Ok(Self {
            runtime,
            idle: BTreeMap::new(),
            tls,
            cancelled,
        })
    }

    /// Sends a request and waits for the head of the answer.
    pub(crate) fn send(
        &mut self,
        url: &Url,
        mut request: Request<Content>,
    ) -> Result<Response<Incoming>, RegistryError> {
        let origin = &url.origin;
        *request.uri_mut() = url
            .path
            .parse()
            .map_err(|error: http::uri::InvalidUri| RegistryError::Url {
                url: url.to_string(),
                why: error.to_string(),
            })?;
        let headers = request.headers_mut();
        if let Ok(host) = HeaderValue::try_from(origin.authority()) {
            headers.insert(header::HOST, host);
        }
        headers.insert(
            header::USER_AGENT,
            HeaderValue::from_static(concat!("berthd/", env!("CARGO_PKG_VERSION"))),
        );
        let broken = |source| RegistryError::Broken {
            authority: origin.authority(),
            source,
        };
        let mut sender = match self.idle.remove(origin).filter(|sender| !sender.is_closed()) {
            Some(sender) => sender,
            None => self.open(origin)?,
        };
        // A kept connection that the other side has closed meanwhile gives the request back.
        let ready = self.wait(origin, SILENCE_LIMIT, sender.ready())?;
        if ready.is_err() {
            sender = self.open(origin)?;
        }
        let sent = self.wait(origin, SILENCE_LIMIT, sender.try_send_request(request))?;
        let response = match sent {
            Ok(response) => response,
            Err(mut error) => match error.take_message() {
                Some(request) => {
                    sender = self.open(origin)?;
                    self.wait(origin, SILENCE_LIMIT, sender.send_request(request))?
                        .map_err(broken)?
                }
                None => return Err(broken(error.into_error())),
            },
        };
        self.idle.insert(origin.clone(), sender);
        Ok(response)
    }

    /// The next piece of an answer; nothing at its end.
    pub(crate) fn piece(&self, origin: &Origin, body: &mut Incoming) -> Result<Option<Bytes>, RegistryError> {
        loop {
            match self.wait(origin, SILENCE_LIMIT, body.frame())? {
                None => return Ok(None),
                Some(Err(source)) => {
                    return Err(RegistryError::Broken {
                        authority: origin.authority(),
                        source,
                    });
                }
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data()
                        && !data.is_empty()
                    {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// A whole answer of at most `limit` bytes.
    pub(crate) fn whole(
        &self,
        url: &Url,
        mut response: Response<Incoming>,
        limit: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let mut bytes = Vec::new();
        while let Some(piece) = self.piece(&url.origin, response.body_mut())? {
            if bytes.len() as u64 + piece.len() as u64 > limit {
                return Err(RegistryError::Answer {
                    url: url.to_string(),
                    why: format!("it has more than {limit} bytes"),
                });
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    /// Reads a short answer away, so that its connection can be used again; a long one is left.
    pub(crate) fn discard(&mut self, url: &Url, response: Response<Incoming>) {
        if self.whole(url, response, 64 * 1024).is_err() {
            self.idle.remove(&url.origin);
        }
    }

    /// Waits before another try; ends early when the transfer is not wanted any more.
    pub(crate) fn pause(&self, time: Duration) -> Result<(), RegistryError> {
        let end = Instant::now() + time;
        loop {
            if (self.cancelled)() {
                return Err(RegistryError::Cancelled);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(LOOK));
        }
    }

    fn open(&self, origin: &Origin) -> Result<http1::SendRequest<Content>, RegistryError> {
        let config = origin.secure.then(|| (self.tls)(origin)).transpose()?;
        let stream = self.wait(origin, CONNECT_LIMIT, connect(origin, config))??;
        let shaking = http1::Builder::new()
            .max_buf_size(READ_BUFFER)
            .handshake(TokioIo::new(stream));
        let (sender, connection) =
            self.wait(origin, CONNECT_LIMIT, shaking)?
                .map_err(|source| RegistryError::Broken {
                    authority: origin.authority(),
                    source,
                })?;
        // What goes wrong with it shows in the answer to a request.
        self.runtime.spawn(connection);
        Ok(sender)
    }

    /// Runs a future to its end, to the limit, or until nobody wants it any more.
    fn wait<T>(
        &self,
        origin: &Origin,
        limit: Duration,
        future: impl Future<Output = T>,
    ) -> Result<T, RegistryError> {
        self.runtime.block_on(async {
            let end = Instant::now() + limit;
            let mut future = std::pin::pin!(future);
            loop {
                if (self.cancelled)() {
                    return Err(RegistryError::Cancelled);
                }
                if let Ok(value) = tokio::time::timeout(LOOK, &mut future).await {
                    return Ok(value);
                }
                if Instant::now() >= end {
                    return Err(RegistryError::Timeout {
                        authority: origin.authority(),
                        seconds: limit.as_secs(),
                    });
                }
            }
        })
    }
}

/// How long a registry wants to be left alone, in seconds.
pub(crate) fn retry_after(response: &Response<Incoming>) -> Option<u64> {
    response
        .headers()
        .get(header::RETRY_AFTER)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// Whether the answer sends us elsewhere.
pub(crate) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

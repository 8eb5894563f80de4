//! Talking to one repository: authentication, redirects, and the distribution API's requests.
//!
//! A session is shared by the threads of a transfer: a token that one of them got serves all.

use std::sync::{Mutex, PoisonError};

use http::{HeaderValue, Method, Request, Response, header};
use hyper::body::Incoming;
use serde::Deserialize;

use super::body::Content;
use super::config::Source;
use super::credentials::Credential;
use super::error::RegistryError;
use super::http::{Http, is_redirect, retry_after};
use super::url::{Origin, Url};
use crate::blob::DOCUMENT_LIMIT;
use crate::digest::Digest;

const REDIRECTS: usize = 10;
/// Longest error message of a registry that is read.
const MESSAGE_LIMIT: u64 = 64 * 1024;

/// What may be done with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Pull,
    Push,
}

impl Access {
    pub(super) fn actions(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "pull,push",
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// The scheme that the registry turned out to speak.
    pub(super) secure: Option<bool>,
    pub(super) authorization: Option<HeaderValue>,
    /// Credentials that were refused.
    pub(super) spent: usize,
}

/// One repository at one place.
#[derive(Debug)]
pub(crate) struct Session {
    pub(super) source: Source,
    pub(super) access: Access,
    pub(super) credentials: Vec<Credential>,
    /// Further scopes to ask for (`repository:other:pull`), so that blobs can be mounted from there.
    pub(super) also: Vec<String>,
    state: Mutex<State>,
}

/// A document as it came.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
}

/// A request before it is sent; it may have to be sent more than once.
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) headers: Vec<(header::HeaderName, String)>,
    pub(crate) body: &'a dyn Fn() -> Result<Content, RegistryError>,
}

impl Call<'_> {
    pub(crate) fn new(method: Method) -> Self {
        Self {
            method,
            headers: Vec::new(),
            body: &|| Ok(Content::none()),
        }
    }

    pub(crate) fn header(mut self, name: header::HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl Session {
    pub(crate) fn new(source: Source, access: Access, credentials: Vec<Credential>) -> Self {
        Self {
            source,
            access,
            credentials,
            also: Vec::new(),
            state: Mutex::default(),
        }
    }

    /// Asks for pull access to other repositories of the registry, too.
    pub(crate) fn also(mut self, repositories: &[String]) -> Self {
        self.also = repositories
            .iter()
            .map(|repository| format!("repository:{repository}:pull"))
            .collect();
        self
    }

    /// Whom messages name.
    pub(crate) fn place(&self) -> String {
        format!("{}/{}", self.source.authority, self.source.repository)
    }

    /// A manifest or index by tag or digest. Its digest is the content's own; that it is the one
    /// wanted is for the caller to see.
    pub(crate) fn manifest(
        &self,
        http: &mut Http<'_>,
        version: &str,
        accept: &str,
    ) -> Result<Fetched, RegistryError> {
        let call = Call::new(Method::GET).header(header::ACCEPT, accept);
        let (url, response) = self.call(http, &format!("manifests/{version}"), &call)?;
        let said = |name: &str| {
            let value = response.headers().get(name)?.to_str().ok()?;
            Some(value.split(';').next().unwrap_or(value).trim().to_owned())
        };
        let media_type = said("content-type").unwrap_or_default();
        let claimed = said("docker-content-digest");
        let bytes = http.whole(&url, response, DOCUMENT_LIMIT)?;
        let digest = Digest::of(&bytes);
        if let Some(claimed) = claimed
            && claimed.starts_with("sha256:")
            && claimed != digest.to_string()
        {
            return Err(RegistryError::Answer {
                url: url.to_string(),
                why: format!("its content has the digest {digest}, but the registry calls it {claimed}"),
            });
        }
        Ok(Fetched {
            bytes,
            digest,
            media_type,
        })
    }

    /// A small blob, whole. Its digest is checked.
    pub(crate) fn document(&self, http: &mut Http<'_>, digest: &Digest) -> Result<Vec<u8>, RegistryError> {
        let (url, response) = self.call(http, &format!("blobs/{digest}"), &Call::new(Method::GET))?;
        let bytes = http.whole(&url, response, DOCUMENT_LIMIT)?;
        if Digest::of(&bytes) == *digest {
            Ok(bytes)
        } else {
            Err(RegistryError::Answer {
                url: url.to_string(),
                why: format!(
                    "its content has the digest {}: the registry's copy, or the way to it, is damaged",
                    Digest::of(&bytes)
                ),
            })
        }
    }

    /// Begins to read a blob, from `offset` on. Gives back where the answer really begins.
    pub(crate) fn blob(
        &self,
        http: &mut Http<'_>,
        digest: &Digest,
        offset: u64,
    ) -> Result<(Url, Response<Incoming>, u64), RegistryError> {
        let mut call = Call::new(Method::GET);
        if offset > 0 {
            call = call.header(header::RANGE, format!("bytes={offset}-"));
        }
        let (url, response) = self.call(http, &format!("blobs/{digest}"), &call)?;
        let start = if response.status() == http::StatusCode::PARTIAL_CONTENT {
            range_start(&response).ok_or_else(|| RegistryError::Answer {
                url: url.to_string(),
                why: "a part of the blob without saying which".to_owned(),
            })?
        } else {
            0
        };
        Ok((url, response, start))
    }

    /// Sends a request below the repository; any answer but success is an error.
    pub(crate) fn call(
        &self,
        http: &mut Http<'_>,
        path: &str,
        call: &Call<'_>,
    ) -> Result<(Url, Response<Incoming>), RegistryError> {
        let url = self.url(http, path)?;
        self.call_url(http, &url, call)
    }

    /// The same with a URL that the registry gave.
    pub(crate) fn call_url(
        &self,
        http: &mut Http<'_>,
        url: &Url,
        call: &Call<'_>,
    ) -> Result<(Url, Response<Incoming>), RegistryError> {
        loop {
            let before = self.authorization();
            let (at, response) = follow(http, url.clone(), call, before.as_ref())?;
            let status = response.status();
            if status.is_success() {
                return Ok((at, response));
            }
            // Only the registry itself is given credentials, not a storage service behind it.
            let ours = at.origin == url.origin;
            let refused = status.as_u16() == 401 || (status.as_u16() == 403 && before.is_some());
            if !ours || !refused {
                return Err(failure(http, &call.method, &at, response));
            }
            self.authenticate(http, &at, response, before.as_ref())?;
        }
    }

    /// The URL of something below the repository; finds out the scheme first where it is open.
    fn url(&self, http: &mut Http<'_>, path: &str) -> Result<Url, RegistryError> {
        // Looked up first: probing takes the lock itself.
        let known = self.state().secure;
        let secure = match known {
            Some(secure) => secure,
            None => self.probe(http)?,
        };
        Url::parse(&format!(
            "{}://{}/v2/{}/{path}",
            if secure { "https" } else { "http" },
            self.source.authority,
            self.source.repository
        ))
    }

    /// HTTPS is always tried first. Plain HTTP is only for registries that the configuration calls
    /// insecure, and for this machine itself.
    fn probe(&self, http: &mut Http<'_>) -> Result<bool, RegistryError> {
        let secure = Origin::of(&self.source.authority, true)?;
        let may_be_plain = self.source.insecure || secure.is_loopback();
        let secure = if may_be_plain {
            let url = Url::parse(&format!("https://{}/v2/", self.source.authority))?;
            match http.send(&url, Request::new(Content::none())) {
                Ok(response) => {
                    http.discard(&url, response);
                    true
                }
                Err(RegistryError::Cancelled) => return Err(RegistryError::Cancelled),
                // Someone who has a certificate that we do not trust is not asked in the clear.
                Err(error @ RegistryError::Tls { .. }) if !no_tls(&error) => return Err(error),
                Err(_) => false,
            }
        } else {
            true
        };
        self.state().secure = Some(secure);
        Ok(secure)
    }

    pub(super) fn authorization(&self) -> Option<HeaderValue> {
        self.state().authorization.clone()
    }

    pub(super) fn unauthorized(&self, why: &str) -> RegistryError {
        RegistryError::Unauthorized {
            registry: self.source.authority.clone(),
            what: self.source.repository.clone(),
            why: why.to_owned(),
        }
    }

    pub(super) fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends a request, and again to wherever the answers point.
fn follow(
    http: &mut Http<'_>,
    mut url: Url,
    call: &Call<'_>,
    authorization: Option<&HeaderValue>,
) -> Result<(Url, Response<Incoming>), RegistryError> {
    let first = url.origin.clone();
    for _ in 0..REDIRECTS {
        let mut request = Request::new((call.body)()?);
        *request.method_mut() = call.method.clone();
        for (name, value) in &call.headers {
            if let Ok(value) = HeaderValue::try_from(value) {
                request.headers_mut().insert(name, value);
            }
        }
        // A registry's token is not for the storage service that it points to.
        if url.origin == first
            && let Some(value) = authorization
        {
            request.headers_mut().insert(header::AUTHORIZATION, value.clone());
        }
        let response = http.send(&url, request)?;
        if !is_redirect(response.status()) {
            return Ok((url, response));
        }
        let location = location(&response).ok_or_else(|| RegistryError::Answer {
            url: url.to_string(),
            why: "it points elsewhere without saying where".to_owned(),
        })?;
        let next = url.join(&location)?;
        if url.origin.secure && !next.origin.secure {
            return Err(RegistryError::Answer {
                url: url.to_string(),
                why: format!("it points to {next}, which is not encrypted"),
            });
        }
        http.discard(&url, response);
        url = next;
    }
    Err(RegistryError::Answer {
        url: url.to_string(),
        why: format!("it is redirected more than {REDIRECTS} times"),
    })
}

fn no_tls(error: &RegistryError) -> bool {
    matches!(error, RegistryError::Tls { source, .. }
        if super::tls::speaks_no_tls(source) || source.kind() == std::io::ErrorKind::UnexpectedEof)
}

pub(crate) fn location(response: &Response<Incoming>) -> Option<String> {
    Some(
        response
            .headers()
            .get(header::LOCATION)?
            .to_str()
            .ok()?
            .to_owned(),
    )
}

/// `bytes 5-9/10`.
fn range_start(response: &Response<Incoming>) -> Option<u64> {
    let text = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?
        .split('-')
        .next()?
        .trim()
        .parse()
        .ok()
}

/// The error that an answer stands for.
pub(super) fn failure(
    http: &mut Http<'_>,
    method: &Method,
    url: &Url,
    response: Response<Incoming>,
) -> RegistryError {
    let (status, retry_after) = (response.status().as_u16(), retry_after(&response));
    RegistryError::Status {
        method: match *method {
            Method::HEAD => "HEAD",
            Method::POST => "POST",
            Method::PUT => "PUT",
            Method::PATCH => "PATCH",
            Method::DELETE => "DELETE",
            _ => "GET",
        },
        url: url.to_string().into(),
        status,
        message: message(http, url, response).into(),
        retry_after,
    }
}

/// What the registry says, after a colon: distribution's error document, or the beginning of a text.
pub(super) fn message(http: &mut Http<'_>, url: &Url, response: Response<Incoming>) -> String {
    #[derive(Deserialize)]
    struct Document {
        errors: Vec<Item>,
    }
    #[derive(Deserialize)]
    struct Item {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(bytes) = http.whole(url, response, MESSAGE_LIMIT) else {
        return String::new();
    };
    let text = match serde_json::from_slice::<Document>(&bytes) {
        Ok(document) => document
            .errors
            .iter()
            .map(|item| format!("{} {}", item.code, item.message).trim().to_owned())
            .collect::<Vec<_>>()
            .join(", "),
        Err(_) => String::from_utf8_lossy(&bytes)
            .chars()
            .take(200)
            .map(|letter| if letter.is_control() { ' ' } else { letter })
            .collect::<String>()
            .trim()
            .to_owned(),
    };
    if text.is_empty() || text.starts_with('<') {
        String::new()
    } else {
        format!(": {text}")
    }
}

//! Talking to one repository: authentication, redirects, and the distribution API's requests.
//!
//! A session is shared by the threads of a transfer: a token that one of them got serves all.

use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use http::{HeaderValue, Method, Request, Response, header};
use hyper::body::Incoming;
use serde::Deserialize;

use super::body::Content;
use super::challenge::Challenge;
use super::config::Source;
use super::credentials::Credential;
use super::error::RegistryError;
use super::http::{Http, is_redirect, retry_after};
use super::url::{Origin, Url, encoded};
use crate::blob::DOCUMENT_LIMIT;
use crate::digest::Digest;

const REDIRECTS: usize = 10;
/// Longest answer of a token server.
const TOKEN_LIMIT: u64 = 1 << 20;
/// Longest error message of a registry that is read.
const MESSAGE_LIMIT: u64 = 64 * 1024;

/// What may be done with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Pull,
    Push,
}

impl Access {
    fn actions(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "pull,push",
        }
    }
}

#[derive(Debug, Default)]
struct State {
    /// The scheme that the registry turned out to speak.
    secure: Option<bool>,
    authorization: Option<HeaderValue>,
    /// Credentials that were refused.
    spent: usize,
}

/// One repository at one place.
#[derive(Debug)]
pub(crate) struct Session {
    source: Source,
    access: Access,
    credentials: Vec<Credential>,
    /// Further scopes to ask for (`repository:other:pull`), so that blobs can be mounted from there.
    also: Vec<String>,
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
    pub(crate) fn document(
        &self,
        http: &mut Http<'_>,
        digest: &Digest,
    ) -> Result<Vec<u8>, RegistryError> {
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
        self.call_url(http, url, call)
    }

    /// The same with a URL that the registry gave.
    pub(crate) fn call_url(
        &self,
        http: &mut Http<'_>,
        url: Url,
        call: &Call<'_>,
    ) -> Result<(Url, Response<Incoming>), RegistryError> {
        loop {
            let before = self.authorization();
            let (at, response) = self.follow(http, url.clone(), call, before.as_ref())?;
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

    fn follow(
        &self,
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

    /// The URL of something below the repository; finds out the scheme first where it is open.
    fn url(&self, http: &mut Http<'_>, path: &str) -> Result<Url, RegistryError> {
        let secure = match self.state().secure {
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

    fn authorization(&self) -> Option<HeaderValue> {
        self.state().authorization.clone()
    }

    /// Answers a challenge with the next credential that was not refused yet.
    fn authenticate(
        &self,
        http: &mut Http<'_>,
        url: &Url,
        response: Response<Incoming>,
        before: Option<&HeaderValue>,
    ) -> Result<(), RegistryError> {
        let header = response
            .headers()
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect::<Vec<_>>()
            .join(", ");
        let status = response.status().as_u16();
        let said = message(http, url, response);
        let Some(challenge) = Challenge::of(&header) else {
            return Err(self.unauthorized(&format!("status {status}{said}")));
        };
        if self.authorization().as_ref() != before {
            // Another thread has got a new token meanwhile.
            return Ok(());
        }
        // A token may simply have run out: the same credential gets one more chance.
        let expired = matches!(&challenge, Challenge::Bearer { error: Some(error), .. } if error == "invalid_token");
        if before.is_some() && !expired {
            self.state().spent += 1;
        }
        loop {
            let spent = self.state().spent;
            let credential = self.credentials.get(spent);
            if credential.is_none() && (spent > 0 || !self.credentials.is_empty()) {
                return Err(self.unauthorized(&format!(
                    "the credentials for it were refused{said}: log in again, or correct the pull secret"
                )));
            }
            let got = match &challenge {
                Challenge::Basic => self.basic(credential, &said)?,
                Challenge::Bearer {
                    realm,
                    service,
                    scope,
                    ..
                } => {
                    // With the same token refused again, an anonymous one leads nowhere.
                    if before.is_some() && credential.is_none() && !expired {
                        return Err(self.unauthorized(&format!(
                            "it is not public{said}: give credentials with a pull secret, or log in"
                        )));
                    }
                    self.token(http, realm, service.as_deref(), scope.as_deref(), credential)?
                }
            };
            match got {
                Some(value) => {
                    let mut state = self.state();
                    // A registry that finds every token expired would go round for ever.
                    if expired && state.authorization.as_ref() == Some(&value) {
                        state.spent += 1;
                        continue;
                    }
                    state.authorization = Some(value);
                    return Ok(());
                }
                None => self.state().spent += 1,
            }
        }
    }

    fn basic(&self, credential: Option<&Credential>, said: &str) -> Result<Option<HeaderValue>, RegistryError> {
        match credential {
            None => Err(self.unauthorized(&format!(
                "it wants a name and a password{said}: give them with a pull secret, or log in"
            ))),
            Some(credential) => Ok(basic_header(credential)),
        }
    }

    /// Gets a token; nothing if the token server refuses the credential.
    fn token(
        &self,
        http: &mut Http<'_>,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
        credential: Option<&Credential>,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        if let Some(Credential::Registry(token)) = credential {
            return Ok(secret(&format!("Bearer {token}")));
        }
        let own = format!("repository:{}:{}", self.source.repository, self.access.actions());
        let mut scopes = vec![own];
        scopes.extend(scope.iter().flat_map(|scope| scope.split(' ')).map(str::to_owned));
        scopes.extend(self.also.iter().cloned());
        // The challenge usually repeats what we ask for anyway.
        let mut unique: Vec<String> = Vec::new();
        for scope in scopes {
            if !unique.contains(&scope) && !(scope.ends_with(":pull") && unique.iter().any(|u| u.starts_with(&scope))) {
                unique.push(scope);
            }
        }
        let realm = Url::parse(realm)?;
        if realm.origin.secure != self.state().secure.unwrap_or(true) && !realm.origin.secure {
            return Err(RegistryError::Answer {
                url: realm.to_string(),
                why: "the registry sends us to a token server that is not encrypted".to_owned(),
            });
        }
        let (url, request) = match credential {
            Some(Credential::Identity(token)) => refresh_request(realm, service, &unique, token)?,
            other => {
                let mut url = realm;
                if let Some(service) = service {
                    url = url.with("service", service);
                }
                for scope in &unique {
                    url = url.with("scope", scope);
                }
                let mut request = Request::new(Content::none());
                if let Some(value) = other.and_then(basic_header) {
                    request.headers_mut().insert(header::AUTHORIZATION, value);
                }
                (url, request)
            }
        };
        let response = http.send(&url, request)?;
        match response.status().as_u16() {
            200..=299 => {}
            400..=403 if credential.is_some() => {
                http.discard(&url, response);
                return Ok(None);
            }
            401 | 403 => {
                let said = message(http, &url, response);
                return Err(self.unauthorized(&format!(
                    "it is not public{said}: give credentials with a pull secret, or log in"
                )));
            }
            _ => return Err(failure(http, &Method::GET, &url, response)),
        }
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let bytes = http.whole(&url, response, TOKEN_LIMIT)?;
        let answer: Answer = serde_json::from_slice(&bytes).map_err(|error| RegistryError::Answer {
            url: url.to_string(),
            why: error.to_string(),
        })?;
        let token = answer
            .token
            .or(answer.access_token)
            .filter(|token| !token.is_empty())
            .ok_or_else(|| RegistryError::Answer {
                url: url.to_string(),
                why: "it has no token".to_owned(),
            })?;
        Ok(secret(&format!("Bearer {token}")))
    }

    fn unauthorized(&self, why: &str) -> RegistryError {
        RegistryError::Unauthorized {
            registry: self.source.authority.clone(),
            what: self.source.repository.clone(),
            why: why.to_owned(),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn no_tls(error: &RegistryError) -> bool {
    matches!(error, RegistryError::Tls { source, .. }
        if super::tls::speaks_no_tls(source) || source.kind() == std::io::ErrorKind::UnexpectedEof)
}

fn basic_header(credential: &Credential) -> Option<HeaderValue> {
    let Credential::Basic { user, password } = credential else {
        return None;
    };
    let code = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    secret(&format!("Basic {code}"))
}

fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// OAuth 2's way to a token, which is the one for refresh tokens.
fn refresh_request(
    realm: Url,
    service: Option<&str>,
    scopes: &[String],
    token: &str,
) -> Result<(Url, Request<Content>), RegistryError> {
    let form = format!(
        "grant_type=refresh_token&client_id=berthd&service={}&scope={}&refresh_token={}",
        encoded(service.unwrap_or_default()),
        encoded(&scopes.join(" ")),
        encoded(token)
    );
    let mut request = Request::new(Content::bytes(form.into_bytes()));
    *request.method_mut() = Method::POST;
    request.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-www-form-urlencoded"),
    );
    Ok((realm, request))
}

pub(crate) fn location(response: &Response<Incoming>) -> Option<String> {
    Some(response.headers().get(header::LOCATION)?.to_str().ok()?.to_owned())
}

/// `bytes 5-9/10`.
fn range_start(response: &Response<Incoming>) -> Option<u64> {
    let text = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

/// The error that an answer stands for.
fn failure(
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
        url: url.to_string(),
        status,
        message: message(http, url, response),
        retry_after,
    }
}

/// What the registry says, after a colon: distribution's error document, or the beginning of a text.
fn message(http: &mut Http<'_>, url: &Url, response: Response<Incoming>) -> String {
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

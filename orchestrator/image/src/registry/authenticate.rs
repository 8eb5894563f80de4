//! Answering a registry's challenge: passwords, and tokens of its token server (distribution's
//! "Token Authentication Specification" and "OAuth2 Token Authentication").

use base64::Engine as _;
use http::{HeaderValue, Method, Request, Response, header};
use hyper::body::Incoming;
use serde::Deserialize;

use super::body::Content;
use super::challenge::Challenge;
use super::credentials::Credential;
use super::error::RegistryError;
use super::http::Http;
use super::session::{Session, failure, message};
use super::url::{Url, encoded};

/// Longest answer of a token server.
const TOKEN_LIMIT: u64 = 1 << 20;

/// What a token server answers; old ones say `token`, OAuth 2 says `access_token`.
#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
}

impl Session {
    /// Answers a challenge with the next credential that was not refused yet.
    pub(super) fn authenticate(
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
        let expired =
            matches!(&challenge, Challenge::Bearer { error: Some(error), .. } if error == "invalid_token");
        if before.is_some() && !expired {
            self.state().spent += 1;
        }
        loop {
            let spent = self.state().spent;
            let credential = self.credentials.get(spent);
            if credential.is_none() && spent > 0 && self.credentials.is_empty() {
                // It gives tokens to everybody, but not for this.
                return Err(self.unauthorized(&format!(
                    "it is not public{said}: give credentials with a pull secret, or log in"
                )));
            }
            if credential.is_none() && !self.credentials.is_empty() {
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

    fn basic(
        &self,
        credential: Option<&Credential>,
        said: &str,
    ) -> Result<Option<HeaderValue>, RegistryError> {
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
            let covered =
                |known: &String| *known == scope || (scope.ends_with(":pull") && known.starts_with(&scope));
            if !unique.iter().any(covered) {
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
            Some(Credential::Identity(token)) => refresh_request(realm, service, &unique, token),
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
) -> (Url, Request<Content>) {
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
    (realm, request)
}

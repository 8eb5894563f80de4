//! Who asks: by client certificate, by the token of a ServiceAccount, or nobody in particular.
//!
//! Source: Kubernetes documentation "Authenticating": certificate subjects, ServiceAccount tokens, impersonation.

use std::collections::BTreeMap;

use berth_api::kinds;
use berth_api::rbac::{Attributes, Subject};
use berth_api::status::ApiError;
use http::{HeaderMap, header};
use jiff::Timestamp;
use rustls::ServerConnection;
use serde_json::{Value, json};

use super::Api;
use crate::pki::tokens::{Bound, Claims, ISSUER};
use crate::pki::{self};
use crate::store::Key;

pub(super) const MASTERS: &str = "system:masters";
pub(super) const AUTHENTICATED: &str = "system:authenticated";
const ANONYMOUS: &str = "system:anonymous";
const UNAUTHENTICATED: &str = "system:unauthenticated";
const ACCOUNTS: &str = "system:serviceaccounts";

/// Who sent a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Caller {
    pub user: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

/// The certificate that a connection was opened with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown(Option<pki::Identity>);

impl Shown {
    /// Whether a certificate was shown.
    pub fn is_known(&self) -> bool {
        self.0.is_some()
    }
}

/// The certificate of a connection; TLS has verified it.
pub(super) fn of(connection: &ServerConnection) -> Shown {
    Shown(
        connection
            .peer_certificates()
            .and_then(|chain| chain.first())
            .and_then(|certificate| pki::identity(certificate)),
    )
}

impl Caller {
    pub fn anonymous() -> Self {
        Self {
            user: ANONYMOUS.to_owned(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            ..Self::default()
        }
    }

    pub fn is_anonymous(&self) -> bool {
        self.user == ANONYMOUS
    }

    /// Whether nothing is forbidden to it.
    pub fn is_master(&self) -> bool {
        self.groups.iter().any(|g| g == MASTERS)
    }

    pub fn subject(&self) -> Subject<'_> {
        Subject {
            user: &self.user,
            groups: &self.groups,
        }
    }

    /// `authentication.k8s.io/v1 UserInfo`.
    pub fn info(&self) -> Value {
        let mut info = json!({"username": self.user, "groups": self.groups});
        if !self.uid.is_empty() {
            info["uid"] = json!(self.uid);
        }
        if !self.extra.is_empty() {
            info["extra"] = json!(self.extra);
        }
        info
    }

    /// The account of a token's claims.
    fn account(claims: &Claims) -> Self {
        let private = &claims.private;
        let mut extra = BTreeMap::from([(
            "authentication.kubernetes.io/credential-id".to_owned(),
            vec![format!("JTI={}", claims.jti)],
        )]);
        if let Some(pod) = &private.pod {
            extra.insert(
                "authentication.kubernetes.io/pod-name".into(),
                vec![pod.name.clone()],
            );
            extra.insert(
                "authentication.kubernetes.io/pod-uid".into(),
                vec![pod.uid.clone()],
            );
        }
        if let Some(node) = &private.node {
            extra.insert(
                "authentication.kubernetes.io/node-name".into(),
                vec![node.name.clone()],
            );
        }
        Self {
            user: claims.sub.clone(),
            uid: private.serviceaccount.uid.clone(),
            groups: vec![
                ACCOUNTS.to_owned(),
                format!("{ACCOUNTS}:{}", private.namespace),
                AUTHENTICATED.to_owned(),
            ],
            extra,
        }
    }
}

impl Api {
    /// Who sends a request; an error if it shows a token that is worth nothing.
    pub(super) fn caller(&self, shown: &Shown, headers: &HeaderMap) -> Result<Caller, ApiError> {
        let caller = if let Some(identity) = &shown.0 {
            let mut groups = identity.groups.clone();
            if !groups.iter().any(|g| g == AUTHENTICATED) {
                groups.push(AUTHENTICATED.to_owned());
            }
            Caller {
                user: identity.user.clone(),
                groups,
                ..Caller::default()
            }
        } else if let Some(token) = bearer(headers) {
            self.token(token, &[ISSUER.to_owned()])
                .map_err(|why| {
                    tracing::debug!(why, "a token is refused");
                    ApiError::unauthorized()
                })?
                .0
        } else {
            Caller::anonymous()
        };
        self.impersonated(caller, headers)
    }

    /// The account of a token, and for whom of `audiences` it is good.
    pub(super) fn token(&self, token: &str, audiences: &[String]) -> Result<(Caller, Vec<String>), String> {
        let claims = self
            .tokens
            .verify(token, Timestamp::now())
            .map_err(|error| error.to_string())?;
        let good: Vec<String> = audiences
            .iter()
            .filter(|a| claims.aud.contains(a))
            .cloned()
            .collect();
        if good.is_empty() {
            return Err(format!(
                "the token is for {:?}, not for {audiences:?}",
                claims.aud
            ));
        }
        let private = &claims.private;
        let alive = |kind, bound: &Bound| {
            let key = Key::new(kind, private.namespace.as_str(), bound.name.as_str());
            let object = self.store.get(&key).ok().flatten();
            object.is_some_and(|o| o.uid() == bound.uid)
        };
        if !alive(kinds::SERVICE_ACCOUNT, &private.serviceaccount) {
            return Err("the token's ServiceAccount is gone".to_owned());
        }
        for (kind, bound) in [(kinds::POD, &private.pod), (kinds::SECRET, &private.secret)] {
            if bound.as_ref().is_some_and(|bound| !alive(kind, bound)) {
                return Err(format!("the {} that the token is bound to is gone", kind.kind));
            }
        }
        Ok((Caller::account(&claims), good))
    }

    /// Whom the caller wants to be taken for, if he may.
    fn impersonated(&self, caller: Caller, headers: &HeaderMap) -> Result<Caller, ApiError> {
        let all = |name: &str| -> Vec<String> {
            let values = headers.get_all(name).iter();
            values
                .filter_map(|v| v.to_str().ok())
                .map(str::to_owned)
                .collect()
        };
        let user = all("impersonate-user").into_iter().next();
        let (groups, uid) = (
            all("impersonate-group"),
            all("impersonate-uid").into_iter().next(),
        );
        let Some(user) = user else {
            if groups.is_empty() && uid.is_none() {
                return Ok(caller);
            }
            return Err(ApiError::bad_request(
                "Impersonate-Group and Impersonate-Uid need Impersonate-User beside them",
            ));
        };
        let ask = |group: &str, namespace: &str, resource: &str, name: &str| {
            self.require(
                &caller,
                &Attributes {
                    verb: "impersonate".into(),
                    namespace: namespace.into(),
                    group: group.into(),
                    version: "v1".into(),
                    resource: resource.into(),
                    name: name.into(),
                    ..Attributes::default()
                },
            )
        };
        let account = user
            .strip_prefix("system:serviceaccount:")
            .and_then(|rest| rest.split_once(':'));
        match account {
            Some((namespace, name)) => ask("", namespace, "serviceaccounts", name)?,
            None => ask("", "", "users", &user)?,
        }
        for group in &groups {
            ask("", "", "groups", group)?;
        }
        if let Some(uid) = &uid {
            ask("authentication.k8s.io", "", "uids", uid)?;
        }
        let mut as_groups = groups;
        if let Some((namespace, _)) = account
            && as_groups.is_empty()
        {
            as_groups = vec![ACCOUNTS.to_owned(), format!("{ACCOUNTS}:{namespace}")];
        }
        let base = if user == ANONYMOUS {
            UNAUTHENTICATED
        } else {
            AUTHENTICATED
        };
        if !as_groups.iter().any(|g| g == base) {
            as_groups.push(base.to_owned());
        }
        Ok(Caller {
            user,
            uid: uid.unwrap_or_default(),
            groups: as_groups,
            extra: BTreeMap::new(),
        })
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.trim().split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim())
        .filter(|t| !t.is_empty())
}

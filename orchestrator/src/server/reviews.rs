//! Questions that are answered and not stored: who am I, may I, may somebody, whose token is this; and the tokens of
//! ServiceAccounts.

use axum::response::Response;
use berth_api::kinds;
use berth_api::rbac::{Attributes, Rule};
use berth_api::status::{ApiError, Cause};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::auth::Caller;
use super::body;
use super::request::{Query, Target};
use super::write::Options;
use super::{Api, respond, store_error};
use crate::pki::tokens::{Bound, Claims, ISSUER, Private};
use crate::store::prepare::rfc3339;
use crate::store::{Key, Object};

/// Shortest life of a token, in seconds, as upstream.
const SHORTEST: i64 = 600;
/// Life of a token for which none is asked.
const USUAL: i64 = 3600;
/// Longest life of a token.
const LONGEST: i64 = 1 << 32;

impl Api {
    /// POST of a review.
    pub(super) fn review(
        &self,
        target: &Target,
        query: &Query,
        headers: &HeaderMap,
        bytes: &Bytes,
    ) -> Result<Response, ApiError> {
        let options = Options::of(query, headers)?;
        let sent = body::parse(&body::media_type(headers), bytes)?;
        let (mut value, warnings) = body::conform(target.kind, sent, options.validation)?;
        value["apiVersion"] = json!(target.kind.api_version());
        value["kind"] = json!(target.kind.kind);
        let spec = value.get("spec").cloned().unwrap_or_default();
        let caller = &*target.caller;
        value["status"] = match target.kind.kind {
            "SelfSubjectReview" => json!({"userInfo": caller.info()}),
            "TokenReview" => self.review_token(&spec),
            "SelfSubjectAccessReview" => self.review_access(caller, &spec, target)?,
            "SubjectAccessReview" | "LocalSubjectAccessReview" => {
                let groups = spec.get("groups").cloned().unwrap_or_else(|| json!([]));
                let other = Caller {
                    user: spec["user"].as_str().unwrap_or_default().to_owned(),
                    groups: serde_json::from_value(groups).unwrap_or_default(),
                    ..Caller::default()
                };
                if other.user.is_empty() && other.groups.is_empty() {
                    return Err(invalid(
                        target,
                        "spec.user",
                        "at least one of user or group must be specified",
                    ));
                }
                self.review_access(&other, &spec, target)?
            }
            _ => self.review_rules(caller, spec["namespace"].as_str().unwrap_or_default()),
        };
        Ok(respond::warn(
            respond::json(StatusCode::CREATED, &value),
            &warnings,
        ))
    }

    fn review_access(&self, who: &Caller, spec: &Value, target: &Target) -> Result<Value, ApiError> {
        let resource = spec.get("resourceAttributes").filter(|a| !a.is_null());
        let path = spec.get("nonResourceAttributes").filter(|a| !a.is_null());
        let text = |of: &Value, field: &str| of[field].as_str().unwrap_or_default().to_owned();
        let wanted = match (resource, path) {
            (Some(of), None) => Attributes {
                verb: text(of, "verb"),
                namespace: text(of, "namespace"),
                group: text(of, "group"),
                version: text(of, "version"),
                resource: text(of, "resource"),
                subresource: text(of, "subresource"),
                name: text(of, "name"),
                path: String::new(),
            },
            (None, Some(of)) => Attributes {
                verb: text(of, "verb"),
                path: text(of, "path"),
                ..Attributes::default()
            },
            _ => {
                return Err(invalid(
                    target,
                    "spec.resourceAttributes",
                    "exactly one of nonResourceAttributes or resourceAttributes must be specified",
                ));
            }
        };
        if let Some(namespace) = &target.namespace
            && wanted.namespace != *namespace
        {
            return Err(invalid(
                target,
                "spec.resourceAttributes.namespace",
                "must match metadata.namespace",
            ));
        }
        let allowed = self.may(who, &wanted);
        let mut status = json!({ "allowed": allowed });
        if !allowed {
            status["reason"] = json!("no role that is bound to the user allows it");
        }
        Ok(status)
    }

    fn review_rules(&self, caller: &Caller, namespace: &str) -> Value {
        let mut rules = self.rules(caller, namespace);
        if caller.is_master() {
            rules = vec![
                Rule {
                    verbs: vec!["*".into()],
                    api_groups: vec!["*".into()],
                    resources: vec!["*".into()],
                    ..Rule::default()
                },
                Rule {
                    verbs: vec!["*".into()],
                    non_resource_urls: vec!["*".into()],
                    ..Rule::default()
                },
            ];
        }
        let (paths, resources): (Vec<Rule>, Vec<Rule>) =
            rules.into_iter().partition(|r| !r.non_resource_urls.is_empty());
        json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
    }

    fn review_token(&self, spec: &Value) -> Value {
        let audiences: Vec<String> = spec["audiences"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|a| a.as_str().map(str::to_owned))
            .collect();
        let asked = if audiences.is_empty() {
            vec![ISSUER.to_owned()]
        } else {
            audiences.clone()
        };
        match self.token(spec["token"].as_str().unwrap_or_default(), &asked) {
            Ok((caller, good)) => {
                let mut status = json!({"authenticated": true, "user": caller.info()});
                status["audiences"] = json!(good);
                status
            }
            Err(why) => json!({"authenticated": false, "error": why}),
        }
    }

    /// POST of serviceaccounts/token.
    pub(super) fn request_token(
        &self,
        target: &Target,
        query: &Query,
        headers: &HeaderMap,
        bytes: &Bytes,
    ) -> Result<Response, ApiError> {
        let options = Options::of(query, headers)?;
        let sent = body::parse(&body::media_type(headers), bytes)?;
        let (mut value, warnings) = body::conform_to("TokenRequest", "v1", sent, options.validation)?;
        let account = self.store.require(&target.key()?).map_err(store_error)?;
        let seconds = value
            .pointer("/spec/expirationSeconds")
            .and_then(Value::as_i64)
            .unwrap_or(USUAL);
        if !(SHORTEST..=LONGEST).contains(&seconds) {
            let why = format!(
                "Invalid value: {seconds}: may not specify a duration less than 10 minutes, or more than 2^32 seconds"
            );
            return Err(invalid_request(target, "spec.expirationSeconds", why));
        }
        let private = self.bound(target, &account, value.pointer("/spec/boundObjectRef"))?;
        let audiences: Vec<String> = value
            .pointer("/spec/audiences")
            .and_then(|a| serde_json::from_value(a.clone()).ok())
            .filter(|a: &Vec<String>| !a.is_empty())
            .unwrap_or_else(|| vec![ISSUER.to_owned()]);
        let claims = Claims::new(private, audiences.clone(), seconds, Timestamp::now());
        let token = self
            .tokens
            .sign(&claims)
            .map_err(|error| ApiError::internal(error.to_string()))?;
        value["apiVersion"] = json!("authentication.k8s.io/v1");
        value["kind"] = json!("TokenRequest");
        value["metadata"]["name"] = json!(account.name());
        value["metadata"]["namespace"] = json!(account.namespace());
        value["spec"]["audiences"] = json!(audiences);
        value["spec"]["expirationSeconds"] = json!(seconds);
        let end = Timestamp::from_second(claims.exp).unwrap_or(Timestamp::MAX);
        value["status"] = json!({"token": token, "expirationTimestamp": rfc3339(end)});
        Ok(respond::warn(
            respond::json(StatusCode::CREATED, &value),
            &warnings,
        ))
    }

    fn bound(&self, target: &Target, account: &Object, to: Option<&Value>) -> Result<Private, ApiError> {
        let mut private = Private {
            namespace: account.namespace().to_owned(),
            serviceaccount: Bound {
                name: account.name().to_owned(),
                uid: account.uid().to_owned(),
            },
            pod: None,
            secret: None,
            node: None,
        };
        let Some(to) = to.filter(|r| !r.is_null()) else {
            return Ok(private);
        };
        let text = |field: &str| to[field].as_str().unwrap_or_default();
        let kind = match text("kind") {
            "Pod" => kinds::POD,
            "Secret" => kinds::SECRET,
            other => {
                let why = format!("Unsupported value: {other:?}: supported values: \"Pod\", \"Secret\"");
                return Err(invalid_request(target, "spec.boundObjectRef.kind", why));
            }
        };
        let key = Key::new(kind, account.namespace(), text("name"));
        let object = self.store.require(&key).map_err(store_error)?;
        if !text("uid").is_empty() && text("uid") != object.uid() {
            return Err(ApiError::conflict(
                kind,
                object.name(),
                &format!(
                    "the UID in the bound object reference ({}) does not match the UID in record",
                    text("uid")
                ),
            ));
        }
        let bound = Bound {
            name: object.name().to_owned(),
            uid: object.uid().to_owned(),
        };
        if kind == kinds::POD {
            let value = object.value();
            let of = value.pointer("/spec/serviceAccountName").and_then(Value::as_str);
            if of != Some(account.name()) {
                let why = format!("Invalid value: {:?}: the pod runs as another account", bound.name);
                return Err(invalid_request(target, "spec.boundObjectRef.name", why));
            }
            private.pod = Some(bound);
        } else {
            private.secret = Some(bound);
        }
        Ok(private)
    }
}

fn invalid(target: &Target, field: &str, why: &str) -> ApiError {
    let cause = Cause {
        reason: "FieldValueInvalid".into(),
        message: format!("Invalid value: {why}"),
        field: field.into(),
    };
    ApiError::invalid(target.kind, "", vec![cause])
}

fn invalid_request(target: &Target, field: &str, message: String) -> ApiError {
    let name = target.name.as_deref().unwrap_or_default();
    let cause = Cause {
        reason: "FieldValueInvalid".into(),
        message,
        field: field.into(),
    };
    let mut error = ApiError::invalid(target.kind, name, vec![cause]);
    error.message = error
        .message
        .replacen("ServiceAccount", "TokenRequest.authentication.k8s.io", 1);
    error
}

//! Errors of the API as clients see them: `Status` objects.
//!
//! Reasons, codes and wording follow apimachinery's `api/errors`, which is what kubectl and users
//! recognise.

use serde_json::{Value, json};

use crate::kinds::Kind;

/// An API error: everything a `Status` object of kind Failure carries.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason, such as `NotFound`.
    pub reason: &'static str,
    /// Sentence for people.
    pub message: String,
    /// Object concerned, if one is.
    pub details: Option<Box<Details>>,
}

/// `details` of a `Status`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// Name of the object.
    pub name: String,
    /// API group.
    pub group: String,
    /// Kind or resource name.
    pub kind: String,
    /// UID of the object, where known.
    pub uid: String,
    /// Seconds after which to try again; 0 for none.
    pub retry_after_seconds: u32,
    /// Field errors.
    pub causes: Vec<Cause>,
}

/// One cause of a failure, mostly one per invalid field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Reason, such as `FieldValueInvalid`.
    pub reason: String,
    /// Sentence for people.
    pub message: String,
    /// Path of the field.
    pub field: String,
}

fn details(kind: &Kind, name: &str) -> Details {
    Details {
        name: name.to_owned(),
        group: kind.group.to_owned(),
        kind: kind.plural.to_owned(),
        ..Details::default()
    }
}

impl ApiError {
    fn plain(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: None,
        }
    }

    /// 404: no such object.
    pub fn not_found(kind: &Kind, name: &str) -> Self {
        Self {
            details: Some(Box::new(details(kind, name))),
            ..Self::plain(
                404,
                "NotFound",
                format!("{} \"{name}\" not found", kind.resource()),
            )
        }
    }

    /// 404: no such path or resource type.
    pub fn no_such_resource() -> Self {
        Self::plain(
            404,
            "NotFound",
            "the server could not find the requested resource",
        )
    }

    /// 409: the name is taken.
    pub fn already_exists(kind: &Kind, name: &str) -> Self {
        Self {
            details: Some(Box::new(details(kind, name))),
            ..Self::plain(
                409,
                "AlreadyExists",
                format!("{} \"{name}\" already exists", kind.resource()),
            )
        }
    }

    /// 409: the object changed since it was read, or a precondition failed.
    pub fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        Self {
            details: Some(Box::new(details(kind, name))),
            ..Self::plain(
                409,
                "Conflict",
                format!(
                    "Operation cannot be fulfilled on {} \"{name}\": {why}",
                    kind.resource()
                ),
            )
        }
    }

    /// 422: fields are invalid. `causes` must not be empty.
    pub fn invalid(kind: &Kind, name: &str, causes: Vec<Cause>) -> Self {
        let lines: Vec<String> = causes
            .iter()
            .map(|c| format!("{}: {}", c.field, c.message))
            .collect();
        let list = match lines.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!("{} \"{name}\" is invalid: {list}", kind.group_kind());
        Self {
            details: Some(Box::new(Details {
                name: name.to_owned(),
                group: kind.group.to_owned(),
                kind: kind.kind.to_owned(),
                causes,
                ..Details::default()
            })),
            ..Self::plain(422, "Invalid", message)
        }
    }

    /// 400: the request makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::plain(400, "BadRequest", message)
    }

    /// 401: no identity.
    pub fn unauthorized() -> Self {
        Self::plain(401, "Unauthorized", "Unauthorized")
    }

    /// 403: not allowed on this object.
    pub fn forbidden(kind: &Kind, name: &str, why: &str) -> Self {
        Self {
            details: Some(Box::new(details(kind, name))),
            ..Self::plain(
                403,
                "Forbidden",
                format!("{} \"{name}\" is forbidden: {why}", kind.resource()),
            )
        }
    }

    /// 405: the verb is not served here.
    pub fn method_not_allowed(message: impl Into<String>) -> Self {
        Self::plain(405, "MethodNotAllowed", message)
    }

    /// 406: no acceptable response type.
    pub fn not_acceptable(message: impl Into<String>) -> Self {
        Self::plain(406, "NotAcceptable", message)
    }

    /// 410: the asked version is no longer in the watch history.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::plain(410, "Expired", message)
    }

    /// 413: the body is too large.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::plain(413, "RequestEntityTooLarge", message)
    }

    /// 415: the body's type is not understood.
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::plain(415, "UnsupportedMediaType", message)
    }

    /// 429: try later.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self {
            details: Some(Box::new(Details {
                retry_after_seconds,
                ..Details::default()
            })),
            ..Self::plain(429, "TooManyRequests", message)
        }
    }

    /// 500: a fault of the server, with its cause in the message.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::plain(
            500,
            "InternalError",
            format!("Internal error occurred: {}", message.into()),
        )
    }

    /// 503: not ready or shutting down.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::plain(503, "ServiceUnavailable", message)
    }

    /// Adds causes to an error that names none.
    pub fn with_causes(mut self, causes: Vec<Cause>) -> Self {
        self.details.get_or_insert_default().causes = causes;
        self
    }

    /// The `Status` object for the wire.
    pub fn to_value(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        });
        if let Some(details) = &self.details {
            status["details"] = details.to_value();
        }
        status["code"] = json!(self.code);
        status
    }
}

impl Details {
    fn to_value(&self) -> Value {
        let mut out = serde_json::Map::new();
        for (key, text) in [
            ("name", &self.name),
            ("group", &self.group),
            ("kind", &self.kind),
            ("uid", &self.uid),
        ] {
            if !text.is_empty() {
                out.insert(key.to_owned(), json!(text));
            }
        }
        if !self.causes.is_empty() {
            let causes: Vec<Value> = self
                .causes
                .iter()
                .map(|c| json!({"reason": c.reason, "message": c.message, "field": c.field}))
                .collect();
            out.insert("causes".to_owned(), Value::Array(causes));
        }
        if self.retry_after_seconds > 0 {
            out.insert("retryAfterSeconds".to_owned(), json!(self.retry_after_seconds));
        }
        Value::Object(out)
    }
}

/// The `Status` of kind Success that answers a DELETE.
pub fn deleted(kind: &Kind, name: &str, uid: &str) -> Value {
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": Details {
            name: name.to_owned(),
            group: kind.group.to_owned(),
            kind: kind.plural.to_owned(),
            uid: uid.to_owned(),
            ..Details::default()
        }.to_value(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    #[test]
    fn renders_what_kubectl_expects() {
        let status = ApiError::not_found(kinds::DEPLOYMENT, "web").to_value();
        assert_eq!(
            status,
            json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "deployments.apps \"web\" not found", "reason": "NotFound",
                "details": {"name": "web", "group": "apps", "kind": "deployments"}, "code": 404,
            })
        );
    }

    #[test]
    fn joins_several_causes() {
        let cause = |field: &str| Cause {
            reason: "FieldValueRequired".into(),
            message: "Required value".into(),
            field: field.into(),
        };
        let one = ApiError::invalid(kinds::POD, "p", vec![cause("spec.containers")]);
        assert_eq!(
            one.message,
            "Pod \"p\" is invalid: spec.containers: Required value"
        );
        let two = ApiError::invalid(kinds::DEPLOYMENT, "d", vec![cause("a"), cause("b")]);
        assert_eq!(
            two.message,
            "Deployment.apps \"d\" is invalid: [a: Required value, b: Required value]"
        );
    }
}

//! Answers: JSON objects, tables, errors; what the client asked to see.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use berth_api::kinds::Kind;
use berth_api::status::ApiError;
use berth_api::table::{self, Include};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use serde_json::Value;

use super::request::Query;

/// How the client wants objects shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As they are.
    Object,
    /// As rows of a table.
    Table(Include),
    /// Metadata only.
    Partial,
}

/// Chooses the form by the Accept header.
pub(super) fn form(headers: &HeaderMap, query: &Query) -> Result<Form, ApiError> {
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|v| v.to_str().ok())
        .unwrap_or("*/*");
    for entry in accept.split(',') {
        let mut parts = entry.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        let parameter = |name: &str| {
            entry
                .split(';')
                .map(str::trim)
                .find_map(|p| p.strip_prefix(name)?.strip_prefix('='))
        };
        let json = matches!(kind, "application/json" | "*/*" | "application/*");
        match parameter("as") {
            Some("Table") if json && parameter("v") == Some("v1") => {
                return Ok(Form::Table(match query.text("includeObject") {
                    Some("None") => Include::None,
                    Some("Object") => Include::Object,
                    _ => Include::Metadata,
                }));
            }
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") if json => return Ok(Form::Partial),
            None if json => return Ok(Form::Object),
            _ => {}
        }
    }
    Err(ApiError::not_acceptable(
        "only the following media types are accepted: application/json, application/json;as=Table;v=v1;g=meta.k8s.io, application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
    ))
}

/// One object in the form asked for.
pub(super) fn object(kind: &Kind, value: Value, form: Form, now: Timestamp) -> Value {
    match form {
        Form::Object => value,
        Form::Partial => table::partial(&value),
        Form::Table(include) => {
            let version = value
                .pointer("/metadata/resourceVersion")
                .cloned()
                .unwrap_or_default();
            let mut out = table::header(kind, &serde_json::json!({"resourceVersion": version}));
            out["rows"] = Value::Array(vec![table::row(kind, &value, include, now)]);
            out
        }
    }
}

/// A JSON answer.
pub(super) fn json(code: StatusCode, value: &Value) -> Response {
    text(code, "application/json", value.to_string())
}

/// An answer of a media type.
pub(super) fn text(code: StatusCode, media_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = code;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// Adds warnings as kubectl prints them (RFC 7234 5.5).
pub(super) fn warn(mut response: Response, warnings: &[String]) -> Response {
    for warning in warnings {
        let quoted: String = warning
            .chars()
            .flat_map(|c| match c {
                '"' | '\\' => vec!['\\', c],
                c if c.is_ascii() && !c.is_ascii_control() => vec![c],
                _ => vec!['?'],
            })
            .collect();
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

/// An error as its `Status`.
pub(super) struct Failure(pub ApiError);

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let code = StatusCode::from_u16(self.0.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if code.is_server_error() {
            tracing::error!(code = self.0.code, message = %self.0.message, "request failed");
        }
        let mut response = json(code, &self.0.to_value());
        if let Some(seconds) = self
            .0
            .details
            .as_ref()
            .map(|d| d.retry_after_seconds)
            .filter(|s| *s > 0)
        {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_headers() {
        let form_of = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_str(accept).unwrap());
            form(&headers, &Query::default()).ok()
        };
        let table = Some(Form::Table(Include::Metadata));
        assert_eq!(
            form_of(
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"
            ),
            table
        );
        assert_eq!(
            form_of("application/vnd.kubernetes.protobuf,application/json"),
            Some(Form::Object)
        );
        assert_eq!(form_of("*/*"), Some(Form::Object));
        assert_eq!(
            form_of("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"),
            Some(Form::Partial)
        );
        assert_eq!(form_of("application/vnd.kubernetes.protobuf"), None);
    }

    #[test]
    fn warnings_are_quoted() {
        let response = warn(
            text(StatusCode::OK, "text/plain", ""),
            &["unknown field \"a\"\n".to_owned()],
        );
        assert_eq!(
            response.headers()[header::WARNING],
            "299 - \"unknown field \\\"a\\\"?\""
        );
    }
}

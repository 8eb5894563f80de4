//! Reading a request's body: JSON, YAML or the protobuf envelope, within bounds.

use std::time::Duration;

use axum::body::Body;
use berth_api::kinds::Kind;
use berth_api::schema::{Type, decode};
use berth_api::status::ApiError;
use berth_api::{parse, protobuf};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use serde_json::Value;

/// Bytes of a body, as upstream.
const LIMIT: usize = 3 << 20;
/// Bytes of a body that is too long that are still taken off the wire.
const DRAINED: usize = 32 << 20;
/// Time for a body to arrive.
const TIME: Duration = Duration::from_secs(30);

/// Takes in a whole body.
pub(super) async fn read(body: Body) -> Result<Bytes, ApiError> {
    match tokio::time::timeout(TIME, collect(body)).await {
        Err(_) => Err(ApiError::bad_request("the request's body did not arrive in time")),
        Ok(Err(error)) => Err(ApiError::bad_request(format!(
            "cannot read the request's body: {error}"
        ))),
        Ok(Ok(None)) => Err(ApiError::too_large(format!(
            "Request entity too large: limit is {LIMIT}"
        ))),
        Ok(Ok(Some(all))) => Ok(all),
    }
}

/// Takes in a body; None if it is too long. What is too long is thrown away for a while, because a client that is cut
/// off while it sends does not hear why.
async fn collect(mut body: Body) -> Result<Option<Bytes>, axum::Error> {
    let (mut all, mut total) = (BytesMut::new(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        total += data.len();
        if total > DRAINED {
            break;
        }
        if total > LIMIT {
            all = BytesMut::new();
        } else {
            all.extend_from_slice(&data);
        }
    }
    Ok((total <= LIMIT).then(|| all.freeze()))
}

/// The media type of the body, without parameters; JSON if none is given.
pub(super) fn media_type(headers: &HeaderMap) -> String {
    let text = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or("application/json");
    text.split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

/// An object as it was sent, with what its text said twice.
pub(super) struct Sent {
    pub value: Value,
    pub duplicates: Vec<String>,
}

/// Parses a body by its media type.
pub(super) fn parse(media_type: &str, bytes: &[u8]) -> Result<Sent, ApiError> {
    let bad = |message: String| ApiError::bad_request(message);
    match media_type {
        "application/json" => {
            let (value, duplicates) = parse::json(bytes).map_err(|e| bad(e.to_string()))?;
            Ok(Sent { value, duplicates })
        }
        "application/yaml" | "application/apply-patch+yaml" => {
            let (value, duplicates) = parse::yaml(bytes).map_err(|e| bad(e.to_string()))?;
            Ok(Sent { value, duplicates })
        }
        "application/vnd.kubernetes.protobuf" => {
            let value =
                protobuf::object(bytes).map_err(|e| bad(format!("cannot decode the protobuf body: {e}")))?;
            Ok(Sent {
                value,
                duplicates: Vec::new(),
            })
        }
        other => Err(ApiError::unsupported_media_type(format!(
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf (it was {other:?})"
        ))),
    }
}

/// How unknown and duplicate fields are met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

impl FieldValidation {
    /// Reads the query parameter; `Warn` if it is absent, as upstream.
    pub fn of(text: Option<&str>) -> Result<Self, ApiError> {
        match text {
            None | Some("Warn") => Ok(Self::Warn),
            Some("Strict") => Ok(Self::Strict),
            Some("Ignore") => Ok(Self::Ignore),
            Some(other) => Err(ApiError::bad_request(format!(
                "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
            ))),
        }
    }
}

/// Fits what was sent to the schema of its kind. Returns the object and the warnings for the client.
pub(super) fn conform(
    kind: &Kind,
    sent: Sent,
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), ApiError> {
    let (value, mut warnings) = conform_to(kind.kind, kind.version, sent, validation)?;
    warnings.extend(kind.caution().map(str::to_owned));
    Ok((value, warnings))
}

/// Like [`conform`], for types that are no kind of their own, such as `Scale`.
pub(super) fn conform_to(
    type_name: &str,
    version: &str,
    sent: Sent,
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), ApiError> {
    let Sent {
        mut value,
        duplicates,
    } = sent;
    let context = format!("{type_name} in version {version:?} cannot be handled as a {type_name}");
    let root =
        Type::named(type_name).ok_or_else(|| ApiError::internal(format!("no schema of {type_name}")))?;
    let unknown =
        decode::decode(root, &mut value).map_err(|e| ApiError::bad_request(format!("{context}: {e}")))?;
    let mut wrong: Vec<String> = unknown.iter().map(|f| format!("unknown field {f:?}")).collect();
    wrong.extend(duplicates.iter().map(|f| format!("duplicate field {f:?}")));
    match validation {
        FieldValidation::Strict if !wrong.is_empty() => Err(ApiError::bad_request(format!(
            "{context}: strict decoding error: {}",
            wrong.join(", ")
        ))),
        FieldValidation::Warn => Ok((value, wrong)),
        FieldValidation::Strict | FieldValidation::Ignore => Ok((value, Vec::new())),
    }
}

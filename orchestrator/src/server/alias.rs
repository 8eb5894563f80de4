//! Requests for a stored kind in another version or group: translated on the way in and on the way out.
//!
//! Everything in between is the stored kind's own code. A patch is made on the object as the client sees it, and what
//! comes of it replaces the stored one.

use std::convert::Infallible;

use axum::body::Body;
use axum::response::Response;
use berth_api::kinds::Alias;
use berth_api::selector::FieldSelector;
use berth_api::status::ApiError;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::Value;

use super::admission::invalid;
use super::body::{self, Sent};
use super::patch::{Format, Patch, TRIES, names_version};
use super::request::{Query, Target};
use super::respond;
use super::write::Options;
use super::{Api, store_error};

impl Api {
    /// Answers a request for `alias.kind` by what is stored as `alias.stored`.
    pub(super) async fn aliased(
        &self,
        alias: &'static Alias,
        target: &Target,
        method: &Method,
        query: &Query,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Response, ApiError> {
        let inner = Target {
            kind: alias.stored,
            ..target.clone()
        };
        let query = &selecting(alias, query)?;
        let reads = matches!(method.as_str(), "GET" | "HEAD");
        if reads && target.name.is_none() && !query.flag("watch")? {
            return self.list(&inner, query, headers, Some(alias));
        }
        let mut warnings = Vec::new();
        let response = match method.as_str() {
            "POST" | "PUT" => {
                let options = Options::of(query, headers)?;
                let sent = body::parse(&body::media_type(headers), &body::read(body).await?)?;
                let (value, told) = conform(alias, sent, &options)?;
                warnings = told;
                let value = (alias.to_stored)(value);
                let old = match &inner.name {
                    Some(_) => Some(self.store.require(&inner.key()?).map_err(store_error)?.value()),
                    None => None,
                };
                check(alias, &inner, &value, old.as_ref())?;
                let (headers, body) = translated(headers, &value, "application/json");
                self.verb(&inner, method, query, &headers, body).await?
            }
            "PATCH" => {
                let (response, told) = self
                    .patch_alias(alias, &inner, query, headers, body::read(body).await?)
                    .await?;
                warnings = told;
                response
            }
            _ => self.verb(&inner, method, query, headers, body).await?,
        };
        let response = if query.flag("watch")? && target.name.is_none() {
            shown_lines(alias, response)
        } else {
            shown(alias, response).await?
        };
        Ok(respond::warn(response, &warnings))
    }

    async fn patch_alias(
        &self,
        alias: &'static Alias,
        inner: &Target,
        query: &Query,
        headers: &HeaderMap,
        bytes: Bytes,
    ) -> Result<(Response, Vec<String>), ApiError> {
        let options = Options::of(query, headers)?;
        let patch = Patch::read(headers, &bytes)?;
        if patch.format == Format::Apply {
            let sent = Sent {
                value: patch.value,
                duplicates: patch.duplicates,
            };
            let (value, told) = conform(alias, sent, &options)?;
            let value = (alias.to_stored)(value);
            let (headers, body) = translated(headers, &value, "application/apply-patch+yaml");
            let response = self.verb(inner, &Method::PATCH, query, &headers, body).await?;
            return Ok((response, told));
        }
        let mut tries = 0;
        loop {
            let old = self.store.require(&inner.key()?).map_err(store_error)?;
            let before = (alias.from_stored)(old.value());
            let sent = Sent {
                value: patch.apply(alias.schema, &before)?,
                duplicates: patch.duplicates.clone(),
            };
            let (value, told) = conform(alias, sent, &options)?;
            let value = (alias.to_stored)(value);
            check(alias, inner, &value, Some(&old.value()))?;
            let (headers, body) = translated(headers, &value, "application/json");
            // It names the version that was patched, so nothing that came in between is lost.
            match self.verb(inner, &Method::PUT, query, &headers, body).await {
                Err(error) if error.reason == "Conflict" && tries < TRIES && !names_version(&patch.value) => {
                    tries += 1;
                }
                other => return Ok((other?, told)),
            }
        }
    }
}

/// Fits what was sent to the schema of the kind as the client names it.
fn conform(alias: &Alias, sent: Sent, options: &Options) -> Result<(Value, Vec<String>), ApiError> {
    let kind = alias.kind;
    let version = sent.value["apiVersion"].as_str().unwrap_or_default();
    if !version.is_empty() && version != kind.api_version() {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({})",
            kind.api_version()
        )));
    }
    body::conform_to(alias.schema, kind.version, sent, options.validation)
}

/// The query with a field selector for the stored kind.
fn selecting(alias: &Alias, query: &Query) -> Result<Query, ApiError> {
    let Some(text) = query.text("fieldSelector") else {
        return Ok(query.clone());
    };
    let stored =
        FieldSelector::translated(alias, text).map_err(|error| ApiError::bad_request(error.to_string()))?;
    Ok(query.with("fieldSelector", stored))
}

/// The rules of this version beside those of the stored kind. `value` and `old` are in the stored form.
fn check(alias: &Alias, target: &Target, value: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    if target.subresource.is_some() {
        return Ok(());
    }
    invalid(alias.kind, value, (alias.check)(value, old))
}

/// The request as it would be for the stored kind, of an object in the stored form.
fn translated(headers: &HeaderMap, value: &Value, media_type: &'static str) -> (HeaderMap, Body) {
    let mut headers = headers.clone();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.remove(header::CONTENT_LENGTH);
    (headers, Body::from(value.to_string()))
}

/// An object, a list or a table as the client sees it.
fn converted(alias: &Alias, mut value: Value) -> Value {
    let stored = alias.stored;
    if value["apiVersion"] == stored.api_version() && value["kind"] == stored.kind {
        return (alias.from_stored)(value);
    }
    if value["apiVersion"] == stored.api_version() && value["kind"] == format!("{}List", stored.kind) {
        value["apiVersion"] = Value::String(alias.kind.api_version());
    }
    for item in value
        .get_mut("items")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        *item = converted(alias, item.take());
    }
    for row in value
        .get_mut("rows")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        if let Some(object) = row.get_mut("object") {
            *object = converted(alias, object.take());
        }
    }
    value
}

async fn shown(alias: &'static Alias, response: Response) -> Result<Response, ApiError> {
    let (mut parts, body) = response.into_parts();
    let failed = |_| ApiError::internal("the answer was cut off");
    let bytes = body.collect().await.map_err(failed)?.to_bytes();
    let Ok(value) = serde_json::from_slice::<Value>(&bytes) else {
        return Ok(Response::from_parts(parts, Body::from(bytes)));
    };
    parts.headers.remove(header::CONTENT_LENGTH);
    let text = converted(alias, value).to_string();
    Ok(Response::from_parts(parts, Body::from(text)))
}

/// The same for a watch: one event a line.
fn shown_lines(alias: &'static Alias, response: Response) -> Response {
    if response.status() != StatusCode::OK {
        return response;
    }
    let (parts, body) = response.into_parts();
    let start = (body.into_data_stream(), BytesMut::new());
    let lines = stream::unfold(start, move |(mut chunks, mut text)| async move {
        loop {
            if let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let line = text.split_to(end + 1);
                let line = event(alias, &line);
                return Some((Ok::<_, Infallible>(line), (chunks, text)));
            }
            text.extend_from_slice(&chunks.next().await?.ok()?);
        }
    });
    Response::from_parts(parts, Body::from_stream(lines))
}

fn event(alias: &Alias, line: &[u8]) -> Bytes {
    match serde_json::from_slice::<Value>(line) {
        Ok(mut event) => {
            let object = event["object"].take();
            event["object"] = converted(alias, object);
            Bytes::from(format!("{event}\n"))
        }
        Err(_) => Bytes::copy_from_slice(line),
    }
}

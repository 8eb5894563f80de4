//! PATCH: four media types, one path.

use axum::response::Response;
use berth_api::patch::{self, PatchError};
use berth_api::schema::Type;
use berth_api::status::ApiError;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde_json::Value;

use super::body::{self, Sent};
use super::request::{Query, Target};
use super::respond;
use super::write::Options;
use super::{Api, scale, store_error};
use crate::store::Object;

/// Tries of a patch whose object changes under it.
pub(super) const TRIES: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Merge,
    Strategic,
    Apply,
}

pub(super) struct Patch {
    pub format: Format,
    pub value: Value,
    pub duplicates: Vec<String>,
}

impl Patch {
    pub fn read(headers: &HeaderMap, bytes: &[u8]) -> Result<Self, ApiError> {
        let media_type = body::media_type(headers);
        let (format, parse_as) = match media_type.as_str() {
            "application/json-patch+json" => (Format::Json, "application/json"),
            "application/merge-patch+json" => (Format::Merge, "application/json"),
            "application/strategic-merge-patch+json" => (Format::Strategic, "application/json"),
            "application/apply-patch+yaml" => (Format::Apply, "application/yaml"),
            other => {
                return Err(ApiError::unsupported_media_type(format!(
                    "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml, application/strategic-merge-patch+json (it was {other:?})"
                )));
            }
        };
        let Sent { value, duplicates } = body::parse(parse_as, bytes)?;
        Ok(Self {
            format,
            value,
            duplicates,
        })
    }

    /// The patched document; `type_name` is what a strategic merge follows.
    pub fn apply(&self, type_name: &str, document: &Value) -> Result<Value, ApiError> {
        let mut out = document.clone();
        match self.format {
            Format::Json => patch::json(&mut out, &self.value),
            Format::Merge => patch::merge(&mut out, &self.value),
            Format::Strategic | Format::Apply => match Type::named(type_name) {
                Some(of) => patch::strategic(of, &mut out, &self.value),
                None => patch::merge(&mut out, &self.value),
            },
        }
        .map_err(|error| match error {
            PatchError::Malformed(why) => ApiError::bad_request(why),
            PatchError::DoesNotApply(why) => ApiError {
                code: 422,
                reason: "Invalid",
                ..ApiError::bad_request(why)
            },
        })?;
        Ok(out)
    }
}

impl Api {
    /// PATCH of an object or a subresource.
    pub(super) async fn patch(
        &self,
        target: &Target,
        query: &Query,
        headers: &HeaderMap,
        bytes: Bytes,
    ) -> Result<Response, ApiError> {
        let options = Options::of(query, headers)?;
        let patch = Patch::read(headers, &bytes)?;
        if patch.format == Format::Apply {
            return self
                .apply(target, &options, query, patch.value, patch.duplicates)
                .await;
        }
        if options.force {
            return Err(ApiError::bad_request(
                "force: Forbidden: may not be specified for non-apply patch",
            ));
        }
        let mut tries = 0;
        loop {
            let old = self.store.require(&target.key()?).map_err(store_error)?;
            match self.patch_once(target, &old, &patch, &options).await {
                // The object changed since it was read: the patch may well fit the new one, unless
                // the client itself named a version.
                Err(error) if error.reason == "Conflict" && tries < TRIES && !names_version(&patch.value) => {
                    tries += 1;
                }
                other => return other,
            }
        }
    }

    async fn patch_once(
        &self,
        target: &Target,
        old: &Object,
        patch: &Patch,
        options: &Options,
    ) -> Result<Response, ApiError> {
        let before = old.value();
        if target.subresource.as_deref() == Some("scale") {
            let patched = patch.apply("Scale", &scale::of(&before))?;
            let sent = Sent {
                value: patched,
                duplicates: patch.duplicates.clone(),
            };
            let (patched, _) = body::conform_to("Scale", "v1", sent, options.validation)?;
            let changed = scale::apply(target.kind, &before, &patched)?;
            let plain = Target {
                subresource: None,
                ..target.clone()
            };
            let stored = self.change(&plain, old, changed, options).await?;
            return Ok(respond::json(StatusCode::OK, &scale::of(&stored)));
        }
        let patched = patch.apply(target.kind.kind, &before)?;
        let sent = Sent {
            value: patched,
            duplicates: patch.duplicates.clone(),
        };
        let (value, warnings) = body::conform(target.kind, sent, options.validation)?;
        let stored = self.change(target, old, value, options).await?;
        let shown = respond::object(target.kind, stored, options.form, Timestamp::now());
        Ok(respond::warn(respond::json(StatusCode::OK, &shown), &warnings))
    }
}

pub(super) fn names_version(patch: &Value) -> bool {
    match patch {
        Value::Array(operations) => operations
            .iter()
            .any(|o| o.get("path").is_some_and(|p| p == "/metadata/resourceVersion")),
        object => object.pointer("/metadata/resourceVersion").is_some(),
    }
}

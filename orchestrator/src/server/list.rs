//! GET of an object or of a collection.

use std::convert::Infallible;

use axum::body::Body;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use berth_api::kinds::{Alias, Kind};
use berth_api::selector::{FieldSelector, LabelSelector};
use berth_api::status::ApiError;
use berth_api::table::{self, Include};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::request::{Query, Target};
use super::respond::{self, Form};
use super::{Api, scale, store_error};
use crate::store::Object;

/// Which objects of a collection a request is about.
#[derive(Debug, Clone)]
pub(super) struct Filter {
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Filter {
    pub fn of(kind: &Kind, query: &Query) -> Result<Self, ApiError> {
        let bad = |e: berth_api::selector::SelectorError| ApiError::bad_request(e.to_string());
        Ok(Self {
            labels: LabelSelector::parse(query.text("labelSelector").unwrap_or_default()).map_err(bad)?,
            fields: FieldSelector::parse(kind, query.text("fieldSelector").unwrap_or_default())
                .map_err(bad)?,
        })
    }

    /// Whether it lets everything through, so that objects need not be parsed.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    fn matches(&self, value: &Value) -> bool {
        self.labels.matches_object(value) && self.fields.matches_object(value)
    }

    pub fn matches_object(&self, object: &Object) -> bool {
        match self.fields.matches_place(object.namespace(), object.name()) {
            Some(false) => false,
            // Nothing else is asked: the object need not be parsed.
            Some(true) if self.labels.is_empty() => true,
            _ => self.matches(&object.value()),
        }
    }
}

/// Checks the version a read asks for; only the newest state is kept.
pub(super) fn check_read_version(query: &Query, current: u64) -> Result<(), ApiError> {
    let matching = query.text("resourceVersionMatch");
    let Some(text) = query.text("resourceVersion") else {
        return match matching {
            Some(_) if !query.flag("watch")? => Err(ApiError::bad_request(
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            )),
            _ => Ok(()),
        };
    };
    let version: u64 = text.parse().map_err(|_| {
        ApiError::bad_request(format!(
            "resourceVersion: Invalid value: {text:?}: must be a number"
        ))
    })?;
    if version > current {
        return Err(ApiError {
            code: 504,
            reason: "Timeout",
            ..ApiError::bad_request(format!(
                "Too large resource version: {version}, current: {current}"
            ))
        });
    }
    match matching {
        Some("Exact") if version != current => Err(ApiError::expired(format!(
            "The provided resource version is too old: {version} ({current})"
        ))),
        None | Some("Exact" | "NotOlderThan") => Ok(()),
        Some(other) => Err(ApiError::bad_request(format!(
            "resourceVersionMatch: Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\""
        ))),
    }
}

/// Where a page of a list ended.
struct Continue {
    namespace: String,
    name: String,
}

impl Continue {
    fn parse(token: &str) -> Result<Self, ApiError> {
        let read = || -> Option<Self> {
            let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
            let value: Value = serde_json::from_slice(&bytes).ok()?;
            let text = |at: usize| value.get(at)?.as_str().map(str::to_owned);
            Some(Self {
                namespace: text(0)?,
                name: text(1)?,
            })
        };
        read().ok_or_else(|| ApiError::bad_request("continue key is not valid"))
    }

    fn token(object: &Object) -> String {
        URL_SAFE_NO_PAD.encode(json!([object.namespace(), object.name()]).to_string())
    }
}

/// An object's JSON as bytes, without copying it.
pub(super) struct Text(pub Object);

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        self.0.json().as_bytes()
    }
}

impl Api {
    /// GET of one object or of its scale.
    pub(super) fn get(
        &self,
        target: &Target,
        query: &Query,
        headers: &HeaderMap,
    ) -> Result<Response, ApiError> {
        let form = respond::form(headers, query)?;
        let object = self.store.require(&target.key()?).map_err(store_error)?;
        if target.subresource.as_deref() == Some("scale") {
            let shown = scale::shown(&object.value(), form, Timestamp::now());
            return Ok(respond::json(StatusCode::OK, &shown));
        }
        if form == Form::Object {
            return Ok(respond::text(
                StatusCode::OK,
                "application/json",
                Bytes::from_owner(Text(object)),
            ));
        }
        let shown = respond::object(target.kind, object.value(), form, Timestamp::now());
        Ok(respond::json(StatusCode::OK, &shown))
    }

    /// GET of a collection. Items go out one by one as they are stored, without a copy of the list.
    ///
    /// With an alias of the kind, they are shown as its clients see them.
    pub(super) fn list(
        &self,
        target: &Target,
        query: &Query,
        headers: &HeaderMap,
        alias: Option<&'static Alias>,
    ) -> Result<Response, ApiError> {
        let kind = target.kind;
        let form = respond::form(headers, query)?;
        let filter = Filter::of(kind, query)?;
        let list = self.store.list(kind, target.namespace.as_deref());
        check_read_version(query, list.resource_version)?;
        let after = query.text("continue").map(Continue::parse).transpose()?;
        let mut items: Vec<Object> = list
            .items
            .into_iter()
            .filter(|o| {
                after
                    .as_ref()
                    .is_none_or(|a| (o.namespace(), o.name()) > (a.namespace.as_str(), a.name.as_str()))
            })
            .filter(|o| filter.matches_object(o))
            .collect();
        let mut metadata = json!({"resourceVersion": list.resource_version.to_string()});
        let limit = query
            .number("limit")?
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| *n > 0);
        if let Some(limit) = limit
            && items.len() > limit
        {
            let left = items.len() - limit;
            items.truncate(limit);
            if let Some(last) = items.last() {
                metadata["continue"] = json!(Continue::token(last));
            }
            if filter.is_empty() {
                metadata["remainingItemCount"] = json!(left);
            }
        }
        Ok(respond::text(
            StatusCode::OK,
            "application/json",
            encode(kind, alias, form, &metadata, items),
        ))
    }
}

/// The body of a list, made while it is sent.
fn encode(
    kind: &'static Kind,
    alias: Option<&'static Alias>,
    form: Form,
    metadata: &Value,
    items: Vec<Object>,
) -> Body {
    let shown = alias.map_or(kind, |alias| alias.kind);
    let (head, tail) = match form {
        Form::Table(_) => open_list(table::header(kind, metadata), "rows"),
        Form::Partial => open_list(
            json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}),
            "items",
        ),
        Form::Object => open_list(
            json!({"kind": format!("{}List", shown.kind), "apiVersion": shown.api_version(), "metadata": metadata}),
            "items",
        ),
    };
    let now = Timestamp::now();
    let rows = items.into_iter().enumerate().flat_map(move |(at, object)| {
        let comma = (at > 0).then(|| Bytes::from_static(b","));
        let text = match form {
            Form::Object => match alias {
                None => Bytes::from_owner(Text(object)),
                Some(alias) => Bytes::from((alias.from_stored)(object.value()).to_string()),
            },
            Form::Partial => Bytes::from(table::partial(&object.value()).to_string()),
            Form::Table(include) => {
                let value = object.value();
                let mut row = table::row(kind, &value, include, now);
                if let (Some(alias), Include::Object) = (alias, include) {
                    row["object"] = (alias.from_stored)(value);
                }
                Bytes::from(row.to_string())
            }
        };
        comma.into_iter().chain([text])
    });
    let chunks = [Bytes::from(head)]
        .into_iter()
        .chain(rows)
        .chain([Bytes::from(tail)]);
    Body::from_stream(stream::iter(chunks.map(Ok::<_, Infallible>)))
}

/// An object's text up to inside an empty list member that is put last, and the rest.
fn open_list(mut object: Value, member: &str) -> (String, String) {
    if let Some(map) = object.as_object_mut() {
        map.remove(member);
    }
    let mut text = object.to_string();
    text.pop();
    (format!("{text},\"{member}\":["), "]}".to_owned())
}

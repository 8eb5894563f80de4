//! POST and PUT, and what every write ends with.

use axum::response::Response;
use berth_api::kinds;
use berth_api::status::ApiError;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::admission::{generated, invalid};
use super::body::{self, FieldValidation};
use super::request::{Query, Target};
use super::respond::{self, Form};
use super::{Api, apply, scale, store_error};
use crate::store::{Object, StoreError, prepare};

/// Tries of a generated name before giving up.
const NAME_TRIES: usize = 8;

/// A write's common parameters.
pub(super) struct Options {
    pub dry_run: bool,
    pub validation: FieldValidation,
    pub form: Form,
    pub manager: String,
    pub force: bool,
}

impl Options {
    pub fn of(query: &Query, headers: &HeaderMap) -> Result<Self, ApiError> {
        // Without a name of its own a client is known by its program, as upstream.
        let agent = headers
            .get(http::header::USER_AGENT)
            .and_then(|v| v.to_str().ok())
            .unwrap_or("unknown");
        let agent = agent.split('/').next().unwrap_or("unknown").to_owned();
        let manager = query.text("fieldManager").map_or(agent, str::to_owned);
        if manager.len() > 128 || manager.chars().any(char::is_control) {
            return Err(ApiError::bad_request(
                "fieldManager: Invalid value: must be no more than 128 printable characters",
            ));
        }
        Ok(Self {
            dry_run: query.dry_run()?,
            validation: FieldValidation::of(query.text("fieldValidation"))?,
            form: respond::form(headers, query)?,
            manager,
            force: query.flag("force")?,
        })
    }
}

impl Api {
    /// POST to a collection.
    pub(super) async fn create(
        &self,
        target: &Target,
        query: &Query,
        headers: &HeaderMap,
        bytes: Bytes,
    ) -> Result<Response, ApiError> {
        if !target.kind.writable {
            return Err(ApiError::method_not_allowed(format!(
                "{} are kept by berthd itself and cannot be created",
                target.kind.plural
            )));
        }
        let options = Options::of(query, headers)?;
        let sent = body::parse(&body::media_type(headers), &bytes)?;
        let (mut value, warnings) = body::conform(target.kind, sent, options.validation)?;
        let base = value
            .pointer("/metadata/generateName")
            .and_then(Value::as_str)
            .map(str::to_owned);
        let is_generated = value
            .pointer("/metadata/name")
            .and_then(Value::as_str)
            .is_none_or(str::is_empty);
        self.admit_new(target, &mut value)?;
        apply::own(target.kind, &mut value, None, &options)?;
        let mut stored = self.store_new(target, value.clone(), &options).await;
        for _ in 0..NAME_TRIES {
            let taken = matches!(stored, Err(ref e) if e.reason == "AlreadyExists");
            match &base {
                Some(base) if taken && is_generated => {
                    value["metadata"]["name"] = json!(generated(base));
                    stored = self.store_new(target, value.clone(), &options).await;
                }
                _ => break,
            }
        }
        let shown = respond::object(target.kind, stored?, options.form, Timestamp::now());
        Ok(respond::warn(
            respond::json(StatusCode::CREATED, &shown),
            &warnings,
        ))
    }

    /// Stores a new object, or says what it would be.
    pub(super) async fn store_new(
        &self,
        target: &Target,
        value: Value,
        options: &Options,
    ) -> Result<Value, ApiError> {
        if !options.dry_run {
            return self
                .store
                .create(value)
                .await
                .map(|o| o.value())
                .map_err(store_error);
        }
        let key = crate::store::Key::of(&value).map_err(store_error)?;
        if self.store.get(&key).map_err(store_error)?.is_some() {
            return Err(ApiError::already_exists(key.kind, &key.name));
        }
        prepare::created(value, target.kind, Timestamp::now()).map_err(store_error)
    }

    /// PUT of an object.
    pub(super) async fn replace(
        &self,
        target: &Target,
        query: &Query,
        headers: &HeaderMap,
        bytes: Bytes,
    ) -> Result<Response, ApiError> {
        let options = Options::of(query, headers)?;
        let sent = body::parse(&body::media_type(headers), &bytes)?;
        if target.subresource.as_deref() == Some("scale") {
            let (value, _) = body::conform_to("Scale", "v1", sent, options.validation)?;
            return self.replace_scale(target, &value, &options).await;
        }
        let (value, warnings) = body::conform(target.kind, sent, options.validation)?;
        let old = self.store.require(&target.key()?).map_err(store_error)?;
        check_uid(&value, &old)?;
        let stored = self.change(target, &old, value, &options).await?;
        let shown = respond::object(target.kind, stored, options.form, Timestamp::now());
        Ok(respond::warn(respond::json(StatusCode::OK, &shown), &warnings))
    }

    async fn replace_scale(
        &self,
        target: &Target,
        value: &Value,
        options: &Options,
    ) -> Result<Response, ApiError> {
        let old = self.store.require(&target.key()?).map_err(store_error)?;
        let changed = scale::apply(target.kind, &old.value(), value)?;
        let plain = Target {
            subresource: None,
            ..target.clone()
        };
        let stored = self.change(&plain, &old, changed, options).await?;
        Ok(respond::json(StatusCode::OK, &scale::of(&stored)))
    }

    /// Writes a changed object (or its status), or says what it would be. `value` follows its schema.
    pub(super) async fn change(
        &self,
        target: &Target,
        old: &Object,
        mut value: Value,
        options: &Options,
    ) -> Result<Value, ApiError> {
        let before = old.value();
        match target.subresource.as_deref() {
            Some("status") => return self.change_status(target, old, &value, options).await,
            Some("finalize") => {
                let finalizers = value.pointer("/spec/finalizers").cloned().unwrap_or(json!([]));
                value = before.clone();
                value["spec"]["finalizers"] = finalizers;
            }
            Some("ephemeralcontainers") => {
                let list = value.pointer("/spec/ephemeralContainers").cloned();
                value = before.clone();
                value["spec"]["ephemeralContainers"] = list.unwrap_or(json!([]));
                berth_api::defaults::apply(target.kind, &mut value);
                let causes = berth_api::validate::ephemeral_containers(target.kind, &value, &before);
                invalid(target.kind, &value, causes)?;
            }
            Some("resize") => {
                value = berth_api::resize::merge(&before, &value);
                let mut causes = berth_api::resize::validate(&value, &before);
                causes.extend(berth_api::validate::resources(&value));
                invalid(target.kind, &value, causes)?;
                crate::admission::limits(&self.store, &value).map_err(store_error)?;
            }
            _ => self.admit_changed(target, &mut value, &before)?,
        }
        apply::own(target.kind, &mut value, Some(&before), options)?;
        if target.kind == kinds::NAMESPACE {
            value["status"] = before["status"].clone();
        }
        self.store_changed(old, value, options).await
    }

    /// Writes what an apply made of an object; ownership is in it already.
    pub(super) async fn change_applied(
        &self,
        target: &Target,
        old: &Object,
        mut value: Value,
        options: &Options,
    ) -> Result<Value, ApiError> {
        self.admit_changed(target, &mut value, &old.value())?;
        self.store_changed(old, value, options).await
    }

    async fn store_changed(&self, old: &Object, value: Value, options: &Options) -> Result<Value, ApiError> {
        if options.dry_run {
            check_version(&value, old)?;
            let mut shown = prepare::updated(value, old).map_err(store_error)?;
            shown["metadata"]["resourceVersion"] = Value::String(old.resource_version().to_string());
            return Ok(shown);
        }
        self.store
            .update(value)
            .await
            .map(|o| o.value())
            .map_err(store_error)
    }

    async fn change_status(
        &self,
        target: &Target,
        old: &Object,
        value: &Value,
        options: &Options,
    ) -> Result<Value, ApiError> {
        check_version(value, old)?;
        let status = value.get("status").cloned().unwrap_or_else(|| json!({}));
        if options.dry_run {
            return prepare::with_status(old, status).map_err(store_error);
        }
        let stored = self.store.update_status(&target.key()?, old.uid(), status).await;
        stored.map(|o| o.value()).map_err(store_error)
    }
}

/// An object that is put in another one's place says so by its uid.
fn check_uid(value: &Value, old: &Object) -> Result<(), ApiError> {
    let uid = value.pointer("/metadata/uid").and_then(Value::as_str);
    match uid.filter(|uid| !uid.is_empty() && *uid != old.uid()) {
        None => Ok(()),
        Some(uid) => Err(ApiError::conflict(
            old.key().kind,
            old.name(),
            &format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                old.uid()
            ),
        )),
    }
}

/// Optimistic concurrency for what does not go through [`crate::store::Store::update`].
fn check_version(value: &Value, old: &Object) -> Result<(), ApiError> {
    match prepare::expected_version(value).map_err(store_error)? {
        Some(version) if version != old.resource_version() => Err(store_error(StoreError::Conflict {
            kind: old.key().kind,
            name: old.name().to_owned(),
            why:
                "the object has been modified; please apply your changes to the latest version and try again"
                    .into(),
        })),
        _ => Ok(()),
    }
}

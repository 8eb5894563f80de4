//! Server-side apply, and the record of who owns which field.

use axum::response::Response;
use berth_api::apply::{self, Conflict, Writer};
use berth_api::kinds::{self, Kind};
use berth_api::rbac::Attributes;
use berth_api::schema::Type;
use berth_api::status::{ApiError, Cause};
use http::StatusCode;
use jiff::Timestamp;
use serde_json::Value;

use super::body::{self, Sent};
use super::request::{Query, Target};
use super::respond;
use super::write::Options;
use super::{Api, store_error};
use crate::store::prepare::rfc3339;

fn root(kind: &Kind) -> Result<Type, ApiError> {
    Type::named(kind.kind).ok_or_else(|| ApiError::internal(format!("no schema of {}", kind.kind)))
}

/// Records an ordinary write in `metadata.managedFields`.
pub(super) fn own(
    kind: &Kind,
    value: &mut Value,
    old: Option<&Value>,
    options: &Options,
) -> Result<(), ApiError> {
    // Events are many and short-lived, and nobody applies them.
    if kind == kinds::EVENT {
        return Ok(());
    }
    let (api_version, time) = (kind.api_version(), rfc3339(Timestamp::now()));
    let manager = options.manager.as_str();
    let writer = Writer {
        manager,
        api_version: &api_version,
        subresource: "",
        time: &time,
    };
    apply::update(root(kind)?, old, value, &writer);
    Ok(())
}

impl Api {
    /// PATCH with `application/apply-patch+yaml`.
    pub(super) async fn apply(
        &self,
        target: &Target,
        options: &Options,
        query: &Query,
        config: Value,
        duplicates: Vec<String>,
    ) -> Result<Response, ApiError> {
        if target.subresource.is_some() {
            return Err(ApiError::bad_request(
                "apply is served for objects, not for their subresources",
            ));
        }
        if query.text("fieldManager").is_none() {
            return Err(ApiError::bad_request(
                "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
            ));
        }
        if config
            .pointer("/metadata/managedFields")
            .is_some_and(|m| !m.is_null())
        {
            return Err(ApiError::bad_request("metadata.managedFields must be nil"));
        }
        let sent = Sent {
            value: config,
            duplicates,
        };
        let (config, warnings) = body::conform(target.kind, sent, options.validation)?;
        let (code, stored) = self.apply_config(target, options, &config).await?;
        let shown = respond::object(target.kind, stored, options.form, Timestamp::now());
        Ok(respond::warn(respond::json(code, &shown), &warnings))
    }

    async fn apply_config(
        &self,
        target: &Target,
        options: &Options,
        config: &Value,
    ) -> Result<(StatusCode, Value), ApiError> {
        let kind = target.kind;
        let (api_version, time) = (kind.api_version(), rfc3339(Timestamp::now()));
        let manager = options.manager.as_str();
        let writer = Writer {
            manager,
            api_version: &api_version,
            subresource: "",
            time: &time,
        };
        let old = self.store.get(&target.key()?).map_err(store_error)?;
        let live = old.as_ref().map(crate::store::Object::value);
        let mut value = apply::apply(root(kind)?, live.as_ref(), config, &writer, options.force)
            .map_err(|conflicts| conflict(&conflicts))?;
        let Some(old) = old else {
            if !kind.writable {
                return Err(ApiError::not_found(
                    kind,
                    target.name.as_deref().unwrap_or_default(),
                ));
            }
            // An apply that creates needs the right to create as well.
            self.require(
                &target.caller,
                &Attributes {
                    verb: "create".into(),
                    namespace: target.namespace.clone().unwrap_or_default(),
                    group: kind.group.into(),
                    version: kind.version.into(),
                    resource: kind.plural.into(),
                    ..Attributes::default()
                },
            )?;
            let managed = value["metadata"]["managedFields"].clone();
            self.admit_new(target, &mut value)?;
            value["metadata"]["managedFields"] = managed;
            let stored = self.store_new(target, value, options).await?;
            return Ok((StatusCode::CREATED, stored));
        };
        let stored = self.change_applied(target, &old, value, options).await?;
        Ok((StatusCode::OK, stored))
    }
}

fn conflict(conflicts: &[Conflict]) -> ApiError {
    let causes = conflicts
        .iter()
        .map(|c| Cause {
            reason: "FieldManagerConflict".into(),
            message: format!("conflict with {:?} using {}", c.manager, c.api_version),
            field: c.field.clone(),
        })
        .collect();
    let error = ApiError::bad_request(apply::conflict_message(conflicts));
    ApiError {
        code: 409,
        reason: "Conflict",
        ..error
    }
    .with_causes(causes)
}

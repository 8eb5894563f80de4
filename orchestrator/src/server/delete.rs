//! DELETE of an object or of a collection, and eviction.

use axum::response::Response;
use berth_api::kinds::Kind;
use berth_api::status::{self, ApiError, Cause};
use berth_api::{disruption, kinds};
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::body::{self, FieldValidation};
use super::list::Filter;
use super::request::{Query, Target};
use super::respond;
use super::{Api, store_error};
use crate::controllers::disruption::come_to;
use crate::store::{Deleted, Deletion, Preconditions, Propagation};

/// Namespaces that berthd needs.
const KEPT: [&str; 2] = ["default", "kube-system"];

/// Told with a Job's deletion that keeps its pods.
const PRESERVED: &str = "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning";

/// `DeleteOptions` of a body; empty if there is none.
fn sent(headers: &HeaderMap, bytes: &[u8]) -> Result<Value, ApiError> {
    if bytes.is_empty() {
        return Ok(json!({}));
    }
    let sent = body::parse(&body::media_type(headers), bytes)?;
    Ok(body::conform_to("DeleteOptions", "v1", sent, FieldValidation::Ignore)?.0)
}

/// Reads `DeleteOptions` and the query; the query comes first.
fn options_of(kind: &Kind, query: &Query, value: &Value) -> Result<(Deletion, bool), ApiError> {
    let grace = query
        .number("gracePeriodSeconds")?
        .or(value["gracePeriodSeconds"].as_i64());
    let orphan = query.flag("orphanDependents")? || value["orphanDependents"] == true;
    let policy = query
        .text("propagationPolicy")
        .or(value["propagationPolicy"].as_str());
    let propagation = match policy {
        None if orphan => Propagation::Orphan,
        None if is_orphaning(kind, query, value) => Propagation::Orphan,
        None | Some("Background") => Propagation::Background,
        Some("Foreground") => Propagation::Foreground,
        Some("Orphan") => Propagation::Orphan,
        Some(other) => {
            return Err(ApiError::bad_request(format!(
                "propagationPolicy: Unsupported value: {other:?}: supported values: \"Background\", \"Foreground\", \"Orphan\""
            )));
        }
    };
    let precondition = |field: &str| {
        value
            .pointer(&format!("/preconditions/{field}"))
            .and_then(Value::as_str)
    };
    let preconditions = Preconditions {
        uid: precondition("uid").map(str::to_owned),
        resource_version: precondition("resourceVersion")
            .map(|v| {
                v.parse()
                    .map_err(|_| ApiError::bad_request("preconditions.resourceVersion: must be a number"))
            })
            .transpose()?,
    };
    let dry_run = query.dry_run()?
        || value["dryRun"]
            .as_array()
            .is_some_and(|d| d.iter().any(|v| v == "All"));
    Ok((
        Deletion {
            preconditions,
            grace,
            propagation,
        },
        dry_run,
    ))
}

/// Whether the pods of a Job that is deleted without a word about them stay: so it has been since
/// batch/v1 was new, and upstream keeps to it.
fn is_orphaning(kind: &Kind, query: &Query, value: &Value) -> bool {
    let said = query.text("propagationPolicy").is_some()
        || query.text("orphanDependents").is_some()
        || !value["propagationPolicy"].is_null()
        || !value["orphanDependents"].is_null();
    kind == kinds::JOB && !said
}

impl Api {
    /// DELETE of an object.
    pub(super) async fn delete(
        &self,
        target: &Target,
        query: &Query,
        headers: &HeaderMap,
        bytes: &[u8],
    ) -> Result<Response, ApiError> {
        let sent = sent(headers, bytes)?;
        let (deletion, dry_run) = options_of(target.kind, query, &sent)?;
        let form = respond::form(headers, query)?;
        let orphaned = is_orphaning(target.kind, query, &sent);
        let answer = self.delete_one(target, deletion, dry_run).await?;
        let answer = respond::json(
            StatusCode::OK,
            &respond::object(target.kind, answer, form, Timestamp::now()),
        );
        let warnings = orphaned.then(|| PRESERVED.to_owned());
        Ok(respond::warn(answer, warnings.as_slice()))
    }

    async fn delete_one(
        &self,
        target: &Target,
        deletion: Deletion,
        dry_run: bool,
    ) -> Result<Value, ApiError> {
        let (kind, key) = (target.kind, target.key()?);
        if !kind.writable {
            return Err(ApiError::method_not_allowed(format!(
                "{} are kept by berthd itself and cannot be deleted",
                kind.plural
            )));
        }
        if kind == kinds::NAMESPACE && KEPT.contains(&key.name.as_str()) {
            return Err(ApiError::forbidden(
                kind,
                &key.name,
                "this namespace may not be deleted",
            ));
        }
        if dry_run {
            let object = self.store.require(&key).map_err(store_error)?;
            return Ok(status::deleted(kind, &key.name, object.uid()));
        }
        match self
            .store
            .begin_delete(&key, deletion)
            .await
            .map_err(store_error)?
        {
            Deleted::Removed(object) if kind != kinds::POD => {
                Ok(status::deleted(kind, &key.name, object.uid()))
            }
            Deleted::Removed(object) | Deleted::Marked(object) => Ok(object.value()),
        }
    }

    /// DELETE of a collection: each object as if it were asked for alone.
    pub(super) async fn delete_collection(
        &self,
        target: &Target,
        query: &Query,
        headers: &HeaderMap,
        bytes: &[u8],
    ) -> Result<Response, ApiError> {
        let (deletion, dry_run) = options_of(target.kind, query, &sent(headers, bytes)?)?;
        let filter = Filter::of(target.kind, query)?;
        let list = self.store.list(target.kind, target.namespace.as_deref());
        let mut items = Vec::new();
        for object in list.items {
            if !filter.matches_object(&object) {
                continue;
            }
            let one = Target {
                namespace: target.kind.namespaced.then(|| object.namespace().to_owned()),
                name: Some(object.name().to_owned()),
                ..target.clone()
            };
            match self.delete_one(&one, deletion.clone(), dry_run).await {
                Ok(_) => items.push(object.value()),
                // Gone in the meantime, or one that is never deleted.
                Err(error) if matches!(error.code, 403 | 404) => {}
                Err(error) => return Err(error),
            }
        }
        let answer = json!({
            "kind": format!("{}List", target.kind.kind),
            "apiVersion": target.kind.api_version(),
            "metadata": {"resourceVersion": self.store.resource_version().to_string()},
            "items": items,
        });
        Ok(respond::json(StatusCode::OK, &answer))
    }

    /// Whether the budgets of the pod's namespace let it go.
    fn check_budgets(&self, target: &Target) -> Result<(), ApiError> {
        let pod = self.store.require(&target.key()?).map_err(store_error)?;
        let value = pod.value();
        let deleted = value.pointer("/metadata/deletionTimestamp").is_some();
        let pending = value.pointer("/status/phase") == Some(&json!("Pending"));
        if deleted || pending || !disruption::is_live(&value) {
            return Ok(());
        }
        let namespace = pod.namespace();
        let budgets: Vec<Value> = self
            .store
            .list(kinds::POD_DISRUPTION_BUDGET, Some(namespace))
            .items
            .iter()
            .map(crate::store::Object::value)
            .filter(|budget| disruption::covers(budget, &value))
            .collect();
        let [budget] = budgets.as_slice() else {
            return if budgets.is_empty() {
                Ok(())
            } else {
                Err(ApiError::internal(
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
                ))
            };
        };
        let come = come_to(&self.store, namespace, budget);
        if come.allowed() > 0 || disruption::may_go_unready(budget, &value, come) {
            return Ok(());
        }
        let name = budget
            .pointer("/metadata/name")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let cause = Cause {
            reason: "DisruptionBudget".into(),
            message: format!(
                "The disruption budget {name} needs {} healthy pods and has {} currently",
                come.desired, come.healthy
            ),
            field: String::new(),
        };
        // No Retry-After: clients wait as long as it says, deaf to their own deadline (`kubectl drain --timeout`),
        // and nobody knows when the budget allows more. Kubernetes' server sends none here either.
        Err(ApiError::too_many_requests(
            "Cannot evict pod as it would violate the pod's disruption budget.",
            0,
        )
        .with_causes(vec![cause]))
    }

    /// POST to pods/eviction: a graceful deletion that keeps to disruption budgets.
    pub(super) async fn evict(
        &self,
        target: &Target,
        query: &Query,
        headers: &HeaderMap,
        bytes: &[u8],
    ) -> Result<Response, ApiError> {
        let sent = body::parse(&body::media_type(headers), bytes)?;
        let (value, _) = body::conform_to("Eviction", "v1", sent, FieldValidation::Ignore)?;
        let (deletion, dry_run) = options_of(
            target.kind,
            query,
            value.get("deleteOptions").unwrap_or(&json!({})),
        )?;
        // One at a time, so that each sees what the one before has taken away.
        let turn = self.evictions.lock().await;
        self.check_budgets(target)?;
        self.delete_one(target, deletion, dry_run).await?;
        drop(turn);
        let success =
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        Ok(respond::json(StatusCode::CREATED, &success))
    }
}

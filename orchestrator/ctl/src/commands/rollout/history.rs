//! The revisions of a workload: a deployment's are its ReplicaSets, the others have ControllerRevisions.

use berth_api::kinds;
use http::Method;
use serde_json::{Map, Value, json};

use super::Context;
use crate::client::Call;
use crate::describe;
use crate::error::CtlError;
use crate::output;
use crate::resource::{Target, query};
use crate::tree::{annotation, list, members, name, number, plain, text};

const REVISION: &str = "deployment.kubernetes.io/revision";
const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";
const TEMPLATE_HASH: &str = "pod-template-hash";
/// A deployment's own annotations, which an undo leaves as they are.
const OWN_ANNOTATIONS: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    "deployment.kubernetes.io/revision-history",
    "deployment.kubernetes.io/desired-replicas",
    "deployment.kubernetes.io/max-replicas",
    "deprecated.deployment.rollback.to",
];

/// A former (or the present) template.
struct Revision {
    number: i64,
    /// What keeps it.
    object: Value,
    template: Value,
}

impl Revision {
    fn of(object: &Value, is_set: bool) -> Option<Self> {
        let mut template = if is_set {
            object.pointer("/spec/template")?.clone()
        } else {
            object.pointer("/data/spec/template")?.clone()
        };
        if is_set {
            let labels = template.pointer_mut("/metadata/labels");
            labels.and_then(Value::as_object_mut)?.remove(TEMPLATE_HASH);
        } else {
            template.as_object_mut()?.remove("$patch");
        }
        Some(Self {
            number: if is_set {
                annotation(object, REVISION)?.parse().ok()?
            } else {
                number(object, "/revision")
            },
            object: object.clone(),
            template,
        })
    }
}

/// The workload and its revisions, oldest first.
async fn revisions(context: &Context, target: &Target) -> Result<(Value, Vec<Revision>), CtlError> {
    let workload = context.client.json(Call::get(&target.path())).await?;
    let is_set = target.kind == kinds::DEPLOYMENT;
    let kind = if is_set {
        kinds::REPLICA_SET
    } else {
        kinds::CONTROLLER_REVISION
    };
    let all = Target::new(kind, &target.namespace, None);
    let labels: Vec<String> = members(&workload, "/spec/selector/matchLabels")
        .map(|(key, value)| format!("{key}={}", plain(value)))
        .collect();
    let path = format!("{}{}", all.path(), query(&[("labelSelector", labels.join(","))]));
    let answer = context.client.json(Call::get(&path)).await?;
    let uid = text(&workload, "/metadata/uid");
    let mut found: Vec<Revision> = list(&answer, "/items")
        .iter()
        .filter(|object| {
            list(object, "/metadata/ownerReferences")
                .iter()
                .any(|owner| owner["controller"] == true && owner["uid"] == uid)
        })
        .filter_map(|object| Revision::of(object, is_set))
        .collect();
    found.sort_by_key(|revision| revision.number);
    Ok((workload, found))
}

/// Lists the revisions, or shows one.
pub(super) async fn show(context: &Context, target: &Target, revision: Option<i64>) -> Result<(), CtlError> {
    let (_, found) = revisions(context, target).await?;
    if let Some(wanted) = revision.filter(|revision| *revision > 0) {
        let revision = find(&found, wanted)?;
        output::line(&format!("{} with revision #{wanted}", target.title()))?;
        let shown = if target.kind == kinds::DEPLOYMENT {
            &revision.object["spec"]["template"]
        } else {
            &revision.template
        };
        return output::raw(describe::template(shown).as_bytes());
    }
    output::line(&format!("{} ", target.title()))?;
    let mut rows = vec![vec!["REVISION".to_owned(), "CHANGE-CAUSE".to_owned()]];
    rows.extend(found.iter().map(|revision| {
        vec![
            revision.number.to_string(),
            annotation(&revision.object, CHANGE_CAUSE)
                .unwrap_or("<none>")
                .to_owned(),
        ]
    }));
    output::line(&output::table(&rows))
}

fn find(found: &[Revision], wanted: i64) -> Result<&Revision, CtlError> {
    found
        .iter()
        .find(|revision| revision.number == wanted)
        .ok_or_else(|| CtlError::Refused(format!("unable to find specified revision {wanted} in history")))
}

/// Puts a former template back: by the client, as kubectl does, so that the node needs no verb for it.
pub(super) async fn undo(context: &Context, target: &Target, to_revision: i64) -> Result<(), CtlError> {
    let (workload, found) = revisions(context, target).await?;
    if workload.pointer("/spec/paused") == Some(&json!(true)) {
        return Err(CtlError::Refused(format!(
            "you cannot rollback a paused deployment; resume it first with 'berthctl rollout resume {}'",
            target.title()
        )));
    }
    let revision = match to_revision {
        0 => found.iter().rev().nth(1).ok_or_else(|| {
            CtlError::Refused(format!(
                "no rollout history found for {} {:?}",
                target.kind.singular,
                name(&workload)
            ))
        })?,
        wanted => find(&found, wanted)?,
    };
    if revision.template == workload["spec"]["template"] {
        return output::line(&format!(
            "{} skipped rollback (current template already matches revision {})",
            target.title(),
            revision.number
        ));
    }
    // Against a change in between: the patch fails if the workload is no longer the one looked at.
    let mut patch = vec![
        json!({ "op": "test", "path": "/metadata/resourceVersion", "value": workload["metadata"]["resourceVersion"] }),
        json!({ "op": "replace", "path": "/spec/template", "value": revision.template }),
    ];
    if target.kind == kinds::DEPLOYMENT {
        let annotations = annotations(&workload, &revision.object);
        patch.push(json!({ "op": "add", "path": "/metadata/annotations", "value": annotations }));
    }
    let path = target.path();
    let call = Call::with(
        Method::PATCH,
        &path,
        "application/json-patch+json",
        &Value::Array(patch),
    );
    match context.client.json(call).await {
        // The status moved on, or somebody was faster: look anew.
        Err(CtlError::Api { code: 409 | 422, .. }) => Box::pin(undo(context, target, revision.number)).await,
        answer => {
            answer?;
            output::line(&format!("{} rolled back", target.title()))
        }
    }
}

/// A deployment's annotations after an undo: its own, and else those that the former set kept.
fn annotations(deployment: &Value, set: &Value) -> Map<String, Value> {
    let mut annotations = Map::new();
    for (of, own) in [(deployment, true), (set, false)] {
        for (key, value) in members(of, "/metadata/annotations") {
            if OWN_ANNOTATIONS.contains(&key.as_str()) == own {
                annotations.insert(key.clone(), value.clone());
            }
        }
    }
    annotations
}

//! `rollout`: following, undoing, pausing and restarting the rollouts of deployments.

use std::time::Duration;

use berth_api::kinds;
use http::Method;
use serde_json::{Map, Value, json};

use super::Context;
use crate::cli::{Rollout, Selection};
use crate::client::{Call, Lines};
use crate::describe;
use crate::error::CtlError;
use crate::output;
use crate::resource::{Target, expand, query, targets};
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
/// How long a node that does not answer is asked again while a rollout is followed: berthd may be
/// starting again.
const PATIENCE: Duration = Duration::from_secs(10);

/// Does what the command line says.
pub(super) async fn run(context: &Context, command: Rollout) -> Result<(), CtlError> {
    match command {
        Rollout::Status {
            selection,
            watch,
            timeout,
        } => {
            for target in deployments(context, &selection).await? {
                let following = follow(context, &target, watch);
                if timeout.is_zero() {
                    following.await?;
                } else {
                    let waited = tokio::time::timeout(timeout, following).await;
                    waited.map_err(|_| CtlError::Timeout(format!("the rollout of {}", target.title())))??;
                }
            }
            Ok(())
        }
        Rollout::History { selection, revision } => {
            for target in deployments(context, &selection).await? {
                history(context, &target, revision).await?;
            }
            Ok(())
        }
        Rollout::Undo {
            selection,
            to_revision,
        } => {
            for target in deployments(context, &selection).await? {
                undo(context, &target, to_revision).await?;
            }
            Ok(())
        }
        Rollout::Restart { selection } => change_all(context, &selection, restart).await,
        Rollout::Pause { selection } => {
            change_all(context, &selection, |target, live| pause(target, live, true)).await
        }
        Rollout::Resume { selection } => {
            change_all(context, &selection, |target, live| pause(target, live, false)).await
        }
    }
}

async fn deployments(context: &Context, selection: &Selection) -> Result<Vec<Target>, CtlError> {
    let wanted = targets(selection, &context.namespace)?;
    let found = expand(&context.client, wanted, selection.selector.as_deref()).await?;
    if found.is_empty() {
        return Err(CtlError::Refused("no deployments found".to_owned()));
    }
    match found.iter().find(|target| target.kind != kinds::DEPLOYMENT) {
        Some(other) => Err(CtlError::Refused(format!("{} has no rollouts", other.title()))),
        None => Ok(found),
    }
}

/// PURE: a line about the rollout, and whether it is done.
fn progress(deployment: &Value) -> Result<(String, bool), CtlError> {
    let status = |field: &str| number(deployment, &format!("/status/{field}"));
    let title = name(deployment);
    if number(deployment, "/metadata/generation") > status("observedGeneration") {
        return Ok((
            "Waiting for deployment spec update to be observed...".to_owned(),
            false,
        ));
    }
    let timed_out = list(deployment, "/status/conditions").iter().any(|condition| {
        condition["type"] == "Progressing" && condition["reason"] == "ProgressDeadlineExceeded"
    });
    if timed_out {
        return Err(CtlError::Refused(format!(
            "deployment {title:?} exceeded its progress deadline"
        )));
    }
    let waiting = |what: String| {
        Ok((
            format!("Waiting for deployment {title:?} rollout to finish: {what}..."),
            false,
        ))
    };
    let wanted = deployment
        .pointer("/spec/replicas")
        .and_then(Value::as_i64)
        .unwrap_or(1);
    let (updated, available) = (status("updatedReplicas"), status("availableReplicas"));
    if updated < wanted {
        return waiting(format!(
            "{updated} out of {wanted} new replicas have been updated"
        ));
    }
    let old = status("replicas") - updated;
    if old > 0 {
        return waiting(format!("{old} old replicas are pending termination"));
    }
    if available < updated {
        return waiting(format!("{available} of {updated} updated replicas are available"));
    }
    Ok((format!("deployment {title:?} successfully rolled out"), true))
}

async fn follow(context: &Context, target: &Target, watch: bool) -> Result<(), CtlError> {
    let mut last = String::new();
    let mut told = |deployment: &Value| -> Result<bool, CtlError> {
        let (text, done) = progress(deployment)?;
        if text != last {
            output::line(&text)?;
            last = text;
        }
        Ok(done || !watch)
    };
    loop {
        // A list, since a watch goes on from a list's version; the watch may end at any time.
        let selector = (
            "fieldSelector",
            format!("metadata.name={}", target.name.as_deref().unwrap_or_default()),
        );
        let all = Target {
            name: None,
            ..target.clone()
        };
        let path = format!("{}{}", all.path(), query(std::slice::from_ref(&selector)));
        let answer = patiently(context, &path).await?;
        let Some(deployment) = list(&answer, "/items").first() else {
            return context.client.json(Call::get(&target.path())).await.map(|_| ());
        };
        if told(deployment)? {
            return Ok(());
        }
        let version = text(&answer, "/metadata/resourceVersion").to_owned();
        let parameters = [
            selector,
            ("watch", "true".to_owned()),
            ("resourceVersion", version),
        ];
        let path = format!("{}{}", all.path(), query(&parameters));
        let Ok(response) = context.client.open(Call::get(&path)).await else {
            continue;
        };
        let mut events = Lines::new(response);
        while let Some(event) = events.next().await {
            match text(&event, "/type") {
                "ADDED" | "MODIFIED" if told(&event["object"])? => return Ok(()),
                "DELETED" => {
                    return Err(CtlError::Refused(format!("{} has been deleted", target.quoted())));
                }
                "ERROR" => break,
                _ => {}
            }
        }
    }
}

/// Asks again for a while if the node does not answer.
async fn patiently(context: &Context, path: &str) -> Result<Value, CtlError> {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        match context.client.json(Call::get(path)).await {
            Err(CtlError::Connect { .. } | CtlError::Http { .. }) if tokio::time::Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            answer => return answer,
        }
    }
}

/// The deployment and its ReplicaSets, by revision.
async fn revisions(context: &Context, target: &Target) -> Result<(Value, Vec<(i64, Value)>), CtlError> {
    let deployment = context.client.json(Call::get(&target.path())).await?;
    let all = Target::new(kinds::REPLICA_SET, &target.namespace, None);
    let labels: Vec<String> = members(&deployment, "/spec/selector/matchLabels")
        .map(|(key, value)| format!("{key}={}", plain(value)))
        .collect();
    let path = format!("{}{}", all.path(), query(&[("labelSelector", labels.join(","))]));
    let answer = context.client.json(Call::get(&path)).await?;
    let uid = text(&deployment, "/metadata/uid");
    let mut found: Vec<(i64, Value)> = list(&answer, "/items")
        .iter()
        .filter(|set| {
            list(set, "/metadata/ownerReferences")
                .iter()
                .any(|owner| owner["controller"] == true && owner["uid"] == uid)
        })
        .filter_map(|set| Some((annotation(set, REVISION)?.parse().ok()?, set.clone())))
        .collect();
    found.sort_by_key(|(revision, _)| *revision);
    Ok((deployment, found))
}

async fn history(context: &Context, target: &Target, revision: Option<i64>) -> Result<(), CtlError> {
    let (_, found) = revisions(context, target).await?;
    if let Some(wanted) = revision.filter(|revision| *revision > 0) {
        let (_, set) = found
            .iter()
            .find(|(revision, _)| *revision == wanted)
            .ok_or_else(|| no_revision(wanted))?;
        output::line(&format!("{} with revision #{wanted}", target.title()))?;
        return output::raw(describe::template(&set["spec"]["template"]).as_bytes());
    }
    output::line(&format!("{} ", target.title()))?;
    let mut rows = vec![vec!["REVISION".to_owned(), "CHANGE-CAUSE".to_owned()]];
    rows.extend(found.iter().map(|(revision, set)| {
        vec![
            revision.to_string(),
            annotation(set, CHANGE_CAUSE).unwrap_or("<none>").to_owned(),
        ]
    }));
    output::line(&output::table(&rows))
}

fn no_revision(revision: i64) -> CtlError {
    CtlError::Refused(format!("unable to find specified revision {revision} in history"))
}

/// Puts a former template back: by the client, as kubectl does, so that the node needs no verb for it.
async fn undo(context: &Context, target: &Target, to_revision: i64) -> Result<(), CtlError> {
    let (deployment, found) = revisions(context, target).await?;
    if deployment.pointer("/spec/paused") == Some(&json!(true)) {
        return Err(CtlError::Refused(format!(
            "you cannot rollback a paused deployment; resume it first with 'berthctl rollout resume {}'",
            target.title()
        )));
    }
    let (revision, set) = match to_revision {
        0 => found.iter().rev().nth(1).ok_or_else(|| {
            CtlError::Refused(format!(
                "no rollout history found for deployment {:?}",
                name(&deployment)
            ))
        })?,
        wanted => found
            .iter()
            .find(|(revision, _)| *revision == wanted)
            .ok_or_else(|| no_revision(wanted))?,
    };
    let mut template = set["spec"]["template"].clone();
    if let Some(labels) = template
        .pointer_mut("/metadata/labels")
        .and_then(Value::as_object_mut)
    {
        labels.remove(TEMPLATE_HASH);
    }
    if template == deployment["spec"]["template"] {
        return output::line(&format!(
            "{} skipped rollback (current template already matches revision {revision})",
            target.title()
        ));
    }
    let mut annotations = Map::new();
    for (of, own) in [(&deployment, true), (set, false)] {
        for (key, value) in members(of, "/metadata/annotations") {
            if OWN_ANNOTATIONS.contains(&key.as_str()) == own {
                annotations.insert(key.clone(), value.clone());
            }
        }
    }
    // Against a change in between: the patch fails if the deployment is no longer the one looked at.
    let patch = json!([
        { "op": "test", "path": "/metadata/resourceVersion", "value": deployment["metadata"]["resourceVersion"] },
        { "op": "replace", "path": "/spec/template", "value": template },
        { "op": "add", "path": "/metadata/annotations", "value": annotations },
    ]);
    let path = target.path();
    match context
        .client
        .json(Call::with(
            Method::PATCH,
            &path,
            "application/json-patch+json",
            &patch,
        ))
        .await
    {
        // The status moved on, or somebody was faster: look anew.
        Err(CtlError::Api { code: 409 | 422, .. }) => Box::pin(undo(context, target, *revision)).await,
        answer => {
            answer?;
            output::line(&format!("{} rolled back", target.title()))
        }
    }
}

/// A change of one deployment: the patch, and the word for it. An error keeps the others going.
type Change = Result<(Value, &'static str), CtlError>;

async fn change_all(
    context: &Context,
    selection: &Selection,
    change: impl Fn(&Target, &Value) -> Change,
) -> Result<(), CtlError> {
    let mut errors = Vec::new();
    for target in deployments(context, selection).await? {
        let path = target.path();
        let changing = async {
            let live = context.client.json(Call::get(&path)).await?;
            let (patch, word) = change(&target, &live)?;
            let call = Call::with(
                Method::PATCH,
                &path,
                "application/strategic-merge-patch+json",
                &patch,
            );
            context.client.json(call).await?;
            Ok(word)
        };
        match changing.await {
            Ok(word) => output::line(&format!("{} {word}", target.title()))?,
            Err(error) => errors.push(error),
        }
    }
    CtlError::all(errors)
}

fn restart(target: &Target, live: &Value) -> Change {
    if live.pointer("/spec/paused") == Some(&json!(true)) {
        return Err(CtlError::Refused(format!(
            "{} can't be restarted while it is paused (run rollout resume first)",
            target.quoted()
        )));
    }
    let annotations = json!({ "kubectl.kubernetes.io/restartedAt": now() });
    Ok((
        json!({ "spec": { "template": { "metadata": { "annotations": annotations } } } }),
        "restarted",
    ))
}

fn pause(target: &Target, live: &Value, paused: bool) -> Change {
    let is_paused = live.pointer("/spec/paused") == Some(&json!(true));
    match (paused, is_paused) {
        (true, true) => Err(CtlError::Refused(format!(
            "{} is already paused",
            target.quoted()
        ))),
        (false, false) => Err(CtlError::Refused(format!("{} is not paused", target.quoted()))),
        (true, false) => Ok((json!({ "spec": { "paused": true } }), "paused")),
        (false, true) => Ok((json!({ "spec": { "paused": null } }), "resumed")),
    }
}

/// The time in RFC 3339, to the nanosecond, so that two restarts are never the same.
fn now() -> String {
    jiff::Timestamp::now().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(status: &Value) -> Value {
        json!({
            "metadata": { "name": "web", "generation": 2 },
            "spec": { "replicas": 3 },
            "status": status,
        })
    }

    #[test]
    fn progress_is_told_as_kubectl_tells_it() {
        let cases = [
            (
                json!({ "observedGeneration": 1 }),
                "Waiting for deployment spec update to be observed...",
                false,
            ),
            (
                json!({ "observedGeneration": 2, "replicas": 4, "updatedReplicas": 1 }),
                "Waiting for deployment \"web\" rollout to finish: 1 out of 3 new replicas have been updated...",
                false,
            ),
            (
                json!({ "observedGeneration": 2, "replicas": 4, "updatedReplicas": 3 }),
                "Waiting for deployment \"web\" rollout to finish: 1 old replicas are pending termination...",
                false,
            ),
            (
                json!({ "observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 2 }),
                "Waiting for deployment \"web\" rollout to finish: 2 of 3 updated replicas are available...",
                false,
            ),
            (
                json!({ "observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 3 }),
                "deployment \"web\" successfully rolled out",
                true,
            ),
        ];
        for (status, line, done) in cases {
            assert_eq!(progress(&deployment(&status)).unwrap(), (line.to_owned(), done));
        }
        let condition = json!({ "type": "Progressing", "reason": "ProgressDeadlineExceeded" });
        let late = deployment(&json!({ "observedGeneration": 2, "conditions": [condition] }));
        assert_eq!(
            progress(&late).unwrap_err().rendered(),
            "error: deployment \"web\" exceeded its progress deadline"
        );
    }

    #[test]
    fn pausing_twice_is_refused() {
        let target = Target::new(kinds::DEPLOYMENT, "default", Some("web"));
        let mut live = deployment(&json!({}));
        assert!(pause(&target, &live, false).is_err());
        assert_eq!(pause(&target, &live, true).unwrap().0["spec"]["paused"], true);
        live["spec"]["paused"] = json!(true);
        assert!(pause(&target, &live, true).is_err() && restart(&target, &live).is_err());
    }
}

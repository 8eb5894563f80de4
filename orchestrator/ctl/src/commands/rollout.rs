//! `rollout`: following, undoing, pausing and restarting the rollouts of workloads.

mod history;
mod progress;

use std::time::Duration;

use berth_api::kinds::{self, Kind};
use http::Method;
use serde_json::{Value, json};

use super::Context;
use crate::cli::{Rollout, Selection};
use crate::client::{Call, Lines};
use crate::error::CtlError;
use crate::output;
use crate::resource::{Target, expand, query, targets};
use crate::tree::{list, text};

/// The kinds whose templates roll out.
const ROLLING: [&Kind; 3] = [kinds::DAEMON_SET, kinds::DEPLOYMENT, kinds::STATEFUL_SET];
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
            for target in workloads(context, &selection).await? {
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
            for target in workloads(context, &selection).await? {
                history::show(context, &target, revision).await?;
            }
            Ok(())
        }
        Rollout::Undo {
            selection,
            to_revision,
        } => {
            for target in workloads(context, &selection).await? {
                history::undo(context, &target, to_revision).await?;
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

async fn workloads(context: &Context, selection: &Selection) -> Result<Vec<Target>, CtlError> {
    let wanted = targets(selection, &context.namespace)?;
    let found = expand(&context.client, wanted, selection.selector.as_deref()).await?;
    if found.is_empty() {
        return Err(CtlError::Refused("no such workloads found".to_owned()));
    }
    match found.iter().find(|target| !ROLLING.contains(&target.kind)) {
        Some(other) => Err(CtlError::Refused(format!("{} has no rollouts", other.title()))),
        None => Ok(found),
    }
}

async fn follow(context: &Context, target: &Target, watch: bool) -> Result<(), CtlError> {
    let mut last = String::new();
    let mut told = |workload: &Value| -> Result<bool, CtlError> {
        let (text, done) = progress::of(target.kind, workload)?;
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
        let Some(workload) = list(&answer, "/items").first() else {
            return context.client.json(Call::get(&target.path())).await.map(|_| ());
        };
        if told(workload)? {
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

/// A change of one workload: the patch, and the word for it. An error keeps the others going.
type Change = Result<(Value, &'static str), CtlError>;

async fn change_all(
    context: &Context,
    selection: &Selection,
    change: impl Fn(&Target, &Value) -> Change,
) -> Result<(), CtlError> {
    let mut errors = Vec::new();
    for target in workloads(context, selection).await? {
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
    if target.kind != kinds::DEPLOYMENT {
        let verb = if paused { "pausing" } else { "resuming" };
        return Err(CtlError::Refused(format!(
            "{} {verb} is not supported",
            target.quoted()
        )));
    }
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
    fn pausing_twice_is_refused() {
        let target = Target::new(kinds::DEPLOYMENT, "default", Some("web"));
        let mut live = deployment(&json!({}));
        assert!(pause(&target, &live, false).is_err());
        assert_eq!(pause(&target, &live, true).unwrap().0["spec"]["paused"], true);
        live["spec"]["paused"] = json!(true);
        assert!(pause(&target, &live, true).is_err() && restart(&target, &live).is_err());
        let target = Target::new(kinds::DAEMON_SET, "default", Some("web"));
        let live = deployment(&json!({}));
        assert!(pause(&target, &live, true).is_err() && restart(&target, &live).is_ok());
    }
}

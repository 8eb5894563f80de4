//! PURE: how far a rollout has come, in kubectl's words.

use berth_api::kinds::Kind;
use serde_json::Value;

use crate::error::CtlError;
use crate::tree::{list, name, number, text};

/// A line about the rollout of a workload, and whether it is done.
pub(super) fn of(kind: &Kind, workload: &Value) -> Result<(String, bool), CtlError> {
    match kind.kind {
        "DaemonSet" => daemon_set(workload),
        "StatefulSet" => stateful_set(workload),
        _ => deployment(workload),
    }
}

fn status(workload: &Value, field: &str) -> i64 {
    number(workload, &format!("/status/{field}"))
}

fn is_observed(workload: &Value) -> bool {
    number(workload, "/metadata/generation") <= status(workload, "observedGeneration")
}

fn wanted(workload: &Value) -> i64 {
    let replicas = workload.pointer("/spec/replicas").and_then(Value::as_i64);
    replicas.unwrap_or(1)
}

/// What to say, and whether the rollout is done.
type Line = Result<(String, bool), CtlError>;

/// It is not done yet.
fn waiting(line: String) -> (String, bool) {
    (line, false)
}

fn rolls(workload: &Value) -> Result<(), CtlError> {
    if text(workload, "/spec/updateStrategy/type") == "RollingUpdate" {
        return Ok(());
    }
    Err(CtlError::Refused(
        "rollout status is only available for RollingUpdate strategy type".to_owned(),
    ))
}

fn deployment(deployment: &Value) -> Line {
    let title = name(deployment);
    if !is_observed(deployment) {
        return Ok(waiting(
            "Waiting for deployment spec update to be observed...".to_owned(),
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
    let unfinished = |what: String| {
        waiting(format!(
            "Waiting for deployment {title:?} rollout to finish: {what}..."
        ))
    };
    let wanted = wanted(deployment);
    let status = |field: &str| status(deployment, field);
    let (updated, available) = (status("updatedReplicas"), status("availableReplicas"));
    if updated < wanted {
        return Ok(unfinished(format!(
            "{updated} out of {wanted} new replicas have been updated"
        )));
    }
    let old = status("replicas") - updated;
    if old > 0 {
        return Ok(unfinished(format!("{old} old replicas are pending termination")));
    }
    if available < updated {
        return Ok(unfinished(format!(
            "{available} of {updated} updated replicas are available"
        )));
    }
    Ok((format!("deployment {title:?} successfully rolled out"), true))
}

fn daemon_set(set: &Value) -> Line {
    rolls(set)?;
    if !is_observed(set) {
        return Ok(waiting(
            "Waiting for daemon set spec update to be observed...".to_owned(),
        ));
    }
    let title = name(set);
    let wanted = status(set, "desiredNumberScheduled");
    let (updated, available) = (
        status(set, "updatedNumberScheduled"),
        status(set, "numberAvailable"),
    );
    let unfinished = |what: String| {
        waiting(format!(
            "Waiting for daemon set {title:?} rollout to finish: {what}..."
        ))
    };
    if updated < wanted {
        return Ok(unfinished(format!(
            "{updated} out of {wanted} new pods have been updated"
        )));
    }
    if available < wanted {
        return Ok(unfinished(format!(
            "{available} of {wanted} updated pods are available"
        )));
    }
    Ok((format!("daemon set {title:?} successfully rolled out"), true))
}

fn stateful_set(set: &Value) -> Line {
    rolls(set)?;
    if !is_observed(set) {
        return Ok(waiting(
            "Waiting for statefulset spec update to be observed...".to_owned(),
        ));
    }
    let wanted = wanted(set);
    let missing = wanted - status(set, "readyReplicas");
    if missing > 0 {
        return Ok(waiting(format!("Waiting for {missing} pods to be ready...")));
    }
    let updated = status(set, "updatedReplicas");
    if let Some(partition) = set.pointer("/spec/updateStrategy/rollingUpdate/partition") {
        let above = wanted - partition.as_i64().unwrap_or(0);
        if updated < above {
            return Ok(waiting(format!(
                "Waiting for partitioned roll out to finish: {updated} out of {above} new pods have been updated..."
            )));
        }
        return Ok((
            format!("partitioned roll out complete: {updated} new pods have been updated..."),
            true,
        ));
    }
    let (new, current) = (
        text(set, "/status/updateRevision"),
        text(set, "/status/currentRevision"),
    );
    if new != current {
        return Ok(waiting(format!(
            "waiting for statefulset rolling update to complete {updated} pods at revision {new}..."
        )));
    }
    let pods = status(set, "currentReplicas");
    Ok((
        format!("statefulset rolling update complete {pods} pods at revision {current}..."),
        true,
    ))
}

#[cfg(test)]
mod tests {
    use berth_api::kinds;
    use serde_json::json;

    use super::*;

    fn workload(status: &Value) -> Value {
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
            assert_eq!(
                of(kinds::DEPLOYMENT, &workload(&status)).unwrap(),
                (line.to_owned(), done)
            );
        }
        let condition = json!({ "type": "Progressing", "reason": "ProgressDeadlineExceeded" });
        let late = workload(&json!({ "observedGeneration": 2, "conditions": [condition] }));
        assert_eq!(
            of(kinds::DEPLOYMENT, &late).unwrap_err().rendered(),
            "error: deployment \"web\" exceeded its progress deadline"
        );
    }

    #[test]
    fn other_workloads_have_their_own_words() {
        let told = |kind: &Kind, strategy: Value, status: Value| {
            let workload = json!({
                "metadata": { "name": "web", "generation": 2 },
                "spec": { "replicas": 3, "updateStrategy": strategy },
                "status": status,
            });
            of(kind, &workload).map_err(|error| error.rendered())
        };
        let rolling = json!({ "type": "RollingUpdate", "rollingUpdate": { "partition": 1 } });
        let whole = json!({ "type": "RollingUpdate" });
        let cases = [
            (
                kinds::DAEMON_SET,
                &whole,
                json!({ "observedGeneration": 1 }),
                "Waiting for daemon set spec update to be observed...",
                false,
            ),
            (
                kinds::DAEMON_SET,
                &whole,
                json!({ "observedGeneration": 2, "desiredNumberScheduled": 1 }),
                "Waiting for daemon set \"web\" rollout to finish: 0 out of 1 new pods have been updated...",
                false,
            ),
            (
                kinds::DAEMON_SET,
                &whole,
                json!({ "observedGeneration": 2, "desiredNumberScheduled": 1, "updatedNumberScheduled": 1 }),
                "Waiting for daemon set \"web\" rollout to finish: 0 of 1 updated pods are available...",
                false,
            ),
            (
                kinds::DAEMON_SET,
                &whole,
                json!({ "observedGeneration": 2 }),
                "daemon set \"web\" successfully rolled out",
                true,
            ),
            (
                kinds::STATEFUL_SET,
                &whole,
                json!({ "observedGeneration": 2, "readyReplicas": 1 }),
                "Waiting for 2 pods to be ready...",
                false,
            ),
            (
                kinds::STATEFUL_SET,
                &rolling,
                json!({ "observedGeneration": 2, "readyReplicas": 3, "updatedReplicas": 1 }),
                "Waiting for partitioned roll out to finish: 1 out of 2 new pods have been updated...",
                false,
            ),
            (
                kinds::STATEFUL_SET,
                &rolling,
                json!({ "observedGeneration": 2, "readyReplicas": 3, "updatedReplicas": 2 }),
                "partitioned roll out complete: 2 new pods have been updated...",
                true,
            ),
            (
                kinds::STATEFUL_SET,
                &whole,
                json!({ "observedGeneration": 2, "readyReplicas": 3, "updatedReplicas": 2, "updateRevision": "b" }),
                "waiting for statefulset rolling update to complete 2 pods at revision b...",
                false,
            ),
        ];
        for (kind, strategy, status, line, done) in cases {
            assert_eq!(told(kind, strategy.clone(), status), Ok((line.to_owned(), done)));
        }
        let by_hand = told(kinds::STATEFUL_SET, json!({ "type": "OnDelete" }), json!({}));
        assert!(by_hand.unwrap_err().contains("only available for RollingUpdate"));
    }
}

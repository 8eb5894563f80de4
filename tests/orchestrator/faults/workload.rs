//! What runs while `berthd` is killed: one of each kind of workload, and what a round of it has come to.

use super::{Stage, named, uid};
use crate::world::WAIT;
use serde_json::{Value, json};

/// Pods that end in every way.
pub(super) const ENDING: [&str; 4] = ["ends", "again", "late", "writes"];
/// Containers that write each start into their claim go on with this.
const NOTE: &str = "echo $ROUND >>/data/rounds; ";

/// One round's wishes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Round {
    pub number: usize,
}

impl Round {
    /// Of the Deployment.
    pub(super) fn replicas(self) -> usize {
        2 + self.number % 2
    }

    /// Of the Deployment that an autoscaler keeps.
    pub(super) fn scaled(self) -> usize {
        1 + self.number % 2
    }

    /// Processors of the pod that is resized, in thousandths.
    pub(super) fn share(self) -> String {
        format!("{}m", 100 + 50 * (self.number % 2))
    }

    /// Pods that run at its end, with the one that stays throughout: of the Deployments, of the sets.
    pub(super) fn running(self) -> usize {
        1 + self.replicas() + self.scaled() + 2 + 1
    }

    /// A template whose containers tell the round.
    fn template(self, stage: &Stage, app: &str, script: &str, policy: &str) -> Value {
        let mut spec = stage.spec(script, policy);
        push(
            &mut spec["containers"][0]["env"],
            json!({"name": "ROUND", "value": self.number.to_string()}),
        );
        json!({"metadata": {"labels": {"app": app}}, "spec": spec})
    }

    /// Everything that is applied.
    pub(super) fn objects(self, stage: &Stage) -> Vec<Value> {
        let mut set = self.template(stage, "set", &format!("{NOTE}{WAIT}"), "Always");
        mount(&mut set["spec"], "data");
        let claim = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}});
        let mut late = stage.spec(WAIT, "Always");
        late["activeDeadlineSeconds"] = json!(1);
        let mut writes = stage.spec("echo 1 >/data/x", "Never");
        mount(&mut writes, "data");
        push(
            &mut writes["volumes"],
            json!({"name": "data", "persistentVolumeClaim": {"claimName": "scratch"}}),
        );
        let again = stage.spec("[ -e /own/once ] && exit 0; touch /own/once; exit 7", "OnFailure");
        vec![
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
                "spec": {"replicas": self.replicas(), "selector": {"matchLabels": {"app": "web"}},
                         "template": self.template(stage, "web", WAIT, "Always")}}),
            json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "set"},
                "spec": {"replicas": 2, "serviceName": "set", "selector": {"matchLabels": {"app": "set"}}, "template": set,
                         "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim}]}}),
            json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent"},
                "spec": {"selector": {"matchLabels": {"app": "agent"}},
                         "template": self.template(stage, "agent", WAIT, "Always")}}),
            json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": format!("job-{}", self.number)},
                "spec": {"completions": 3, "parallelism": 2, "completionMode": "Indexed", "backoffLimit": 0,
                         "template": self.template(stage, "job", "exit 0", "Never")}}),
            json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "scaled"},
                "spec": {"minReplicas": self.scaled(), "maxReplicas": self.scaled(),
                         "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "scaled"},
                         "metrics": [{"type": "Resource", "resource": {
                             "name": "cpu", "target": {"type": "AverageValue", "averageValue": "10"}}}]}}),
            json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "scratch"}, "spec": claim}),
            named("writes", &writes),
            named("ends", &stage.spec("exit 5", "Never")),
            named("again", &again),
            named("late", &late),
        ]
    }
}

fn push(list: &mut Value, item: Value) {
    list.as_array_mut().expect("a list").push(item);
}

fn mount(spec: &mut Value, volume: &str) {
    push(
        &mut spec["containers"][0]["volumeMounts"],
        json!({"name": volume, "mountPath": format!("/{volume}")}),
    );
}

/// What is there, as it was read.
pub(super) struct Seen {
    pub pods: Value,
    pub web: Value,
    pub endpoints: Value,
    pub job: Value,
    pub claims: Value,
}

/// What the containers of the StatefulSet have written into their claims.
fn notes(stage: &Stage, claims: &Value) -> Result<Vec<String>, String> {
    items(claims)
        .iter()
        .filter(|claim| claim["metadata"]["name"] != "scratch")
        .map(|claim| {
            let volume = claim["spec"]["volumeName"]
                .as_str()
                .ok_or("a claim without a volume")?;
            let folder = stage.world.node.data_dir().join("volumes").join(volume);
            std::fs::read_to_string(folder.join("rounds")).map_err(|error| error.to_string())
        })
        .collect()
}

fn status(pod: &Value) -> Value {
    pod["status"]["containerStatuses"][0].clone()
}

fn is_over(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded"))
}

/// A list's items.
pub(super) fn items(list: &Value) -> Vec<&Value> {
    list["items"].as_array().into_iter().flatten().collect()
}

/// What a round has come to, if it has come to its end.
pub(super) fn outcome(stage: &Stage, seen: &Seen, round: Round) -> Result<Value, String> {
    let pods = items(&seen.pods);
    let of = |app: &str| -> Vec<&Value> {
        let mine = |pod: &&&Value| pod["metadata"]["labels"]["app"] == app;
        pods.iter().filter(mine).copied().collect()
    };
    let ending: Result<Vec<&Value>, String> = ENDING
        .iter()
        .map(|name| {
            let found = pods.iter().find(|pod| pod["metadata"]["name"] == *name);
            found.copied().ok_or_else(|| format!("no pod {name}"))
        })
        .collect();
    let ending = ending?;
    let is_new = |pod: &&&Value| {
        let env = &pod["spec"]["containers"][0]["env"][1]["value"];
        env.is_null() || env.as_str() == Some(round.number.to_string().as_str())
    };
    let settled = |app: &str, count: usize| {
        let all = of(app);
        all.len() == count
            && all
                .iter()
                .filter(is_new)
                .filter(|pod| status(pod)["ready"] == true)
                .count()
                == count
    };
    let rolled = seen.web["status"]["observedGeneration"] == seen.web["metadata"]["generation"]
        && ["replicas", "updatedReplicas", "availableReplicas"]
            .iter()
            .all(|field| seen.web["status"][field] == round.replicas());
    let served = seen.endpoints["subsets"][0]["addresses"]
        .as_array()
        .map_or(0, Vec::len);
    let ran = is_complete(&seen.job);
    let monitors = stage.monitors();
    // Read after the pods: a container that runs may not have come to its first line.
    let (starts, notes) = (stage.started(), notes(stage, &seen.claims)?);
    let count = |pod: &Value| starts.get(uid(pod)).copied().unwrap_or(0);
    let goes_on = |pod: &&&Value| !pod["metadata"]["labels"]["app"].is_null();
    let has_noted = pods.iter().filter(goes_on).all(|pod| count(pod) > 0)
        && notes.iter().all(|text| text.lines().count() > round.number);
    let open: Vec<&str> = [
        ("pods that end", ending.iter().all(|pod| is_over(pod))),
        ("the rollout", rolled && settled("web", round.replicas())),
        ("endpoints", served == round.replicas()),
        ("the StatefulSet", settled("set", 2)),
        ("the DaemonSet", settled("agent", 1)),
        ("the Job", ran),
        ("the autoscaler", settled("scaled", round.scaled())),
        ("monitors", monitors == round.running()),
        ("first lines of programs", has_noted),
    ]
    .iter()
    .filter_map(|(what, done)| (!done).then_some(*what))
    .collect();
    if !open.is_empty() {
        return Err(format!(
            "{open:?} not done, {served} endpoints, {monitors} monitors: {} {} {}",
            seen.web["status"], seen.job["status"], seen.pods
        ));
    }
    let told = |pod: &Value| {
        let status = status(pod);
        json!({"phase": pod["status"]["phase"], "restarts": status["restartCount"],
               "starts": count(pod),
               "code": status["state"]["terminated"]["exitCode"],
               "before": status["lastState"]["terminated"]["exitCode"]})
    };
    let all = |app: &str| of(app).into_iter().map(told).collect::<Vec<_>>();
    let bound = items(&seen.claims)
        .iter()
        .map(|claim| json!([claim["metadata"]["name"], claim["status"]["phase"]]))
        .collect::<Vec<_>>();
    // Each run of the StatefulSet's pods has written its round once.
    let lines: String = (0..=round.number).map(|number| format!("{number}\n")).collect();
    let noted: Vec<&str> = notes
        .iter()
        .map(|text| if *text == lines { "each round once" } else { text })
        .collect();
    Ok(json!({
        "ends": told(ending[0]), "again": told(ending[1]), "again's uid": uid(ending[1]),
        "late": [ending[2]["status"]["phase"], ending[2]["status"]["reason"]], "writes": told(ending[3]),
        "web": all("web"), "set": all("set"), "agent": all("agent"), "scaled": all("scaled"), "job": all("job"),
        "indexes": [seen.job["status"]["succeeded"], seen.job["status"]["failed"], seen.job["status"]["completedIndexes"]],
        "served": served, "claims": bound, "noted": noted,
    }))
}

fn is_complete(job: &Value) -> bool {
    let conditions = job["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .any(|c| c["type"] == "Complete" && c["status"] == "True")
}

//! Forms of kubectl's commands beyond those of one Deployment: every generator, setter, printer and question.

use harness::{Node, NodeOptions, kubectl_versions, minor_version, need_root, run, skip};
use std::path::Path;
use std::process::Command;

/// (first minor version, arguments, exit code, what the output contains): in this order, on one empty namespace.
/// Words are parted at blanks; `~` stands for a blank inside one.
const FORMS: &[(u32, &str, i32, &str)] = &[
    (20, "cluster-info", 0, "is running at"),
    (20, "config view --minify", 0, "current-context"),
    (20, "config current-context", 0, "berth"),
    (20, "get --raw /readyz", 0, "ok"),
    (20, "get --raw /version", 0, "gitVersion"),
    (20, "api-resources --namespaced=false -o name", 0, "nodes"),
    (20, "api-resources --api-group=batch", 0, "cj"),
    // Objects by generators, a printer on each.
    (
        20,
        "create deployment web --image=nowhere/web:1 --replicas=2 --port=8080",
        0,
        "deployment.apps/web created",
    ),
    (
        20,
        "expose deployment web --port=80 --target-port=8080",
        0,
        "service/web exposed",
    ),
    (
        20,
        "get service web -o jsonpath={.spec.ports[0].targetPort}",
        0,
        "8080",
    ),
    (20, "describe service web", 0, "TargetPort:"),
    (20, "get endpoints web", 0, "web"),
    (
        20,
        "create service clusterip plain --tcp=81:8081",
        0,
        "service/plain created",
    ),
    (
        20,
        "create service nodeport open --tcp=82:8082",
        0,
        "service/open created",
    ),
    (
        20,
        "create service externalname away --external-name=example.org",
        0,
        "service/away created",
    ),
    (20, "get services", 0, "ExternalName"),
    (
        20,
        "get services --sort-by=.metadata.name -o name",
        0,
        "service/away",
    ),
    (
        20,
        "create job once --image=nowhere/job:1 -- true",
        0,
        "job.batch/once created",
    ),
    (20, "get jobs", 0, "once"),
    (20, "describe job once", 0, "Parallelism:"),
    (
        21,
        "create cronjob nightly --image=nowhere/job:1 --schedule=0~3~*~*~* -- true",
        0,
        "nightly created",
    ),
    (21, "get cronjobs", 0, "0 3 * * *"),
    (
        21,
        "create job now --from=cronjob/nightly",
        0,
        "job.batch/now created",
    ),
    (21, "describe cronjob nightly", 0, "Concurrency Policy:"),
    (
        20,
        "create quota few --hard=count/configmaps=9",
        0,
        "resourcequota/few created",
    ),
    (20, "describe quota few", 0, "count/configmaps"),
    (
        21,
        "create poddisruptionbudget most --selector=app=web --min-available=1",
        0,
        "poddisruptionbudget.policy/most created",
    ),
    (21, "get pdb most", 0, "MIN AVAILABLE"),
    (
        20,
        "create role reader --verb=get --resource=pods",
        0,
        "reader created",
    ),
    (
        20,
        "create rolebinding readers --role=reader --user=jo",
        0,
        "readers created",
    ),
    (
        20,
        "create clusterrole far --verb=list --resource=nodes",
        0,
        "far created",
    ),
    (
        20,
        "create clusterrolebinding fars --clusterrole=far --user=jo",
        0,
        "fars created",
    ),
    (20, "auth can-i get pods --as=jo", 0, "yes"),
    (20, "auth can-i delete pods --as=jo", 1, "no"),
    (27, "auth whoami", 0, "kubernetes-admin"),
    (
        20,
        "create serviceaccount robot",
        0,
        "serviceaccount/robot created",
    ),
    (24, "create token robot --duration=10m", 0, "ey"),
    (
        20,
        "create secret docker-registry pull --docker-server=r.example --docker-username=u --docker-password=p",
        0,
        "secret/pull created",
    ),
    (
        20,
        "get secret pull -o jsonpath={.type}",
        0,
        "kubernetes.io/dockerconfigjson",
    ),
    (
        20,
        "create configmap filled --from-literal=a=1 --from-literal=b=2",
        0,
        "configmap/filled created",
    ),
    (20, "get configmap filled -o go-template={{len~.data}}", 0, "2"),
    (
        20,
        "get configmap filled -o custom-columns=N:.metadata.name,A:.data.a",
        0,
        "filled",
    ),
    (20, "get configmaps --show-labels", 0, "LABELS"),
    (20, "get configmaps,secrets,services -o name", 0, "secret/pull"),
    (20, "get cm filled --watch-only --request-timeout=1s", 0, ""),
    // Changes.
    (
        20,
        "set resources deployment web --limits=cpu=100m,memory=16Mi",
        0,
        "resource requirements updated",
    ),
    (
        20,
        "set serviceaccount deployment web robot",
        0,
        "serviceaccount updated",
    ),
    (20, "set selector service plain app=web", 0, "selector updated"),
    (
        20,
        "set subject rolebinding readers --user=mo",
        0,
        "subjects updated",
    ),
    (
        20,
        "set env deployment web --from=configmap/filled",
        0,
        "env updated",
    ),
    (20, "set env deployment web --list", 0, "filled"),
    (
        20,
        "annotate configmap filled --overwrite note=one",
        0,
        "annotated",
    ),
    (20, "label configmaps --all batch=yes", 0, "labeled"),
    (20, "get configmaps -l batch=yes -L batch", 0, "BATCH"),
    (20, "apply view-last-applied deployment web", 0, ""),
    (
        20,
        "apply set-last-applied --create-annotation -f {manifest}",
        0,
        "configured",
    ),
    (20, "apply edit-last-applied deployment none", 1, "not found"),
    (20, "edit configmap filled", 0, "no changes made"),
    (
        20,
        "scale deployment web --current-replicas=9 --replicas=1",
        1,
        "Expected replicas to be 9",
    ),
    (20, "scale deployment web --replicas=0", 0, "scaled"),
    (27, "get deployment web --subresource=scale", 0, "DESIRED"),
    (
        27,
        "get deployment web --subresource=status -o jsonpath={.kind}",
        0,
        "Deployment",
    ),
    (
        27,
        "patch deployment web --subresource=scale --type=merge -p {\"spec\":{\"replicas\":0}}",
        0,
        "patched",
    ),
    (
        20,
        "rollout status deployment web --timeout=60s",
        0,
        "successfully rolled out",
    ),
    (
        20,
        "rollout history deployment web --revision=1",
        0,
        "nowhere/web:1",
    ),
    (
        20,
        "wait deployment web --for=condition=Available --timeout=30s",
        0,
        "condition met",
    ),
    (
        23,
        "wait deployment web --for=jsonpath={.spec.replicas}=0 --timeout=30s",
        0,
        "condition met",
    ),
    (
        20,
        "wait configmap filled --for=delete --timeout=1s",
        1,
        "timed out",
    ),
    (20, "cordon {node}", 0, "cordoned"),
    (20, "uncordon {node}", 0, "uncordoned"),
    (20, "describe node {node}", 0, "Allocatable:"),
    (20, "taint nodes {node} team=red:PreferNoSchedule", 0, "tainted"),
    (20, "describe node {node}", 0, "team=red:PreferNoSchedule"),
    (
        20,
        "taint nodes {node} team=red:PreferNoSchedule",
        1,
        "already has",
    ),
    (20, "taint nodes {node} team-", 0, "untainted"),
    (20, "taint nodes {node} team-", 1, "not found"),
    (20, "label node {node} disk=fast", 0, "labeled"),
    (20, "get nodes -l disk=fast -o name", 0, "node/"),
    (20, "label node {node} disk-", 0, "node/"),
    (20, "annotate node {node} note=one", 0, "annotated"),
    (20, "annotate node {node} note-", 0, "annotated"),
    (
        27,
        "drain {node} --ignore-daemonsets --force --delete-emptydir-data --timeout=60s",
        0,
        "drained",
    ),
    (20, "cordon {node}", 0, "cordoned"),
    (20, "get nodes", 0, "SchedulingDisabled"),
    (20, "uncordon {node}", 0, "uncordoned"),
    (20, "get events.events.k8s.io", 0, "LAST SEEN"),
    (20, "top node", 0, "CPU(cores)"),
    (20, "explain deployment.spec.replicas", 0, "integer"),
    (20, "explain pod --recursive", 0, "containers"),
    (27, "explain node.spec.taints.effect", 0, "Enforced."),
    (
        27,
        "explain pod.spec.topologySpreadConstraints.maxSkew",
        0,
        "Accepted without effect: there is one node.",
    ),
    (27, "explain pod.spec.volumes.nfs", 0, "Not supported here: "),
    (26, "events", 0, ""),
    (20, "get events --sort-by=.lastTimestamp", 0, ""),
    (20, "diff -f {manifest}", 1, "+"),
    (
        20,
        "apply --server-side --force-conflicts -f {manifest}",
        0,
        "serverside-applied",
    ),
    (20, "create -f {manifest}", 1, "already exists"),
    (20, "replace -f {manifest}", 0, "replaced"),
    (20, "get -f {manifest}", 0, "web"),
    (
        27,
        "apply --prune -l app=web --prune-allowlist=core/v1/ConfigMap -f {manifest}",
        0,
        "web",
    ),
    // Sets with a history. They want no pods: what is asked for is done at once.
    (20, "apply -f {sets}", 0, "statefulset.apps/store created"),
    (20, "apply -f {sets}", 0, "daemonset.apps/agent unchanged"),
    (20, "rollout status ds/agent", 0, "successfully rolled out"),
    (20, "rollout status sts/store", 0, "partitioned roll out complete"),
    (20, "get ds agent", 0, "nowhere=yes"),
    (20, "get sts store", 0, "0/0"),
    (20, "get sts store -o wide", 0, "nowhere/store:1"),
    (20, "get controllerrevisions", 0, "daemonset.apps/agent"),
    (20, "get all", 0, "statefulset.apps/store"),
    (20, "describe ds agent", 0, "Desired Number of Nodes Scheduled: 0"),
    (20, "describe sts store", 0, "0 desired | 0 total"),
    (20, "set image ds/agent agent=nowhere/agent:2", 0, "image updated"),
    (
        20,
        "set image sts/store store=nowhere/store:2",
        0,
        "image updated",
    ),
    (20, "rollout status ds/agent", 0, "successfully rolled out"),
    (20, "rollout status sts/store", 0, "partitioned roll out complete"),
    (20, "rollout history ds/agent", 0, "2"),
    (20, "rollout history ds/agent --revision=1", 0, "nowhere/agent:1"),
    (20, "rollout history sts/store --revision=1", 0, "nowhere/store:1"),
    (20, "rollout history sts/store --revision=9", 1, "unable to find"),
    (20, "rollout undo ds/agent", 0, "rolled back"),
    (20, "rollout undo sts/store --to-revision=1", 0, "rolled back"),
    (20, "get ds agent -o jsonpath={..image}", 0, "nowhere/agent:1"),
    (20, "get sts store -o jsonpath={..image}", 0, "nowhere/store:1"),
    (
        20,
        "rollout restart ds/agent sts/store",
        0,
        "statefulset.apps/store restarted",
    ),
    (20, "rollout pause ds/agent", 1, "pausing is not supported"),
    (
        20,
        "scale sts/store --replicas=0 --current-replicas=0",
        0,
        "scaled",
    ),
    (20, "explain daemonset.spec.updateStrategy", 0, "rollingUpdate"),
    (20, "delete -f {sets}", 0, "deleted"),
    // What is wrong says so.
    (
        20,
        "get pods --field-selector=spec.colour=red",
        1,
        "field label not supported",
    ),
    (20, "get pods -l a==b==c", 1, "unable to parse"),
    (20, "get deployment web -n nowhere", 1, "not found"),
    (20, "create namespace Bad_Name", 1, "RFC 1123"),
    (
        20,
        "create service clusterip plain --tcp=81:8081",
        1,
        "already exists",
    ),
    (
        20,
        "set image deployment/web none=x:1",
        1,
        "unable to find container",
    ),
    (20, "logs nobody", 1, "not found"),
    (20, "exec nobody -- true", 1, "not found"),
    (20, "delete -f {manifest} --wait=false", 0, "deleted"),
    (
        20,
        "delete pdb,quota,role,rolebinding,job,cronjob,service,cm --all",
        0,
        "deleted",
    ),
    (20, "delete clusterrole far", 0, "deleted"),
    (20, "delete clusterrolebinding fars", 0, "deleted"),
    (20, "delete secret pull", 0, "deleted"),
    (20, "delete serviceaccount robot --now", 0, "deleted"),
];

/// A Deployment as `create deployment web` makes it, with one thing more.
const MANIFEST: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 0
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web, more: "yes"}}
    spec:
      containers:
      - {name: web, image: "nowhere/web:1", ports: [{containerPort: 8080}]}
"#;

/// A StatefulSet of no pods, and a DaemonSet for another node.
const SETS: &str = r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: store}
spec:
  replicas: 0
  serviceName: store
  selector: {matchLabels: {app: store}}
  template:
    metadata: {labels: {app: store}}
    spec:
      containers:
      - {name: store, image: "nowhere/store:1"}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      nodeSelector: {nowhere: "yes"}
      containers:
      - {name: agent, image: "nowhere/agent:1"}
"#;

fn ask(node: &Node, kubectl: &Path, form: &str, words: &[(&str, &str)]) -> harness::Outcome {
    let mut arguments: Vec<String> = form.split(' ').map(|word| word.replace('~', " ")).collect();
    for argument in &mut arguments {
        for (name, value) in words {
            if argument == name {
                (*value).clone_into(argument);
            }
        }
    }
    run(Command::new(kubectl)
        .env("KUBECONFIG", node.kubeconfig())
        .env("HOME", node.path())
        .env("EDITOR", "true")
        .args(arguments))
}

#[test]
fn every_kubectl_has_its_forms() {
    need_root!();
    let versions = kubectl_versions();
    if versions.is_empty() {
        skip!("needs a kubectl");
    }
    harness::isolate();
    let node = Node::start(NodeOptions::default());
    let manifest = node.path().join("web.yaml");
    std::fs::write(&manifest, MANIFEST).expect("write the manifest");
    let sets = node.path().join("sets.yaml");
    std::fs::write(&sets, SETS).expect("write the manifest");
    let name = node
        .kubectl(
            versions.last().expect("a version"),
            &["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"],
        )
        .ok();
    let words = [
        ("{node}", name.as_str()),
        ("{manifest}", manifest.to_str().expect("UTF-8")),
        ("{sets}", sets.to_str().expect("UTF-8")),
    ];
    let mut wrong = Vec::new();
    for kubectl in &versions {
        let minor = minor_version(kubectl).expect("a version");
        for (since, form, code, expected) in FORMS.iter().filter(|form| form.0 <= minor) {
            let seen = ask(&node, kubectl, form, &words);
            let text = format!("{}{}", seen.stdout, seen.stderr);
            if seen.code() != *code || !text.contains(expected) {
                wrong.push(format!(
                    "1.{minor} (since 1.{since}) {form}: {} {text}",
                    seen.code()
                ));
            }
        }
        node.clear();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#![allow(clippy::needless_pass_by_value)] // so that cases are written with json!(..)

use serde_json::json;

use super::*;
use crate::kinds;

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn shown(kind: &Kind, object: Value) -> Vec<String> {
    let cells = cells(kind, &object, now());
    assert_eq!(cells.len(), columns(kind).len(), "{kind}");
    cells
        .iter()
        .map(|c| c.as_str().map_or_else(|| c.to_string(), str::to_owned))
        .collect()
}

#[test]
fn ages() {
    for (seconds, text) in [
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (200, "3m20s"),
        (3600, "60m"),
        (10_800, "3h"),
        (12_060, "3h21m"),
        (172_800, "2d"),
        (180_000, "2d2h"),
        (86_400 * 30, "30d"),
        (86_400 * 365 * 2, "2y"),
        (86_400 * 365 * 9, "9y"),
        (-5, "<invalid>"),
    ] {
        assert_eq!(human(seconds), text, "{seconds}");
    }
}

#[test]
fn pods() {
    let meta = json!({"name": "p", "creationTimestamp": "2026-01-01T00:55:00Z"});
    let spec = json!({"nodeName": "n", "containers": [{"name": "a"}, {"name": "b"}]});
    let running = json!({"ready": true, "state": {"running": {}}, "restartCount": 0});
    let crashed = json!({
        "ready": false, "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"finishedAt": "2026-01-01T00:59:30Z"}},
    });
    let pod = |status: Value| json!({"metadata": meta, "spec": spec, "status": status});
    let all = pod(json!({"phase": "Running", "podIP": "10.0.0.2", "containerStatuses": [running, running]}));
    assert_eq!(
        shown(kinds::POD, all.clone()),
        [
            "p", "2/2", "Running", "0", "5m", "10.0.0.2", "n", "<none>", "<none>"
        ]
    );
    let loops = pod(json!({"phase": "Running", "containerStatuses": [running, crashed]}));
    assert_eq!(
        shown(kinds::POD, loops)[1..4],
        ["1/2", "CrashLoopBackOff", "3 (30s ago)"]
    );
    let mut leaving = all;
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:59:30Z");
    assert_eq!(shown(kinds::POD, leaving)[2], "Terminating");
    let mut init = pod(json!({"phase": "Pending", "initContainerStatuses": [{"state": {"running": {}}}]}));
    init["spec"]["initContainers"] = json!([{"name": "i"}]);
    assert_eq!(shown(kinds::POD, init)[2], "Init:0/1");
    let failed =
        pod(json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 3}}}]}));
    assert_eq!(shown(kinds::POD, failed)[2], "ExitCode:3");
}

#[test]
fn other_kinds() {
    let meta = json!({"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z"});
    let deployment = json!({
        "metadata": meta,
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "w"}},
            "template": {"spec": {"containers": [{"name": "c", "image": "i:1"}]}}},
        "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 2},
    });
    assert_eq!(
        shown(kinds::DEPLOYMENT, deployment.clone()),
        ["x", "2/3", "3", "2", "60m", "c", "i:1", "app=w"]
    );
    assert_eq!(shown(kinds::REPLICA_SET, deployment)[1..4], ["3", "0", "2"]);
    assert_eq!(
        shown(kinds::CONFIG_MAP, json!({"metadata": meta, "data": {"a": "1"}})),
        ["x", "1", "60m"]
    );
    assert_eq!(
        shown(kinds::SECRET, json!({"metadata": meta, "type": "Opaque"})),
        ["x", "Opaque", "0", "60m"]
    );
    let event = json!({
        "metadata": meta, "type": "Warning", "reason": "BackOff", "message": "m", "count": 4,
        "involvedObject": {"kind": "Pod", "name": "p"},
        "firstTimestamp": "2026-01-01T00:58:20Z", "lastTimestamp": "2026-01-01T00:59:50Z",
    });
    assert_eq!(
        shown(kinds::EVENT, event)[..4],
        ["10s (x4 over 100s)", "Warning", "BackOff", "pod/p"]
    );
    let node = json!({
        "metadata": meta, "spec": {"unschedulable": true},
        "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1.37.0"}},
    });
    assert_eq!(
        shown(kinds::NODE, node)[1..5],
        ["Ready,SchedulingDisabled", "<none>", "60m", "v1.37.0"]
    );
    for kind in kinds::ALL {
        shown(kind, json!({}));
    }
}

#[test]
fn jobs() {
    let job = |status: Value, spec: Value| {
        shown(
            kinds::JOB,
            json!({
                "metadata": {"name": "j", "creationTimestamp": "2026-01-01T00:30:00Z"},
                "spec": spec, "status": status,
            }),
        )[..5]
            .join(" ")
    };
    let running = json!({"startTime": "2026-01-01T00:59:00Z", "succeeded": 1});
    assert_eq!(
        job(running.clone(), json!({"completions": 3})),
        "j Running 1/3 60s 30m"
    );
    assert_eq!(
        job(running, json!({"parallelism": 2})),
        "j Running 1/1 of 2 60s 30m"
    );
    assert_eq!(job(json!({}), json!({"parallelism": 1})), "j Running 0/1  30m");
    let over = |kind: &str| {
        json!({
            "startTime": "2026-01-01T00:30:00Z", "completionTime": "2026-01-01T00:30:05Z",
            "conditions": [{"type": "SuccessCriteriaMet", "status": "True"}, {"type": kind, "status": "True"}],
        })
    };
    assert_eq!(
        job(over("Complete"), json!({"completions": 0})),
        "j Complete 0/0 5s 30m"
    );
    assert_eq!(
        job(over("Failed"), json!({"completions": 1})),
        "j Failed 0/1 5s 30m"
    );
    let cron = shown(
        kinds::CRON_JOB,
        json!({
            "metadata": {"name": "c", "creationTimestamp": "2026-01-01T00:30:00Z"},
            "spec": {"schedule": "@hourly", "suspend": true, "jobTemplate": {"spec": {"template": {"spec": {
                "containers": [{"name": "a", "image": "x"}]}}}}},
            "status": {"lastScheduleTime": "2026-01-01T00:59:00Z", "active": [{}]},
        }),
    );
    assert_eq!(
        cron,
        [
            "c", "@hourly", "<none>", "True", "1", "60s", "30m", "a", "x", "<none>"
        ]
    );
}

#[test]
fn entrances_from_outside() {
    let meta = json!({"name": "web", "creationTimestamp": "2026-01-01T00:55:00Z"});
    let service = |kind: &str, ips: Value| {
        let spec = json!({"type": kind, "clusterIP": "10.96.0.40", "externalIPs": ips,
            "ports": [{"port": 80, "protocol": "TCP"}]});
        json!({"metadata": meta, "spec": spec, "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}})
    };
    assert_eq!(
        shown(kinds::SERVICE, service("LoadBalancer", json!(["198.51.100.9"])))[3],
        "192.0.2.1,198.51.100.9"
    );
    assert_eq!(
        shown(kinds::SERVICE, service("ClusterIP", json!(["198.51.100.9"])))[3],
        "198.51.100.9"
    );
    assert_eq!(
        shown(kinds::SERVICE, service("ClusterIP", json!([])))[3],
        "<none>"
    );
    let ingress = json!({"metadata": meta, "spec": {"rules": [{"host": "a.example"}, {"host": "b.example"}], "tls": [{}]}});
    assert_eq!(
        shown(kinds::INGRESS, ingress),
        ["web", "<none>", "a.example,b.example", "", "80, 443", "5m"]
    );
    let policy = json!({"metadata": meta, "spec": {"podSelector": {"matchLabels": {"app": "web"}}}});
    assert_eq!(shown(kinds::NETWORK_POLICY, policy), ["web", "app=web", "5m"]);
}

#[test]
fn sets_with_a_history() {
    let meta = json!({"name": "a", "creationTimestamp": "2026-01-01T00:55:00Z"});
    let spec = json!({
        "replicas": 3,
        "selector": {"matchLabels": {"app": "a"}},
        "template": {"spec": {"nodeSelector": {"disk": "ssd", "arch": "x"}, "containers": [{"name": "c", "image": "i:1"}]}},
    });
    let status = json!({
        "desiredNumberScheduled": 1, "currentNumberScheduled": 1, "numberReady": 1, "updatedNumberScheduled": 1,
        "readyReplicas": 2,
    });
    let object = json!({"metadata": meta, "spec": spec, "status": status});
    assert_eq!(
        shown(kinds::DAEMON_SET, object.clone()),
        [
            "a",
            "1",
            "1",
            "1",
            "1",
            "0",
            "arch=x,disk=ssd",
            "5m",
            "c",
            "i:1",
            "app=a"
        ]
    );
    assert_eq!(shown(kinds::STATEFUL_SET, object), ["a", "2/3", "5m", "c", "i:1"]);
    let mut revision = json!({"metadata": meta, "data": {}, "revision": 4});
    assert_eq!(
        shown(kinds::CONTROLLER_REVISION, revision.clone()),
        ["a", "<none>", "4", "5m"]
    );
    revision["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "agent", "controller": true}]);
    assert_eq!(
        shown(kinds::CONTROLLER_REVISION, revision),
        ["a", "daemonset.apps/agent", "4", "5m"]
    );
}

/// The columns that a Kubernetes server sends for each kind (`pkg/printers/internalversion/printers.go`, and its default
/// of name and time for those without): those in parentheses only for `-o wide`.
const COLUMNS: &[(&str, &str)] = &[
    ("ConfigMap", "Name Data Age"),
    ("Endpoints", "Name Endpoints Age"),
    (
        "Event",
        "Last_Seen Type Reason Object (Subobject) (Source) Message (First_Seen) (Count) (Name)",
    ),
    ("LimitRange", "Name Created_At"),
    ("Namespace", "Name Status Age"),
    (
        "Node",
        "Name Status Roles Age Version (Internal-IP) (External-IP) (OS-Image) (Kernel-Version) (Container-Runtime)",
    ),
    (
        "PersistentVolumeClaim",
        "Name Status Volume Capacity Access_Modes StorageClass VolumeAttributesClass Age (VolumeMode)",
    ),
    (
        "PersistentVolume",
        "Name Capacity Access_Modes Reclaim_Policy Status Claim StorageClass VolumeAttributesClass Reason Age (VolumeMode)",
    ),
    (
        "Pod",
        "Name Ready Status Restarts Age (IP) (Node) (Nominated_Node) (Readiness_Gates)",
    ),
    ("ResourceQuota", "Name Request Limit Age"),
    ("Secret", "Name Type Data Age"),
    ("ServiceAccount", "Name Secrets Age"),
    (
        "Service",
        "Name Type Cluster-IP External-IP Port(s) Age (Selector)",
    ),
    ("ControllerRevision", "Name Controller Revision Age"),
    (
        "DaemonSet",
        "Name Desired Current Ready Up-to-date Available Node_Selector Age (Containers) (Images) (Selector)",
    ),
    (
        "Deployment",
        "Name Ready Up-to-date Available Age (Containers) (Images) (Selector)",
    ),
    (
        "ReplicaSet",
        "Name Desired Current Ready Age (Containers) (Images) (Selector)",
    ),
    ("StatefulSet", "Name Ready Age (Containers) (Images)"),
    (
        "HorizontalPodAutoscaler",
        "Name Reference Targets MinPods MaxPods Replicas Age",
    ),
    (
        "CronJob",
        "Name Schedule Timezone Suspend Active Last_Schedule Age (Containers) (Images) (Selector)",
    ),
    (
        "Job",
        "Name Status Completions Duration Age (Containers) (Images) (Selector)",
    ),
    ("Lease", "Name Holder Age"),
    ("EndpointSlice", "Name AddressType Ports Endpoints Age"),
    ("Ingress", "Name Class Hosts Address Ports Age"),
    ("NetworkPolicy", "Name Pod-Selector Age"),
    ("RuntimeClass", "Name Handler Age"),
    (
        "PodDisruptionBudget",
        "Name Min_Available Max_Unavailable Allowed_Disruptions Age",
    ),
    (
        "ClusterRoleBinding",
        "Name Role Age (Users) (Groups) (ServiceAccounts)",
    ),
    ("ClusterRole", "Name Created_At"),
    ("RoleBinding", "Name Role Age (Users) (Groups) (ServiceAccounts)"),
    ("Role", "Name Created_At"),
    ("PriorityClass", "Name Value Global-Default Age PreemptionPolicy"),
    (
        "StorageClass",
        "Name Provisioner ReclaimPolicy VolumeBindingMode AllowVolumeExpansion Age",
    ),
];

#[test]
fn every_kind_has_the_columns_that_kubectl_knows() {
    for kind in kinds::ALL {
        let shown: Vec<String> = columns(kind)
            .iter()
            .map(|column| {
                let name = column.name.replace(' ', "_");
                if column.wide { format!("({name})") } else { name }
            })
            .collect();
        let known = COLUMNS.iter().find(|(name, _)| *name == kind.kind);
        let known = known.unwrap_or_else(|| panic!("{} is not in the list", kind.kind));
        assert_eq!(shown.join(" "), known.1, "{}", kind.kind);
        // A row has a cell for each, whatever the object lacks.
        let empty = json!({"metadata": {"name": "x"}});
        assert_eq!(
            cells(kind, &empty, Timestamp::UNIX_EPOCH).len(),
            shown.len(),
            "{}",
            kind.kind
        );
    }
    assert_eq!(COLUMNS.len(), kinds::ALL.len());
}

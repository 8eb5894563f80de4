//! HorizontalPodAutoscalers on the real node: what containers use decides how many there are.

use crate::bench::{Bench, bench};
use crate::world::{WAIT, with};
use harness::{kubectl_versions, repository_root};
use serde_json::{Value, json};

impl Bench {
    #[track_caller]
    fn condition(&self, name: &str, kind: &str, reason: &str) -> Value {
        self.until("hpa", name, reason, |hpa| {
            condition(hpa, kind)["reason"] == reason
        })
    }

    /// A Deployment with one container of this program.
    #[track_caller]
    fn deployment(&self, name: &str, program: &str, replicas: i64, requests: &Value) {
        let container = with(program, json!({"resources": {"requests": requests}}));
        self.world.apply(&json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {
                "replicas": replicas, "selector": {"matchLabels": {"app": name}},
                "template": {"metadata": {"labels": {"app": name}}, "spec": {
                    "terminationGracePeriodSeconds": 1, "containers": [container]}},
            },
        }));
    }

    #[track_caller]
    fn end(&self) {
        self.kube(&["delete", "hpa", "--all"]);
        self.world.node.clear();
        self.kube(&["delete", "pvc", "--all"]);
        self.world.clean();
    }
}

fn condition(hpa: &Value, kind: &str) -> Value {
    let conditions = hpa["status"]["conditions"].as_array();
    let found = conditions.into_iter().flatten().find(|c| c["type"] == kind);
    found.cloned().unwrap_or_default()
}

#[test]
fn replicas_follow_the_load_up_and_down() {
    let bench = bench!();
    let file = repository_root().join("examples/manifests/autoscaling/burner.yaml");
    bench.kube(&["apply", "-f", &file.to_string_lossy()]);
    let grown = bench.until("hpa", "burner", "grown", |hpa| {
        hpa["status"]["desiredReplicas"] == 2
    });
    assert_eq!(condition(&grown, "AbleToScale")["status"], "True", "{grown}");
    bench.until("deployment", "burner", "two pods", |web| {
        web["status"]["readyReplicas"] == 2
    });
    let told = bench.events("SuccessfulRescale");
    assert!(
        told.contains(
            &"New size: 2; reason: cpu resource utilization (percentage of request) above target".to_owned()
        ),
        "{told:?}"
    );
    let limited = bench.condition("burner", "ScalingLimited", "TooManyReplicas");
    assert_eq!(
        condition(&limited, "ScalingActive")["reason"],
        "ValidMetricFound",
        "{limited}"
    );
    let row = bench.kube(&["get", "hpa", "burner"]);
    assert!(
        row.contains("Deployment/burner") && row.contains("%/50%"),
        "{row}"
    );
    let text = bench.kube(&["describe", "hpa", "burner"]);
    assert!(
        text.contains("ScalingActive")
            && text.contains("ValidMetricFound")
            && text.contains("SuccessfulRescale"),
        "{text}"
    );

    let pod = bench.kube(&[
        "get",
        "pods",
        "-l",
        "app=burner",
        "-o",
        "jsonpath={.items[0].metadata.name}",
    ]);
    bench.kube(&["exec", &pod, "--", "rm", "/load/on"]);
    let rested = bench.until("hpa", "burner", "shrunk", |hpa| {
        hpa["status"]["desiredReplicas"] == 1
    });
    assert!(!rested["status"]["lastScaleTime"].is_null());
    bench.until("deployment", "burner", "one pod", |web| {
        web["status"]["replicas"] == 1
    });
    let told = bench.events("SuccessfulRescale");
    assert!(
        told.contains(&"New size: 1; reason: All metrics below target".to_owned()),
        "{told:?}"
    );
    bench.end();
}

#[test]
fn every_kubectl_autoscales_in_either_version() {
    let bench = bench!();
    bench.deployment("web", WAIT, 1, &json!({"cpu": "100m", "memory": "64Mi"}));
    for (number, kubectl) in kubectl_versions().iter().enumerate() {
        let kube = |arguments: &[&str]| bench.world.node.kubectl(kubectl, arguments).ok();
        let name = format!("h{number}");
        let made = kube(&[
            "autoscale",
            "deployment",
            "web",
            "--min=1",
            "--max=3",
            "--cpu-percent=70",
            "--name",
            &name,
        ]);
        assert!(made.contains("autoscaled"), "{made}");
        let row = kube(&["get", "hpa", &name]);
        assert!(row.contains("Deployment/web") && row.contains("/70%"), "{row}");
        let text = kube(&["describe", "hpa", &name]);
        assert!(
            text.contains("Reference:") && text.contains("Deployment/web"),
            "{text}"
        );
        let v1 = |field: &str| {
            kube(&[
                "get",
                "horizontalpodautoscalers.v1.autoscaling",
                &name,
                "-o",
                &format!("jsonpath={{{field}}}"),
            ])
        };
        assert_eq!(v1(".apiVersion"), "autoscaling/v1");
        assert_eq!(v1(".spec.targetCPUUtilizationPercentage"), "70");
        let patch = r#"{"spec":{"targetCPUUtilizationPercentage":60,"maxReplicas":4}}"#;
        kube(&[
            "patch",
            "horizontalpodautoscalers.v1.autoscaling",
            &name,
            "-p",
            patch,
        ]);
        let v2 = |field: &str| {
            kube(&[
                "get",
                "horizontalpodautoscalers.v2.autoscaling",
                &name,
                "-o",
                &format!("jsonpath={{{field}}}"),
            ])
        };
        assert_eq!(v2(".spec.metrics[0].resource.target.averageUtilization"), "60");
        assert_eq!(v2(".spec.maxReplicas"), "4");
        kube(&["delete", "hpa", &name]);
    }
    // A manifest of either version, applied by either side.
    let old = json!({
        "apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "old"},
        "spec": {"maxReplicas": 2, "targetCPUUtilizationPercentage": 50,
                 "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}},
    });
    let file = bench.world.node.path().join("old.json");
    let write = |object: &Value| std::fs::write(&file, object.to_string()).expect("write the manifest");
    let path = file.to_string_lossy().into_owned();
    write(&old);
    bench.kube(&["apply", "-f", &path]);
    assert!(bench.kube(&["apply", "-f", &path]).contains("unchanged"));
    assert!(
        bench
            .kube(&["apply", "--server-side", "--force-conflicts", "-f", &path])
            .contains("serverside-applied")
    );
    let mut changed = old.clone();
    changed["spec"]["maxReplicas"] = json!(5);
    write(&changed);
    bench.world.node.ctl(&["apply", "-f", &path]).ok();
    assert_eq!(
        bench.look("hpa", "old").expect("the autoscaler")["spec"]["maxReplicas"],
        5
    );
    let lines = bench.kube(&["get", "horizontalpodautoscalers.v1.autoscaling", "-o", "json"]);
    let list: Value = serde_json::from_str(&lines).expect("JSON");
    assert_eq!(list["items"][0]["apiVersion"], "autoscaling/v1");
    let raw = bench.kube(&["get", "--raw", "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers?watch=1&timeoutSeconds=1&resourceVersion=0"]);
    let event: Value = serde_json::from_str(raw.lines().next().expect("an event")).expect("JSON");
    assert_eq!(
        (&event["type"], &event["object"]["apiVersion"]),
        (&json!("ADDED"), &json!("autoscaling/v1"))
    );
    let told = bench
        .world
        .node
        .kubectl(
            &bench.kubectl,
            &[
                "patch",
                "horizontalpodautoscalers.v1.autoscaling",
                "old",
                "-p",
                r#"{"spec":{"maxReplicas":0}}"#,
            ],
        )
        .err();
    assert!(told.contains("spec.maxReplicas"), "{told}");
    let explained = bench.kube(&["explain", "hpa.spec", "--api-version=autoscaling/v1"]);
    assert!(
        explained.contains("targetCPUUtilizationPercentage"),
        "{explained}"
    );
    let explained = bench.kube(&["explain", "hpa.spec.metrics"]);
    assert!(
        explained.contains("containerResource") && explained.contains("Not supported here"),
        "{explained}"
    );
    bench.end();
}

#[test]
fn what_an_autoscaler_cannot_do_is_told() {
    let bench = bench!();
    let hpa = |name: &str, target: &str, spec: Value| {
        let mut object = json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": name},
            "spec": {"maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": target}},
        });
        for (field, value) in spec.as_object().expect("an object") {
            object["spec"][field] = value.clone();
        }
        bench.world.apply(&object);
    };
    hpa("lost", "nobody", json!({}));
    let lost = bench.condition("lost", "AbleToScale", "FailedGetScale");
    let message = condition(&lost, "AbleToScale")["message"].clone();
    assert_eq!(
        message,
        "the HPA controller was unable to get the target's current scale: deployments/scale.apps \"nobody\" not found"
    );
    bench.kube(&["delete", "hpa", "lost"]);

    bench.deployment("open", WAIT, 1, &json!({}));
    hpa("open", "open", json!({}));
    let open = bench.until("hpa", "open", "why not", |hpa| {
        let told = condition(hpa, "ScalingActive")["message"].to_string();
        told.contains("missing request for cpu in container c of Pod open-")
    });
    assert_eq!(
        condition(&open, "ScalingActive")["reason"],
        "FailedGetResourceMetric",
        "{open}"
    );
    assert!(bench.kube(&["get", "hpa", "open"]).contains("cpu: <unknown>/80%"));
    assert!(!bench.events("FailedComputeMetricsReplicas").is_empty());
    // By memory of one container, in bytes; another autoscaler over the same pods is in its way.
    let memory = json!({"metrics": [{"type": "ContainerResource", "containerResource": {
        "name": "memory", "container": "c", "target": {"type": "AverageValue", "averageValue": "1Gi"}}}]});
    hpa("rival", "open", memory);
    bench.condition("rival", "ScalingActive", "AmbiguousSelector");
    bench.kube(&["delete", "hpa", "open"]);
    let found = bench.condition("rival", "ScalingActive", "ValidMetricFound");
    let used = &found["status"]["currentMetrics"][0]["containerResource"];
    assert_eq!(
        (&used["name"], &used["container"]),
        (&json!("memory"), &json!("c"))
    );
    assert!(bench.kube(&["get", "hpa", "rival"]).contains("/1Gi"));

    // Bounds hold without any metric, and nobody is woken from zero.
    hpa("rival", "open", json!({"minReplicas": 2}));
    bench.until("deployment", "open", "two pods", |web| {
        web["spec"]["replicas"] == 2
    });
    let told = bench.events("SuccessfulRescale");
    assert!(
        told.contains(&"New size: 2; reason: Current number of replicas below Spec.MinReplicas".to_owned()),
        "{told:?}"
    );
    bench.kube(&["scale", "deployment/open", "--replicas=0"]);
    bench.condition("rival", "ScalingActive", "ScalingDisabled");
    let file = bench.world.node.path().join("pods.json");
    let pods = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "x"},
        "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "open"}, "metrics": [
            {"type": "External", "external": {"metric": {"name": "queue"}, "target": {"type": "Value", "value": "1"}}}]},
    });
    std::fs::write(&file, pods.to_string()).expect("write the manifest");
    let told = bench
        .world
        .node
        .kubectl(&bench.kubectl, &["create", "-f", &file.to_string_lossy()])
        .err();
    assert!(
        told.contains("spec.metrics[0].external: Forbidden: not supported here: only what containers use"),
        "{told}"
    );
    bench.end();
}

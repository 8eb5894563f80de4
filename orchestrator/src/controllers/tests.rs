//! The controllers together, on a real store, with a stand-in for the node.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::fields::{condition, text};
use super::ownership::references;
use super::*;
use crate::store::{Deletion, EventKind, Object, Preconditions, Propagation, file_in};

struct Bench {
    store: Store,
    stop: watch::Sender<bool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    /// Names of pods in the order they were made.
    made: Arc<Mutex<Vec<String>>>,
    _folder: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&file_in(folder.path())).unwrap();
        for name in ["default", "other"] {
            let namespace = json!({
                "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name },
                "status": { "phase": "Active" },
            });
            store.create(namespace).await.unwrap();
        }
        let registered =
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node"}, "spec": {}});
        store.create(registered).await.unwrap();
        let (stop, stopped) = watch::channel(false);
        let made = Arc::default();
        let settings = Settings {
            authority: String::new(),
            own: own::Own::default(),
            place: volumes::Place {
                folders: folder.path().join("volumes"),
                node: "node".to_owned(),
            },
            cgroup_parent: "none".to_owned(),
        };
        let tasks = vec![
            tokio::spawn(run(store.clone(), settings, stopped.clone())),
            tokio::spawn(node(store.clone(), Arc::clone(&made), stopped)),
        ];
        Self {
            store,
            stop,
            tasks,
            made,
            _folder: folder,
        }
    }

    fn key(kind: &'static Kind, name: &str) -> Key {
        Key::new(kind, "default", name)
    }

    fn list(&self, kind: &'static Kind) -> Vec<Value> {
        self.store
            .list(kind, Some("default"))
            .items
            .iter()
            .map(Object::value)
            .collect()
    }

    /// Waits until a condition holds, at most half a minute.
    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..3000 {
            if holds(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let kinds = [kinds::DEPLOYMENT, kinds::REPLICA_SET, kinds::POD];
        panic!("{what}: {:#?}", kinds.map(|kind| self.list(kind)));
    }

    async fn delete(&self, kind: &'static Kind, name: &str, propagation: Propagation) {
        let deletion = Deletion {
            preconditions: Preconditions::default(),
            grace: None,
            propagation,
        };
        self.store
            .begin_delete(&Self::key(kind, name), deletion)
            .await
            .unwrap();
    }

    async fn edit(&self, kind: &'static Kind, name: &str, change: impl Fn(&mut Value)) {
        loop {
            let mut value = self.store.require(&Self::key(kind, name)).unwrap().value();
            change(&mut value);
            match self.store.update(value).await {
                Err(StoreError::Conflict { .. }) => {}
                updated => {
                    updated.unwrap();
                    return;
                }
            }
        }
    }

    fn complete(&self, image: &str, replicas: usize) -> bool {
        let pods = self.list(kinds::POD);
        let status = &self.list(kinds::DEPLOYMENT)[0]["status"];
        pods.len() == replicas
            && pods
                .iter()
                .all(|pod| text(pod, "/spec/containers/0/image") == image)
            && status["availableReplicas"] == replicas
            && condition(status, "Progressing")
                .is_some_and(|known| known["reason"] == "NewReplicaSetAvailable")
    }

    async fn end(mut self) {
        self.stop.send(true).unwrap();
        for task in self.tasks.drain(..) {
            task.await.unwrap();
        }
    }
}

/// Runs pods at once, and takes them down when they are deleted.
async fn node(store: Store, made: Arc<Mutex<Vec<String>>>, mut stopped: watch::Receiver<bool>) {
    let mut pods = store.watch(kinds::POD, None, 0).unwrap();
    loop {
        let event = tokio::select! {
            _ = stopped.changed() => return,
            event = pods.recv() => event.unwrap(),
        };
        let (pod, value) = (&event.object, event.object.value());
        if event.kind == EventKind::Added {
            made.lock().unwrap().push(pod.name().to_owned());
        }
        if event.kind != EventKind::Deleted && fields::is_deleting(&value) {
            let _ = store.delete(pod.key(), Preconditions::uid(pod.uid())).await;
        } else if event.kind == EventKind::Added {
            let now = crate::store::prepare::rfc3339(jiff::Timestamp::now());
            let ready = json!({ "type": "Ready", "status": "True", "lastTransitionTime": now });
            let status = json!({ "phase": "Running", "conditions": [ready] });
            let _ = store.update_status(pod.key(), pod.uid(), status).await;
        }
    }
}

fn deployment(replicas: i64) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "web", "namespace": "default" },
        "spec": {
            "replicas": replicas, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
            "selector": { "matchLabels": { "app": "web" } },
            "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": "25%", "maxUnavailable": "25%" } },
            "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": { "containers": [{ "name": "c", "image": "v1" }], "terminationGracePeriodSeconds": 1 },
            },
        },
    })
}

#[tokio::test]
async fn a_deployment_rolls_scales_and_goes() {
    let bench = Bench::new().await;
    bench.store.create(deployment(4)).await.unwrap();
    bench.until("comes up", |bench| bench.complete("v1", 4)).await;
    assert_eq!(bench.made.lock().unwrap().len(), 4, "no pod was made twice");
    let image = |value: &mut Value| value["spec"]["template"]["spec"]["containers"][0]["image"] = json!("v2");
    bench.edit(kinds::DEPLOYMENT, "web", image).await;
    bench.until("rolls", |bench| bench.complete("v2", 4)).await;
    bench
        .edit(kinds::DEPLOYMENT, "web", |value| {
            value["spec"]["replicas"] = json!(7);
        })
        .await;
    bench.until("grows", |bench| bench.complete("v2", 7)).await;
    let victim = text(&bench.list(kinds::POD)[0], "/metadata/name").to_owned();
    bench.delete(kinds::POD, &victim, Propagation::Background).await;
    bench
        .until("replaces", |bench| {
            bench.complete("v2", 7)
                && !bench
                    .list(kinds::POD)
                    .iter()
                    .any(|pod| text(pod, "/metadata/name") == victim)
        })
        .await;
    let reasons: Vec<String> = bench
        .list(kinds::EVENT)
        .iter()
        .map(|event| text(event, "/reason").to_owned())
        .collect();
    for reason in ["ScalingReplicaSet", "SuccessfulCreate", "SuccessfulDelete"] {
        assert!(
            reasons.iter().any(|known| known == reason),
            "{reason}: {reasons:?}"
        );
    }
    bench
        .delete(kinds::DEPLOYMENT, "web", Propagation::Background)
        .await;
    bench
        .until("is collected", |bench| {
            [kinds::DEPLOYMENT, kinds::REPLICA_SET, kinds::POD]
                .iter()
                .all(|kind| bench.list(kind).is_empty())
        })
        .await;
    bench.end().await;
}

#[tokio::test]
async fn foreground_deletion_goes_from_the_leaves_up() {
    let bench = Bench::new().await;
    bench.store.create(deployment(2)).await.unwrap();
    bench.until("comes up", |bench| bench.complete("v1", 2)).await;
    let mut deployments = bench.store.watch(kinds::DEPLOYMENT, None, 0).unwrap();
    bench
        .delete(kinds::DEPLOYMENT, "web", Propagation::Foreground)
        .await;
    loop {
        let event = tokio::time::timeout(Duration::from_secs(30), deployments.recv())
            .await
            .unwrap()
            .unwrap();
        if event.kind == EventKind::Deleted {
            break;
        }
    }
    assert!(bench.list(kinds::POD).is_empty() && bench.list(kinds::REPLICA_SET).is_empty());
    bench.end().await;
}

#[tokio::test]
async fn orphans_stay_and_are_adopted_again() {
    let bench = Bench::new().await;
    bench.store.create(deployment(2)).await.unwrap();
    bench.until("comes up", |bench| bench.complete("v1", 2)).await;
    bench.delete(kinds::DEPLOYMENT, "web", Propagation::Orphan).await;
    bench
        .until("is gone", |bench| bench.list(kinds::DEPLOYMENT).is_empty())
        .await;
    let sets = bench.list(kinds::REPLICA_SET);
    assert_eq!((sets.len(), references(&sets[0]).len()), (1, 0));
    assert_eq!(bench.list(kinds::POD).len(), 2);
    bench.store.create(deployment(2)).await.unwrap();
    bench.until("is adopted", |bench| bench.complete("v1", 2)).await;
    let sets = bench.list(kinds::REPLICA_SET);
    assert_eq!((sets.len(), references(&sets[0]).len()), (1, 1));
    assert_eq!(bench.made.lock().unwrap().len(), 2, "the pods are the same");
    // A pod whose label is taken away is released and replaced.
    let pod = text(&bench.list(kinds::POD)[0], "/metadata/name").to_owned();
    bench
        .edit(kinds::POD, &pod, |value| {
            value["metadata"]["labels"] = json!({ "app": "debug" });
        })
        .await;
    bench
        .until("is replaced", |bench| bench.list(kinds::POD).len() == 3)
        .await;
    bench
        .until("is released", |bench| {
            bench
                .list(kinds::POD)
                .iter()
                .any(|pod| references(pod).is_empty())
        })
        .await;
    bench.end().await;
}

#[tokio::test]
async fn a_namespace_is_emptied_before_it_goes() {
    let bench = Bench::new().await;
    let store = bench.store.clone();
    let mut other = deployment(2);
    other["metadata"]["namespace"] = json!("other");
    store.create(other).await.unwrap();
    let held = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "held", "namespace": "other", "finalizers": ["example.com/hold"] },
    });
    store.create(held).await.unwrap();
    bench
        .until("comes up", |_| {
            store.list(kinds::POD, Some("other")).items.len() == 2
        })
        .await;
    let key = Key::new(kinds::NAMESPACE, "", "other");
    store.begin_delete(&key, Deletion::default()).await.unwrap();
    bench
        .until("waits for the finalizer", |_| {
            let namespace = store.get(&key).unwrap().unwrap().value();
            store.list(kinds::POD, Some("other")).items.is_empty()
                && condition(&namespace["status"], "NamespaceFinalizersRemaining").is_some()
        })
        .await;
    assert_eq!(
        store.get(&key).unwrap().unwrap().value()["status"]["phase"],
        "Terminating"
    );
    let mut held = store
        .require(&Key::new(kinds::CONFIG_MAP, "other", "held"))
        .unwrap()
        .value();
    held["metadata"]["finalizers"] = json!([]);
    store.update(held).await.unwrap();
    bench.until("goes", |_| store.get(&key).unwrap().is_none()).await;
    let left: usize = kinds::ALL
        .iter()
        .filter(|kind| kind.namespaced && **kind != kinds::EVENT)
        .map(|kind| store.list(kind, Some("other")).items.len())
        .sum();
    assert_eq!(left, 0);
    bench.end().await;
}

#[tokio::test]
async fn colliding_names_are_resolved() {
    let bench = Bench::new().await;
    let wanted = deployment(1);
    let hash_of = |deployment: &Value| {
        let view = deployment::View {
            deployment: deployment.clone(),
            sets: Vec::new(),
            pods: Vec::new(),
            closing: false,
        };
        let changes = deployment::reconcile(&view, jiff::Timestamp::now()).changes;
        let set = changes.into_iter().find_map(|change| match change {
            deployment::Change::CreateSet(set) => Some(set),
            _ => None,
        });
        set.unwrap()
    };
    // Somebody else's set has the very name.
    let mut taken = hash_of(&wanted);
    taken["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("ownerReferences");
    taken["metadata"]["labels"] = json!({});
    taken["spec"]["replicas"] = json!(0);
    bench.store.create(taken).await.unwrap();
    bench.store.create(wanted).await.unwrap();
    bench.until("comes up", |bench| bench.complete("v1", 1)).await;
    assert_eq!(bench.list(kinds::DEPLOYMENT)[0]["status"]["collisionCount"], 1);
    assert_eq!(bench.list(kinds::REPLICA_SET).len(), 2);
    bench.end().await;
}

use std::time::Duration;

use berth_api::kinds;
use serde_json::{Value, json};

use super::*;

fn config_map(name: &str, data: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default"}, "data": {"k": data},
    })
}

fn deployment(replicas: u32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default"}, "spec": {"replicas": replicas},
    })
}

fn open(dir: &tempfile::TempDir) -> Store {
    Store::open(&file_in(dir.path())).unwrap()
}

fn key(name: &str) -> Key {
    Key::new(kinds::CONFIG_MAP, "default", name)
}

#[tokio::test]
async fn create_sets_identity_and_persists() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let made = store.create(config_map("a", "1")).await.unwrap();
    let value = made.value();
    assert_eq!(value["metadata"]["uid"].as_str().unwrap().len(), 36);
    assert!(
        value["metadata"]["creationTimestamp"]
            .as_str()
            .unwrap()
            .ends_with('Z')
    );
    assert_eq!(value["metadata"]["resourceVersion"], "1");
    let again = store.create(config_map("a", "1")).await.unwrap_err();
    assert_eq!(again.to_string(), "configmaps \"a\" already exists");
    store.close().await.unwrap();
    assert_eq!(store.create(config_map("b", "1")).await, Err(StoreError::Closed));

    let store = open(&dir);
    assert_eq!(store.get(&key("a")).unwrap().unwrap().json(), made.json());
    assert!(store.get(&key("b")).unwrap().is_none());
    let next = store.create(config_map("b", "1")).await.unwrap();
    assert!(next.resource_version() > made.resource_version());
}

#[tokio::test]
async fn update_is_optimistic_and_keeps_identity() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let first = store.create(deployment(1)).await.unwrap();
    let mut stale = first.value();
    store
        .update_status(first.key(), first.uid(), json!({"replicas": 1}))
        .await
        .unwrap();
    stale["spec"]["replicas"] = json!(2);
    assert!(matches!(
        store.update(stale.clone()).await,
        Err(StoreError::Conflict { .. })
    ));

    stale["metadata"]["resourceVersion"] = json!(null);
    stale["metadata"]["creationTimestamp"] = json!("1970-01-01T00:00:00Z");
    stale["status"] = json!({"replicas": 99});
    let second = store.update(stale).await.unwrap().value();
    let old = first.value();
    assert_eq!(second["metadata"]["uid"], old["metadata"]["uid"]);
    assert_eq!(
        second["metadata"]["creationTimestamp"],
        old["metadata"]["creationTimestamp"]
    );
    assert_eq!(second["status"], json!({"replicas": 1}));
    assert_eq!(
        (&second["metadata"]["generation"], &old["metadata"]["generation"]),
        (&json!(2), &json!(1))
    );

    let mut other = second.clone();
    other["metadata"]["uid"] = json!("00000000-0000-0000-0000-000000000000");
    assert!(matches!(
        store.update(other).await,
        Err(StoreError::Conflict { .. })
    ));
}

#[tokio::test]
async fn writes_without_effect_are_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let first = store.create(deployment(1)).await.unwrap();
    assert_eq!(store.update(first.value()).await.unwrap(), first);
    let second = store
        .update_status(first.key(), first.uid(), json!({"a": 1}))
        .await
        .unwrap();
    let third = store
        .update_status(first.key(), first.uid(), json!({"a": 1}))
        .await
        .unwrap();
    assert_eq!(second, third);
    assert_eq!(second.value()["metadata"]["generation"], json!(1));
    let gone = store.update_status(first.key(), "other", json!({})).await;
    assert!(matches!(gone, Err(StoreError::Conflict { .. })));
}

#[tokio::test]
async fn finalizers_hold_a_deleted_object() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let mut value = config_map("a", "1");
    value["metadata"]["finalizers"] = json!(["x/y"]);
    store.create(value).await.unwrap();
    let Deleted::Marked(marked) = store.delete(&key("a"), Preconditions::default()).await.unwrap() else {
        panic!("removed although held")
    };
    assert!(marked.value()["metadata"]["deletionTimestamp"].is_string());
    let mut free = marked.value();
    free["metadata"]["finalizers"] = json!([]);
    free["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("deletionTimestamp");
    store.update(free).await.unwrap();
    assert!(store.get(&key("a")).unwrap().is_none());
}

#[tokio::test]
async fn delete_checks_preconditions() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let made = store.create(config_map("a", "1")).await.unwrap();
    let wrong = store.delete(&key("a"), Preconditions::uid("nope")).await;
    assert!(matches!(wrong, Err(StoreError::Conflict { .. })));
    let wrong = Preconditions {
        resource_version: Some(99),
        ..Preconditions::default()
    };
    assert!(matches!(
        store.delete(&key("a"), wrong).await,
        Err(StoreError::Conflict { .. })
    ));
    let Deleted::Removed(last) = store
        .delete(&key("a"), Preconditions::uid(made.uid()))
        .await
        .unwrap()
    else {
        panic!("still there")
    };
    assert!(last.resource_version() > made.resource_version());
    assert!(matches!(
        store.delete(&key("a"), Preconditions::default()).await,
        Err(StoreError::NotFound { .. })
    ));
}

#[tokio::test]
async fn watch_sees_every_change_in_order_and_resumes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let list = store.list(kinds::CONFIG_MAP, Some("default"));
    store.create(config_map("before", "0")).await.unwrap();
    let mut watch = store.watch(kinds::CONFIG_MAP, Some("default"), 0).unwrap();
    assert!(watch.try_recv().unwrap().is_none());
    assert_eq!(list.items.len(), 0);

    let made = store.create(config_map("a", "0")).await.unwrap();
    let mut other = config_map("elsewhere", "0");
    other["metadata"]["namespace"] = json!("other");
    store.create(other).await.unwrap();
    let changed = store.update(config_map("a", "1")).await.unwrap();
    store.delete(&key("a"), Preconditions::default()).await.unwrap();

    let mut seen = Vec::new();
    while let Some(event) = watch.try_recv().unwrap() {
        seen.push((
            event.kind,
            event.object.name().to_owned(),
            event.previous.map(|p| p.resource_version()),
        ));
    }
    assert_eq!(
        seen,
        [
            (EventKind::Added, "a".to_owned(), None),
            (EventKind::Modified, "a".to_owned(), Some(made.resource_version())),
            (
                EventKind::Deleted,
                "a".to_owned(),
                Some(changed.resource_version())
            ),
        ]
    );
    let mut resumed = store
        .watch(kinds::CONFIG_MAP, None, changed.resource_version())
        .unwrap();
    assert_eq!(resumed.recv().await.unwrap().kind, EventKind::Deleted);

    let waiting = tokio::spawn(async move { resumed.recv().await.unwrap().object.name().to_owned() });
    store.create(config_map("late", "0")).await.unwrap();
    assert_eq!(
        tokio::time::timeout(Duration::from_secs(10), waiting)
            .await
            .unwrap()
            .unwrap(),
        "late"
    );
}

#[tokio::test]
async fn a_watch_that_falls_behind_expires() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let mut event = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": "e", "namespace": "default"}, "count": 0,
    });
    let first = store.create(event.clone()).await.unwrap();
    let mut slow = store.watch(kinds::EVENT, None, first.resource_version()).unwrap();
    for count in 1..=1100 {
        event["count"] = json!(count);
        store.update(event.clone()).await.unwrap();
    }
    assert_eq!(slow.recv().await.unwrap_err(), WatchError::Expired);
    assert!(matches!(
        store.watch(kinds::EVENT, None, first.resource_version()),
        Err(WatchError::Expired)
    ));
}

#[tokio::test]
async fn versions_from_before_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let first = store
        .create(config_map("a", "1"))
        .await
        .unwrap()
        .resource_version();
    let last = store
        .create(config_map("b", "1"))
        .await
        .unwrap()
        .resource_version();
    store.close().await.unwrap();
    let store = open(&dir);
    assert!(matches!(
        store.watch(kinds::CONFIG_MAP, None, first),
        Err(WatchError::Expired)
    ));
    let mut watch = store.watch(kinds::CONFIG_MAP, None, last).unwrap();
    store.create(config_map("c", "1")).await.unwrap();
    assert_eq!(watch.recv().await.unwrap().object.name(), "c");
    // A version that a lost write could have had.
    assert!(matches!(
        store.watch(kinds::CONFIG_MAP, None, last + 1),
        Err(WatchError::Expired)
    ));
}

#[tokio::test]
async fn concurrent_writers_share_commits_and_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let mut watch = store.watch(kinds::CONFIG_MAP, None, 0).unwrap();
    let tasks: Vec<_> = (0..200)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.create(config_map(&format!("c{n}"), "x")).await.unwrap() })
        })
        .collect();
    let mut versions = Vec::new();
    for task in tasks {
        versions.push(task.await.unwrap().resource_version());
    }
    versions.sort_unstable();
    assert_eq!(versions, (1..=200).collect::<Vec<u64>>());
    for expected in 1..=200 {
        assert_eq!(watch.recv().await.unwrap().object.resource_version(), expected);
    }
}

#[test]
fn refuses_a_newer_or_foreign_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = file_in(dir.path());
    rusqlite::Connection::open(&path)
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    assert!(matches!(
        Store::open(&path),
        Err(OpenError::Newer { found: 99, .. })
    ));
    std::fs::write(
        &path,
        b"this is not a database, but long enough to be looked at as one....",
    )
    .unwrap();
    assert!(matches!(Store::open(&path), Err(OpenError::Sqlite { .. })));
}

#[tokio::test]
async fn acknowledged_writes_survive_sudden_death() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    for n in 0..50 {
        store.create(config_map(&format!("c{n}"), "x")).await.unwrap();
    }
    // What a killed process leaves: the files as they are, nothing folded or closed.
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    assert_eq!(open(&copy).list(kinds::CONFIG_MAP, None).items.len(), 50);
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default"},
        "spec": {"terminationGracePeriodSeconds": 30, "nodeName": "here"}, "status": {"phase": "Running"},
    })
}

#[tokio::test]
async fn pods_get_their_grace_period_and_it_only_shrinks() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let key = store.create(pod()).await.unwrap().key().clone();
    let grace = |grace| Deletion {
        grace,
        ..Deletion::default()
    };
    for (asked, left) in [(None, 30), (Some(60), 30), (Some(5), 5), (None, 5)] {
        let Deleted::Marked(marked) = store.begin_delete(&key, grace(asked)).await.unwrap() else {
            panic!("removed at once")
        };
        let value = marked.value();
        assert_eq!(
            value["metadata"]["deletionGracePeriodSeconds"],
            json!(left),
            "asked {asked:?}"
        );
        assert_eq!(value["metadata"]["generation"], json!(2));
    }
    assert!(matches!(
        store.begin_delete(&key, grace(Some(0))).await,
        Ok(Deleted::Removed(_))
    ));
    assert!(store.get(&key).unwrap().is_none());

    let mut ended = pod();
    ended["status"]["phase"] = json!("Succeeded");
    store.create(ended).await.unwrap();
    assert!(matches!(
        store.begin_delete(&key, grace(None)).await,
        Ok(Deleted::Removed(_))
    ));
}

#[tokio::test]
async fn propagation_is_left_to_finalizers() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let key = store.create(deployment(1)).await.unwrap().key().clone();
    let foreground = Deletion {
        propagation: Propagation::Foreground,
        ..Deletion::default()
    };
    let Deleted::Marked(marked) = store.begin_delete(&key, foreground).await.unwrap() else {
        panic!("removed at once")
    };
    assert_eq!(
        marked.value()["metadata"]["finalizers"],
        json!(["foregroundDeletion"])
    );

    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}});
    let key = store.create(namespace).await.unwrap().key().clone();
    let Deleted::Marked(marked) = store.begin_delete(&key, Deletion::default()).await.unwrap() else {
        panic!("removed at once")
    };
    assert_eq!(marked.value()["status"]["phase"], json!("Terminating"));
    assert!(matches!(
        store.delete(&key, Preconditions::default()).await,
        Ok(Deleted::Removed(_))
    ));
}

/// A node with so many CPUs for pods.
fn node(cpus: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "here"}, "spec": {},
        "status": {"allocatable": {"cpu": cpus, "pods": "10"}},
    })
}

fn asking(name: &str, cpus: &str, priority: i64) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {"nodeName": "here", "priority": priority, "containers": [{"resources": {"requests": {"cpu": cpus}}}]},
        "status": {"phase": "Pending"},
    })
}

#[tokio::test]
async fn what_does_not_fit_waits_and_gets_the_node_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let bell = store.bell();
    let is_bound = |object: &Object| object.value()["spec"]["nodeName"] == "here";
    // Before the node has said what it has, everything fits.
    let early = store.create(asking("early", "1", 0)).await.unwrap();
    store.create(node("2")).await.unwrap();
    let first = store.create(asking("first", "1", 0)).await.unwrap();
    assert!(is_bound(&early) && is_bound(&first));
    // All at once: no two of them get the same room.
    let second = store.create(asking("second", "1", 0)).await.unwrap();
    assert!(!is_bound(&second));
    assert_eq!(bell.wait().await.fresh, [second.key().clone()]);
    let bind = |object: &Object| {
        let (store, object) = (store.clone(), object.clone());
        async move { store.bind(object.key(), object.uid(), "here").await.unwrap() }
    };
    assert!(!is_bound(&bind(&second).await));
    let ended = json!({"phase": "Succeeded"});
    store
        .update_status(first.key(), first.uid(), ended)
        .await
        .unwrap();
    assert!(bell.wait().await.freed);
    // Room that is being made for one who matters more is not for others.
    let proud = store.create(asking("proud", "2", 9)).await.unwrap();
    assert!(!is_bound(&proud));
    let status = json!({"phase": "Pending", "nominatedNodeName": "here"});
    store
        .update_status(proud.key(), proud.uid(), status)
        .await
        .unwrap();
    assert!(!is_bound(&bind(&second).await));
    store
        .begin_delete(
            early.key(),
            Deletion {
                grace: Some(0),
                ..Deletion::default()
            },
        )
        .await
        .unwrap();
    let bound = bind(&proud).await;
    assert!(is_bound(&bound));
    assert_eq!(bound.value()["status"]["nominatedNodeName"], Value::Null);
    // One that has no node has nothing to end.
    assert!(matches!(
        store.begin_delete(second.key(), Deletion::default()).await,
        Ok(Deleted::Removed(_))
    ));
    // The room is found again in what is stored.
    drop(bell);
    store.close().await.unwrap();
    let store = open(&dir);
    let third = store.create(asking("third", "1", 0)).await.unwrap();
    assert!(!is_bound(&third));
}

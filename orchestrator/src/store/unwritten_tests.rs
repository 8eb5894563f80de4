//! Writes that wait for another one: heartbeats, and Events that are too old.

use std::path::Path;
use std::time::SystemTime;

use berth_api::kinds;
use serde_json::{Value, json};

use super::*;

fn node() -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "spec": {}})
}

fn event(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": name, "namespace": "default"}})
}

fn key() -> Key {
    Key::new(kinds::NODE, "", "n")
}

/// Length and time of every file of the store.
fn files(dir: &Path) -> Vec<(String, u64, SystemTime)> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let mut all: Vec<_> = entries
        .map(|entry| {
            let metadata = entry.metadata().unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, metadata.len(), metadata.modified().unwrap())
        })
        .collect();
    all.sort();
    all
}

#[tokio::test]
async fn a_heartbeat_is_seen_at_once_and_written_with_the_next_write() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&file_in(dir.path())).unwrap();
    store.create(node()).await.unwrap();
    let old = store.create(event("old")).await.unwrap();
    let changed = store.create(event("changed")).await.unwrap();
    let before = files(dir.path());
    let mut watch = store.watch(kinds::NODE, None, 0).unwrap();
    for beat in 0..3 {
        let beaten = store
            .refresh_status(&key(), "", json!({"beat": beat}))
            .await
            .unwrap();
        assert_eq!(
            watch.recv().await.unwrap().object.resource_version(),
            beaten.resource_version()
        );
        assert_eq!(store.require(&key()).unwrap().value()["status"]["beat"], beat);
    }
    let mut value = changed.value();
    value["message"] = json!("again");
    store.update(value).await.unwrap();
    let before_expiry = files(dir.path());
    assert_ne!(before, before_expiry, "an update is written");
    store
        .refresh_status(&key(), "", json!({"beat": 9}))
        .await
        .unwrap();
    store.expire(old.clone()).await.unwrap();
    // Seen before it was changed: it stays.
    store.expire(changed.clone()).await.unwrap();
    assert!(store.get(old.key()).unwrap().is_none() && store.get(changed.key()).unwrap().is_some());
    assert_eq!(files(dir.path()), before_expiry, "something was written");
    drop((store, watch));

    // Killed: what had been written is there.
    let store = Store::open(&file_in(dir.path())).unwrap();
    assert_eq!(store.require(&key()).unwrap().value()["status"]["beat"], 2);
    assert!(store.get(old.key()).unwrap().is_some());
    // The first after a start is written, so that no version is handed out twice.
    let before = files(dir.path());
    let first = store
        .refresh_status(&key(), "", json!({"beat": 10}))
        .await
        .unwrap();
    let written = files(dir.path());
    assert_ne!(before, written);
    store.expire(old.clone()).await.unwrap();
    let last = store
        .refresh_status(&key(), "", json!({"beat": 11}))
        .await
        .unwrap();
    assert_eq!(files(dir.path()), written);
    drop(store);
    let store = Store::open(&file_in(dir.path())).unwrap();
    assert_eq!(store.require(&key()).unwrap().value()["status"]["beat"], 10);
    assert!(store.watch(kinds::NODE, None, first.resource_version()).is_ok());
    assert!(matches!(
        store.watch(kinds::NODE, None, last.resource_version()),
        Err(WatchError::Expired)
    ));

    // A stop writes what has waited.
    store
        .refresh_status(&key(), "", json!({"beat": 12}))
        .await
        .unwrap();
    store
        .refresh_status(&key(), "", json!({"beat": 13}))
        .await
        .unwrap();
    let again = store.require(old.key()).unwrap();
    store.expire(again).await.unwrap();
    store.close().await.unwrap();
    let store = Store::open(&file_in(dir.path())).unwrap();
    assert_eq!(store.require(&key()).unwrap().value()["status"]["beat"], 13);
    assert!(store.get(old.key()).unwrap().is_none());
}

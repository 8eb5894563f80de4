//! After a restart of `berthd`, the loss of a monitor, or a reboot: what is still there?
//!
//! | what died | what is done |
//! | --- | --- |
//! | `berthd` | the state files say which pods there are; their monitors say what runs and what has ended |
//! | a monitor | its containers have lost their output: they are killed, ended as unknown, and started again by the pod's restart policy under a new monitor |
//! | the kernel | nothing runs: leases are released, restart counts come from the stored status |

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use berth_api::kinds;
use berth_client::protocol::{Call, RECORD, Record};
use jiff::Timestamp;

use super::observed::{Ended, Observed, Sandbox, Seen, State, Step, StopPhase, VERSION};
use super::pod::Pod;
use super::teardown;
use super::worker::{Worker, stopped};
use super::{Node, blocking, monitor, sandbox};
use crate::fault::point;

/// How long to wait for a monitor that lives but does not answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a container's creation may go on after `berthd` was killed during it.
const CREATION: Duration = Duration::from_mins(2);

/// Replaces the state file atomically. Blocks.
///
/// # Errors
/// The system's answer.
pub(super) fn write_state(path: &Path, text: &str) -> std::io::Result<()> {
    let temporary = path.with_extension("json.new");
    point("state file: before it is written");
    std::fs::write(&temporary, text)?;
    point("state file: before it is renamed");
    std::fs::rename(&temporary, path)?;
    point("state file: after it is renamed");
    Ok(())
}

/// A pull ends with the `berthd` that began it.
fn without_pulls(mut seen: Observed) -> Observed {
    for one in seen.containers.values_mut() {
        if matches!(one.state, State::Pulling) {
            one.state = State::Absent;
        }
    }
    seen
}

/// Reads the state files of all pods. One that cannot be read is taken as a pod about which nothing is known but its
/// uid, and its name if it is stored, so that it is at least taken down. Blocks.
pub(super) fn scan(node: &Node) -> Vec<Observed> {
    let mut found = Vec::new();
    let stored = node.store.list(kinds::POD, None).items;
    for entry in std::fs::read_dir(node.config.run_dir.join("pods"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let Ok(uid) = entry.file_name().into_string() else {
            continue;
        };
        let path = entry.path().join("pod.json");
        let state = std::fs::read(&path)
            .map_err(|error| error.to_string())
            .and_then(|text| serde_json::from_slice::<Observed>(&text).map_err(|error| error.to_string()))
            .and_then(|seen| {
                if seen.version == VERSION && seen.uid == uid {
                    Ok(without_pulls(seen))
                } else {
                    Err("it is of another version or pod".to_owned())
                }
            });
        match state {
            Ok(seen) => found.push(seen),
            Err(error) => {
                tracing::warn!(file = %path.display(), error, "a pod's state is lost: it is taken down");
                let (namespace, name) = stored
                    .iter()
                    .find(|pod| pod.uid() == uid)
                    .map_or(("", ""), |pod| (pod.namespace(), pod.name()));
                let mut seen = Observed::new(&node.boot, namespace, name, &uid, Timestamp::now());
                seen.sandbox.touched = true;
                seen.sandbox.attached = true;
                found.push(seen);
            }
        }
    }
    found
}

/// Removes logs of pods that are neither stored nor on the node: `berthd` was killed when their directories, and
/// with them their state, were gone already. Blocks; no pod may be set up meanwhile.
pub(super) fn sweep_logs(node: &Node, found: &[Observed]) {
    let stored = node.store.list(kinds::POD, None).items;
    let known: BTreeSet<&str> = stored
        .iter()
        .map(crate::store::Object::uid)
        .chain(found.iter().map(|seen| seen.uid.as_str()))
        .collect();
    for entry in std::fs::read_dir(node.config.data_dir.join("logs"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let uid = name.rsplit('_').next().unwrap_or_default();
        if known.contains(uid) {
            continue;
        }
        if let Err(error) = std::fs::remove_dir_all(entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "remove the logs of a pod that is gone");
        }
    }
}

/// Takes user ids back that belong to pods which are neither stored nor on the node. Blocks.
pub(super) fn sweep_ids(node: &Node, found: &[Observed]) {
    let stored = node.store.list(kinds::POD, None).items;
    let known: BTreeSet<&str> = stored
        .iter()
        .map(crate::store::Object::uid)
        .chain(found.iter().map(|seen| seen.uid.as_str()))
        .collect();
    if let Err(error) = node.ids.retain(|pod| known.contains(pod)) {
        tracing::warn!(
            error = super::execute::chain(&error),
            "take back the user ids of pods that are gone"
        );
    }
}

/// What the stored status says of containers that this node does not know any more (a reboot): they have
/// ended, nobody knows how.
pub(super) fn from_status(pod: &Pod) -> BTreeMap<String, Seen> {
    let mut known = BTreeMap::new();
    let Some(status) = &pod.object.status else {
        return known;
    };
    let lists = [&status.init_container_statuses, &status.container_statuses];
    for one in lists.into_iter().flatten().flatten() {
        let Some(id) = one.container_id.as_deref() else {
            continue;
        };
        let id = id.rsplit("://").next().unwrap_or(id).to_owned();
        let done = one.state.as_ref().and_then(|s| s.terminated.as_ref());
        let began = one
            .state
            .as_ref()
            .and_then(|s| s.running.as_ref())
            .and_then(|r| r.started_at.as_ref());
        let ended = Ended {
            id,
            code: done.map_or(137, |t| t.exit_code),
            signal: done.and_then(|t| t.signal),
            reason: done
                .and_then(|t| t.reason.clone())
                .unwrap_or_else(|| "ContainerStatusUnknown".to_owned()),
            message: done.and_then(|t| t.message.clone()).unwrap_or_else(|| {
                if done.is_some() {
                    String::new()
                } else {
                    "The node was restarted while the container ran".to_owned()
                }
            }),
            started: done.and_then(|t| t.started_at.as_ref()).or(began).map(|t| t.0),
            finished: done
                .and_then(|t| t.finished_at.as_ref())
                .map_or_else(Timestamp::now, |t| t.0),
            start_failed: false,
            removed: true,
        };
        let seen = Seen {
            attempt: u32::try_from(one.restart_count).unwrap_or(0),
            state: State::Ended(ended),
            ..Seen::default()
        };
        known.insert(one.name.clone(), seen);
    }
    known
}

/// Compares what is known with what is there.
pub(super) async fn reconnect(worker: &mut Worker) {
    if worker.seen.boot != worker.node.boot {
        rebooted(worker).await;
        return;
    }
    // A hook that ran when berthd ended is not run again.
    for seen in worker.seen.containers.values_mut() {
        if let Some(stop) = &mut seen.stop
            && stop.phase == StopPhase::Hook
        {
            stop.phase = StopPhase::Due;
        }
    }
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while monitor::pid(&worker.paths.run).is_some() {
        match worker.connect().await {
            Ok(()) => break,
            Err(error) if tokio::time::Instant::now() > deadline => {
                tracing::warn!(pod = worker.seen.name, %error, "the monitor does not answer");
                break;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    if worker.link.is_some() {
        reconcile(worker).await;
    } else {
        worker.seen.sandbox.monitor = false;
        bury(worker).await;
    }
}

/// The monitor lives: its list is the truth.
async fn reconcile(worker: &mut Worker) {
    let Some(link) = worker.link.clone() else { return };
    let deadline = tokio::time::Instant::now() + CREATION;
    let list = loop {
        match link.list().await {
            // A creation that was under way: the runtime is still at it.
            Ok(list) if list.iter().any(|r| r.pid == 0) && tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(list) => break list,
            Err(error) => {
                tracing::warn!(pod = worker.seen.name, %error, "ask the monitor what it holds");
                return;
            }
        }
    };
    let names: Vec<String> = worker.seen.containers.keys().cloned().collect();
    for name in names {
        let seen = worker.seen.seen(&name);
        let Some(id) = seen.id().map(str::to_owned) else {
            continue;
        };
        match (list.iter().find(|r| r.container == id), &seen.state) {
            (Some(record), _) if record.exit.is_some() => worker.exited(record),
            (Some(record), State::Creating { .. }) => begin(worker, &name, record).await,
            (Some(_), _) | (None, State::Ended(_)) => {}
            // It was not created yet, or is gone in spite of us: it is made anew.
            (None, _) => worker.seen.seen_mut(&name).state = State::Absent,
        }
    }
    for record in &list {
        if worker.seen.by_id(&record.container).is_none() {
            let _ = link
                .call(Call::Delete {
                    container: record.container.clone(),
                })
                .await;
        }
    }
}

/// A container was created while `berthd` was away: it is started, unless it runs already.
async fn begin(worker: &mut Worker, name: &str, record: &Record) {
    let since = match (&record.started_at, worker.link.clone()) {
        (Some(since), _) => Some(since.clone()),
        (None, Some(link)) => link
            .start(&record.container)
            .await
            .ok()
            .and_then(|r| r.started_at),
        (None, None) => None,
    };
    if let Some(since) = since.and_then(|text| text.parse().ok()) {
        worker.running(name, &record.container, since);
    } else {
        if let Some(link) = worker.link.clone() {
            let _ = link
                .call(Call::Delete {
                    container: record.container.clone(),
                })
                .await;
        }
        worker.seen.seen_mut(name).state = State::Absent;
    }
}

/// The monitor is dead: its containers are killed and counted as ended.
async fn bury(worker: &mut Worker) {
    let names: Vec<String> = worker.seen.containers.keys().cloned().collect();
    let alive: Vec<String> = names
        .into_iter()
        .filter(|name| worker.seen.seen(name).id().is_some())
        .collect();
    if alive.is_empty() {
        return;
    }
    let node = std::sync::Arc::clone(&worker.node);
    let uid = worker.seen.uid.clone();
    let killed =
        blocking(move || sandbox::remove_cgroup(&node.layout, &node.config.cgroup_parent, &uid)).await;
    if let Some(Err(error)) = killed {
        tracing::warn!(pod = worker.seen.name, %error, "kill what a dead monitor has left");
    }
    for name in alive {
        let seen = worker.seen.seen(&name);
        let Some(id) = seen.id().map(str::to_owned) else {
            continue;
        };
        if let Err(error) = teardown::delete_directly(worker, id.clone()).await {
            tracing::warn!(
                pod = worker.seen.name,
                container = name,
                error,
                "remove what a dead monitor has left"
            );
        }
        let file = worker.paths.bundle(&name, seen.attempt).join(RECORD);
        let record = tokio::fs::read(file).await.ok();
        let record = record.and_then(|text| serde_json::from_slice::<Record>(&text).ok());
        let was_running = seen.running();
        match record.filter(|r| r.exit.is_some() && r.container == id) {
            Some(record) => worker.exited(&record),
            None if was_running => unknown(worker, &name, &id),
            None if seen.ended().is_none() => worker.seen.seen_mut(&name).state = State::Absent,
            None => {}
        }
        if was_running {
            let message = "The container's monitor has ended unexpectedly; the container was killed";
            worker.event(Some(&name), true, "MonitorLost", message);
        }
    }
}

fn unknown(worker: &mut Worker, name: &str, id: &str) {
    let seen = worker.seen.seen_mut(name);
    let started = match seen.state {
        State::Running { since, .. } => Some(since),
        _ => None,
    };
    seen.state = State::Ended(Ended {
        id: id.to_owned(),
        code: 137,
        signal: Some(9),
        reason: "ContainerStatusUnknown".to_owned(),
        message: "The container's monitor has ended unexpectedly; the container was killed".to_owned(),
        started,
        finished: Timestamp::now(),
        start_failed: false,
        removed: false,
    });
    stopped(seen);
}

/// Another boot: no process, mount or namespace is left, but leases, files and directories are.
async fn rebooted(worker: &mut Worker) {
    for step in [Step::Network, Step::Mounts] {
        if let Err(error) = teardown::step(worker, step).await {
            tracing::warn!(pod = worker.seen.name, error, "release what a reboot has left");
        }
    }
    let names: Vec<String> = worker.seen.containers.keys().cloned().collect();
    for name in names {
        let seen = worker.seen.seen(&name);
        if let Some(id) = seen.id().map(str::to_owned)
            && seen.ended().is_none()
        {
            unknown(worker, &name, &id);
        }
        if let State::Ended(ended) = &mut worker.seen.seen_mut(&name).state {
            ended.removed = true;
        }
    }
    let (_, root) = worker.runtime();
    let ids: Vec<String> = worker
        .seen
        .containers
        .values()
        .filter_map(|s| s.ended())
        .map(|e| e.id.clone())
        .collect();
    blocking(move || {
        for id in ids {
            let _ = std::fs::remove_dir_all(root.join(id));
        }
    })
    .await;
    worker.seen.sandbox = Sandbox {
        touched: true,
        ..Sandbox::default()
    };
    worker.seen.failure = None;
    worker.seen.boot.clone_from(&worker.node.boot);
}

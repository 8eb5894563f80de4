//! One worker a pod. An event only tells a worker to look; what it does follows from the whole state.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use berth_api::kinds;
use tokio::sync::{mpsc, watch};

use super::pod::Pod;
use super::worker::{Input, Worker};
use super::{Node, NodeError, blocking, is_ours, recover};
use crate::store::{EventKind, Object, WatchError};

/// The inputs of the workers, by uid of the pod.
struct Queue {
    node: Arc<Node>,
    workers: HashMap<String, mpsc::UnboundedSender<Input>>,
    finished: mpsc::UnboundedSender<String>,
    shutdown: watch::Receiver<bool>,
}

/// Feeds the workers until shutdown.
///
/// # Errors
/// [`NodeError`] of the first scan.
pub(super) async fn run(
    node: Arc<Node>,
    mut evictions: mpsc::UnboundedReceiver<(String, Input)>,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), NodeError> {
    let (finished, mut done) = mpsc::unbounded_channel();
    let mut queue = Queue {
        node: Arc::clone(&node),
        workers: HashMap::new(),
        finished,
        shutdown: shutdown.clone(),
    };
    queue.recover().await;
    'list: loop {
        let list = node.store.list(kinds::POD, None);
        queue.relist(&list.items);
        let from = list.resource_version;
        let watches = (
            node.store.watch(kinds::POD, None, from),
            node.store.watch(kinds::CONFIG_MAP, None, from),
            node.store.watch(kinds::SECRET, None, from),
            node.store.watch(kinds::PERSISTENT_VOLUME_CLAIM, None, from),
            node.store.watch(kinds::PERSISTENT_VOLUME, None, from),
        );
        let (Ok(mut pods), Ok(mut maps), Ok(mut secrets), Ok(mut claims), Ok(mut volumes)) = watches else {
            tracing::warn!("the history of the store is too short: listing again");
            tokio::task::yield_now().await;
            continue;
        };
        loop {
            let lost = tokio::select! {
                event = pods.recv() => match event {
                    Ok(event) => {
                        queue.pod(&event.object, event.kind == EventKind::Deleted);
                        None
                    }
                    Err(error) => Some(error),
                },
                event = maps.recv() => match event {
                    Ok(event) => { queue.source(&event.object); None }
                    Err(error) => Some(error),
                },
                event = secrets.recv() => match event {
                    Ok(event) => { queue.source(&event.object); None }
                    Err(error) => Some(error),
                },
                event = claims.recv() => match event {
                    Ok(event) => { queue.claim(event.object.namespace()); None }
                    Err(error) => Some(error),
                },
                event = volumes.recv() => match event {
                    Ok(_) => { queue.claim(""); None }
                    Err(error) => Some(error),
                },
                Some(uid) = done.recv() => { queue.workers.remove(&uid); None }
                Some((uid, input)) = evictions.recv() => {
                    if let Some(worker) = queue.workers.get(&uid) {
                        let _ = worker.send(input);
                    }
                    None
                }
                _ = shutdown.wait_for(|stop| *stop) => return Ok(()),
            };
            match lost {
                None => {}
                Some(WatchError::Closed) => return Ok(()),
                Some(_) => continue 'list,
            }
        }
    }
}

impl Queue {
    /// Starts workers for what an earlier `berthd` has left.
    async fn recover(&mut self) {
        let node = Arc::clone(&self.node);
        let found = blocking(move || {
            let found = recover::scan(&node);
            recover::sweep_logs(&node, &found);
            recover::sweep_ids(&node, &found);
            found
        });
        let found = found.await.unwrap_or_default();
        self.node.network.know(found.iter().map(|seen| seen.uid.clone()));
        for seen in found {
            let sender = self.spawn(seen.uid.clone(), Worker::recovered(&self.node, seen));
            self.workers.insert(sender.0, sender.1);
        }
        let node = Arc::clone(&self.node);
        tokio::spawn(async move {
            // Leases and rules of pods that nobody knows any more. New pods may be attached meanwhile.
            let failures = blocking(move || node.network.collect()).await;
            for error in failures.into_iter().flatten() {
                tracing::warn!(%error, "collect what dead pods have left in the network");
            }
        });
    }

    fn spawn(&self, uid: String, worker: Worker) -> (String, mpsc::UnboundedSender<Input>) {
        let sender = worker.sender();
        let (finished, shutdown, name) = (self.finished.clone(), self.shutdown.clone(), uid.clone());
        tokio::spawn(async move {
            worker.run(shutdown).await;
            let _ = finished.send(name);
        });
        (uid, sender)
    }

    /// Tells every worker about its pod as it is now; those without one that it is gone.
    fn relist(&mut self, items: &[Object]) {
        let present: BTreeSet<&str> = items.iter().map(Object::uid).collect();
        for (uid, worker) in &self.workers {
            if !present.contains(uid.as_str()) {
                let _ = worker.send(Input::Gone);
            }
        }
        for object in items {
            self.pod(object, false);
        }
    }

    fn pod(&mut self, object: &Object, deleted: bool) {
        let uid = object.uid().to_owned();
        // Another may wait for a claim that only one pod may have.
        if (deleted || has_ended(object)) && object.json().contains("\"persistentVolumeClaim\"") {
            self.claim(object.namespace());
        }
        if deleted {
            if let Some(worker) = self.workers.get(&uid) {
                let _ = worker.send(Input::Gone);
            }
            return;
        }
        if !is_ours(&self.node, object) {
            return;
        }
        let pod = match Pod::new(object) {
            Ok(pod) => Box::new(pod),
            Err(error) => {
                tracing::error!(%error, "a stored pod cannot be run");
                return;
            }
        };
        let input = match self.workers.get(&uid) {
            Some(worker) => match worker.send(Input::Pod(pod)) {
                Ok(()) => return,
                // The worker has just ended: a new one looks at the pod.
                Err(mpsc::error::SendError(input)) => input,
            },
            None => Input::Pod(pod),
        };
        let (uid, sender) = self.spawn(uid, Worker::new(&self.node, object));
        let _ = sender.send(input);
        self.workers.insert(uid, sender);
    }

    /// A ConfigMap or Secret has changed: those who may use it look again.
    fn source(&self, object: &Object) {
        let namespace: Arc<str> = object.namespace().into();
        for worker in self.workers.values() {
            let _ = worker.send(Input::Source(Arc::clone(&namespace)));
        }
    }

    /// A claim has changed, or who uses it: pods that wait for theirs look again.
    fn claim(&self, namespace: &str) {
        let namespace: Arc<str> = namespace.into();
        for worker in self.workers.values() {
            let _ = worker.send(Input::Claim(Arc::clone(&namespace)));
        }
    }
}

fn has_ended(pod: &Object) -> bool {
    let text = pod.json();
    text.contains("\"phase\":\"Succeeded\"") || text.contains("\"phase\":\"Failed\"")
}

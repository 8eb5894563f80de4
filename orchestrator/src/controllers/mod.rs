//! Controllers: each keeps one kind of object as its specification says.
//!
//! ```text
//! store watch ─ event ─► keys ─► queue (dedup, delay, back-off) ─► sync(key)
//!                                                                   │ reads the store
//!                                                                   │ PURE: objects -> changes
//!                                                                   ▼ writes the changes
//! ```
//!
//! Everything is level-triggered: an event only says which key to look at. A key is worked on by
//! one task, which reads straight from the store, and a write is visible when it has returned; so
//! no decision is ever made on a view that lacks the controller's own writes. That is what
//! kube-controller-manager needs expectations for, and why there are none here.

mod accounts;
pub mod autoscale;
pub mod cronjob;
pub mod daemonset;
mod dependents;
pub mod deployment;
pub(crate) mod disruption;
pub mod endpoints;
mod event_gc;
mod fields;
pub mod gc;
pub mod job;
mod loadbalancer;
pub mod namespace;
mod node;
pub mod own;
mod ownership;
pub mod pod_gc;
mod pod_state;
mod queue;
mod quota;
pub mod replicaset;
mod revisions;
mod roles;
pub mod statefulset;
mod taints;
mod unenforced;
pub mod volumes;

use std::future::Future;
use std::time::{Duration, Instant};

use berth_api::kinds::{self, Kind};
use futures_util::future::select_all;
use tokio::sync::watch;

use crate::store::{Event, Key, Store, StoreError, Watch, WatchError};
pub(crate) use accounts::AUTHORITY;
use queue::Queue;
pub(crate) use quota::counted;

/// How often everything is looked at again, whatever the events said.
const RESYNC: Duration = Duration::from_mins(10);

/// What one look at a key may lead to beside its writes.
pub(crate) type Again = Option<Duration>;

/// One controller: which kinds it follows, which keys an event concerns, what to do about a key.
pub(crate) trait Controller: Send {
    /// Its name in events and logs, as upstream's component.
    const NAME: &'static str;

    /// The kinds whose events it wants.
    fn kinds(&self) -> &'static [&'static Kind];

    /// The keys that have to be looked at because of an event.
    fn concerned(&mut self, store: &Store, event: &Event) -> Vec<Key>;

    /// All keys, for the beginning, after lost events, and from time to time.
    fn all(&mut self, store: &Store) -> Vec<Key>;

    /// Brings the world one step closer to what the key's object wants. The answer is when to
    /// look again if no event comes before.
    fn sync(&mut self, store: &Store, key: &Key) -> impl Future<Output = Result<Again, StoreError>> + Send;
}

/// What controllers are told beside the store.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The certificate (PEM) that namespaces publish.
    pub authority: String,
    /// What the node's own Services lead to.
    pub own: own::Own,
    /// Where volumes are made.
    pub place: volumes::Place,
    /// The cgroup below which the pods' are.
    pub cgroup_parent: String,
}

/// Runs all controllers until `shutdown` turns true.
pub async fn run(store: Store, settings: Settings, shutdown: watch::Receiver<bool>) {
    let Settings {
        authority,
        own,
        place,
        cgroup_parent,
    } = settings;
    tokio::join!(
        drive(accounts::Accounts { authority }, store.clone(), shutdown.clone()),
        drive(disruption::Disruption, store.clone(), shutdown.clone()),
        drive(quota::QuotaStatus, store.clone(), shutdown.clone()),
        drive(
            volumes::VolumeController { place },
            store.clone(),
            shutdown.clone()
        ),
        drive(
            autoscale::Autoscaler::new(cgroup_parent),
            store.clone(),
            shutdown.clone()
        ),
        drive(roles::RoleAggregation, store.clone(), shutdown.clone()),
        drive(deployment::DeploymentController, store.clone(), shutdown.clone()),
        drive(replicaset::ReplicaSetController, store.clone(), shutdown.clone()),
        drive(job::JobController, store.clone(), shutdown.clone()),
        drive(cronjob::CronJobController, store.clone(), shutdown.clone()),
        drive(
            daemonset::DaemonSetController::default(),
            store.clone(),
            shutdown.clone()
        ),
        drive(
            statefulset::StatefulSetController,
            store.clone(),
            shutdown.clone()
        ),
        drive(gc::GarbageCollector::default(), store.clone(), shutdown.clone()),
        drive(namespace::NamespaceController, store.clone(), shutdown.clone()),
        drive(endpoints::EndpointsController, store.clone(), shutdown.clone()),
        drive(
            loadbalancer::LoadBalancer::default(),
            store.clone(),
            shutdown.clone()
        ),
        drive(unenforced::Unenforced, store.clone(), shutdown.clone()),
        drive(taints::TaintEviction::default(), store.clone(), shutdown.clone()),
        drive(
            event_gc::EventCollector::default(),
            store.clone(),
            shutdown.clone()
        ),
        drive(own, store.clone(), shutdown.clone()),
        drive(pod_gc::PodCollector, store, shutdown),
    );
}

async fn drive<C: Controller>(mut controller: C, store: Store, mut shutdown: watch::Receiver<bool>) {
    let mut queue = Queue::new();
    let mut watches = Vec::new();
    let mut resync = Instant::now();
    while !*shutdown.borrow() {
        if watches.is_empty() || resync <= Instant::now() {
            if watches.is_empty() {
                let Some(fresh) = follow(&store, controller.kinds()) else {
                    return;
                };
                watches = fresh;
            }
            // Listed after the watches began, so that nothing falls between.
            for key in controller.all(&store) {
                queue.add(key);
            }
            resync = Instant::now() + RESYNC;
        }
        // Events first: they are cheap, and a key that several of them name is looked at once.
        match drain(&mut watches, &mut controller, &store, &mut queue) {
            Ok(()) => {}
            Err(WatchError::Expired) => {
                watches.clear();
                continue;
            }
            Err(WatchError::Closed) => return,
        }
        if let Some(key) = queue.pop(Instant::now()) {
            work(&mut controller, &store, &mut queue, key).await;
            continue;
        }
        let wake = queue.next_due().map_or(resync, |due| due.min(resync));
        tokio::select! {
            _ = shutdown.changed() => {}
            () = tokio::time::sleep_until(wake.into()) => {}
            event = next(&mut watches) => match event {
                Ok(event) => enqueue(&mut controller, &store, &mut queue, &event),
                Err(WatchError::Expired) => watches.clear(),
                Err(WatchError::Closed) => return,
            },
        }
    }
}

async fn work<C: Controller>(controller: &mut C, store: &Store, queue: &mut Queue, key: Key) {
    match controller.sync(store, &key).await {
        Ok(again) => {
            queue.forget(&key);
            if let Some(delay) = again {
                queue.add_after(key, delay);
            }
        }
        // Somebody else changed the object between our look and our write: look again.
        Err(error @ (StoreError::Conflict { .. } | StoreError::NotFound { .. })) => {
            tracing::debug!(controller = C::NAME, %key, %error, "out of date, looking again");
            queue.retry(key);
        }
        Err(StoreError::Closed) => {}
        Err(error) => {
            tracing::warn!(controller = C::NAME, %key, %error, "cannot bring it in line, trying again");
            queue.retry(key);
        }
    }
}

fn follow(store: &Store, kinds: &[&'static Kind]) -> Option<Vec<Watch>> {
    kinds.iter().map(|kind| store.watch(kind, None, 0).ok()).collect()
}

fn drain<C: Controller>(
    watches: &mut [Watch],
    controller: &mut C,
    store: &Store,
    queue: &mut Queue,
) -> Result<(), WatchError> {
    for watch in watches {
        while let Some(event) = watch.try_recv()? {
            enqueue(controller, store, queue, &event);
        }
    }
    Ok(())
}

fn enqueue<C: Controller>(controller: &mut C, store: &Store, queue: &mut Queue, event: &Event) {
    for key in controller.concerned(store, event) {
        queue.add(key);
    }
}

async fn next(watches: &mut [Watch]) -> Result<Event, WatchError> {
    select_all(watches.iter_mut().map(|watch| Box::pin(watch.recv())))
        .await
        .0
}

/// Whether a namespace takes no new objects any more. A missing one takes none, either.
pub(crate) fn is_closing(store: &Store, namespace: &str) -> Result<bool, StoreError> {
    let namespace = store.get(&Key::new(kinds::NAMESPACE, "", namespace))?;
    Ok(namespace.is_none_or(|namespace| fields::is_deleting(&namespace.value())))
}

#[cfg(test)]
mod tests;

//! Load balancing: Services and EndpointSlices of the store become rules of the kernel.
//!
//! ```text
//! store watch ─ event ─► dirty ─► PURE: Services, slices, networks of the host ─► cni::services ─► kernel
//! ```
//!
//! The rules stay when berthd goes: no connection depends on it.

mod guests;
mod plan;
mod routes;

use std::collections::BTreeSet;
use std::net::SocketAddrV4;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use berth_api::kinds;
use cni_plugins::protocol::Failure;
use cni_plugins::services::{Balancer, Services};
use futures_util::future::select_all;
use ipnet::Ipv4Net;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use routes::{Leading, Publisher};

use crate::store::{Object, Store, Watch, WatchError};

pub use guests::Guests;
pub use plan::{Plan, plan};
pub use routes::Routes;

/// First and longest wait before a change that the kernel refused is tried again.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What the rules are made by beside the store.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The network of Services.
    pub addresses: Ipv4Net,
    /// Where berthd itself listens: the only places on 127.0.0.0/8 that a Service may lead to.
    pub own: BTreeSet<SocketAddrV4>,
    /// How often the rules are compared with the kernel's; never if zero.
    pub check: Duration,
}

/// Begins to keep the rules until `shutdown` turns true. `pods` says that some are there already, whose rules may be out
/// of date.
pub fn start(
    store: Store,
    settings: Settings,
    pods: bool,
    shutdown: watch::Receiver<bool>,
) -> (JoinHandle<()>, Routes) {
    let (publisher, routes) = routes::routes(pods);
    (tokio::spawn(run(store, settings, publisher, shutdown)), routes)
}

async fn run(
    store: Store,
    settings: Settings,
    mut publisher: Publisher,
    mut shutdown: watch::Receiver<bool>,
) {
    let balancer: Arc<Mutex<Option<Balancer>>> = Arc::default();
    let mut wait = FIRST_WAIT;
    let mut watches = Vec::new();
    while !*shutdown.borrow() {
        if watches.is_empty() {
            let Some(fresh) = follow(&store) else { return };
            watches = fresh;
        }
        // The state is read after the events: what they told is in it.
        match drain(&mut watches) {
            Ok(()) => {}
            Err(WatchError::Expired) => {
                watches.clear();
                continue;
            }
            Err(WatchError::Closed) => return,
        }
        let needed = publisher.is_needed();
        let version = store.resource_version();
        let delay = match apply(&balancer, &store, &settings, needed).await {
            Ok(leading) => {
                publisher.publish(leading, version, needed);
                wait = FIRST_WAIT;
                if settings.check.is_zero() {
                    Duration::MAX
                } else {
                    settings.check
                }
            }
            Err(error) => {
                // Pods start without rules rather than not at all.
                publisher.give_up(needed);
                tracing::warn!(%error, "the rules of services could not be written, trying again");
                let now = wait;
                wait = (wait * 2).min(LONGEST_WAIT);
                now
            }
        };
        tokio::select! {
            _ = shutdown.changed() => {}
            () = publisher.needed() => {}
            event = next(&mut watches) => match event {
                Ok(()) => {}
                Err(WatchError::Expired) => watches.clear(),
                Err(WatchError::Closed) => return,
            },
            () = tokio::time::sleep(delay.min(Duration::from_hours(24))) => verify(&balancer).await,
        }
    }
}

fn follow(store: &Store) -> Option<Vec<Watch>> {
    [kinds::SERVICE, kinds::ENDPOINT_SLICE]
        .iter()
        .map(|kind| store.watch(kind, None, 0).ok())
        .collect()
}

fn drain(watches: &mut [Watch]) -> Result<(), WatchError> {
    for watch in watches {
        while watch.try_recv()?.is_some() {}
    }
    Ok(())
}

async fn next(watches: &mut [Watch]) -> Result<(), WatchError> {
    let waiting = watches.iter_mut().map(|watch| Box::pin(watch.recv()));
    select_all(waiting).await.0.map(drop)
}

/// Brings the kernel to what the store says; returns the pods that connections are led to.
async fn apply(
    balancer: &Arc<Mutex<Option<Balancer>>>,
    store: &Store,
    settings: &Settings,
    needed: bool,
) -> Result<Leading, Failure> {
    let values = |list: Vec<Object>| list.iter().map(Object::value).collect::<Vec<Value>>();
    let services = values(store.list(kinds::SERVICE, None).items);
    let slices = values(store.list(kinds::ENDPOINT_SLICE, None).items);
    let balancer = Arc::clone(balancer);
    let settings = settings.clone();
    let work = move || {
        let wanted = plan::plan(&services, &slices, &settings, &networks());
        let mut balancer = balancer.lock().unwrap_or_else(PoisonError::into_inner);
        write(&mut balancer, &wanted.services, needed || wanted.others)?;
        Ok(wanted.leading)
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // Only at the end of the process.
        Err(_) => Ok(Leading::default()),
    }
}

fn write(balancer: &mut Option<Balancer>, wanted: &Services, needed: bool) -> Result<(), Failure> {
    let open = match balancer {
        Some(open) => open,
        // A node without pods and without Services but its own needs no rules, nor a kernel that has nf_tables.
        None if !needed => return Ok(()),
        None => balancer.insert(Balancer::open()?),
    };
    open.apply(wanted)
}

/// Compares with the kernel; the next look at the store makes anew what is not there any more.
async fn verify(balancer: &Arc<Mutex<Option<Balancer>>>) {
    let balancer = Arc::clone(balancer);
    let work = move || match balancer.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        Some(balancer) => balancer.verify(),
        None => Ok(true),
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(false)) => {
            tracing::warn!("somebody else has changed the rules of services: they are written anew");
        }
        Ok(Err(error)) => tracing::warn!(%error, "the rules of services cannot be read"),
        Ok(Ok(true)) | Err(_) => {}
    }
}

/// The IPv4 networks that the host itself is in.
fn networks() -> Vec<Ipv4Net> {
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    interfaces
        .filter_map(|interface| {
            let address = interface.address?.as_sockaddr_in()?.ip();
            let mask = interface.netmask?.as_sockaddr_in()?.ip();
            let network = Ipv4Net::with_netmask(address, mask).ok()?.trunc();
            (!address.is_loopback() && network.prefix_len() < 32).then_some(network)
        })
        .collect()
}

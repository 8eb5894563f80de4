//! Load balancing: Services and EndpointSlices of the store become rules of the kernel.
//!
//! ```text
//! store watch ─ event ─► dirty ─► PURE: Services, slices, networks of the host ─► cni::services ─► kernel
//! ```
//!
//! The rules stay when berthd goes: no connection depends on it.

mod plan;
mod routes;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
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

use routes::Publisher;

use crate::store::{Object, Store, Watch, WatchError};

pub use plan::services;
pub use routes::Routes;

/// First and longest wait before a change that the kernel refused is tried again.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Begins to keep the rules until `shutdown` turns true. `addresses` is the network of Services; every `check` the
/// rules are compared with the kernel's (never if zero).
pub fn start(
    store: Store,
    addresses: Ipv4Net,
    check: Duration,
    shutdown: watch::Receiver<bool>,
) -> (JoinHandle<()>, Routes) {
    let (publisher, routes) = routes::routes();
    (
        tokio::spawn(run(store, addresses, check, publisher, shutdown)),
        routes,
    )
}

async fn run(
    store: Store,
    addresses: Ipv4Net,
    check: Duration,
    publisher: Publisher,
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
        let delay = match apply(&balancer, &store, addresses).await {
            Ok(backends) => {
                publisher.publish(backends);
                wait = FIRST_WAIT;
                if check.is_zero() { Duration::MAX } else { check }
            }
            Err(error) => {
                tracing::warn!(%error, "the rules of services could not be written, trying again");
                let now = wait;
                wait = (wait * 2).min(LONGEST_WAIT);
                now
            }
        };
        tokio::select! {
            _ = shutdown.changed() => {}
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

/// Brings the kernel to what the store says; returns the addresses of all backends.
async fn apply(
    balancer: &Arc<Mutex<Option<Balancer>>>,
    store: &Store,
    addresses: Ipv4Net,
) -> Result<BTreeSet<Ipv4Addr>, Failure> {
    let values = |list: Vec<Object>| list.iter().map(Object::value).collect::<Vec<Value>>();
    let services = values(store.list(kinds::SERVICE, None).items);
    let slices = values(store.list(kinds::ENDPOINT_SLICE, None).items);
    let balancer = Arc::clone(balancer);
    let work = move || {
        let wanted = plan::services(&services, &slices, addresses, &networks());
        let mut balancer = balancer.lock().unwrap_or_else(PoisonError::into_inner);
        write(&mut balancer, &wanted)?;
        let backends = wanted.services.values().flat_map(|service| &service.backends);
        Ok(backends.map(|backend| *backend.ip()).collect())
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // Only at the end of the process.
        Err(_) => Ok(BTreeSet::new()),
    }
}

fn write(balancer: &mut Option<Balancer>, wanted: &Services) -> Result<(), Failure> {
    let open = match balancer {
        Some(open) => open,
        // A node without Services needs no rules, nor a kernel that has nf_tables.
        None if wanted.services.is_empty() => return Ok(()),
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

//! Which pods connections are led to, for those who must not end before that has changed.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use berth_api::kinds;
use cni_plugins::services;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::store::{Object, Store};

/// How long a pod that is about to start waits for the rules.
const READY: Duration = Duration::from_secs(2);
/// How long it may take until the kernel leads nobody to a pod any more: a few milliseconds, on a busy machine more.
const LEAVE: Duration = Duration::from_secs(10);
/// Pause between two looks at a pod's connections.
const LOOK: Duration = Duration::from_millis(20);

/// Addresses of pods that are led to, and that are not once they end.
pub(super) type Leading = BTreeSet<Ipv4Addr>;

/// The state of the kernel's rules.
#[derive(Debug, Clone, Default)]
struct State {
    leading: Arc<Leading>,
    /// Version of the store that they were made from, or a later one.
    version: u64,
    /// They were written since pods need them, or could not be.
    tried: bool,
}

/// The addresses that the kernel leads connections of Services to.
#[derive(Debug, Clone)]
pub struct Routes {
    state: watch::Receiver<State>,
    need: watch::Sender<bool>,
}

/// The side of the load balancing.
#[derive(Debug)]
pub(super) struct Publisher {
    state: watch::Sender<State>,
    need: watch::Receiver<bool>,
}

/// Both sides; `need` says whether pods are there already.
pub(super) fn routes(need: bool) -> (Publisher, Routes) {
    let (publish, state) = watch::channel(State::default());
    let (ask, need) = watch::channel(need);
    (Publisher { state: publish, need }, Routes { state, need: ask })
}

impl Publisher {
    /// Whether pods are there, which reach the node's own Services by the rules.
    pub(super) fn is_needed(&mut self) -> bool {
        *self.need.borrow_and_update()
    }

    /// Returns when the answer to [`Self::is_needed`] changes.
    pub(super) async fn needed(&mut self) {
        if self.need.changed().await.is_err() {
            // Nobody is left who could need them.
            std::future::pending::<()>().await;
        }
    }

    /// Says where the rules lead that were written from what the store held at `version`, for pods if `needed`.
    pub(super) fn publish(&self, leading: Leading, version: u64, needed: bool) {
        self.state.send_if_modified(|now| {
            let changed = *now.leading != leading || now.version != version || (needed && !now.tried);
            now.version = version;
            if *now.leading != leading {
                now.leading = Arc::new(leading);
            }
            now.tried |= needed;
            changed
        });
    }

    /// Says that the rules cannot be written.
    pub(super) fn give_up(&self, needed: bool) {
        self.state.send_if_modified(|now| {
            let changed = needed && !now.tried;
            now.tried |= needed;
            changed
        });
    }
}

impl Routes {
    /// Returns when the rules are there, for a pod that is about to start. At once for all but the first.
    pub async fn ready(&mut self) {
        self.need.send_if_modified(|need| !std::mem::replace(need, true));
        // An error means that nobody balances any more: berthd ends.
        let _ = timeout(READY, self.state.wait_for(|state| state.tried)).await;
    }

    /// Returns when no new connection is led to any of the addresses, and those that are in use have ended or `drain`
    /// is over; after `grace` in any case. At once for addresses that no Service leads to.
    pub async fn leave(&mut self, store: &Store, addresses: &[IpAddr], drain: Duration, grace: Duration) {
        let addresses: Vec<Ipv4Addr> = addresses
            .iter()
            .filter_map(|address| match address {
                IpAddr::V4(address) => Some(*address),
                IpAddr::V6(_) => None,
            })
            .collect();
        // Slices that name the pod, and from which the rules are not made yet: it may have become ready just now.
        let newest = newest(store, &addresses);
        let leads = |state: &State| {
            state.version < newest || addresses.iter().any(|address| state.leading.contains(address))
        };
        if !leads(&self.state.borrow_and_update()) {
            return;
        }
        let last = Instant::now() + grace;
        let left = timeout(LEAVE.min(grace), self.state.wait_for(|state| !leads(state))).await;
        match left.map(|found| found.is_ok()) {
            Ok(true) => {}
            // Nobody balances any more: berthd ends.
            Ok(false) => return,
            Err(_) => tracing::debug!(?addresses, "connections are still led to a pod that ends"),
        }
        let end = last.min(Instant::now() + drain);
        while Instant::now() < end {
            let pod = addresses.clone();
            let busy = tokio::task::spawn_blocking(move || services::is_busy(&pod)).await;
            match busy {
                Ok(Ok(true)) => sleep(LOOK).await,
                Ok(Ok(false)) | Err(_) => return,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "the connections of a pod cannot be read");
                    return;
                }
            }
        }
    }
}

/// Version of the newest slice that has one of the addresses; 0 without one.
fn newest(store: &Store, addresses: &[Ipv4Addr]) -> u64 {
    let texts: Vec<String> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
    let slices = store.list(kinds::ENDPOINT_SLICE, None).items;
    slices
        .iter()
        .filter(|slice| texts.iter().any(|text| slice.json().contains(text.as_str())))
        .map(Object::resource_version)
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::file_in;
    use futures_util::FutureExt as _;
    use serde_json::json;

    const POD: Ipv4Addr = Ipv4Addr::new(10, 90, 0, 5);

    async fn store_with_slice(dir: &std::path::Path) -> (Store, u64) {
        let store = Store::open(&file_in(dir)).unwrap();
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}});
        store.create(namespace).await.unwrap();
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "web", "namespace": "default"},
            "endpoints": [{"addresses": [POD.to_string()], "conditions": {"ready": true}}],
        });
        let version = store.create(slice).await.unwrap().resource_version();
        (store, version)
    }

    #[tokio::test]
    async fn a_pod_that_is_published_but_not_led_to_yet_waits_for_the_rules() {
        let dir = tempfile::tempdir().unwrap();
        let (store, version) = store_with_slice(dir.path()).await;
        let (publisher, routes) = routes(true);
        publisher.publish(Leading::new(), version - 1, true);
        let long = Duration::from_mins(1);
        let mut copy = routes.clone();
        let ips = [IpAddr::V4(POD)];
        let mut leaving = Box::pin(copy.leave(&store, &ips, Duration::ZERO, long));
        assert!(
            leaving.as_mut().now_or_never().is_none(),
            "the rules are older than the slice"
        );
        publisher.publish(Leading::from([POD]), version, true);
        assert!(leaving.as_mut().now_or_never().is_none(), "the pod is led to");
        publisher.publish(Leading::new(), version + 1, true);
        leaving.await;
        // From then on there is nothing to wait for.
        let mut copy = routes.clone();
        assert!(copy.leave(&store, &ips, long, long).now_or_never().is_some());
        let mut copy = routes.clone();
        let other = [IpAddr::V4(Ipv4Addr::new(10, 90, 0, 6))];
        assert!(copy.leave(&store, &other, long, long).now_or_never().is_some());
    }
}

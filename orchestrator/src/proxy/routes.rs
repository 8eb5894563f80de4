//! Which pods connections are led to, for those who must not end before that has changed.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use cni_plugins::services;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// How long it may take until the kernel leads nobody to a pod any more: a few milliseconds, on a busy machine more.
const LEAVE: Duration = Duration::from_secs(2);
/// Pause between two looks at a pod's connections.
const LOOK: Duration = Duration::from_millis(20);

/// The addresses that the kernel leads connections of Services to.
#[derive(Debug, Clone)]
pub struct Routes(watch::Receiver<Arc<BTreeSet<Ipv4Addr>>>);

/// The side of the load balancing.
#[derive(Debug)]
pub(super) struct Publisher(watch::Sender<Arc<BTreeSet<Ipv4Addr>>>);

pub(super) fn routes() -> (Publisher, Routes) {
    let (sender, receiver) = watch::channel(Arc::default());
    (Publisher(sender), Routes(receiver))
}

impl Publisher {
    pub(super) fn publish(&self, backends: BTreeSet<Ipv4Addr>) {
        self.0.send_if_modified(|now| {
            let changed = **now != backends;
            if changed {
                *now = Arc::new(backends);
            }
            changed
        });
    }
}

impl Routes {
    /// Returns when no new connection is led to any of the addresses, and those that are in use have ended or `drain`
    /// is over. At once for addresses that no Service leads to.
    pub async fn leave(&mut self, addresses: &[IpAddr], drain: Duration) {
        let addresses: Vec<Ipv4Addr> = addresses
            .iter()
            .filter_map(|address| match address {
                IpAddr::V4(address) => Some(*address),
                IpAddr::V6(_) => None,
            })
            .collect();
        let leads =
            |backends: &Arc<BTreeSet<Ipv4Addr>>| addresses.iter().any(|address| backends.contains(address));
        if !leads(&self.0.borrow_and_update()) {
            return;
        }
        let left = timeout(LEAVE, self.0.wait_for(|backends| !leads(backends))).await;
        match left.map(|found| found.is_ok()) {
            Ok(true) => {}
            // Nobody balances any more: berthd ends.
            Ok(false) => return,
            // A Service that publishes addresses of pods that are not ready goes on leading there.
            Err(_) => tracing::debug!(?addresses, "connections are still led to a pod that ends"),
        }
        let end = Instant::now() + drain;
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

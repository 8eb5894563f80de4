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

/// Addresses of pods that are led to, and that are not once they end.
pub(super) type Leading = BTreeSet<Ipv4Addr>;

/// The state of the kernel's rules.
#[derive(Debug, Clone, Default)]
struct State {
    leading: Arc<Leading>,
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

    /// Says where the rules lead that were written, for pods if `needed`.
    pub(super) fn publish(&self, leading: Leading, needed: bool) {
        self.state.send_if_modified(|now| {
            let changed = *now.leading != leading || (needed && !now.tried);
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
        let _ = timeout(LEAVE, self.state.wait_for(|state| state.tried)).await;
    }

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
        let leads = |state: &State| addresses.iter().any(|address| state.leading.contains(address));
        if !leads(&self.state.borrow_and_update()) {
            return;
        }
        let left = timeout(LEAVE, self.state.wait_for(|state| !leads(state))).await;
        match left.map(|found| found.is_ok()) {
            Ok(true) => {}
            // Nobody balances any more: berthd ends.
            Ok(false) => return,
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

//! Requests sent all the time while a phase goes on, spread over the pods that are ready.

use crate::http;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// What the requests of one phase came to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Count {
    /// Requests sent.
    pub sent: u64,
    /// Requests that no pod answered with 200.
    pub failed: u64,
    /// Requests whose first pod took no connection, and that another pod answered.
    pub retried: u64,
}

/// A client that asks one ready pod after another until it is stopped.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    counters: Arc<[AtomicU64; 3]>,
    thread: JoinHandle<()>,
}

/// The pods that take requests now; whoever knows them keeps this up to date.
pub type Endpoints = Arc<Mutex<Vec<SocketAddr>>>;

impl Traffic {
    /// Starts asking for `path` at the endpoints.
    pub fn start(endpoints: Endpoints, path: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let counters = Arc::new([const { AtomicU64::new(0) }; 3]);
        let thread = std::thread::spawn({
            let (stop, counters) = (Arc::clone(&stop), Arc::clone(&counters));
            move || {
                let mut turn = 0;
                while !stop.load(Ordering::Relaxed) {
                    turn += 1;
                    ask(&endpoints, turn, path, &counters);
                }
            }
        });
        Self {
            stop,
            counters,
            thread,
        }
    }

    /// Ends the client and gives its count.
    pub fn stop(self) -> Count {
        self.stop.store(true, Ordering::Relaxed);
        // The thread holds nothing that its panic could spoil; its count is what it got to.
        drop(self.thread.join());
        let [sent, failed, retried] = [0, 1, 2].map(|i| self.counters[i].load(Ordering::Relaxed));
        Count {
            sent,
            failed,
            retried,
        }
    }
}

/// One request: like any load balancer, a connection that was refused is tried at the next pod.
fn ask(endpoints: &Endpoints, turn: usize, path: &str, counters: &[AtomicU64; 3]) {
    let mut tries = 0;
    counters[0].fetch_add(1, Ordering::Relaxed);
    loop {
        let addresses = endpoints.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(address) = addresses.get((turn + tries) % addresses.len().max(1)) else {
            counters[1].fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(5));
            return;
        };
        match http::get(*address, path, Duration::from_secs(5)) {
            Ok(_) => {
                counters[2].fetch_add(u64::from(tries > 0), Ordering::Relaxed);
                return;
            }
            Err(error) if tries < addresses.len() && never_connected(&error) => tries += 1,
            Err(_) => {
                counters[1].fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
    }
}

/// Whether the error shows that no connection came about, so that nothing was asked twice.
fn never_connected(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    matches!(
        error.kind(),
        ConnectionRefused | HostUnreachable | NetworkUnreachable
    )
}

//! How many connections are held, and which one gives way to a new one when they are too many.
//!
//! A connection that says nothing costs a client nothing and would keep others out, so at the bound the one that has
//! been idle for longest ends: first of those without a certificate, never one with a request that is being answered.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use tokio::sync::Notify;

/// The connections of a server.
pub(super) struct Connections {
    bound: usize,
    began: Instant,
    numbers: AtomicU64,
    held: Mutex<HashMap<u64, Arc<Held>>>,
}

/// One connection that is held.
pub(super) struct Held {
    began: Instant,
    /// Requests that are not answered to the end.
    requests: AtomicUsize,
    /// Milliseconds from `began` to the last sign of use.
    used: AtomicU64,
    /// A certificate was shown.
    known: AtomicBool,
    leave: Notify,
}

/// A connection's place; free again when dropped.
pub(super) struct Place {
    connections: Arc<Connections>,
    number: u64,
    /// The connection.
    pub held: Arc<Held>,
}

impl Connections {
    /// Room for `bound` connections.
    pub fn new(bound: usize) -> Arc<Self> {
        Arc::new(Self {
            bound,
            began: Instant::now(),
            numbers: AtomicU64::new(0),
            held: Mutex::default(),
        })
    }

    /// A place for a new connection; `None` if all are taken by connections that are in use.
    pub fn admit(self: &Arc<Self>) -> Option<Place> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.len() >= self.bound {
            let idle = held
                .iter()
                .filter(|(_, one)| one.requests.load(Ordering::Acquire) == 0)
                .min_by_key(|(_, one)| {
                    (
                        one.known.load(Ordering::Relaxed),
                        one.used.load(Ordering::Relaxed),
                    )
                })
                .map(|(number, _)| *number)?;
            if let Some(one) = held.remove(&idle) {
                one.leave.notify_one();
            }
        }
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let one = Arc::new(Held {
            began: self.began,
            requests: AtomicUsize::new(0),
            used: AtomicU64::new(0),
            known: AtomicBool::new(false),
            leave: Notify::new(),
        });
        one.touch();
        held.insert(number, Arc::clone(&one));
        Some(Place {
            connections: Arc::clone(self),
            number,
            held: one,
        })
    }
}

impl Held {
    fn touch(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.used.store(now, Ordering::Relaxed);
    }

    /// The client has shown a certificate.
    pub fn is_known(&self) {
        self.known.store(true, Ordering::Relaxed);
    }

    /// Waits until the connection is to end for another's sake.
    pub async fn told_to_leave(&self) {
        self.leave.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self
            .connections
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        held.remove(&self.number);
    }
}

/// A request from its head to the end of its answer.
struct Running(Arc<Held>);

impl Running {
    fn begin(held: Arc<Held>) -> Self {
        held.requests.fetch_add(1, Ordering::AcqRel);
        Self(held)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.touch();
        self.0.requests.fetch_sub(1, Ordering::AcqRel);
    }
}

/// An answer's body, which keeps its connection in use until it was sent.
struct Sending {
    body: Body,
    _running: Running,
}

impl HttpBody for Sending {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

/// Middleware: the connection is in use while a request of it is answered.
pub(super) async fn in_use(State(held): State<Arc<Held>>, request: Request, next: Next) -> Response {
    let running = Running::begin(held);
    let (parts, body) = next.run(request).await.into_parts();
    let sending = Sending {
        body,
        _running: running,
    };
    Response::from_parts(parts, Body::new(sending))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(place: &Place) -> bool {
        !place.connections.held.lock().unwrap().contains_key(&place.number)
    }

    #[tokio::test]
    async fn the_longest_idle_gives_way() {
        let connections = Connections::new(3);
        let places: Vec<Place> = (0..3)
            .map(|n| {
                let place = connections.admit().unwrap();
                place.held.used.store(n, Ordering::Relaxed);
                place
            })
            .collect();
        // The oldest is in use, so the next one has to go.
        let running = Running::begin(Arc::clone(&places[0].held));
        let fourth = connections.admit().unwrap();
        places[1].held.told_to_leave().await;
        assert_eq!(places.iter().map(left).collect::<Vec<_>>(), [false, true, false]);
        // Who has shown a certificate stays longer than who came after him without one.
        drop(running);
        places[0].held.is_known();
        places[2].held.is_known();
        let fifth = connections.admit().unwrap();
        fourth.held.told_to_leave().await;
        assert!(left(&fourth) && !left(&fifth));
        // With all in use there is no place.
        let all: Vec<Running> = [&places[0], &places[2], &fifth]
            .map(|place| Running::begin(Arc::clone(&place.held)))
            .into();
        assert!(connections.admit().is_none());
        drop(all);
        drop(fifth);
        assert!(connections.admit().is_some());
        assert!(!left(&places[0]) && !left(&places[2]));
    }
}

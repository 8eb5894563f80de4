//! Watches: one JSON document a line, for as long as the client listens.
//!
//! Source: Kubernetes API concepts, "Efficient detection of changes", "Streaming lists".

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use berth_api::kinds::Kind;
use berth_api::status::ApiError;
use berth_api::table;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{Instant, Sleep};

use super::list::{Filter, Text};
use super::request::{Query, Target};
use super::respond::{self, Form};
use super::{Api, Shutdown};
use crate::store::{Event, EventKind, Object, Watch, WatchError};

/// Time between two bookmarks.
const BOOKMARK: Duration = Duration::from_mins(1);
/// How long before its end a watch gets its last one, so that its client goes on from there.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);
/// Shortest time a watch is held if the client does not say; up to twice this, so that many watches
/// do not end at once.
const HELD: Duration = Duration::from_mins(30);

struct Stream {
    kind: &'static Kind,
    form: Form,
    filter: Filter,
    watch: Watch,
    /// Lines that are ready.
    ready: VecDeque<Bytes>,
    bookmarks: bool,
    next_bookmark: Instant,
    end: Instant,
    /// Set to the next of these two; kept, because events are many and they are few.
    timer: Pin<Box<Sleep>>,
    ended: bool,
    shutdown: Shutdown,
    told: Arc<Told>,
}

/// The line that was told last: a thousand watchers tell the same one after the other.
#[derive(Default)]
pub struct Told(Mutex<Option<(u64, Verb, Bytes)>>);

impl Told {
    /// The line of an event.
    fn line(&self, verb: Verb, object: &Object) -> Bytes {
        let version = object.resource_version();
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((told, by, line)) if *told == version && *by == verb => line.clone(),
            _ => {
                let line = Bytes::from([verb.opening(), object.json().as_bytes(), CLOSING].concat());
                *last = Some((version, verb, line.clone()));
                line
            }
        }
    }
}

/// The end of a line.
const CLOSING: &[u8] = b"}\n";

/// What a line tells.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

impl Verb {
    /// A line up to its object.
    fn opening(self) -> &'static [u8] {
        match self {
            Self::Added => br#"{"type":"ADDED","object":"#,
            Self::Modified => br#"{"type":"MODIFIED","object":"#,
            Self::Deleted => br#"{"type":"DELETED","object":"#,
            Self::Bookmark => br#"{"type":"BOOKMARK","object":"#,
            Self::Error => br#"{"type":"ERROR","object":"#,
        }
    }
}

/// What a waiting stream woke up for.
enum Step {
    Event(Result<Event, WatchError>),
    Time,
    End,
}

impl Api {
    /// GET with `watch=true`.
    pub(super) fn watch(
        &self,
        target: &Target,
        query: &Query,
        headers: &HeaderMap,
    ) -> Result<Response, ApiError> {
        let kind = target.kind;
        let namespace = target.namespace.as_deref();
        let form = respond::form(headers, query)?;
        let filter = Filter::of(kind, query)?;
        let bookmarks = query.flag("allowWatchBookmarks")?;
        let initial = query.flag("sendInitialEvents")?;
        check_initial(query, initial)?;
        let version = match query.text("resourceVersion") {
            None | Some("0") => None,
            Some(text) => Some(text.parse::<u64>().map_err(|_| {
                ApiError::bad_request(format!(
                    "resourceVersion: Invalid value: {text:?}: must be a number"
                ))
            })?),
        };
        let seconds = query
            .number("timeoutSeconds")?
            .and_then(|n| u64::try_from(n).ok())
            .filter(|n| *n > 0);
        let held = seconds.map_or_else(
            || HELD + Duration::from_secs(rand::random_range(0..HELD.as_secs())),
            Duration::from_secs,
        );
        // The state and the watch begin at the same version, so that nothing is missed or told twice.
        let (state, from) = match version {
            Some(version) if !initial => (Vec::new(), version),
            _ => {
                let list = self.store.list(kind, namespace);
                (list.items, list.resource_version)
            }
        };
        // An empty store has no version yet; 0 would mean "now".
        let watch = self
            .store
            .watch(kind, namespace, from)
            .map_err(|e| watch_error(e, from))?;
        let now = Instant::now();
        let (next_bookmark, end) = (next_bookmark(now, now + held), now + held);
        let mut stream = Stream {
            kind,
            form,
            filter,
            watch,
            ready: VecDeque::new(),
            bookmarks,
            next_bookmark,
            end,
            timer: Box::pin(tokio::time::sleep_until(if bookmarks {
                next_bookmark.min(end)
            } else {
                end
            })),
            ended: false,
            shutdown: self.shutdown.clone(),
            told: Arc::clone(&self.told),
        };
        stream.begin(&state, initial && bookmarks);
        let lines = stream::unfold(stream, |mut stream| async move {
            let line = stream.next().await?;
            Some((Ok::<_, Infallible>(line), stream))
        });
        let mut response = respond::text(StatusCode::OK, "application/json", Body::from_stream(lines));
        response.headers_mut().insert(
            http::header::CACHE_CONTROL,
            http::HeaderValue::from_static("no-cache, private"),
        );
        Ok(response)
    }
}

fn check_initial(query: &Query, initial: bool) -> Result<(), ApiError> {
    if !initial {
        return Ok(());
    }
    if query.text("resourceVersionMatch") != Some("NotOlderThan") {
        return Err(ApiError {
            code: 422,
            reason: "Invalid",
            ..ApiError::bad_request(
                "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            )
        });
    }
    Ok(())
}

/// In a while, or just before the end.
fn next_bookmark(now: Instant, end: Instant) -> Instant {
    let last = end - LAST_BOOKMARK;
    let next = now + BOOKMARK;
    if now < last { next.min(last) } else { next }
}

fn watch_error(error: WatchError, from: u64) -> ApiError {
    match error {
        WatchError::Expired => ApiError::expired(format!("too old resource version: {from}")),
        WatchError::Closed => ApiError::unavailable("the server is shutting down"),
    }
}

impl Stream {
    fn begin(&mut self, state: &[Object], mark_end: bool) {
        for object in state {
            if self.filter.matches_object(object) && !self.push_text(Verb::Added, object) {
                self.push(Verb::Added, object);
            }
        }
        if mark_end {
            self.bookmark(true);
        }
    }

    /// Tells of an object of the present state by the text that the store holds, where it is shown as it is.
    fn push_text(&mut self, verb: Verb, object: &Object) -> bool {
        if self.form != Form::Object {
            return false;
        }
        self.ready.extend([
            Bytes::from_static(verb.opening()),
            Bytes::from_owner(Text(object.clone())),
            Bytes::from_static(CLOSING),
        ]);
        true
    }

    /// Tells of what happened to an object. As it is, it goes out in a line that all watchers share.
    fn push(&mut self, verb: Verb, object: &Object) {
        if self.form == Form::Object {
            self.ready.push_back(self.told.line(verb, object));
            return;
        }
        let shown = respond::object(self.kind, object.value(), self.form, Timestamp::now());
        self.line(verb, &shown);
    }

    fn line(&mut self, verb: Verb, object: &Value) {
        let mut line = verb.opening().to_vec();
        line.extend_from_slice(object.to_string().as_bytes());
        line.extend_from_slice(CLOSING);
        self.ready.push_back(line.into());
    }

    /// The next line; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            if self.ended {
                return None;
            }
            let step = tokio::select! {
                event = self.watch.recv() => Step::Event(event),
                () = self.timer.as_mut() => Step::Time,
                _ = self.shutdown.wait_for(|stop| *stop) => Step::End,
            };
            match step {
                Step::Event(Ok(event)) => self.event(&event),
                Step::Event(Err(error)) => self.fail(error),
                Step::Time if self.bookmarks && self.next_bookmark < self.end => {
                    self.next_bookmark = next_bookmark(Instant::now(), self.end);
                    self.timer.as_mut().reset(self.next_bookmark.min(self.end));
                    self.bookmark(false);
                }
                Step::Time | Step::End => return None,
            }
        }
    }

    /// An event as this watcher sees it: what enters its view was added, what leaves it is deleted.
    fn event(&mut self, event: &Event) {
        let object = &event.object;
        let now = event.kind != EventKind::Deleted && self.filter.matches_object(object);
        let before = event
            .previous
            .as_ref()
            .is_some_and(|o| self.filter.matches_object(o));
        match (before, now) {
            (false, false) => {}
            (false, true) => self.push(Verb::Added, object),
            (true, true) => self.push(Verb::Modified, object),
            (true, false) => self.push(Verb::Deleted, object),
        }
    }

    fn fail(&mut self, error: WatchError) {
        let status = watch_error(error, self.watch.resource_version()).to_value();
        self.line(Verb::Error, &status);
        self.ended = true;
    }

    fn bookmark(&mut self, end_of_state: bool) {
        let mut metadata = json!({
            "resourceVersion": self.watch.resource_version().to_string(),
            "creationTimestamp": null,
        });
        if end_of_state {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object =
            json!({"kind": self.kind.kind, "apiVersion": self.kind.api_version(), "metadata": metadata});
        let shown = match self.form {
            Form::Table(include) => {
                let mut out = table::header(
                    self.kind,
                    &json!({"resourceVersion": metadata["resourceVersion"]}),
                );
                out["rows"] = json!([table::row(self.kind, &object, include, Timestamp::now())]);
                out
            }
            Form::Partial => table::partial(&object),
            Form::Object => object,
        };
        self.line(Verb::Bookmark, &shown);
    }
}

//! Watches: one JSON document a line, for as long as the client listens.
//!
//! Source: Kubernetes API concepts, "Efficient detection of changes", "Streaming lists".

use std::collections::VecDeque;
use std::convert::Infallible;
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
use tokio::time::Instant;

use super::list::{Filter, Text};
use super::request::{Query, Target};
use super::respond::{self, Form};
use super::{Api, Shutdown};
use crate::store::{Event, EventKind, Object, Watch, WatchError};

/// Time between two bookmarks.
const BOOKMARK: Duration = Duration::from_mins(1);
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
    ended: bool,
    shutdown: Shutdown,
}

/// What a line tells.
#[derive(Clone, Copy)]
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
    Bookmark,
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
        let mut stream = Stream {
            kind,
            form,
            filter,
            watch,
            ready: VecDeque::new(),
            bookmarks,
            next_bookmark: Instant::now() + BOOKMARK,
            end: Instant::now() + held,
            ended: false,
            shutdown: self.shutdown.clone(),
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

fn watch_error(error: WatchError, from: u64) -> ApiError {
    match error {
        WatchError::Expired => ApiError::expired(format!("too old resource version: {from}")),
        WatchError::Closed => ApiError::unavailable("the server is shutting down"),
    }
}

impl Stream {
    fn begin(&mut self, state: &[Object], mark_end: bool) {
        for object in state {
            if self.filter.matches_object(object) {
                self.push(Verb::Added, object);
            }
        }
        if mark_end {
            self.bookmark(true);
        }
    }

    /// Tells of an object. As it is, it goes out as the text that the store holds: a thousand
    /// watchers share it.
    fn push(&mut self, verb: Verb, object: &Object) {
        if self.form == Form::Object {
            self.ready.extend([
                Bytes::from_static(verb.opening()),
                Bytes::from_owner(Text(object.clone())),
                Bytes::from_static(b"}\n"),
            ]);
            return;
        }
        let shown = respond::object(self.kind, object.value(), self.form, Timestamp::now());
        self.line(verb, &shown);
    }

    fn line(&mut self, verb: Verb, object: &Value) {
        let mut line = verb.opening().to_vec();
        line.extend_from_slice(object.to_string().as_bytes());
        line.extend_from_slice(b"}\n");
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
                () = tokio::time::sleep_until(self.next_bookmark), if self.bookmarks => Step::Bookmark,
                () = tokio::time::sleep_until(self.end) => Step::End,
                _ = self.shutdown.wait_for(|stop| *stop) => Step::End,
            };
            match step {
                Step::Event(Ok(event)) => self.event(&event),
                Step::Event(Err(error)) => self.fail(error),
                Step::Bookmark => {
                    self.next_bookmark = Instant::now() + BOOKMARK;
                    self.bookmark(false);
                }
                Step::End => return None,
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

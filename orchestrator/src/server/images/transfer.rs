//! Transfers for `berthctl`: the answer begins at once and has a line of JSON for each step; the last
//! line is the outcome, `{"done": …}` or `{"error": …}`. A client that goes ends its transfer.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use berth_api::status::ApiError;
use berth_image::{Credentials, Digest, Progress};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{API_VERSION, blocking, familiar};
use crate::images::{Images, TransferError, chain};
use crate::server::respond::{self, Failure};

/// Lines on their way to the client; a slow one gets fewer of them.
const LINES: usize = 64;
/// Least time between two reports on one layer's bytes.
const PACE: Duration = Duration::from_millis(100);

/// What is to be transferred.
#[derive(Deserialize)]
pub(super) struct Transfer {
    name: String,
    /// Of a push: the name there, if it is another one.
    #[serde(default)]
    target: Option<String>,
    /// A config.json with the caller's credentials.
    #[serde(default)]
    credentials: Option<Value>,
}

impl Transfer {
    fn credentials(&self) -> Result<Credentials, ApiError> {
        match &self.credentials {
            None => Ok(Credentials::none()),
            Some(value) => Credentials::parse(value.to_string().as_bytes())
                .map_err(|error| ApiError::bad_request(chain(&error))),
        }
    }
}

#[allow(clippy::unused_async, reason = "handlers are asynchronous")]
pub(super) async fn pull(
    State(images): State<Images>,
    Json(transfer): Json<Transfer>,
) -> Result<Response, Failure> {
    let credentials = transfer.credentials()?;
    Ok(streamed(move |lines| {
        let unwanted = || lines.unwanted();
        let progress = |step| lines.step(&step);
        let pulled = images.pull(&transfer.name, &credentials, &unwanted, &progress)?;
        let image = &pulled.image;
        Ok(json!({
            "name": transfer.name,
            "id": image.id.to_string(),
            "manifest": image.manifest.to_string(),
            "names": familiar(&image.names),
            "digests": familiar(&image.digests),
            "size": image.size,
            "place": pulled.place,
            "present": pulled.present,
            "downloaded": pulled.downloaded,
        }))
    }))
}

#[allow(clippy::unused_async, reason = "handlers are asynchronous")]
pub(super) async fn push(
    State(images): State<Images>,
    Json(transfer): Json<Transfer>,
) -> Result<Response, Failure> {
    let credentials = transfer.credentials()?;
    Ok(streamed(move |lines| {
        let unwanted = || lines.unwanted();
        let progress = |step| lines.step(&step);
        let target = transfer.target.as_ref().unwrap_or(&transfer.name);
        let pushed = images.push(&transfer.name, target, &credentials, &unwanted, &progress)?;
        Ok(json!({
            "name": pushed.name.familiar(),
            "manifest": pushed.manifest.to_string(),
            "uploaded": pushed.uploaded,
        }))
    }))
}

pub(super) async fn referrers(
    State(images): State<Images>,
    Json(transfer): Json<Transfer>,
) -> Result<Response, Failure> {
    let credentials = transfer.credentials()?;
    let answer = blocking(move || {
        let found = images
            .referrers(&transfer.name, &credentials)
            .map_err(|error| ApiError::bad_request(chain(&error)))?;
        let items: Vec<Value> = found
            .iter()
            .map(|referrer| {
                json!({
                    "digest": referrer.digest.to_string(),
                    "artifactType": referrer.artifact_type,
                    "size": referrer.size,
                    "annotations": referrer.annotations,
                })
            })
            .collect();
        Ok(json!({ "apiVersion": API_VERSION, "kind": "ReferrerList", "items": items }))
    })
    .await?;
    Ok(respond::json(StatusCode::OK, &answer))
}

/// Runs a transfer on a thread of its own and answers with its lines.
fn streamed(work: impl FnOnce(&Lines) -> Result<Value, TransferError> + Send + 'static) -> Response {
    let (sender, receiver) = mpsc::channel(LINES);
    tokio::task::spawn_blocking(move || {
        let lines = Lines {
            sender,
            told: Mutex::default(),
        };
        let last = match work(&lines) {
            Ok(value) => json!({ "done": value }),
            Err(error) => json!({ "error": chain(&error) }),
        };
        lines.last(&last);
    });
    let body = stream::unfold(receiver, |mut receiver| async move {
        let line = receiver.recv().await?;
        Some((Ok::<Bytes, std::convert::Infallible>(line), receiver))
    });
    let mut response = Response::new(Body::from_stream(body));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/jsonl"),
    );
    response
}

/// The lines of an answer.
struct Lines {
    sender: mpsc::Sender<Bytes>,
    told: Mutex<BTreeMap<Digest, Instant>>,
}

impl Lines {
    fn unwanted(&self) -> bool {
        self.sender.is_closed()
    }

    fn step(&self, step: &Progress) {
        if let Progress::Downloading { digest, .. } = step {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            if told.get(digest).is_some_and(|last| now - *last < PACE) {
                return;
            }
            told.insert(*digest, now);
        }
        // A client that cannot follow misses steps, not the outcome.
        let _ = self.sender.try_send(line(&described(step)));
    }

    fn last(&self, value: &Value) {
        // A client that has gone does not want to know.
        let _ = self.sender.blocking_send(line(value));
    }
}

fn line(value: &Value) -> Bytes {
    Bytes::from(format!("{value}\n"))
}

fn described(step: &Progress) -> Value {
    match step {
        Progress::Resolved { manifest, place } => {
            json!({ "step": "resolved", "manifest": manifest.to_string(), "place": place })
        }
        Progress::Layer { digest, size } => {
            json!({ "step": "layer", "digest": digest.to_string(), "size": size })
        }
        Progress::Exists { digest } => json!({ "step": "exists", "digest": digest.to_string() }),
        Progress::Downloading { digest, bytes } => {
            json!({ "step": "bytes", "digest": digest.to_string(), "bytes": bytes })
        }
        Progress::Retrying { digest, bytes, why } => {
            json!({ "step": "retry", "digest": digest.to_string(), "bytes": bytes, "why": why })
        }
        Progress::Complete { digest } => json!({ "step": "complete", "digest": digest.to_string() }),
    }
}

//! Images over the API: `/apis/node.berth.dev/v1/images`, for `berthctl image`.
//!
//! | request | does |
//! | --- | --- |
//! | `GET …/images` | lists the images |
//! | `POST …/images?name=…&format=root…`, body: tar | imports what streams in |
//! | `DELETE …/images?name=…` | takes a name away, and the image with its last one |
//! | `DELETE …/images?dangling=true` | deletes images without a name that no pod uses |

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::response::Response;
use axum::routing::get;
use berth_api::kinds;
use berth_api::status::ApiError;
use berth_image::{
    Collected, Digest, ImageStore, ImportError, ImportFormat, ImportOptions, LayerError, Reference,
    StoreError,
};
use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::respond::{self, Failure};
use crate::store::{Object, Store};

const API_VERSION: &str = "node.berth.dev/v1";
/// Pieces of an upload on their way to the thread that imports it.
const PIECES: usize = 8;

struct Images {
    store: Store,
    images: ImageStore,
}

/// The image paths. `store` tells which images pods use.
pub fn router(store: Store, images: ImageStore) -> Router {
    Router::new()
        .route(
            "/apis/node.berth.dev/v1/images",
            get(list).post(import).delete(remove),
        )
        .layer(DefaultBodyLimit::disable())
        .with_state(Arc::new(Images { store, images }))
}

type Parameters = Query<Vec<(String, String)>>;

async fn list(State(state): State<Arc<Images>>) -> Result<Response, Failure> {
    let answer = blocking(move || {
        let in_use = state.in_use();
        let items: Vec<Value> = state
            .images
            .list()
            .iter()
            .map(|image| {
                json!({
                    "id": image.id.to_string(),
                    "manifest": image.manifest.to_string(),
                    "names": familiar(&image.names),
                    "size": image.size,
                    "uniqueSize": image.unique_size,
                    "imported": image.imported,
                    "inUse": in_use.contains(&image.id),
                })
            })
            .collect();
        Ok(json!({ "apiVersion": API_VERSION, "kind": "ImageList", "items": items }))
    })
    .await?;
    Ok(respond::json(StatusCode::OK, &answer))
}

async fn import(
    State(state): State<Arc<Images>>,
    Query(parameters): Parameters,
    body: Body,
) -> Result<Response, Failure> {
    let options = options(parameters)?;
    let (pieces, upload) = mpsc::channel(PIECES);
    let importing = blocking(move || {
        let upload = Upload {
            pieces: upload,
            current: Bytes::new(),
            ended: false,
        };
        state
            .images
            .import(upload, &options)
            .map_err(|error| import_failed(&error))
    });
    let (imported, ()) = tokio::join!(importing, feed(body, pieces));
    let items: Vec<Value> = imported?
        .iter()
        .map(|image| {
            json!({
                "id": image.id.to_string(),
                "manifest": image.manifest.to_string(),
                "names": familiar(&image.names),
            })
        })
        .collect();
    let answer = json!({ "apiVersion": API_VERSION, "kind": "ImageList", "items": items });
    Ok(respond::json(StatusCode::CREATED, &answer))
}

async fn remove(
    State(state): State<Arc<Images>>,
    Query(parameters): Parameters,
) -> Result<Response, Failure> {
    let value = |name: &str| {
        parameters
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.clone())
    };
    let dangling = value("dangling").as_deref() == Some("true");
    let name = value("name");
    let answer = blocking(move || {
        let in_use = state.in_use();
        match name {
            Some(name) => {
                let removed = state
                    .images
                    .remove(&name, &in_use)
                    .map_err(|error| store_failed(&error))?;
                let mut answer = collected(&removed.collected);
                answer["untagged"] = json!(familiar(&removed.untagged));
                answer["deleted"] = json!(removed.deleted.map(|id| id.to_string()));
                Ok(answer)
            }
            None if dangling => Ok(collected(
                &state.images.gc(&in_use).map_err(|error| store_failed(&error))?,
            )),
            None => Err(ApiError::bad_request("give name=IMAGE or dangling=true")),
        }
    })
    .await?;
    Ok(respond::json(StatusCode::OK, &answer))
}

impl Images {
    /// Ids of the images that pods use: what their containers were started from, and what the
    /// containers of pods that have not ended will be started from.
    fn in_use(&self) -> BTreeSet<Digest> {
        let mut used = BTreeSet::new();
        for pod in self.store.list(kinds::POD, None).items.iter().map(Object::value) {
            let texts = |pointer: &str, field: &str| -> Vec<String> {
                let list = pod.pointer(pointer).and_then(Value::as_array);
                list.into_iter()
                    .flatten()
                    .filter_map(|item| Some(item[field].as_str()?.to_owned()))
                    .collect()
            };
            for list in ["/status/containerStatuses", "/status/initContainerStatuses"] {
                used.extend(
                    texts(list, "imageID")
                        .iter()
                        .filter_map(|id| id.parse::<Digest>().ok()),
                );
            }
            let phase = pod.pointer("/status/phase").and_then(Value::as_str);
            if matches!(phase, Some("Succeeded" | "Failed")) {
                continue;
            }
            for list in ["/spec/containers", "/spec/initContainers"] {
                for name in texts(list, "image") {
                    used.extend(self.images.resolve(&name).ok().flatten().map(|image| image.id));
                }
            }
        }
        used
    }
}

fn familiar(names: &[Reference]) -> Vec<String> {
    names.iter().map(Reference::familiar).collect()
}

fn collected(collected: &Collected) -> Value {
    json!({
        "apiVersion": API_VERSION,
        "kind": "ImageRemoval",
        "images": collected.images,
        "layers": collected.layers,
        "blobs": collected.blobs,
        "bytes": collected.bytes,
    })
}

fn options(parameters: Vec<(String, String)>) -> Result<ImportOptions, ApiError> {
    let mut options = ImportOptions::default();
    for (key, value) in parameters {
        match key.as_str() {
            "format" => {
                options.format = match value.as_str() {
                    "archive" => ImportFormat::Archive,
                    "root" => ImportFormat::Root,
                    _ => {
                        return Err(ApiError::bad_request(format!(
                            "format={value}: must be archive or root"
                        )));
                    }
                }
            }
            "name" => options.name = Some(value),
            "entrypoint" => options.root.entrypoint.push(value),
            "cmd" => options.root.cmd.push(value),
            "env" => options.root.env.push(value),
            "workdir" => options.root.working_dir = Some(value),
            "user" => options.root.user = Some(value),
            "port" => options.root.ports.push(value),
            "label" => options.root.labels.push(value),
            "stopSignal" => options.root.stop_signal = Some(value),
            _ => return Err(ApiError::bad_request(format!("unknown parameter {key}"))),
        }
    }
    Ok(options)
}

/// One piece of an upload; an upload that breaks off has no end.
enum Piece {
    Data(Bytes),
    End,
    Broken(io::Error),
}

/// Passes the request's body on to the importing thread. When that has given up, the rest is read
/// away: a connection that is closed with unread data in it loses the answer.
async fn feed(body: Body, pieces: mpsc::Sender<Piece>) {
    let mut stream = body.into_data_stream();
    let mut wanted = true;
    while let Some(piece) = stream.next().await {
        match piece {
            Ok(data) => wanted = wanted && pieces.send(Piece::Data(data)).await.is_ok(),
            Err(error) => {
                // The importing thread may be gone: then nobody has to be told.
                let _ = pieces.send(Piece::Broken(io::Error::other(error))).await;
                return;
            }
        }
    }
    let _ = pieces.send(Piece::End).await;
}

/// The upload as the importing thread reads it.
struct Upload {
    pieces: mpsc::Receiver<Piece>,
    current: Bytes,
    ended: bool,
}

impl Read for Upload {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Data(data)) => self.current = data,
                Some(Piece::End) => self.ended = true,
                Some(Piece::Broken(error)) => return Err(error),
                // The client is gone: what has come so far must not pass for the whole.
                None => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the upload broke off",
                    ));
                }
            }
        }
        let count = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// Runs work on files on a thread where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ApiError::internal(format!(
            "the work on images ended early: {error}"
        ))),
    }
}

/// An error with everything that led to it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

fn store_failed(error: &StoreError) -> ApiError {
    let message = chain(error);
    match error {
        StoreError::NotFound { .. } => image_error(404, "NotFound", message),
        StoreError::InUse { .. } => image_error(409, "Conflict", message),
        StoreError::Name(_) | StoreError::Ambiguous { .. } => ApiError::bad_request(message),
        _ => ApiError::internal(message),
    }
}

fn import_failed(error: &ImportError) -> ApiError {
    match error {
        ImportError::Store(error) | ImportError::Layer(LayerError::Store(error)) => store_failed(error),
        error => ApiError::bad_request(chain(error)),
    }
}

fn image_error(code: u16, reason: &'static str, message: String) -> ApiError {
    ApiError {
        code,
        reason,
        message,
        details: None,
    }
}

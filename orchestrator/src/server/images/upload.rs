//! Archives that clients send: imported as they come.

use std::io::{self, Read};

use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::Response;
use berth_api::status::ApiError;
use berth_image::{ImportError, ImportFormat, ImportOptions, LayerError};
use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{API_VERSION, Parameters, blocking, familiar, store_failed};
use crate::images::{Images, chain};
use crate::server::respond::{self, Failure};

/// Pieces of an upload on their way to the thread that imports it.
const PIECES: usize = 8;

pub(super) async fn import(
    State(images): State<Images>,
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
        images
            .store()
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

fn import_failed(error: &ImportError) -> ApiError {
    match error {
        ImportError::Store(error) | ImportError::Layer(LayerError::Store(error)) => store_failed(error),
        error => ApiError::bad_request(chain(error)),
    }
}

//! Images as an archive, written while it is sent.

use std::io::{self, Write};

use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::Response;
use berth_api::status::ApiError;
use berth_image::{SaveFormat, StoreError};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, header};
use tokio::sync::mpsc;

use super::{Parameters, blocking, store_failed, value};
use crate::images::{Images, chain};
use crate::server::respond::Failure;

/// Pieces on their way to the client.
const PIECES: usize = 8;
/// Bytes of a piece.
const PIECE: usize = 128 * 1024;

pub(super) async fn save(
    State(images): State<Images>,
    Query(parameters): Parameters,
) -> Result<Response, Failure> {
    let format = match value(&parameters, "format").as_deref() {
        None | Some("docker-archive") => SaveFormat::Docker,
        Some("oci-archive") => SaveFormat::Oci,
        Some(other) => {
            return Err(ApiError::bad_request(format!(
                "format={other}: must be docker-archive or oci-archive"
            ))
            .into());
        }
    };
    let names: Vec<String> = parameters
        .into_iter()
        .filter(|(key, _)| key == "name")
        .map(|(_, value)| value)
        .collect();
    if names.is_empty() {
        return Err(ApiError::bad_request("give name=IMAGE at least once").into());
    }
    // What can be refused is refused before the answer begins.
    let (store, asked) = (images.store().clone(), names.clone());
    blocking(move || {
        for name in &asked {
            let found = store.resolve(name).map_err(|error| store_failed(&error))?;
            if found.is_none() {
                return Err(store_failed(&StoreError::NotFound { name: name.clone() }));
            }
        }
        Ok(())
    })
    .await?;
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(PIECES);
    tokio::task::spawn_blocking(move || {
        let out = io::BufWriter::with_capacity(PIECE, Pieces(sender.clone()));
        if let Err(error) = images.store().save(&names, format, out) {
            // The client sees its answer break off.
            let _ = sender.blocking_send(Err(io::Error::other(chain(&error))));
        }
    });
    let body = stream::unfold(receiver, |mut receiver| async move {
        let piece = receiver.recv().await?;
        Some((piece, receiver))
    });
    let mut response = Response::new(Body::from_stream(body));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-tar"),
    );
    Ok(response)
}

struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .blocking_send(Ok(Bytes::copy_from_slice(bytes)))
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

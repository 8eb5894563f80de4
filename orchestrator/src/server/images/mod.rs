//! Images over the API: `/apis/node.berth.dev/v1/images`, for `berthctl image`.
//!
//! | request | does |
//! | --- | --- |
//! | `GET …/images` | lists the images; `?name=…` shows one, with manifest and config |
//! | `POST …/images?name=…&format=root…`, body: tar | imports what streams in |
//! | `DELETE …/images?name=…` | takes a name away, and the image with its last one |
//! | `DELETE …/images?dangling=true` | deletes images without a name that no pod uses; `all=true` all of those |
//! | `POST …/images/pull`, `push`, `referrers`, body: JSON | talks to a registry; the answer is progress, a line each |
//! | `POST …/images/tag`, body: JSON | gives an image another name |
//! | `GET …/images/archive?name=…&format=…` | an archive as a stream |
//! | `GET …/images/usage`, `POST …/images/check` | counts, verifies |

mod archive;
mod transfer;
mod upload;

use axum::extract::{DefaultBodyLimit, Query, State};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use berth_api::status::ApiError;
use berth_image::{Check, Collected, Reference, StoreError};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::respond::{self, Failure};
use crate::images::{Images, chain};

const API_VERSION: &str = "node.berth.dev/v1";

/// The image paths.
pub fn router(images: Images) -> Router {
    let path = |name: &str| format!("/apis/node.berth.dev/v1/images{name}");
    Router::new()
        .route(&path(""), get(list).post(upload::import).delete(remove))
        .route(&path("/pull"), post(transfer::pull))
        .route(&path("/push"), post(transfer::push))
        .route(&path("/referrers"), post(transfer::referrers))
        .route(&path("/tag"), post(tag))
        .route(&path("/archive"), get(archive::save))
        .route(&path("/usage"), get(usage))
        .route(&path("/check"), post(check))
        .layer(DefaultBodyLimit::disable())
        .with_state(images)
}

type Parameters = Query<Vec<(String, String)>>;

/// The first value of a parameter.
fn value(parameters: &[(String, String)], name: &str) -> Option<String> {
    let found = parameters.iter().find(|(key, _)| key == name);
    found.map(|(_, value)| value.clone())
}

async fn list(State(images): State<Images>, Query(parameters): Parameters) -> Result<Response, Failure> {
    let name = value(&parameters, "name");
    let answer = blocking(move || match name {
        Some(name) => inspect(&images, &name),
        None => Ok(listed(&images)),
    })
    .await?;
    Ok(respond::json(StatusCode::OK, &answer))
}

fn listed(images: &Images) -> Value {
    let in_use = images.in_use();
    let items: Vec<Value> = images
        .store()
        .list()
        .iter()
        .map(|image| {
            json!({
                "id": image.id.to_string(),
                "manifest": image.manifest.to_string(),
                "names": familiar(&image.names),
                "digests": familiar(&image.digests),
                "size": image.size,
                "uniqueSize": image.unique_size,
                "imported": image.imported,
                "inUse": in_use.contains(&image.id),
            })
        })
        .collect();
    json!({ "apiVersion": API_VERSION, "kind": "ImageList", "items": items })
}

fn inspect(images: &Images, name: &str) -> Result<Value, ApiError> {
    let store = images.store();
    let failed = |error: StoreError| store_failed(&error);
    let image = store.resolve(name).map_err(failed)?.ok_or_else(|| {
        store_failed(&StoreError::NotFound {
            name: name.to_owned(),
        })
    })?;
    let (manifest, config) = store.documents(&image).map_err(failed)?;
    let layers: Vec<Value> = store
        .layer_sizes(&image)
        .map_err(failed)?
        .into_iter()
        .zip(&image.layers)
        .map(|((blob, bytes, compressed), chain)| {
            json!({
                "digest": blob.to_string(),
                "chainId": chain.to_string(),
                "size": bytes,
                "compressed": compressed,
            })
        })
        .collect();
    let document = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap_or_default();
    Ok(json!({
        "apiVersion": API_VERSION,
        "kind": "Image",
        "id": image.id.to_string(),
        "digest": image.manifest.to_string(),
        "names": familiar(&image.names),
        "digests": familiar(&image.digests),
        "size": image.size,
        "inUse": images.in_use().contains(&image.id),
        "layers": layers,
        "manifest": document(&manifest),
        "config": document(&config),
    }))
}

async fn remove(State(images): State<Images>, Query(parameters): Parameters) -> Result<Response, Failure> {
    let flag = |name: &str| value(&parameters, name).as_deref() == Some("true");
    let (dangling, all) = (flag("dangling"), flag("all"));
    let name = value(&parameters, "name");
    let answer = blocking(move || {
        let in_use = images.in_use();
        let store = images.store();
        let failed = |error: StoreError| store_failed(&error);
        match name {
            Some(name) => {
                let removed = store.remove(&name, &in_use).map_err(failed)?;
                let mut answer = collected(&removed.collected);
                answer["untagged"] = json!(familiar(&removed.untagged));
                answer["deleted"] = json!(removed.deleted.map(|id| id.to_string()));
                Ok(answer)
            }
            None if all => Ok(collected(&store.prune_all(&in_use).map_err(failed)?)),
            None if dangling => Ok(collected(&store.gc(&in_use).map_err(failed)?)),
            None => Err(ApiError::bad_request(
                "give name=IMAGE, dangling=true or all=true",
            )),
        }
    })
    .await?;
    Ok(respond::json(StatusCode::OK, &answer))
}

#[derive(Deserialize)]
struct Tag {
    name: String,
    new: String,
}

async fn tag(State(images): State<Images>, Json(tag): Json<Tag>) -> Result<Response, Failure> {
    let answer = blocking(move || {
        let reference = images
            .store()
            .tag(&tag.name, &tag.new)
            .map_err(|error| store_failed(&error))?;
        Ok(json!({ "apiVersion": API_VERSION, "kind": "ImageTag", "name": reference.familiar() }))
    })
    .await?;
    Ok(respond::json(StatusCode::CREATED, &answer))
}

async fn usage(State(images): State<Images>) -> Result<Response, Failure> {
    let answer = blocking(move || {
        let usage = images
            .store()
            .usage(&images.in_use())
            .map_err(|error| store_failed(&error))?;
        let pair = |(count, bytes): (u64, u64)| json!({ "count": count, "bytes": bytes });
        Ok(json!({
            "apiVersion": API_VERSION,
            "kind": "ImageUsage",
            "images": usage.images,
            "blobs": pair(usage.blobs),
            "layers": pair(usage.layers),
            "partial": pair(usage.partial),
            "reclaimable": usage.reclaimable,
        }))
    })
    .await?;
    Ok(respond::json(StatusCode::OK, &answer))
}

async fn check(State(images): State<Images>, Query(parameters): Parameters) -> Result<Response, Failure> {
    let asked = |name: &str| value(&parameters, name).as_deref() == Some("true");
    let mut how = Check {
        repair: asked("repair"),
        deep: asked("deep"),
        ..Check::default()
    };
    let answer = blocking(move || {
        how.in_use = images.in_use();
        let checked = images.store().check(&how).map_err(|error| store_failed(&error))?;
        let problems: Vec<Value> = checked
            .problems
            .iter()
            .map(|problem| json!({ "what": problem.what, "why": problem.why }))
            .collect();
        Ok(json!({
            "apiVersion": API_VERSION,
            "kind": "ImageCheck",
            "images": checked.images,
            "blobs": checked.blobs,
            "layers": checked.layers,
            "partial": { "count": checked.partial.0, "bytes": checked.partial.1 },
            "problems": problems,
            "damaged": checked.damaged,
        }))
    })
    .await?;
    Ok(respond::json(StatusCode::OK, &answer))
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

fn store_failed(error: &StoreError) -> ApiError {
    let message = chain(error);
    match error {
        StoreError::NotFound { .. } => image_error(404, "NotFound", message),
        StoreError::InUse { .. } => image_error(409, "Conflict", message),
        StoreError::Name(_) | StoreError::Ambiguous { .. } | StoreError::TagDigest { .. } => {
            ApiError::bad_request(message)
        }
        _ => ApiError::internal(message),
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

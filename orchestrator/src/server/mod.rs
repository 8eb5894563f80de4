//! The API server: HTTPS in, store out.
//!
//! ```text
//! tls.rs      connection, client certificate
//! connections.rs  how many are held, and which one gives way
//! auth.rs     certificate, token, impersonation -> Caller
//! access.rs   may the caller do this? RBAC, and that nobody gives away what he does not have
//! request.rs  path and query -> Target, Query
//! body.rs     JSON, YAML, protobuf -> object that follows its schema
//! list.rs watch.rs write.rs patch.rs apply.rs delete.rs scale.rs    a verb each
//! alias.rs    the same objects in another version or group
//! services.rs   addresses and node ports of Services
//! reviews.rs  who am I, may I, and tokens: answered, not stored
//! admission.rs  defaults, validation, what depends on other objects
//! respond.rs  object, table or metadata; Status for errors
//! metrics.rs  what containers and the node use, measured when it is asked for
//! streaming/  exec, attach, port-forward: requests that turn into streams
//! ```

mod access;
mod admission;
mod alias;
mod apply;
mod auth;
mod body;
mod bootstrap;
mod connections;
mod delete;
mod documents;
mod images;
mod list;
mod logs;
mod metrics;
mod patch;
mod request;
mod respond;
mod reviews;
mod scale;
mod services;
pub mod streaming;
mod tls;
mod watch;
mod write;

use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use berth_api::status::ApiError;
use http::{HeaderMap, Method};

use crate::pki::Tokens;
use crate::store::{Store, StoreError};
use auth::{Caller, Shown};
use request::{Query, Target};
use respond::Failure;

pub use bootstrap::{BootstrapError, bootstrap};
pub use images::router as image_router;
pub use services::Allocator;
pub use tls::{ListenError, acceptor, listen, serve};
pub use watch::Told;

/// Turns true when berthd is to stop.
pub type Shutdown = tokio::sync::watch::Receiver<bool>;

/// Everything a request needs.
pub struct Api {
    /// The objects.
    pub store: Store,
    /// The one node's name.
    pub node_name: String,
    /// The node's folder for what must not survive a reboot.
    pub run_dir: PathBuf,
    /// The node's folder for what must.
    pub data_dir: PathBuf,
    /// Addresses and node ports of Services.
    pub services: Allocator,
    /// Address clients are told to come to.
    pub address: String,
    /// Held by the eviction that is being decided.
    pub evictions: tokio::sync::Mutex<()>,
    /// Path of the cgroup below which the pods' are.
    pub cgroup_parent: String,
    /// Makes and checks the tokens of ServiceAccounts.
    pub tokens: Arc<Tokens>,
    /// Turns true when berthd is to stop.
    pub shutdown: Shutdown,
    /// What watches share.
    pub told: Arc<Told>,
}

/// The API as a service: authorization around the object paths, and around `extra`.
pub fn router(api: Arc<Api>, extra: Router) -> Router {
    Router::new()
        .fallback(handle)
        .with_state(Arc::clone(&api))
        .merge(extra)
        .layer(middleware::from_fn_with_state(api, authorize))
}

async fn authorize(
    State(api): State<Arc<Api>>,
    Extension(shown): Extension<Shown>,
    mut request: Request,
    next: Next,
) -> Response {
    let allowed = api.caller(&shown, request.headers()).and_then(|caller| {
        api.authorize(&caller, request.method(), request.uri())?;
        Ok(caller)
    });
    match allowed {
        Ok(caller) => {
            request.extensions_mut().insert(Arc::new(caller));
            next.run(request).await
        }
        Err(error) => Failure(error).into_response(),
    }
}

async fn handle(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Arc<Caller>>,
    request: Request,
) -> Result<Response, Failure> {
    let (mut parts, body) = request.into_parts();
    if let Some(document) = documents::serve(&api, &parts.method, &parts.uri, &parts.headers)? {
        return Ok(document);
    }
    let mut target = Target::parse(parts.uri.path()).ok_or_else(ApiError::no_such_resource)?;
    target.caller = caller;
    let query = Query::of(&parts.uri)?;
    if streaming::is_stream(target.subresource.as_deref()) {
        return Ok(api.stream(&target, &query, &mut parts)?);
    }
    let answer = api
        .verb(&target, &parts.method, &query, &parts.headers, body)
        .await?;
    Ok(answer)
}

impl Api {
    async fn verb(
        &self,
        target: &Target,
        method: &Method,
        query: &Query,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Response, ApiError> {
        let named = target.name.is_some();
        if let Some(alias) = berth_api::kinds::alias(target.kind) {
            return Box::pin(self.aliased(alias, target, method, query, headers, body)).await;
        }
        if !target.kind.is_stored() {
            return self.answer(target, method, query, headers, body).await;
        }
        match (method.as_str(), named, target.subresource.as_deref()) {
            ("GET" | "HEAD", true, None | Some("status" | "scale" | "ephemeralcontainers" | "resize")) => {
                self.get(target, query, headers)
            }
            ("GET" | "HEAD", false, None) if query.flag("watch")? => self.watch(target, query, headers),
            ("GET" | "HEAD", false, None) => self.list(target, query, headers, None),
            ("GET", true, Some("log")) => self.log(target, query),
            ("POST", false, None) => {
                if target.kind.namespaced && target.namespace.is_none() {
                    return Err(ApiError::method_not_allowed(
                        "create needs a namespace in the path",
                    ));
                }
                self.create(target, query, headers, body::read(body).await?).await
            }
            ("POST", true, Some("eviction")) => {
                self.evict(target, query, headers, &body::read(body).await?).await
            }
            ("POST", true, Some("token")) => {
                self.request_token(target, query, headers, &body::read(body).await?)
            }
            (
                "PUT",
                true,
                None | Some("status" | "scale" | "finalize" | "ephemeralcontainers" | "resize"),
            ) => {
                self.replace(target, query, headers, body::read(body).await?)
                    .await
            }
            ("PATCH", true, None | Some("status" | "scale" | "ephemeralcontainers" | "resize")) => {
                self.patch(target, query, headers, body::read(body).await?).await
            }
            ("DELETE", true, None) => {
                self.delete(target, query, headers, &body::read(body).await?)
                    .await
            }
            ("DELETE", false, None) => {
                self.delete_collection(target, query, headers, &body::read(body).await?)
                    .await
            }
            _ => Err(ApiError::method_not_allowed(
                "the server does not allow this method on the requested resource",
            )),
        }
    }
}

impl Api {
    /// Kinds that are not stored: answered or measured when they are asked for.
    async fn answer(
        &self,
        target: &Target,
        method: &Method,
        query: &Query,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Response, ApiError> {
        let review = berth_api::kinds::REVIEWS.contains(&target.kind);
        match (method.as_str(), review) {
            ("POST", true) if target.name.is_none() => {
                self.review(target, query, headers, &body::read(body).await?)
            }
            ("GET" | "HEAD", false) => self.measure(target, query, headers).await,
            _ => Err(ApiError::method_not_allowed(
                "the server does not allow this method on the requested resource",
            )),
        }
    }
}

/// A store's refusal as clients see it.
fn store_error(error: StoreError) -> ApiError {
    match error {
        StoreError::NotFound { kind, name } => ApiError::not_found(kind, &name),
        StoreError::AlreadyExists { kind, name } => ApiError::already_exists(kind, &name),
        StoreError::Conflict { kind, name, why } => ApiError::conflict(kind, &name, &why),
        StoreError::Forbidden { kind, name, why } => ApiError::forbidden(kind, &name, &why),
        StoreError::Malformed(why) => ApiError::bad_request(why),
        StoreError::Closed => ApiError::unavailable("the server is shutting down"),
        StoreError::Database(_) => ApiError::internal(error.to_string()),
    }
}

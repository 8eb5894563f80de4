//! What is not an object: health, version, discovery, OpenAPI.

use axum::response::Response;
use berth_api::status::ApiError;
use berth_api::{discovery, openapi};
use http::{HeaderMap, Method, StatusCode, Uri, header};
use serde_json::{Value, json};

use super::Api;
use super::respond::{json, text};

/// The type of the OpenAPI v2 document in protobuf. Clients ask for it with an `@` in it, which Go's parser of answers
/// refuses, so there is none.
const OPENAPI_V2: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Answers a document's path; `None` if the path is none.
pub(super) fn serve(
    api: &Api,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Option<Response>, ApiError> {
    let path = uri.path().trim_end_matches('/');
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    if let ["apis", group, ..] = parts.as_slice()
        && let Some(why) = refusal(group)
    {
        return Err(why);
    }
    let ok = |value: &Value| Some(json(StatusCode::OK, value));
    let found = match parts.as_slice() {
        ["livez" | "readyz" | "healthz", ..] => Some(text(StatusCode::OK, "text/plain; charset=utf-8", "ok")),
        ["version"] => ok(&discovery::version(env!("CARGO_PKG_VERSION"))),
        [] | [""] => ok(&json!({"paths": paths()})),
        ["api"] => Some(
            aggregated(headers, true)
                .unwrap_or_else(|| json(StatusCode::OK, &discovery::core_versions(&api.address))),
        ),
        ["apis"] => {
            Some(aggregated(headers, false).unwrap_or_else(|| json(StatusCode::OK, &discovery::groups())))
        }
        ["api", version] => discovery::resources("", version).as_ref().and_then(ok),
        ["apis", group] => discovery::group(group).as_ref().and_then(ok),
        ["apis", group, version] => discovery::resources(group, version).as_ref().and_then(ok),
        ["openapi", "v2"] => Some(openapi_v2(headers)),
        ["openapi", "v3"] => ok(&openapi::index()),
        ["openapi", "v3", "api", version] => openapi::document("", version).as_ref().and_then(ok),
        ["openapi", "v3", "apis", group, version] => openapi::document(group, version).as_ref().and_then(ok),
        _ => return Ok(None),
    };
    if found.is_some() && !matches!(*method, Method::GET | Method::HEAD) {
        return Err(ApiError::method_not_allowed(
            "the server does not allow this method on the requested resource",
        ));
    }
    Ok(found)
}

/// The OpenAPI v2 document, in the form asked for; nothing but a confirmation for who has it already.
fn openapi_v2(headers: &HeaderMap) -> Response {
    let header = |name| {
        headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
    };
    let tag = format!("\"{}\"", env!("CARGO_PKG_VERSION"));
    let mut response = if header(header::IF_NONE_MATCH) == tag {
        text(StatusCode::NOT_MODIFIED, "application/json", "")
    } else if header(header::ACCEPT).contains("protobuf") {
        text(StatusCode::OK, OPENAPI_V2, openapi::v2::protobuf())
    } else {
        text(StatusCode::OK, "application/json", openapi::v2::json_text())
    };
    if let Ok(tag) = tag.parse() {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// The aggregated form of discovery, for clients that ask for it.
fn aggregated(headers: &HeaderMap, core: bool) -> Option<Response> {
    let accept = headers.get(header::ACCEPT)?.to_str().ok()?;
    for entry in accept.split(',') {
        let parameter = |wanted: &str| entry.split(';').any(|p| p.trim() == wanted);
        if !parameter("as=APIGroupDiscoveryList") || !parameter("g=apidiscovery.k8s.io") {
            continue;
        }
        let (version, media_type) = if parameter("v=v2") {
            (
                "v2",
                "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            )
        } else if parameter("v=v2beta1") {
            (
                "v2beta1",
                "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
            )
        } else {
            continue;
        };
        return Some(text(
            StatusCode::OK,
            media_type,
            discovery::aggregated(core, version).to_string(),
        ));
    }
    None
}

/// One clear sentence for what other servers have and this one leaves out on purpose.
fn refusal(group: &str) -> Option<ApiError> {
    let why = match group {
        "apiextensions.k8s.io" => {
            "CustomResourceDefinitions are not served by berthd: it has a fixed set of kinds (kubectl api-resources)"
        }
        "admissionregistration.k8s.io" => {
            "admission webhooks and policies are not served by berthd: use RBAC, ResourceQuota and LimitRange"
        }
        "apiregistration.k8s.io" => {
            "API aggregation is not served by berthd: it answers for all its groups itself"
        }
        _ => return None,
    };
    Some(ApiError {
        code: 404,
        reason: "NotFound",
        ..ApiError::bad_request(why)
    })
}

fn paths() -> Vec<String> {
    let fixed = [
        "/api",
        "/apis",
        "/healthz",
        "/livez",
        "/openapi/v2",
        "/openapi/v3",
        "/readyz",
        "/version",
    ];
    let groups = discovery::group_versions().into_iter().map(|(group, version)| {
        if group.is_empty() {
            format!("/api/{version}")
        } else {
            format!("/apis/{group}/{version}")
        }
    });
    fixed.into_iter().map(str::to_owned).chain(groups).collect()
}

//! The administrator's kubeconfig file.

use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::Pki;

/// A kubeconfig for the administrator, complete in itself. JSON, which is YAML too.
pub fn kubeconfig(pki: &Pki, server: SocketAddr) -> String {
    let server = if server.ip().is_unspecified() {
        SocketAddr::new([127, 0, 0, 1].into(), server.port())
    } else {
        server
    };
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "berth", "cluster": {
            "server": format!("https://{server}"),
            "certificate-authority-data": STANDARD.encode(&pki.authority),
        }}],
        "users": [{"name": "berth-admin", "user": {
            "client-certificate-data": STANDARD.encode(&pki.admin.certificate),
            "client-key-data": STANDARD.encode(&pki.admin.key),
        }}],
        "contexts": [{"name": "berth", "context": {
            "cluster": "berth", "user": "berth-admin", "namespace": "default",
        }}],
        "current-context": "berth",
        "preferences": {},
    });
    // Values that serde_json made a moment ago always print.
    serde_json::to_string_pretty(&config).unwrap_or_default() + "\n"
}

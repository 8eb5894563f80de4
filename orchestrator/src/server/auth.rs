//! Who asks, and whether they may.

use berth_api::status::ApiError;
use rustls::ServerConnection;

use crate::pki;

/// Who sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Caller {
    /// Shown by no certificate.
    Anonymous,
    /// By a certificate that TLS has verified.
    Known(pki::Identity),
}

/// The caller of a connection, by its client certificate.
pub(super) fn of(connection: &ServerConnection) -> Caller {
    connection
        .peer_certificates()
        .and_then(|chain| chain.first())
        .and_then(|certificate| pki::identity(certificate))
        .map_or(Caller::Anonymous, Caller::Known)
}

/// Paths that need no identity.
fn is_public(path: &str) -> bool {
    let first = path.split('/').nth(1).unwrap_or_default();
    matches!(first, "livez" | "readyz" | "healthz" | "version")
}

/// Lets administrators do everything, anybody look at the health.
pub(super) fn authorize(caller: &Caller, method: &http::Method, path: &str) -> Result<(), ApiError> {
    match caller {
        _ if is_public(path) => Ok(()),
        Caller::Anonymous => Err(ApiError::unauthorized()),
        Caller::Known(identity) if identity.groups.iter().any(|g| g == "system:masters") => Ok(()),
        Caller::Known(identity) => Err(ApiError {
            code: 403,
            reason: "Forbidden",
            ..ApiError::bad_request(format!(
                "forbidden: User {:?} cannot {} path {path:?}: only members of system:masters may",
                identity.user,
                method.as_str().to_lowercase()
            ))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_what() {
        let known = |group: &str| {
            Caller::Known(pki::Identity {
                user: "u".into(),
                groups: vec![group.to_owned()],
            })
        };
        let get = http::Method::GET;
        assert!(authorize(&Caller::Anonymous, &get, "/readyz/ping").is_ok());
        assert_eq!(
            authorize(&Caller::Anonymous, &get, "/api/v1/pods")
                .unwrap_err()
                .code,
            401
        );
        assert_eq!(
            authorize(&known("dev"), &get, "/api/v1/pods").unwrap_err().code,
            403
        );
        assert!(authorize(&known("system:masters"), &get, "/api/v1/pods").is_ok());
    }
}

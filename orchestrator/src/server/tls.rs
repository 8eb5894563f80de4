//! The listening socket: TLS, bounds on connections, graceful end.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use axum::{Router, middleware};
use berth_sys::files::inherited;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::connections::{Connections, Held, in_use};
use super::{Shutdown, auth};
use crate::pki::{self, Pki};
use crate::proxy::Guests;

/// Connections held at a time.
const CONNECTIONS: usize = 1024;
/// Time for a TLS handshake, and for a request's head.
const GREETING: Duration = Duration::from_secs(10);
/// Time that open requests get at the end.
const FAREWELL: Duration = Duration::from_secs(3);

/// Why the server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is taken, or not of this host.
    #[error("cannot listen on {address}: choose another with --listen")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// LISTEN_FDS hands over something that is no TCP socket.
    #[error("LISTEN_FDS hands over no usable listening TCP socket in descriptor 3")]
    Inherited(#[source] std::io::Error),
    /// Keys and TLS do not fit.
    #[error("cannot set up TLS with the keys in the data folder")]
    Tls(#[source] rustls::Error),
    /// Keys are damaged.
    #[error("the server's key or certificate in the data folder is damaged: remove pki/server.*")]
    Keys,
}

/// The socket to serve on: one handed over by the service manager (sd_listen_fds(3)), or a new one.
pub fn listen(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let count = std::env::var("LISTEN_FDS")
        .ok()
        .and_then(|n| n.parse::<u32>().ok())
        .unwrap_or(0);
    let ours = std::env::var("LISTEN_PID").map_or(true, |pid| pid == std::process::id().to_string());
    let socket = if count > 0 && ours {
        let fd: OwnedFd = inherited(3).map_err(ListenError::Inherited)?;
        let socket = std::net::TcpListener::from(fd);
        socket.local_addr().map_err(ListenError::Inherited)?;
        socket
    } else {
        std::net::TcpListener::bind(address).map_err(|source| ListenError::Bind { address, source })?
    };
    socket.set_nonblocking(true).map_err(ListenError::Inherited)?;
    TcpListener::from_std(socket).map_err(ListenError::Inherited)
}

/// TLS by the node's keys; clients may show a certificate of its authority, and no other.
pub fn acceptor(keys: &Pki) -> Result<TlsAcceptor, ListenError> {
    let authority =
        CertificateDer::from_pem_slice(keys.authority.as_bytes()).map_err(|_| ListenError::Keys)?;
    let mut roots = RootCertStore::empty();
    roots.add(authority).map_err(ListenError::Tls)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .map_err(|_| ListenError::Keys)?;
    let (certificate, key) = pki::der(&keys.server).ok_or(ListenError::Keys)?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(ListenError::Tls)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate], key)
        .map_err(ListenError::Tls)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Sessions are few and local; tickets would only cost memory.
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves until `stop`, then lets open requests end for a short time.
///
/// On 127.0.0.1 only the host and its pods are served: the rules of services lead the Service `kubernetes` there, whoever
/// sends a packet to its address.
pub async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    router: Router,
    guests: Guests,
    mut stop: Shutdown,
) {
    let local = listener
        .local_addr()
        .is_ok_and(|address| address.ip().is_loopback());
    let connections = Connections::new(CONNECTIONS);
    let graceful = Arc::new(GracefulShutdown::new());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let stream = match accepted {
            Ok((_, client)) if local && !guests.admits(client.ip()) => {
                tracing::debug!(%client, "a connection to the API from outside was closed: it listens for the host and its pods only");
                continue;
            }
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors or memory: the condition passes, and must not spin.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // With all in use a new one is closed at once, so that the listener never hangs.
        let Some(place) = connections.admit() else {
            continue;
        };
        let (acceptor, router) = (acceptor.clone(), router.clone());
        let watcher = graceful.watcher();
        tokio::spawn(async move {
            tokio::select! {
                () = connection(stream, acceptor, router, watcher, &place.held) => {}
                () = place.held.told_to_leave() => {}
            }
        });
    }
    drop(listener);
    let Some(graceful) = Arc::into_inner(graceful) else {
        return;
    };
    if tokio::time::timeout(FAREWELL, graceful.shutdown()).await.is_err() {
        tracing::info!("closing connections that did not end in time");
    }
}

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    router: Router,
    watcher: hyper_util::server::graceful::Watcher,
    held: &Arc<Held>,
) {
    // Watches are small lines that must not wait for more.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let tls = match tokio::time::timeout(GREETING, acceptor.accept(stream)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake failed");
            return;
        }
        Err(_) => return,
    };
    let identity = auth::of(tls.get_ref().1);
    if identity.is_known() {
        held.is_known();
    }
    let router = router
        .layer(axum::Extension(identity))
        .layer(middleware::from_fn_with_state(Arc::clone(held), in_use));
    let service = TowerToHyperService::new(router);
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(GREETING);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(256)
        .max_header_list_size(64 << 10);
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(tls), service);
    if let Err(error) = watcher.watch(serving.into_owned()).await {
        tracing::debug!(%error, "connection ended");
    }
}

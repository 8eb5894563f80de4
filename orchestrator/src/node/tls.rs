//! TLS for HTTPS and gRPC probes: like kubelet's, they ask whether somebody answers, not who; certificates are not
//! verified.

use std::sync::{Arc, LazyLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

static CONFIG: LazyLock<Result<Arc<ClientConfig>, rustls::Error>> = LazyLock::new(|| {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(AnyCertificate(Arc::clone(&provider)));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(Arc::new(config))
});

/// Shakes hands over an open connection. `protocol` is what will be spoken (ALPN), if the server must know.
///
/// # Errors
/// The reason as text, for the probe's event.
pub async fn connect(
    stream: TcpStream,
    host: &str,
    protocol: Option<&[u8]>,
) -> Result<TlsStream<TcpStream>, String> {
    let config = CONFIG.as_ref().map_err(|error| format!("prepare TLS: {error}"))?;
    let config = match protocol {
        None => Arc::clone(config),
        Some(name) => {
            let mut own = ClientConfig::clone(config);
            own.alpn_protocols = vec![name.to_vec()];
            Arc::new(own)
        }
    };
    let name = ServerName::try_from(host.to_owned()).map_err(|error| format!("host {host:?}: {error}"))?;
    let connector = TlsConnector::from(config);
    connector
        .connect(name, stream)
        .await
        .map_err(|error| format!("TLS handshake with {host}: {error}"))
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

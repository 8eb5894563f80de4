//! TLS settings towards one registry: the host's root certificates, those of
//! `certs.d/<host>/` (containers-certs.d(5)), or no verification where the configuration says so.
//!
//! Root certificates are read when a connection needs them and dropped with the transfer: a
//! resident set of them would cost an idle `berthd` about a third of a megabyte.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::error::RegistryError;

/// Where distributions keep their bundle.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Makes the settings for one registry. `folders` are the roots of certs.d.
pub(crate) fn config(
    authority: &str,
    folders: &[PathBuf],
    verify: bool,
) -> Result<Arc<ClientConfig>, RegistryError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let own = own_files(authority, folders);
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| RegistryError::Certificate {
            path: PathBuf::new(),
            why: error.to_string(),
        })?;
    let builder = if verify {
        let mut roots = RootCertStore::empty();
        let looked_at = host_roots(&mut roots);
        let mut pinned = Vec::new();
        for path in &own.authorities {
            add_all(path, &mut roots, &mut pinned)?;
        }
        if roots.is_empty() {
            return Err(RegistryError::NoRoots { looked_at });
        }
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| RegistryError::Certificate {
                path: PathBuf::new(),
                why: error.to_string(),
            })?;
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verified { chain, pinned }))
    } else {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unverified(provider)))
    };
    let Some((certificate, key)) = own.client else {
        return Ok(Arc::new(builder.with_no_client_auth()));
    };
    let wrong = |path: &Path, why: String| RegistryError::Certificate {
        path: path.to_owned(),
        why,
    };
    let chain = CertificateDer::pem_file_iter(&certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong(&certificate, error.to_string()))?;
    let secret = PrivateKeyDer::from_pem_file(&key).map_err(|error| wrong(&key, error.to_string()))?;
    let config = builder
        .with_client_auth_cert(chain, secret)
        .map_err(|error| wrong(&certificate, error.to_string()))?;
    Ok(Arc::new(config))
}

/// Adds the host's bundle; gives back what was looked at.
fn host_roots(roots: &mut RootCertStore) -> String {
    let files: Vec<PathBuf> = match std::env::var_os("SSL_CERT_FILE") {
        Some(path) => vec![path.into()],
        None => BUNDLES.iter().map(PathBuf::from).collect(),
    };
    for path in &files {
        // A root that rustls cannot read is one it cannot verify with: others can be used.
        if let Ok(certificates) = CertificateDer::pem_file_iter(path) {
            roots.add_parsable_certificates(certificates.filter_map(Result::ok));
            break;
        }
    }
    if let Some(folder) = std::env::var_os("SSL_CERT_DIR") {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if let Ok(certificates) = CertificateDer::pem_file_iter(entry.path()) {
                roots.add_parsable_certificates(certificates.filter_map(Result::ok));
            }
        }
    }
    let texts: Vec<String> = files.iter().map(|path| path.display().to_string()).collect();
    texts.join(", ")
}

fn add_all(
    path: &Path,
    roots: &mut RootCertStore,
    pinned: &mut Vec<CertificateDer<'static>>,
) -> Result<(), RegistryError> {
    let wrong = |why: String| RegistryError::Certificate {
        path: path.to_owned(),
        why,
    };
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?;
    let mut found = false;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots
            .add(certificate.clone())
            .map_err(|error| wrong(error.to_string()))?;
        pinned.push(certificate);
        found = true;
    }
    if found {
        Ok(())
    } else {
        Err(wrong("it has no certificate".to_owned()))
    }
}

#[derive(Default)]
struct OwnFiles {
    authorities: Vec<PathBuf>,
    client: Option<(PathBuf, PathBuf)>,
}

/// `*.crt` are authorities; `NAME.cert` with `NAME.key` is what we show ourselves with.
fn own_files(authority: &str, folders: &[PathBuf]) -> OwnFiles {
    let mut own = OwnFiles::default();
    for folder in folders {
        let folder = folder.join(authority);
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => own.authorities.push(path),
                Some("cert") if own.client.is_none() => {
                    own.client = Some((path.clone(), path.with_extension("key")));
                }
                _ => {}
            }
        }
    }
    own
}

/// Whether a failed handshake means that the other side does not speak TLS at all.
pub(crate) fn speaks_no_tls(error: &io::Error) -> bool {
    let text = error.to_string();
    text.contains("InvalidContentType") || text.contains("corrupt message")
}

/// Verifies chains as usual; and takes a certificate that was put into certs.d itself. Registries
/// often show a certificate that they signed themselves and that says it is an authority (openssl's
/// default), which no chain may end in.
#[derive(Debug)]
struct Verified {
    chain: Arc<WebPkiServerVerifier>,
    pinned: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verified {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.pinned.iter().any(|pinned| pinned == end_entity) {
            rustls::client::verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            return Ok(ServerCertVerified::assertion());
        }
        self.chain
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Takes any certificate: what `insecure = true` asks for. Signatures of the handshake are
/// checked all the same.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

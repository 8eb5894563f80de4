//! Keys and certificates: an own authority, the server's certificate, the administrator's.
//!
//! Everything is kept in one folder (0700, files 0600), used again at the next start, and made
//! anew when it is missing, near its end, or no longer says what it must. The authority lives long
//! enough to outlive the machine; replacing it means removing its files.

mod certificate;
mod kubeconfig;
pub mod tokens;

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::write_atomically;

pub use certificate::{Identity, identity};
pub use kubeconfig::kubeconfig;
pub use tokens::Tokens;

const DAY: i64 = 24 * 3600;
/// Life of the authority.
const AUTHORITY_DAYS: i64 = 3650;
/// Life of the server's and the administrator's certificate.
const LEAF_DAYS: i64 = 365;
/// A certificate with less than this to live is made anew at start.
const RENEW_DAYS: i64 = 60;
const AUTHORITY_NAME: &str = "berth-ca";

/// Why keys could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file or folder.
    #[error("cannot {action} {path}")]
    File {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// A key or certificate could not be made.
    #[error("cannot make {what}")]
    Make {
        /// Which.
        what: &'static str,
        /// The library's answer.
        #[source]
        source: rcgen::Error,
    },
    /// A file does not hold what its name says.
    #[error("{path} holds no usable {what}: remove it to have a new one made")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Key or certificate.
        what: &'static str,
    },
}

/// A certificate with its key.
#[derive(Debug)]
pub struct Pair {
    /// Certificate, PEM.
    pub certificate: String,
    /// Private key, PEM.
    pub key: String,
}

/// Everything TLS needs.
#[derive(Debug)]
pub struct Pki {
    /// The authority's certificate, PEM.
    pub authority: String,
    /// The server's.
    pub server: Pair,
    /// The administrator's.
    pub admin: Pair,
}

impl Pki {
    /// Reads what there is and makes what is missing. `addresses` are those the server is reached at, that of the Service
    /// `kubernetes` among them.
    pub fn open(dir: &Path, addresses: &[IpAddr], node_name: &str) -> Result<Self, PkiError> {
        let fail = |action| {
            move |source| PkiError::File {
                action,
                path: dir.to_owned(),
                source,
            }
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(fail("make the folder"))?;
        let now = Timestamp::now();
        let authority = authority(dir, now)?;
        let names = names(addresses, node_name);
        let server = leaf(dir, "server", &authority, &Wanted::Server(&names), now)?;
        let admin = leaf(dir, "admin", &authority, &Wanted::Admin, now)?;
        Ok(Self {
            authority: authority.certificate,
            server,
            admin,
        })
    }
}

/// PEM to the form rustls takes.
pub fn der(pair: &Pair) -> Option<(CertificateDer<'static>, PrivateKeyDer<'static>)> {
    let certificate = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).ok()?;
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).ok()?;
    Some((certificate, key))
}

enum Wanted<'a> {
    Server(&'a [String]),
    Admin,
}

/// Names and addresses in the server's certificate.
fn names(addresses: &[IpAddr], node_name: &str) -> Vec<String> {
    let mut names: Vec<String> = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        node_name,
    ]
    .map(str::to_owned)
    .to_vec();
    let loopback = [
        IpAddr::from([127, 0, 0, 1]),
        IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
    ];
    names.extend(
        loopback
            .iter()
            .chain(addresses)
            .filter(|a| !a.is_unspecified())
            .map(ToString::to_string),
    );
    names.sort();
    names.dedup();
    names
}

fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::File {
            action: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

fn write(path: &Path, text: &str) -> Result<(), PkiError> {
    write_atomically(path, text.as_bytes(), 0o600).map_err(|source| PkiError::File {
        action: "write",
        path: path.to_owned(),
        source,
    })
}

fn made<T>(what: &'static str, result: Result<T, rcgen::Error>) -> Result<T, PkiError> {
    result.map_err(|source| PkiError::Make { what, source })
}

fn authority_params(now: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, AUTHORITY_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    lifetime(&mut params, now, AUTHORITY_DAYS);
    params
}

/// Valid from a day ago, for clocks that differ, in whole days.
fn lifetime(params: &mut CertificateParams, now: Timestamp, days: i64) {
    let date = |offset: i64| {
        let at = now
            .checked_add(SignedDuration::from_secs(offset * DAY))
            .unwrap_or(now);
        let date = at.to_zoned(jiff::tz::TimeZone::UTC).date();
        rcgen::date_time_ymd(
            i32::from(date.year()),
            date.month().cast_unsigned(),
            date.day().cast_unsigned(),
        )
    };
    params.not_before = date(-1);
    params.not_after = date(days);
}

fn authority(dir: &Path, now: Timestamp) -> Result<Pair, PkiError> {
    let (certificate_file, key_file) = (dir.join("ca.crt"), dir.join("ca.key"));
    if let (Some(certificate), Some(key)) = (read(&certificate_file)?, read(&key_file)?) {
        check_usable(&certificate_file, &certificate, &key_file, &key)?;
        return Ok(Pair { certificate, key });
    }
    // The key is written last: a certificate alone was left by a crash and signed nothing.
    let key = made("the authority's key", KeyPair::generate())?;
    let params = authority_params(now);
    let certificate = made("the authority's certificate", params.self_signed(&key))?.pem();
    let key = key.serialize_pem();
    write(&certificate_file, &certificate)?;
    write(&key_file, &key)?;
    Ok(Pair { certificate, key })
}

fn check_usable(
    certificate_file: &Path,
    certificate: &str,
    key_file: &Path,
    key: &str,
) -> Result<(), PkiError> {
    if certificate::facts(certificate).is_none() {
        return Err(PkiError::Unusable {
            path: certificate_file.to_owned(),
            what: "certificate",
        });
    }
    if KeyPair::from_pem(key).is_err() {
        return Err(PkiError::Unusable {
            path: key_file.to_owned(),
            what: "key",
        });
    }
    Ok(())
}

fn leaf(
    dir: &Path,
    name: &str,
    authority: &Pair,
    wanted: &Wanted<'_>,
    now: Timestamp,
) -> Result<Pair, PkiError> {
    let (certificate_file, key_file) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
    if let (Some(certificate), Some(key)) = (read(&certificate_file)?, read(&key_file)?)
        && is_good(&certificate, &key, authority, wanted, now)
    {
        return Ok(Pair { certificate, key });
    }
    let key = made("a key", KeyPair::generate())?;
    let params = leaf_params(wanted, now)?;
    let authority_key = made("the authority's key", KeyPair::from_pem(&authority.key))?;
    let issuer = Issuer::new(authority_params(now), authority_key);
    let certificate = made("a certificate", params.signed_by(&key, &issuer))?.pem();
    let key = key.serialize_pem();
    write(&key_file, &key)?;
    write(&certificate_file, &certificate)?;
    Ok(Pair { certificate, key })
}

fn leaf_params(wanted: &Wanted<'_>, now: Timestamp) -> Result<CertificateParams, PkiError> {
    let mut params = match wanted {
        Wanted::Server(names) => made("the server's certificate", CertificateParams::new(names.to_vec()))?,
        Wanted::Admin => CertificateParams::default(),
    };
    params.distinguished_name = DistinguishedName::new();
    match wanted {
        Wanted::Server(_) => {
            params.distinguished_name.push(DnType::CommonName, "berthd");
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        }
        Wanted::Admin => {
            params
                .distinguished_name
                .push(DnType::OrganizationName, "system:masters");
            params
                .distinguished_name
                .push(DnType::CommonName, "kubernetes-admin");
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        }
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    lifetime(&mut params, now, LEAF_DAYS);
    Ok(params)
}

/// Whether a stored certificate still does: fits its key, is signed by this authority, is not near
/// its end, and holds the names it must.
fn is_good(certificate: &str, key: &str, authority: &Pair, wanted: &Wanted<'_>, now: Timestamp) -> bool {
    let Some(facts) = certificate::facts(certificate) else {
        return false;
    };
    let Ok(key) = KeyPair::from_pem(key) else {
        return false;
    };
    let left = facts.not_after.as_second() - now.as_second();
    let names_in = match wanted {
        Wanted::Server(names) => names.iter().all(|n| facts.names.contains(n)),
        Wanted::Admin => true,
    };
    left > RENEW_DAYS * DAY
        && names_in
        && facts.holds_key(key.public_key_raw())
        && certificate::is_signed_by(
            certificate,
            &authority.certificate,
            matches!(wanted, Wanted::Admin),
            now,
        )
}

/// Addresses for the server's certificate: the one it listens on, or all of the host's if that is
/// "any".
pub fn addresses(listen: SocketAddr) -> Vec<IpAddr> {
    if !listen.ip().is_unspecified() {
        return vec![listen.ip()];
    }
    let all = nix::ifaddrs::getifaddrs().into_iter().flatten();
    all.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    })
    .collect()
}

#[cfg(test)]
mod tests;

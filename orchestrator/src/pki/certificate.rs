//! What berthd must read in a certificate: names, end of life, key, and who it is for.
//!
//! A reader for the few fields of DER (ITU-T X.690) that matter, of certificates that TLS has
//! verified already or that berthd made itself.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const OCTETS: u8 = 0x04;
const BITS: u8 = 0x03;
/// Version and extensions are in these context tags.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// id-at-commonName, id-at-organizationName, id-ce-subjectAltName.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0a];
const ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// Who a client is, by its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Common name.
    pub user: String,
    /// Organizations.
    pub groups: Vec<String>,
}

/// What a certificate says.
pub(super) struct Facts {
    pub not_after: Timestamp,
    pub names: Vec<String>,
    key: Vec<u8>,
}

impl Facts {
    pub fn holds_key(&self, raw: &[u8]) -> bool {
        self.key == raw
    }
}

/// A position in DER bytes.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The next element: its tag and its content.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let mut length = usize::from(first);
        if first >= 0x80 {
            let count = usize::from(first & 0x7f);
            if count == 0 || count > 4 {
                return None;
            }
            let (bytes, after) = rest.split_at_checked(count)?;
            length = bytes.iter().fold(0, |n, b| n << 8 | usize::from(*b));
            rest = after;
        }
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next()
            .filter(|(found, _)| *found == tag)
            .map(|(_, content)| content)
    }
}

/// The fields of the signed part, from the validity on.
struct Fields<'a> {
    validity: &'a [u8],
    subject: &'a [u8],
    key: &'a [u8],
    rest: Reader<'a>,
}

fn fields(der: &[u8]) -> Option<Fields<'_>> {
    let mut signed = Reader(Reader(Reader(der).expect(SEQUENCE)?).expect(SEQUENCE)?);
    let (tag, _) = signed.next()?;
    if tag == VERSION {
        signed.next()?; // serial number
    }
    signed.expect(SEQUENCE)?; // signature algorithm
    signed.expect(SEQUENCE)?; // issuer
    let validity = signed.expect(SEQUENCE)?;
    let subject = signed.expect(SEQUENCE)?;
    let key = signed.expect(SEQUENCE)?;
    Some(Fields {
        validity,
        subject,
        key,
        rest: signed,
    })
}

/// Whom a verified client certificate is for.
pub fn identity(der: &[u8]) -> Option<Identity> {
    let mut names = Reader(fields(der)?.subject);
    let (mut user, mut groups) = (String::new(), Vec::new());
    while let Some(set) = names.expect(SET) {
        let mut pair = Reader(Reader(set).expect(SEQUENCE)?);
        let kind = pair.expect(OID)?;
        let (_, text) = pair.next()?;
        let text = String::from_utf8(text.to_vec()).ok()?;
        if kind == COMMON_NAME {
            user = text;
        } else if kind == ORGANIZATION {
            groups.push(text);
        }
    }
    (!user.is_empty()).then_some(Identity { user, groups })
}

/// Reads a certificate in PEM.
pub(super) fn facts(pem: &str) -> Option<Facts> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let fields = fields(&der)?;
    let mut validity = Reader(fields.validity);
    validity.next()?;
    let (tag, text) = validity.next()?;
    let mut key = Reader(fields.key);
    key.expect(SEQUENCE)?;
    let key = key.expect(BITS)?.get(1..)?.to_vec();
    Some(Facts {
        not_after: time(tag, text)?,
        names: alt_names(fields.rest),
        key,
    })
}

fn time(tag: u8, text: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?;
    let text = match tag {
        // RFC 5280 4.1.2.5.1: years from 50 on are of the last century.
        UTC_TIME if text.get(..2)? < "50" => format!("20{text}"),
        UTC_TIME => format!("19{text}"),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let part = |from: usize, to: usize| text.get(from..to);
    let iso = format!(
        "{}-{}-{}T{}:{}:{}Z",
        part(0, 4)?,
        part(4, 6)?,
        part(6, 8)?,
        part(8, 10)?,
        part(10, 12)?,
        part(12, 14)?
    );
    iso.parse().ok()
}

/// DNS names and IP addresses of the subjectAltName extension, as text.
fn alt_names(mut rest: Reader<'_>) -> Vec<String> {
    let mut names = Vec::new();
    let Some(list) = rest.expect(EXTENSIONS).and_then(|e| Reader(e).expect(SEQUENCE)) else {
        return names;
    };
    let mut list = Reader(list);
    while let Some(extension) = list.expect(SEQUENCE) {
        let mut extension = Reader(extension);
        if extension.expect(OID) != Some(ALT_NAME) {
            continue;
        }
        let mut value = extension.next();
        if value.is_some_and(|(tag, _)| tag != OCTETS) {
            value = extension.next(); // after the "critical" flag
        }
        let mut entries = Reader(
            value
                .and_then(|(_, v)| Reader(v).expect(SEQUENCE))
                .unwrap_or_default(),
        );
        while let Some((tag, content)) = entries.next() {
            match (tag, content.len()) {
                (0x82, _) => names.extend(std::str::from_utf8(content).map(str::to_owned)),
                (0x87, 4) => names.extend(address(<[u8; 4]>::try_from(content).ok())),
                (0x87, 16) => names.extend(address(<[u8; 16]>::try_from(content).ok())),
                _ => {}
            }
        }
    }
    names
}

fn address(bytes: Option<impl Into<IpAddr>>) -> Option<String> {
    bytes.map(|bytes| bytes.into().to_string())
}

/// Whether TLS would trust a certificate of this authority now, as a client's or a server's.
pub(super) fn is_signed_by(pem: &str, authority: &str, client: bool, now: Timestamp) -> bool {
    let check = || -> Option<()> {
        let leaf = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
        let authority = CertificateDer::from_pem_slice(authority.as_bytes()).ok()?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority).ok()?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now.as_second().try_into().ok()?));
        if client {
            let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.build().ok()?.verify_client_cert(&leaf, &[], now).ok()?;
            return Some(());
        }
        let algorithms = provider.signature_verification_algorithms.all;
        let leaf = ParsedCertificate::try_from(&leaf).ok()?;
        verify_server_cert_signed_by_trust_anchor(&leaf, &roots, &[], now, algorithms).ok()
    };
    check().is_some()
}

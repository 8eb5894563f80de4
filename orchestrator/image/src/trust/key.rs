//! Public keys as cosign writes them: a PEM "PUBLIC KEY" (RFC 5280, SubjectPublicKeyInfo).
//!
//! ring verifies, and is here for TLS already. Only the outermost structure of a key is read by
//! ourselves: which algorithm, and the key's bits.

use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;

const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

const SEQUENCE: u8 = 0x30;
const OBJECT: u8 = 0x06;
const BIT_STRING: u8 = 0x03;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Rsa,
    P256,
    P384,
    Ed25519,
}

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    algorithm: Algorithm,
    bits: Vec<u8>,
}

impl Key {
    /// Reads a PEM file's content.
    pub(crate) fn parse(pem: &[u8]) -> Result<Self, String> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem)
            .map_err(|error| format!("it is no PEM \"PUBLIC KEY\": {error}"))?;
        Self::of_der(&der).ok_or_else(|| {
            "it is no key of ECDSA P-256 or P-384, Ed25519 or RSA: make one with cosign generate-key-pair"
                .to_owned()
        })
    }

    fn of_der(der: &[u8]) -> Option<Self> {
        let (whole, rest) = element(der, SEQUENCE)?;
        let (identifier, key) = element(whole, SEQUENCE)?;
        let (bits, after) = element(key, BIT_STRING)?;
        let (algorithm, parameters) = element(identifier, OBJECT)?;
        if !rest.is_empty() || !after.is_empty() {
            return None;
        }
        let algorithm = match algorithm {
            RSA => Algorithm::Rsa,
            ED25519 => Algorithm::Ed25519,
            EC => match element(parameters, OBJECT)?.0 {
                P256 => Algorithm::P256,
                P384 => Algorithm::P384,
                _ => return None,
            },
            _ => return None,
        };
        // The first byte counts unused bits at the end: keys have none.
        let (0, bits) = (*bits.first()?, bits.get(1..)?) else {
            return None;
        };
        Some(Self {
            algorithm,
            bits: bits.to_vec(),
        })
    }

    /// Whether `signature` was made over `message` with this key.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let algorithms: &[&dyn VerificationAlgorithm] = match self.algorithm {
            Algorithm::Rsa => &[
                &signature::RSA_PKCS1_2048_8192_SHA256,
                &signature::RSA_PSS_2048_8192_SHA256,
            ],
            Algorithm::P256 => &[&signature::ECDSA_P256_SHA256_ASN1],
            // cosign hashes with SHA-256 whatever the curve.
            Algorithm::P384 => &[
                &signature::ECDSA_P384_SHA256_ASN1,
                &signature::ECDSA_P384_SHA384_ASN1,
            ],
            Algorithm::Ed25519 => &[&signature::ED25519],
        };
        algorithms.iter().any(|algorithm| {
            UnparsedPublicKey::new(*algorithm, &self.bits)
                .verify(message, signature)
                .is_ok()
        })
    }
}

/// One DER element of a kind: its content, and what follows it.
fn element(bytes: &[u8], kind: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = bytes.split_first()?;
    let (&length, mut rest) = rest.split_first()?;
    let length = if length < 0x80 {
        usize::from(length)
    } else {
        let digits = usize::from(length & 0x7f);
        if !(1..=3).contains(&digits) {
            return None;
        }
        let (head, tail) = rest.split_at_checked(digits)?;
        rest = tail;
        head.iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte))
    };
    let (content, after) = rest.split_at_checked(length)?;
    (found == kind).then_some((content, after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::rand::SystemRandom;
    use ring::signature::{EcdsaKeyPair, Ed25519KeyPair, KeyPair};

    fn pem(der: &[u8]) -> String {
        use base64::Engine as _;
        let code = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN PUBLIC KEY-----\n{code}\n-----END PUBLIC KEY-----\n")
    }

    fn wrapped(kind: u8, content: &[u8]) -> Vec<u8> {
        assert!(content.len() < 0x80 || kind == SEQUENCE || kind == BIT_STRING);
        let mut bytes = vec![kind];
        if content.len() < 0x80 {
            bytes.push(content.len() as u8);
        } else {
            bytes.extend([0x81, content.len() as u8]);
        }
        bytes.extend_from_slice(content);
        bytes
    }

    fn spki(identifier: &[&[u8]], bits: &[u8]) -> Vec<u8> {
        let objects: Vec<u8> = identifier
            .iter()
            .flat_map(|object| wrapped(OBJECT, object))
            .collect();
        let key = [&[0], bits].concat();
        wrapped(
            SEQUENCE,
            &[wrapped(SEQUENCE, &objects), wrapped(BIT_STRING, &key)].concat(),
        )
    }

    #[test]
    fn signatures_are_verified() {
        let random = SystemRandom::new();
        let algorithm = &signature::ECDSA_P256_SHA256_ASN1_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap();
        let key = Key::parse(pem(&spki(&[EC, P256], pair.public_key().as_ref())).as_bytes()).unwrap();
        let made = pair.sign(&random, b"payload").unwrap();
        assert!(key.verifies(b"payload", made.as_ref()));
        assert!(!key.verifies(b"payloaD", made.as_ref()));
        assert!(!key.verifies(b"payload", &made.as_ref()[1..]));

        let document = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
        let other = Key::parse(pem(&spki(&[ED25519], pair.public_key().as_ref())).as_bytes()).unwrap();
        assert!(other.verifies(b"payload", pair.sign(b"payload").as_ref()));
        assert!(!other.verifies(b"payload", made.as_ref()));
    }

    #[test]
    fn malformed_keys_are_refused() {
        let good = spki(&[EC, P256], &[4; 65]);
        assert!(Key::of_der(&good).is_some());
        for bad in [
            &good[..good.len() - 1],
            &[good.clone(), vec![0]].concat(),
            &spki(&[EC, &[1, 2, 3]], &[4; 65]),
            &spki(&[&[1, 2, 3]], &[4; 65]),
            &[SEQUENCE, 0x84, 1, 0, 0, 0],
            &[],
        ] {
            assert_eq!(Key::of_der(bad), None, "{bad:?}");
        }
        assert!(Key::parse(b"no key").unwrap_err().contains("PEM"));
    }
}

//! Content digests and layer chain ids.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// A SHA-256 content digest (OCI image specification, descriptor.md "Digests").
///
/// SHA-256 is the only algorithm every registry and builder uses; others are refused by name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// Why a text is no digest this store can use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// No `algorithm:` prefix.
    #[error("digest {text:?} has no algorithm: expected sha256:<64 hexadecimal digits>")]
    NoAlgorithm {
        /// The text as given.
        text: String,
    },
    /// An algorithm other than sha256.
    #[error("digest algorithm {algorithm:?} is not supported: only sha256 is")]
    Algorithm {
        /// The algorithm's name.
        algorithm: String,
    },
    /// The part after the colon is not 64 lower-case hexadecimal digits.
    #[error("digest {text:?} does not have 64 lower-case hexadecimal digits after the colon")]
    Hex {
        /// The text as given.
        text: String,
    },
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The 64 lower-case hexadecimal digits, without the algorithm.
    pub fn hex(&self) -> String {
        let mut text = String::with_capacity(64);
        for byte in self.0 {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from(if nibble < 10 {
                    b'0' + nibble
                } else {
                    b'a' + nibble - 10
                }));
            }
        }
        text
    }

    /// Reads 64 lower-case hexadecimal digits, as in a blob's file name.
    pub fn from_hex(hex: &str) -> Option<Self> {
        let digits = hex.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let value = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        let mut bytes = [0u8; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = value(pair[0])? << 4 | value(pair[1])?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, hex) = text.split_once(':').ok_or_else(|| DigestError::NoAlgorithm {
            text: text.to_owned(),
        })?;
        if algorithm != "sha256" {
            return Err(DigestError::Algorithm {
                algorithm: algorithm.to_owned(),
            });
        }
        Self::from_hex(hex).ok_or_else(|| DigestError::Hex {
            text: text.to_owned(),
        })
    }
}

/// The identity of a layer on top of the layers below it (OCI image specification, config.md
/// "Layer ChainID"): two images that share their lower layers share these ids.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainId(Digest);

impl ChainId {
    /// The chain ids of a stack of uncompressed layer digests, lowest first.
    pub fn chain(diff_ids: &[Digest]) -> Vec<Self> {
        let mut chain: Vec<Self> = Vec::with_capacity(diff_ids.len());
        for diff_id in diff_ids {
            chain.push(match chain.last() {
                None => Self(*diff_id),
                Some(parent) => Self(Digest::of(format!("{} {diff_id}", parent.0).as_bytes())),
            });
        }
        chain
    }

    /// The chain id as a plain digest.
    pub fn digest(&self) -> Digest {
        self.0
    }

    pub(crate) fn from_hex(hex: &str) -> Option<Self> {
        Digest::from_hex(hex).map(Self)
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

impl fmt::Debug for ChainId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

/// The digest of bytes that come piece by piece.
#[derive(Default)]
pub(crate) struct Running {
    hasher: Sha256,
    bytes: u64,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Running({} bytes)", self.bytes)
    }
}

impl Running {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The digest of what has come so far.
    pub(crate) fn digest(&self) -> Digest {
        Digest(self.hasher.clone().finalize().into())
    }
}

/// Passes bytes through and takes their digest: a reader's or a writer's, whichever it wraps.
pub(crate) struct Hashing<T> {
    inner: T,
    hasher: Sha256,
    bytes: u64,
}

impl<T> Hashing<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self {
            inner,
            hasher: Sha256::new(),
            bytes: 0,
        }
    }

    /// The wrapped value, the digest and the number of the bytes that went through.
    pub(crate) fn finish(self) -> (T, Digest, u64) {
        (self.inner, Digest(self.hasher.finalize().into()), self.bytes)
    }

    fn account(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.account(&buffer[..count]);
        Ok(count)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(buffer)?;
        self.account(&buffer[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_of_the_empty_string_is_the_known_one() {
        let text = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").to_string(), text);
        assert_eq!(text.parse::<Digest>().unwrap(), Digest::of(b""));
    }

    #[test]
    fn malformed_digests_are_refused_with_the_reason() {
        let cases = [
            ("abc", "no algorithm"),
            ("sha512:00", "\"sha512\" is not supported"),
            ("sha256:00", "64 lower-case"),
            (
                "sha256:E3B0C44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                "64 lower-case",
            ),
            (
                "sha256:../../../../../../../../../../../../../../../../../../../../etc/pwd",
                "64 lower-case",
            ),
        ];
        for (text, expected) in cases {
            let message = text.parse::<Digest>().unwrap_err().to_string();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }

    #[test]
    fn chain_ids_follow_the_specification() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let chain = ChainId::chain(&[a, b]);
        assert_eq!(chain[0].digest(), a);
        assert_eq!(chain[1].digest(), Digest::of(format!("{a} {b}").as_bytes()));
        assert_eq!(ChainId::chain(&[a]), chain[..1]);
    }

    #[test]
    fn hashing_counts_what_passes() {
        let mut reader = Hashing::new(&b"hello"[..]);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        let (_, digest, bytes) = reader.finish();
        assert_eq!((digest, bytes), (Digest::of(b"hello"), 5));
    }
}

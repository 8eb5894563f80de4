//! What a pull tells while it goes on.

use crate::digest::Digest;

/// One step of a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The image's manifest is known.
    Resolved {
        /// Its digest.
        manifest: Digest,
        /// Where it came from.
        place: String,
    },
    /// A layer of the image, announced before anything is done about it.
    Layer {
        /// Its blob.
        digest: Digest,
        /// Its compressed bytes.
        size: u64,
    },
    /// The layer is in the store already, or another pull brings it.
    Exists {
        /// Its blob.
        digest: Digest,
    },
    /// Bytes of a layer that are here.
    Downloading {
        /// Its blob.
        digest: Digest,
        /// So many.
        bytes: u64,
    },
    /// The transfer was cut and is tried again.
    Retrying {
        /// The layer's blob.
        digest: Digest,
        /// Bytes that are here.
        bytes: u64,
        /// What happened.
        why: String,
    },
    /// The layer is whole and unpacked.
    Complete {
        /// Its blob.
        digest: Digest,
    },
}

//! What can go wrong with the store, an import, a layer, a root file system.

use std::io;
use std::path::PathBuf;

use crate::digest::{Digest, DigestError};
use crate::reference::{Reference, ReferenceError};
use crate::tar::TarError;
use crate::unpack::UnpackError;

/// Why the store cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the store open.
    #[error("image store {path:?} is in use by another process")]
    Locked {
        /// The store's folder.
        path: PathBuf,
    },
    /// A file operation in the store's folder failed.
    #[error("cannot {action} {path:?} in the image store")]
    File {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// index.json is no OCI image index.
    #[error("{path:?} is damaged: move it away to start with an empty image list")]
    Index {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The folder is some other version of this store.
    #[error("{path:?} is an image store of layout {found:?}; this program knows layout \"1.0.0\"")]
    Layout {
        /// The folder.
        path: PathBuf,
        /// The version found.
        found: String,
    },
    /// A stored blob does not have the content its name promises.
    #[error("blob {digest} in the image store is damaged: import its image again")]
    Damaged {
        /// The blob.
        digest: Digest,
    },
    /// The name given is no image name.
    #[error("cannot use the image name")]
    Name(#[from] ReferenceError),
    /// A name by digest, which is a content and cannot be given.
    #[error("image name {name} has a digest: give a tag")]
    TagDigest {
        /// The name.
        name: Reference,
    },
    /// No image has this name or id.
    #[error("no image {name:?} in the store")]
    NotFound {
        /// The name as given.
        name: String,
    },
    /// More than one image has an id that begins like this.
    #[error("image id {name:?} is ambiguous: give more digits")]
    Ambiguous {
        /// The id as given.
        name: String,
    },
    /// A container uses the image.
    #[error("image {name:?} ({id}) is in use by a container: delete its pods first")]
    InUse {
        /// The name as given.
        name: String,
        /// The image.
        id: Digest,
    },
}

/// Why a layer could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The archive is refused, or could not be written out.
    #[error("cannot unpack layer {layer}")]
    Unpack {
        /// The layer's digest in the manifest.
        layer: Digest,
        /// What is wrong; a private type, rendered by its message.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The uncompressed content is not what the image's config says.
    #[error("layer {layer} has the uncompressed content {found}, but the image's config says {expected}")]
    DiffId {
        /// The layer's digest in the manifest.
        layer: Digest,
        /// What the config says.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl LayerError {
    pub(crate) fn unpack(layer: Digest, source: UnpackError) -> Self {
        Self::Unpack {
            layer,
            source: Box::new(source),
        }
    }

    pub(crate) fn read(layer: Digest, source: io::Error) -> Self {
        Self::Unpack {
            layer,
            source: Box::new(source),
        }
    }
}

/// Why an archive was not imported. Nothing of it is kept.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The outer archive cannot be read.
    #[error("cannot read the image archive")]
    Archive {
        /// What is wrong; a private type, rendered by its message.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The archive is none of the known kinds.
    #[error(
        "the archive has neither manifest.json (docker save) nor index.json (OCI layout): \
         for a root file system give --root"
    )]
    Unknown,
    /// A member that the archive's own documents name is not there.
    #[error("the archive has no {member:?}, which {wanted_by} names")]
    Missing {
        /// The member.
        member: String,
        /// The document that names it.
        wanted_by: String,
    },
    /// A member has another content than its name or a descriptor says.
    #[error("{member:?} in the archive has the content {found}, not {expected}: the archive is damaged")]
    Digest {
        /// The member.
        member: String,
        /// What it should be.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// A descriptor's size is not the blob's.
    #[error("{member:?} in the archive has {found} bytes, not {expected} as its descriptor says")]
    Size {
        /// The member.
        member: String,
        /// What it should be.
        expected: u64,
        /// What it is.
        found: u64,
    },
    /// A JSON document of the archive cannot be used.
    #[error("{document:?} in the archive is malformed")]
    Json {
        /// The document.
        document: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A digest in a document cannot be used.
    #[error("{document:?} in the archive has an unusable digest")]
    DigestText {
        /// The document.
        document: String,
        /// What is wrong with it.
        #[source]
        source: DigestError,
    },
    /// A document or the number of members is beyond any real image.
    #[error("the archive has {what} of {found}, more than the limit of {limit}")]
    TooBig {
        /// What is too big.
        what: String,
        /// Its size.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// The layers of manifest and config do not match.
    #[error("the image's manifest has {layers} layers, but its config {diff_ids}")]
    LayerCount {
        /// In the manifest.
        layers: usize,
        /// In the config.
        diff_ids: usize,
    },
    /// The image is made for other machines.
    #[error("the image is for {found}, but this machine runs {host}")]
    Platform {
        /// What the archive offers.
        found: String,
        /// What this machine runs.
        host: String,
    },
    /// A descriptor of something that is no container image.
    #[error("{document:?} has media type {media_type:?}, which is no image manifest or index")]
    MediaType {
        /// Where it was found.
        document: String,
        /// The media type.
        media_type: String,
    },
    /// The archive names no image and the caller did not, either.
    #[error("the archive carries no image name: give one with --name")]
    Unnamed,
    /// One name for several images.
    #[error("the archive has {count} images: leave --name out to import them under their own names")]
    Several {
        /// How many.
        count: usize,
    },
    /// The name asked for, or one in the archive, is no image name.
    #[error("cannot use the image name")]
    Name(#[from] ReferenceError),
    /// A name by digest, which is a content and cannot be given.
    #[error("image name {name} has a digest: an image is imported under a tag")]
    NameByDigest {
        /// The name.
        name: Reference,
    },
    /// An option of a root file system import is malformed.
    #[error("{option} {value:?} is malformed: expected {expected}")]
    Option {
        /// The option.
        option: &'static str,
        /// Its value.
        value: String,
        /// The form that is expected.
        expected: &'static str,
    },
    /// A layer is refused.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ImportError {
    pub(crate) fn tar(source: TarError) -> Self {
        Self::Archive {
            source: Box::new(source),
        }
    }

    pub(crate) fn read(source: io::Error) -> Self {
        Self::Archive {
            source: Box::new(source),
        }
    }
}

/// Why a container's root file system cannot be set up or taken down.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// A layer of the image is missing and could not be unpacked again.
    #[error("cannot make the image's layers ready")]
    Layer(#[from] LayerError),
    /// A file operation in the container's folder failed.
    #[error("cannot {action} {path:?}")]
    File {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel refused the overlay.
    #[error("cannot mount the root file system on {path:?} as overlay with {options:?}")]
    Mount {
        /// The mount point.
        path: PathBuf,
        /// The mount options.
        options: String,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// The file system of the store has no idmapped mounts, or the kernel none at all.
    #[error(
        "cannot map the ids of the image store {path:?} for hostUsers: false: its file system must have idmapped mounts (ext4, xfs and btrfs do)"
    )]
    Shift {
        /// The store.
        path: PathBuf,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// overlayfs takes at most 500 lower layers, and options of at most a page.
    #[error("the image has {layers} layers, more than overlayfs can stack")]
    TooManyLayers {
        /// How many.
        layers: usize,
    },
}

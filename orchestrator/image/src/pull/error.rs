//! Why an image was not pulled.

use crate::digest::{Digest, DigestError};
use crate::error::{LayerError, StoreError};
use crate::reference::{Reference, ReferenceError};
use crate::registry::RegistryError;
use crate::trust::TrustError;

/// Why an image was not pulled. Nothing of it can be used; parts of layers stay, so that the next
/// pull goes on with them.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The name is no image name.
    #[error("cannot use the image name")]
    Name(#[from] ReferenceError),
    /// The registry does not give it.
    #[error("cannot get {what} of {name}")]
    Registry {
        /// The image.
        name: Box<Reference>,
        /// Manifest, config, layer.
        what: String,
        /// Why.
        #[source]
        source: RegistryError,
    },
    /// Neither the mirrors nor the registry gave it.
    #[error("cannot get {name} from any of its places ({tried})")]
    Places {
        /// The image.
        name: Box<Reference>,
        /// The mirrors, each with why not.
        tried: String,
        /// What the last place, the registry itself, said.
        #[source]
        source: RegistryError,
    },
    /// A document is no JSON of its kind.
    #[error("the {what} of {name} is malformed")]
    Json {
        /// The image.
        name: Box<Reference>,
        /// Manifest, index or config.
        what: &'static str,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A digest in a document cannot be used.
    #[error("the {what} of {name} has an unusable digest")]
    DigestText {
        /// The image.
        name: Box<Reference>,
        /// Manifest, index or config.
        what: &'static str,
        /// What is wrong with it.
        #[source]
        source: DigestError,
    },
    /// Something is not what its digest says.
    #[error("{what} of {name} has the content {found}, not {expected}: refused")]
    Digest {
        /// The image.
        name: Box<Reference>,
        /// Manifest, config, layer.
        what: String,
        /// What it should be.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// Something has another size than its descriptor says.
    #[error("{what} of {name} has {found} bytes, not {expected} as its descriptor says: refused")]
    Size {
        /// The image.
        name: Box<Reference>,
        /// Manifest, config, layer.
        what: String,
        /// What it should be.
        expected: u64,
        /// What it is.
        found: u64,
    },
    /// A kind of document or layer that this store cannot use.
    #[error("{name} cannot be used: {what} has media type {media_type:?}, {why}")]
    MediaType {
        /// The image.
        name: Box<Reference>,
        /// Manifest, config, layer.
        what: String,
        /// Its media type.
        media_type: String,
        /// What that means.
        why: &'static str,
    },
    /// The image is made for other machines.
    #[error("{name} is for {found}, but this machine runs {host}")]
    Platform {
        /// The image.
        name: Box<Reference>,
        /// What the registry offers.
        found: String,
        /// What this machine runs.
        host: String,
    },
    /// The layers of manifest and config do not match.
    #[error("the manifest of {name} has {layers} layers, but its config {diff_ids}: refused")]
    LayerCount {
        /// The image.
        name: Box<Reference>,
        /// In the manifest.
        layers: usize,
        /// In the config.
        diff_ids: usize,
    },
    /// The trust policy does not accept it.
    #[error("{name} is not trusted")]
    Untrusted {
        /// The image.
        name: Box<Reference>,
        /// Why.
        #[source]
        source: TrustError,
    },
    /// A layer is refused.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The caller does not want it any more.
    #[error("the pull was cancelled")]
    Cancelled,
}

impl PullError {
    pub(crate) fn registry(name: &Reference, what: impl Into<String>) -> impl FnOnce(RegistryError) -> Self {
        let (name, what) = (Box::new(name.clone()), what.into());
        move |source| match source {
            RegistryError::Cancelled => Self::Cancelled,
            source => Self::Registry { name, what, source },
        }
    }

    /// Whether the registry knows no such image.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Registry { source, .. } | Self::Places { source, .. } => source.is_not_found(),
            _ => false,
        }
    }
}

//! Trust: whose images may be pulled (containers-policy.json(5)), and how a signature is checked.
//!
//! ```text
//! policy.rs     policy.json: by registry or repository accept, reject, require
//! key.rs        public keys, and signatures made with them
//! signature.rs  cosign's signatures: found beside the image, verified, held against the policy
//! referrers.rs  what is attached to an image: SBOMs, scan reports, signatures
//! ```

mod key;
mod policy;
mod referrers;
mod signature;

use std::io;
use std::path::PathBuf;

pub use policy::Policy;
pub(crate) use referrers::referrers_of;
pub use referrers::{Referrer, ReferrersError};

use crate::digest::Digest;
use crate::reference::Reference;
use crate::registry::RegistryError;

/// What is judged: a name, the digest it led to, and the manifest that was chosen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) name: &'a Reference,
    /// Of the manifest, or of an index that names it.
    pub(crate) named: Digest,
    pub(crate) manifest: Digest,
}

impl Subject<'_> {
    /// Digests that a signature may be for.
    fn digests(&self) -> Vec<Digest> {
        let mut digests = vec![self.named];
        if self.manifest != self.named {
            digests.push(self.manifest);
        }
        digests
    }
}

/// Why a policy file cannot be used. Nothing is pulled then.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It cannot be read.
    #[error("cannot read the trust policy {path:?}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// It is malformed.
    #[error("the trust policy {path:?} is malformed: {why}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the field's name.
        why: String,
    },
}

/// Why an image is not trusted.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The policy rejects it.
    #[error("the trust policy rejects {scope}")]
    Rejected {
        /// The part of the policy that counts.
        scope: String,
    },
    /// The policy asks for something that cannot be checked here.
    #[error("the trust policy for {scope} asks for {what}")]
    Unsupported {
        /// The part of the policy that counts.
        scope: String,
        /// What it asks for, and what to do.
        what: String,
    },
    /// No signature at all.
    #[error("the trust policy for {scope} requires a signature, and {digest} has none")]
    Unsigned {
        /// The part of the policy that counts.
        scope: String,
        /// The image.
        digest: Digest,
    },
    /// Signatures, but none that counts.
    #[error("none of the {count} signatures of {digest} is accepted by the trust policy for {scope}: {why}")]
    Signature {
        /// The part of the policy that counts.
        scope: String,
        /// The image.
        digest: Digest,
        /// How many there are.
        count: usize,
        /// Why not, one reason a signature.
        why: String,
    },
    /// A key of the policy cannot be used.
    #[error("the key {path} of the trust policy cannot be used: {why}")]
    Key {
        /// The file, or "keyData".
        path: String,
        /// What is wrong.
        why: String,
    },
    /// Something that must be attached is not.
    #[error("the trust policy for {scope} requires an attached {artifact_type}, and {digest} has none")]
    Referrer {
        /// The part of the policy that counts.
        scope: String,
        /// The image.
        digest: Digest,
        /// What must be there.
        artifact_type: String,
    },
    /// Signatures or attachments could not be looked up.
    #[error("cannot look up what is attached to {digest}")]
    Lookup {
        /// The image.
        digest: Digest,
        /// Why.
        #[source]
        source: Box<RegistryError>,
    },
}

//! OCI image store: import, layers, root file systems.
//!
//! The store's folder is itself an OCI image layout (`oci-layout`, `index.json`, `blobs/sha256/`),
//! so any OCI tool can read it. Beside the blobs it keeps every layer unpacked once, under its
//! chain id, ready to be an overlayfs lower directory:
//!
//! ```text
//! <store>/oci-layout, index.json     which images there are, and their names
//! <store>/blobs/sha256/<hex>         manifests, configs, layers as they came; content-addressed
//! <store>/layers/<hex of chain id>/  layer.json and fs/ (overlayfs form: whiteouts, opaque folders)
//! <store>/l/<short>                  link to a layer's fs/: keeps overlay's mount options short
//! <store>/partial/<hex>              downloads that were cut off, to go on with
//! <store>/tmp/                       everything half-made; swept when the store is opened
//! <store>/lock                       held by the one process that has the store open
//! ```
//!
//! All calls block: an async caller wraps them in a blocking task.

mod blob;
mod check;
mod compare;
mod decompress;
mod digest;
mod download;
mod error;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod hostile;
mod import;
mod index;
mod layer;
mod pull;
mod push;
mod reference;
mod registry;
mod rootfs;
#[cfg(test)]
mod rootless;
mod save;
mod store;
mod tar;
mod trust;
mod unpack;
pub mod user;

pub use check::{Check, Checked, Problem, Usage};
pub use digest::{ChainId, Digest, DigestError};
pub use error::{ImportError, LayerError, RootfsError, StoreError};
pub use import::{ImportFormat, ImportOptions, Imported, RootOptions};
pub use pull::{Progress, PullError, PullOptions, Pulled};
pub use push::{PushError, PushOptions, Pushed};
pub use reference::{Reference, ReferenceError};
pub use registry::{Credential, Credentials, CredentialsError, Registries, RegistryError};
pub use rootfs::{Rootfs, Shift};
pub use save::{SaveError, SaveFormat};
pub use store::{Collected, Image, ImageStore, ImageSummary, Removed};
pub use trust::{Policy, PolicyError, Referrer, ReferrersError, TrustError};
pub use unpack::Limits;

//! Images of the node: pulling for pods and for `berthctl`, what is in use, and room on the disk.
//!
//! Configuration files are read at each pull: a change counts at once, and nothing of them stays
//! in memory.

mod pressure;
mod usage;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use berth_image::{
    Credentials, Digest, ImageStore, Limits, Policy, PolicyError, Progress, PullError, PullOptions, Pulled,
    PushError, PushOptions, Pushed, Referrer, Registries, RegistryError,
};

use crate::store::Store;
pub use pressure::watch;

/// Layers of one image that are transferred at once; as many as containerd and Docker do.
const PARALLEL: usize = 3;

/// Where the node's settings for registries are.
#[derive(Debug, Clone)]
pub struct ImageConfig {
    /// `registries.conf` (containers-registries.conf(5)); `<file>.d/*.conf` are read, too.
    pub registries: PathBuf,
    /// Folders with `<host>/*.crt` (containers-certs.d(5)).
    pub certificates: Vec<PathBuf>,
    /// `policy.json` (containers-policy.json(5)).
    pub policy: PathBuf,
    /// Docker's config.json with the node's own credentials.
    pub credentials: PathBuf,
    /// Percent of the disk's room in use from which unused images are removed.
    pub gc_high: u8,
    /// Percent down to which they are removed.
    pub gc_low: u8,
    /// Seconds that an image is kept at least, used or not.
    pub gc_minimum_age: u64,
}

/// Why the node's settings for images cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// registries.conf.
    #[error(transparent)]
    Registries(#[from] RegistryError),
    /// policy.json.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The node's credentials cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The node's credentials are malformed.
    #[error("cannot use {}", path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: berth_image::CredentialsError,
    },
}

/// Why a transfer did not happen.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The node's settings.
    #[error("the node's settings for images cannot be used")]
    Settings(#[from] SettingsError),
    /// A pull.
    #[error(transparent)]
    Pull(#[from] PullError),
    /// A push.
    #[error(transparent)]
    Push(#[from] PushError),
    /// A look at what is attached to an image.
    #[error(transparent)]
    Referrers(#[from] berth_image::ReferrersError),
}

/// The images of the node. Clones share them.
#[derive(Clone)]
pub struct Images(Arc<Inner>);

struct Inner {
    objects: Store,
    store: ImageStore,
    config: ImageConfig,
    shutdown: tokio::sync::watch::Receiver<bool>,
    seen: std::sync::Mutex<pressure::Seen>,
    pulled: tokio::sync::Notify,
}

struct Settings {
    registries: Registries,
    policy: Policy,
    credentials: Credentials,
}

impl Images {
    /// `objects` tells which images pods use; transfers end when `shutdown` turns true.
    pub fn new(
        objects: Store,
        store: ImageStore,
        config: ImageConfig,
        shutdown: tokio::sync::watch::Receiver<bool>,
    ) -> Self {
        Self(Arc::new(Inner {
            objects,
            store,
            config,
            shutdown,
            seen: std::sync::Mutex::default(),
            pulled: tokio::sync::Notify::new(),
        }))
    }

    /// The store itself.
    pub fn store(&self) -> &ImageStore {
        &self.0.store
    }

    /// Ids of the images that pods use or will use.
    pub fn in_use(&self) -> BTreeSet<Digest> {
        usage::in_use(&self.0.objects, &self.0.store)
    }

    /// Pulls an image. `credentials` come before the node's own. Blocks.
    pub fn pull(
        &self,
        name: &str,
        credentials: &Credentials,
        unwanted: &(dyn Fn() -> bool + Sync),
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Pulled, TransferError> {
        let settings = self.settings(credentials)?;
        let cancelled = || unwanted() || *self.0.shutdown.borrow();
        let pulled = self.0.store.pull(
            name,
            &PullOptions {
                registries: &settings.registries,
                credentials: &settings.credentials,
                policy: &settings.policy,
                limits: Limits::default(),
                parallel: PARALLEL,
                cancelled: &cancelled,
                progress,
            },
        )?;
        // The disk is not waited for: `watch` sees to it that all is written out.
        self.0.pulled.notify_one();
        Ok(pulled)
    }

    /// Pushes the image `name` as `target`. Blocks.
    pub fn push(
        &self,
        name: &str,
        target: &str,
        credentials: &Credentials,
        unwanted: &(dyn Fn() -> bool + Sync),
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Pushed, TransferError> {
        let settings = self.settings(credentials)?;
        let cancelled = || unwanted() || *self.0.shutdown.borrow();
        let options = PushOptions {
            registries: &settings.registries,
            credentials: &settings.credentials,
            parallel: PARALLEL,
            cancelled: &cancelled,
            progress,
        };
        Ok(self.0.store.push(name, target, &options)?)
    }

    /// Lists what is attached to an image at its registry. Blocks.
    pub fn referrers(&self, name: &str, credentials: &Credentials) -> Result<Vec<Referrer>, TransferError> {
        let settings = self.settings(credentials)?;
        let cancelled = || *self.0.shutdown.borrow();
        let options = PullOptions {
            registries: &settings.registries,
            credentials: &settings.credentials,
            policy: &settings.policy,
            limits: Limits::default(),
            parallel: 1,
            cancelled: &cancelled,
            progress: &|_| (),
        };
        Ok(self.0.store.referrers(name, &options)?)
    }

    fn settings(&self, credentials: &Credentials) -> Result<Settings, SettingsError> {
        let config = &self.0.config;
        let mut credentials = credentials.clone();
        let path = || config.credentials.clone();
        match std::fs::read(&config.credentials) {
            Ok(text) => {
                let own = Credentials::parse(&text)
                    .map_err(|source| SettingsError::Credentials { path: path(), source })?;
                credentials.extend(own);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(SettingsError::File { path: path(), source }),
        }
        Ok(Settings {
            registries: Registries::load(&config.registries, config.certificates.clone())?,
            policy: Policy::load(&config.policy)?,
            credentials,
        })
    }
}

/// An error with everything that led to it, in one line, nothing twice.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

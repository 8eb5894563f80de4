//! Pulls: from a name to an image in the store.
//!
//! ```text
//! name ─► registries.conf: mirrors, registry ─► manifest (digest, platform) ─► trust policy
//!      ─► config ─► layers (layers.rs: download, verify, decompress, unpack at once) ─► index.json
//! ```
//!
//! Nothing of the image can be used before all of it has been verified; what is refused is
//! deleted, what was cut off is kept for the next try.

mod error;
mod layers;
pub(crate) mod manifest;
mod progress;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use error::PullError;
pub use progress::Progress;

use crate::digest::Digest;
use crate::error::StoreError;
use crate::reference::Reference;
use crate::registry::{
    Access, Credentials, Fetched, Http, Origin, Registries, RegistryError, Session, Settings,
};
use crate::store::{Entry, Image, ImageStore};
use crate::trust::{Policy, Subject};
use crate::unpack::Limits;
use layers::Job;
use manifest::Documents;

/// Tries of a document at the last place, and at those before it.
const TRIES: (u32, u32) = (4, 2);

/// How to pull.
pub struct PullOptions<'a> {
    /// How registries are reached.
    pub registries: &'a Registries,
    /// Who we are to them.
    pub credentials: &'a Credentials,
    /// What is accepted.
    pub policy: &'a Policy,
    /// How much a layer may contain.
    pub limits: Limits,
    /// Layers that are downloaded at once.
    pub parallel: usize,
    /// Asked a few times a second: whether to give up. Partial downloads are kept.
    pub cancelled: &'a (dyn Fn() -> bool + Sync),
    /// Told what happens, from any thread.
    pub progress: &'a (dyn Fn(Progress) + Sync),
}

/// An image that was pulled.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// The image.
    pub image: Image,
    /// Where it came from: `registry/repository`.
    pub place: String,
    /// Whether the store had exactly this image already.
    pub present: bool,
    /// Bytes of layers that were transferred.
    pub downloaded: u64,
}

impl ImageStore {
    /// Pulls an image, by tag or digest, and enters it under that name.
    pub fn pull(&self, name: &str, options: &PullOptions<'_>) -> Result<Pulled, PullError> {
        let name: Reference = name.parse()?;
        options
            .policy
            .before_contact(&name)
            .map_err(|source| PullError::Untrusted {
                name: Box::new(name.clone()),
                source,
            })?;
        let sources = options
            .registries
            .sources(&name)
            .map_err(PullError::registry(&name, "the place"))?;
        let settings = Settings::new(options.registries, &sources);
        let mut tried: Vec<String> = Vec::new();
        let count = sources.len();
        for (at, source) in sources.into_iter().enumerate() {
            let credentials = if source.mirror {
                mirror_credentials(options.credentials, &source.authority, &source.repository)
            } else {
                options.credentials.matching(&name)
            };
            let session = Session::new(source, Access::Pull, credentials);
            let last = at + 1 == count;
            let pull = Pull {
                store: self,
                name: &name,
                options,
                settings: &settings,
                session: &session,
                last,
            };
            match pull.run() {
                Ok(pulled) => return Ok(pulled),
                Err(error @ (PullError::Cancelled | PullError::Store(_) | PullError::Layer(_))) => {
                    return Err(error);
                }
                Err(error) if last => return Err(with_tried(&name, &tried, error)),
                Err(error) => tried.push(format!("{}: {}", session.place(), chain(&error))),
            }
        }
        // There is always the registry itself.
        Err(PullError::Cancelled)
    }
}

impl ImageStore {
    /// Lists what is attached to an image at its registry: SBOMs, scan reports, signatures. An image
    /// that is here is looked up by its digests, another one by name.
    pub fn referrers(
        &self,
        name: &str,
        options: &PullOptions<'_>,
    ) -> Result<Vec<crate::trust::Referrer>, crate::trust::ReferrersError> {
        crate::trust::referrers_of(self, name, options)
    }
}

fn mirror_credentials(
    credentials: &Credentials,
    authority: &str,
    repository: &str,
) -> Vec<crate::registry::Credential> {
    format!("{authority}/{repository}")
        .parse::<Reference>()
        .map(|name| credentials.matching(&name))
        .unwrap_or_default()
}

fn with_tried(name: &Reference, tried: &[String], error: PullError) -> PullError {
    match error {
        PullError::Registry { source, .. } if !tried.is_empty() => PullError::Places {
            name: Box::new(name.clone()),
            tried: tried.join("; "),
            source,
        },
        error => error,
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// One pull from one place.
struct Pull<'a> {
    store: &'a ImageStore,
    name: &'a Reference,
    options: &'a PullOptions<'a>,
    settings: &'a Settings<'a>,
    session: &'a Session,
    last: bool,
}

impl Pull<'_> {
    fn run(&self) -> Result<Pulled, PullError> {
        let documents = {
            let tls = |origin: &Origin| self.settings.tls(origin);
            let mut http = Http::new(&tls, self.options.cancelled)
                .map_err(PullError::registry(self.name, "a connection"))?;
            self.documents(&mut http)?
        };
        (self.options.progress)(Progress::Resolved {
            manifest: documents.manifest.digest,
            place: self.session.place(),
        });
        let manifest = documents.manifest.digest;
        let layers = &documents.layers;
        let mut blobs: Vec<_> = layers.iter().map(|layer| layer.wanted.blob).collect();
        blobs.extend([manifest, documents.config_digest]);
        let chains = layers.iter().map(|layer| layer.wanted.chain).collect();
        let pinned = self.store.pin(blobs, chains);
        let known = self.store.has_manifest(&manifest);
        if self.store.damaged().contains(&manifest) {
            self.store.drop_damaged(layers.iter().map(|layer| layer.wanted))?;
        }
        let present = known && self.is_whole(&documents);
        for layer in layers {
            (self.options.progress)(Progress::Layer {
                digest: layer.wanted.blob,
                size: layer.size,
            });
        }
        let job = Job {
            store: self.store,
            name: self.name,
            session: self.session,
            settings: self.settings,
            layers,
            limits: &self.options.limits,
            parallel: self.options.parallel,
            cancelled: self.options.cancelled,
            progress: self.options.progress,
            durable: known,
        };
        let downloaded = if layers.is_empty() { 0 } else { job.run()? };
        if (self.options.cancelled)() {
            return Err(PullError::Cancelled);
        }
        // An image that the index has named all the time must not depend on what is not on the disk.
        self.enter(&documents, known && !present)?;
        drop(pinned);
        let image = self
            .store
            .resolve(&self.name.to_string())?
            .ok_or(StoreError::NotFound {
                name: self.name.to_string(),
            })?;
        Ok(Pulled {
            image,
            place: self.session.place(),
            present,
            downloaded,
        })
    }

    /// Gets manifest and config, and asks the trust policy in between.
    fn documents(&self, http: &mut Http<'_>) -> Result<Documents, PullError> {
        let named = self.retrying(http, |http| manifest::named(self.session, http, self.name))?;
        let named_digest = named.digest;
        let manifest = if self.is_stored_manifest(&named) {
            named
        } else {
            self.retrying(http, |http| {
                manifest::select(self.session, http, self.name, named.clone())
            })?
        };
        let subject = Subject {
            name: self.name,
            named: named_digest,
            manifest: manifest.digest,
        };
        self.options
            .policy
            .verify(&subject, self.session, http)
            .map_err(|source| PullError::Untrusted {
                name: Box::new(self.name.clone()),
                source,
            })?;
        self.retrying(http, |http| {
            let stored = |digest: &Digest| self.store.blobs().document(digest).ok();
            manifest::complete(
                self.session,
                http,
                self.name,
                named_digest,
                manifest.clone(),
                stored,
            )
        })
    }

    /// Whether the named document is the manifest of an image that is here: then it has been
    /// selected before.
    fn is_stored_manifest(&self, named: &Fetched) -> bool {
        self.store.has_manifest(&named.digest) && !manifest::is_index(&named.media_type)
    }

    /// Tries again what failed for a passing reason.
    fn retrying<T>(
        &self,
        http: &mut Http<'_>,
        mut work: impl FnMut(&mut Http<'_>) -> Result<T, PullError>,
    ) -> Result<T, PullError> {
        let tries = if self.last { TRIES.0 } else { TRIES.1 };
        let mut failures = 0;
        loop {
            let error = match work(http) {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            failures += 1;
            let PullError::Registry { source, .. } = &error else {
                return Err(error);
            };
            let unreachable = matches!(source, RegistryError::Connect { .. });
            if !source.is_transient() || failures >= tries || (unreachable && failures > 1) {
                return Err(error);
            }
            let asked = match source {
                RegistryError::Status {
                    retry_after: Some(seconds),
                    ..
                } => Duration::from_secs((*seconds).min(30)),
                _ => Duration::from_millis(250 << failures.min(4)),
            };
            http.pause(asked).map_err(|_| PullError::Cancelled)?;
        }
    }

    fn is_whole(&self, documents: &Documents) -> bool {
        let (blobs, layers) = (self.store.blobs(), self.store.layers());
        documents
            .layers
            .iter()
            .all(|layer| blobs.has(&layer.wanted.blob) && layers.is_ready(&layer.wanted.chain))
    }

    fn enter(&self, documents: &Documents, settled: bool) -> Result<(), PullError> {
        let mut stage = self.store.blobs().stage()?;
        for bytes in [&documents.config, &documents.manifest.bytes] {
            let staged = stage.document(bytes)?;
            self.store.blobs().commit(&staged)?;
        }
        let names = [self.name.clone()];
        let digests: Vec<Reference> = [documents.named, documents.manifest.digest]
            .iter()
            .map(|digest| self.name.by_digest(*digest))
            .collect();
        let _shared = self.store.gate_shared();
        self.store.enter(&Entry {
            manifest: documents.manifest.digest,
            media_type: &documents.manifest.media_type,
            size: documents.manifest.bytes.len() as u64,
            names: &names,
            digests: &digests,
            now: now(),
            settled,
        })?;
        Ok(())
    }
}

/// Seconds since the epoch.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

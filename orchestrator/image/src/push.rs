//! Pushes: an image of the store to a registry, byte for byte as it is here.
//!
//! Blobs go up by one stream each; what the registry has is left out, and what another repository
//! of the same registry has is mounted from there (distribution specification, "Mounting a blob").
//! An upload that breaks off is begun anew.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::{Method, StatusCode, header};

use crate::digest::Digest;
use crate::error::StoreError;
use crate::pull::Progress;
use crate::reference::{Reference, ReferenceError};
use crate::registry::{
    Access, Call, Content, Credentials, Http, Origin, Registries, RegistryError, Session, Settings, Url,
    location,
};
use crate::store::ImageStore;

/// Tries of one blob or manifest.
const TRIES: u32 = 5;

/// How to push.
pub struct PushOptions<'a> {
    /// How registries are reached.
    pub registries: &'a Registries,
    /// Who we are to them.
    pub credentials: &'a Credentials,
    /// Blobs that are uploaded at once.
    pub parallel: usize,
    /// Asked a few times a second: whether to give up.
    pub cancelled: &'a (dyn Fn() -> bool + Sync),
    /// Told what happens, from any thread.
    pub progress: &'a (dyn Fn(Progress) + Sync),
}

/// An image that was pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Where it is now.
    pub name: Reference,
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Bytes that were uploaded.
    pub uploaded: u64,
}

/// Why an image was not pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The name is no image name.
    #[error("cannot use the image name")]
    Name(#[from] ReferenceError),
    /// The target is a digest that the image does not have.
    #[error("{name} cannot be pushed to: the image's manifest is {manifest}")]
    Digest {
        /// The target.
        name: Box<Reference>,
        /// What the image has.
        manifest: Digest,
    },
    /// The registry does not take it.
    #[error("cannot push {what} to {name}")]
    Registry {
        /// The target.
        name: Box<Reference>,
        /// Manifest, config, layer.
        what: String,
        /// Why.
        #[source]
        source: RegistryError,
    },
    /// The store failed, or has no such image.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The caller does not want it any more.
    #[error("the push was cancelled")]
    Cancelled,
}

impl ImageStore {
    /// Pushes the image `name` as `target`, which must have a registry and repository that take it.
    pub fn push(&self, name: &str, target: &str, options: &PushOptions<'_>) -> Result<Pushed, PushError> {
        let target: Reference = target.parse()?;
        let image = self.resolve(name)?.ok_or_else(|| StoreError::NotFound {
            name: name.to_owned(),
        })?;
        if target.digest().is_some_and(|digest| digest != image.manifest) {
            return Err(PushError::Digest {
                name: Box::new(target),
                manifest: image.manifest,
            });
        }
        let wrap = |source| failed(&target, "the image", source);
        let source = options
            .registries
            .sources(&target)
            .map_err(wrap)?
            .pop()
            .ok_or(PushError::Cancelled)?;
        let (media_type, layers) = self.contents(&image.manifest)?;
        let pinned = self.pin(
            layers.iter().copied().chain([image.manifest, image.id]).collect(),
            Vec::new(),
        );
        let others: Vec<String> = image
            .names
            .iter()
            .chain(&image.digests)
            .filter(|other| other.domain() == target.domain() && other.path() != target.path())
            .map(|other| other.path().to_owned())
            .collect();
        let settings = Settings::new(options.registries, std::slice::from_ref(&source));
        let credentials = options.credentials.matching(&target);
        let session = Session::new(source, Access::Push, credentials).also(&others);
        let mut blobs = vec![image.id];
        for layer in layers {
            if !blobs.contains(&layer) {
                blobs.push(layer);
            }
        }
        let push = Push {
            store: self,
            target: &target,
            options,
            settings: &settings,
            session: &session,
            others: &others,
            blobs: &blobs,
        };
        let uploaded = push.all_blobs()?;
        push.manifest(&image.manifest, &media_type)?;
        drop(pinned);
        Ok(Pushed {
            name: target.clone(),
            manifest: image.manifest,
            uploaded,
        })
    }
}

fn failed(target: &Reference, what: &str, source: RegistryError) -> PushError {
    match source {
        RegistryError::Cancelled => PushError::Cancelled,
        source => PushError::Registry {
            name: Box::new(target.clone()),
            what: what.to_owned(),
            source,
        },
    }
}

struct Push<'a> {
    store: &'a ImageStore,
    target: &'a Reference,
    options: &'a PushOptions<'a>,
    settings: &'a Settings<'a>,
    session: &'a Session,
    others: &'a [String],
    blobs: &'a [Digest],
}

impl Push<'_> {
    fn all_blobs(&self) -> Result<u64, PushError> {
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let outcome: Mutex<Result<u64, PushError>> = Mutex::new(Ok(0));
        let lock = || outcome.lock().unwrap_or_else(PoisonError::into_inner);
        let work = || {
            let given_up = || stop.load(Ordering::Relaxed) || (self.options.cancelled)();
            let tls = |origin: &Origin| self.settings.tls(origin);
            let done = || -> Result<(), PushError> {
                let mut http =
                    Http::new(&tls, &given_up).map_err(|error| failed(self.target, "the image", error))?;
                while let Some(digest) = self.blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let what = format!("blob {digest}");
                    let sent = self.retrying(&mut http, &what, |http| self.blob(http, digest))?;
                    if let Ok(total) = &mut *lock() {
                        *total += sent;
                    }
                }
                Ok(())
            };
            if let Err(error) = done() {
                stop.store(true, Ordering::Relaxed);
                let mut outcome = lock();
                // The first error counts; the others were only told to stop.
                if outcome.is_ok() {
                    *outcome = Err(error);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.options.parallel.clamp(1, 16).min(self.blobs.len()) {
                scope.spawn(work);
            }
        });
        outcome.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings one blob there; gives back how many bytes that took.
    fn blob(&self, http: &mut Http<'_>, digest: &Digest) -> Result<u64, RegistryError> {
        let path = self.store.blobs().path(digest);
        let unreadable = |source| RegistryError::Upload {
            path: path.clone(),
            source,
        };
        let size = std::fs::metadata(&path).map_err(unreadable)?.len();
        (self.options.progress)(Progress::Layer {
            digest: *digest,
            size,
        });
        match self
            .session
            .call(http, &format!("blobs/{digest}"), &Call::new(Method::HEAD))
        {
            Ok((url, response)) => {
                http.discard(&url, response);
                (self.options.progress)(Progress::Exists { digest: *digest });
                return Ok(0);
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        let start = match self.others.first() {
            Some(other) => format!(
                "blobs/uploads/?mount={digest}&from={}",
                crate::registry::encoded(other)
            ),
            None => "blobs/uploads/".to_owned(),
        };
        let (url, response) = self.session.call(http, &start, &Call::new(Method::POST))?;
        let (status, place) = (response.status(), location(&response));
        http.discard(&url, response);
        if status == StatusCode::CREATED {
            (self.options.progress)(Progress::Exists { digest: *digest });
            return Ok(0);
        }
        let place = place.ok_or_else(|| RegistryError::Answer {
            url: url.to_string(),
            why: "it does not say where to upload to".to_owned(),
        })?;
        let target = url.join(&place)?.with("digest", &digest.to_string());
        self.upload(http, &target, &path, size)?;
        (self.options.progress)(Progress::Complete { digest: *digest });
        Ok(size)
    }

    fn upload(
        &self,
        http: &mut Http<'_>,
        target: &Url,
        path: &std::path::Path,
        size: u64,
    ) -> Result<(), RegistryError> {
        let body = || Content::file(path);
        let call = Call {
            method: Method::PUT,
            headers: vec![
                (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
                (header::CONTENT_LENGTH, size.to_string()),
            ],
            body: &body,
        };
        let (url, response) = self.session.call_url(http, target, &call)?;
        http.discard(&url, response);
        Ok(())
    }

    fn manifest(&self, digest: &Digest, media_type: &str) -> Result<(), PushError> {
        let bytes = self.store.blobs().document(digest)?;
        let version = match self.target.tag() {
            Some(tag) => tag.to_owned(),
            None => digest.to_string(),
        };
        let tls = |origin: &Origin| self.settings.tls(origin);
        let mut http = Http::new(&tls, self.options.cancelled)
            .map_err(|error| failed(self.target, "the manifest", error))?;
        self.retrying(&mut http, "the manifest", |http| {
            let body = || Ok(Content::bytes(bytes.clone()));
            let call = Call {
                method: Method::PUT,
                headers: vec![(header::CONTENT_TYPE, media_type.to_owned())],
                body: &body,
            };
            let (url, response) = self.session.call(http, &format!("manifests/{version}"), &call)?;
            http.discard(&url, response);
            Ok(())
        })
    }

    fn retrying<T>(
        &self,
        http: &mut Http<'_>,
        what: &str,
        work: impl Fn(&mut Http<'_>) -> Result<T, RegistryError>,
    ) -> Result<T, PushError> {
        let mut failures = 0;
        loop {
            let error = match work(http) {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            failures += 1;
            // A registry that is not there at all will not be in a moment.
            let unreachable = matches!(error, RegistryError::Connect { .. }) && failures > 1;
            if !error.is_transient() || unreachable || failures >= TRIES {
                return Err(failed(self.target, what, error));
            }
            http.pause(Duration::from_millis(250 << failures))
                .map_err(|_| PushError::Cancelled)?;
        }
    }
}

//! The layers of a pull: downloads and unpacking side by side, several of each.
//!
//! ```text
//! downloader 1..3  registry ──► partial/<hex> (hashed) ──► blobs/sha256/<hex>
//!                                  │ read while it grows
//! unpacker 1..n                    └──► decompress ──► hash ──► layers/<chain id>
//! ```
//!
//! Both take the layers from the lowest up, so the lowest that is missing is always worked on, and
//! a layer that has to look into the ones below it finds them coming.

use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::error::PullError;
use super::manifest::Layer;
use super::progress::Progress;
use crate::blob::failed;
use crate::digest::Digest;
use crate::download::{Claim, Writer};
use crate::error::LayerError;
use crate::reference::Reference;
use crate::registry::{Http, RegistryError, Session, Settings};
use crate::store::ImageStore;
use crate::unpack::{Limits, Lower};

/// Failures in a row, without a byte in between, after which a download is given up.
const FAILURES: u32 = 6;
/// Cuts of one download altogether after which it is given up.
const CUTS: u32 = 500;
/// First and longest pause after a failure.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// Longest pause that a registry may ask for, in seconds.
const RETRY_AFTER: u64 = 60;
/// Bytes between two reports.
const REPORT: u64 = 1 << 20;

/// What all threads of one pull share.
pub(crate) struct Job<'a> {
    pub(crate) store: &'a ImageStore,
    pub(crate) name: &'a Reference,
    pub(crate) session: &'a Session,
    pub(crate) settings: &'a Settings<'a>,
    pub(crate) layers: &'a [Layer],
    pub(crate) limits: &'a Limits,
    pub(crate) parallel: usize,
    pub(crate) cancelled: &'a (dyn Fn() -> bool + Sync),
    pub(crate) progress: &'a (dyn Fn(Progress) + Sync),
    /// Blobs are written out before they are moved into place.
    pub(crate) durable: bool,
}

/// What happened to a layer's blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blob {
    /// No downloader has come to it yet.
    Waiting,
    /// Being downloaded, by us or by another pull; or in the store.
    Begun,
    /// In the store, and whole.
    Here,
    /// Not to be had.
    Lost,
}

struct Shared<'a> {
    job: &'a Job<'a>,
    blobs: Mutex<Vec<Blob>>,
    changed: Condvar,
    stop: AtomicBool,
    /// By layer: the error of the lowest counts, the others mostly follow from it.
    errors: Mutex<Vec<(usize, PullError)>>,
    next_download: AtomicUsize,
    next_unpack: AtomicUsize,
    downloaded: Mutex<u64>,
}

impl Job<'_> {
    /// Brings all layers into the store. Gives back how many bytes were downloaded.
    pub(crate) fn run(&self) -> Result<u64, PullError> {
        let count = self.layers.len();
        let shared = Shared {
            job: self,
            blobs: Mutex::new(vec![Blob::Waiting; count]),
            changed: Condvar::new(),
            stop: AtomicBool::new(false),
            errors: Mutex::default(),
            next_download: AtomicUsize::new(0),
            next_unpack: AtomicUsize::new(0),
            downloaded: Mutex::new(0),
        };
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let thread = |name: &str| {
            std::thread::Builder::new()
                .name(name.to_owned())
                .stack_size(1 << 20)
        };
        let started = std::thread::scope(|scope| -> std::io::Result<()> {
            let start = || -> std::io::Result<()> {
                for _ in 0..self.parallel.clamp(1, 16).min(count) {
                    thread("download").spawn_scoped(scope, || shared.work(Self::DOWNLOAD))?;
                }
                for _ in 0..cores.clamp(1, 4).min(count) {
                    thread("unpack").spawn_scoped(scope, || shared.work(Self::UNPACK))?;
                }
                Ok(())
            };
            let started = start();
            if started.is_err() {
                shared.stop.store(true, Ordering::Relaxed);
            }
            started
        });
        started.map_err(failed("start a thread for", std::path::Path::new("layers")))?;
        let mut errors = shared.errors.into_inner().unwrap_or_else(PoisonError::into_inner);
        errors.sort_by_key(|(layer, error)| (matches!(error, PullError::Cancelled), *layer));
        match errors.into_iter().next() {
            Some((_, error)) => Err(error),
            None => Ok(shared
                .downloaded
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner)),
        }
    }

    const DOWNLOAD: bool = true;
    const UNPACK: bool = false;
}

impl Shared<'_> {
    fn given_up(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || (self.job.cancelled)()
    }

    fn fail(&self, layer: usize, error: PullError) {
        self.stop.store(true, Ordering::Relaxed);
        self.errors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((layer, error));
        self.changed.notify_all();
    }

    fn mark(&self, layer: usize, blob: Blob) {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner)[layer] = blob;
        self.changed.notify_all();
    }

    /// Waits until a layer's blob is at least under way.
    fn blob(&self, layer: usize, enough: &[Blob]) -> Blob {
        let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let state = blobs[layer];
            if enough.contains(&state) || state == Blob::Lost || self.given_up() {
                return state;
            }
            blobs = self
                .changed
                .wait_timeout(blobs, Duration::from_millis(200))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// One thread's share of the work.
    fn work(&self, download: bool) {
        let given_up = || self.given_up();
        let tls = |origin: &crate::registry::Origin| self.job.settings.tls(origin);
        let mut http = None;
        let next = if download {
            &self.next_download
        } else {
            &self.next_unpack
        };
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= self.job.layers.len() || self.given_up() {
                return;
            }
            let done = if download {
                self.download(at, || match &mut http {
                    Some(http) => Ok(http),
                    none => Ok(none.insert(Http::new(&tls, &given_up)?)),
                })
            } else {
                self.unpack(at)
            };
            if let Err(error) = done {
                if download {
                    self.mark(at, Blob::Lost);
                }
                self.fail(at, error);
                return;
            }
        }
    }

    /// Brings one layer's blob into the store.
    fn download<'h, 'r: 'h>(
        &self,
        at: usize,
        http: impl FnOnce() -> Result<&'h mut Http<'r>, RegistryError>,
    ) -> Result<(), PullError> {
        let layer = &self.job.layers[at];
        let (digest, blobs) = (&layer.wanted.blob, self.job.store.blobs());
        let mut http = Some(http);
        loop {
            if blobs.has(digest) && blobs.size(digest)? == layer.size {
                (self.job.progress)(Progress::Exists { digest: *digest });
                self.mark(at, Blob::Here);
                return Ok(());
            }
            match self.job.store.downloads().claim(digest, layer.size)? {
                Claim::Others(download) => {
                    (self.job.progress)(Progress::Exists { digest: *digest });
                    self.mark(at, Blob::Begun);
                    // Should it come to nothing there, it is our turn.
                    download.wait(&|| self.given_up());
                    if self.given_up() {
                        return Err(PullError::Cancelled);
                    }
                }
                // It may have arrived between the look and the claim.
                Claim::Mine(writer) if blobs.has(digest) && blobs.size(digest)? == layer.size => {
                    writer.discard();
                }
                Claim::Mine(writer) => {
                    self.mark(at, Blob::Begun);
                    let http = http.take().ok_or(PullError::Cancelled)?;
                    let http = http().map_err(PullError::registry(self.job.name, what(digest)))?;
                    self.fetch(writer, http)?;
                    self.mark(at, Blob::Here);
                    return Ok(());
                }
            }
        }
    }

    /// Downloads a blob: goes on after cuts, checks what has come at the end.
    fn fetch(&self, mut writer: Writer, http: &mut Http<'_>) -> Result<(), PullError> {
        writer.resume()?;
        let download = std::sync::Arc::clone(&writer.download);
        let digest = download.digest;
        let begun_at = writer.position();
        let (mut failures, mut cuts) = (0, 0);
        while writer.position() < download.size {
            let before = writer.position();
            let Err(error) = self.stream(&mut writer, http) else {
                continue;
            };
            cuts += 1;
            failures = if writer.position() > before {
                1
            } else {
                failures + 1
            };
            let transient = matches!(&error, PullError::Registry { source, .. } if source.is_transient());
            if !transient || failures > FAILURES || cuts > CUTS {
                return Err(error);
            }
            (self.job.progress)(Progress::Retrying {
                digest,
                bytes: writer.position(),
                why: innermost(&error),
            });
            http.pause(pause(&error, failures))
                .map_err(|_| PullError::Cancelled)?;
        }
        *self.downloaded.lock().unwrap_or_else(PoisonError::into_inner) += writer.position() - begun_at;
        let (expected, found) = (download.size, writer.position());
        if found > expected {
            writer.discard();
            return Err(PullError::Size {
                name: Box::new(self.job.name.clone()),
                what: what(&digest),
                expected,
                found,
            });
        }
        match writer.finish(&self.job.store.blobs().path(&digest), self.job.durable)? {
            None => Ok(()),
            Some(found) => Err(PullError::Digest {
                name: Box::new(self.job.name.clone()),
                what: what(&digest),
                expected: digest,
                found,
            }),
        }
    }

    /// One answer of the registry, appended to what is there.
    fn stream(&self, writer: &mut Writer, http: &mut Http<'_>) -> Result<(), PullError> {
        let (digest, size) = (writer.download.digest, writer.download.size);
        let wrap = || PullError::registry(self.job.name, what(&digest));
        let from = writer.position();
        let (url, mut response, start) = self.job.session.blob(http, &digest, from).map_err(wrap())?;
        if start > from {
            return Err(wrap()(RegistryError::Answer {
                url: url.to_string(),
                why: format!("it begins at byte {start}, but {from} was asked for"),
            }));
        }
        // A registry that knows no ranges begins anew: what is here already passes by.
        let mut skip = from - start;
        let mut reported = from;
        while let Some(piece) = http.piece(&url.origin, response.body_mut()).map_err(wrap())? {
            let passed = skip.min(piece.len() as u64);
            skip -= passed;
            writer.append(&piece[passed as usize..])?;
            let position = writer.position();
            if position - reported >= REPORT || position == size {
                reported = position;
                (self.job.progress)(Progress::Downloading {
                    digest,
                    bytes: position,
                });
            }
            if position > size {
                // More than there should be: judged by the caller.
                return Ok(());
            }
        }
        if writer.position() < size {
            return Err(wrap()(RegistryError::Short {
                authority: url.origin.authority(),
            }));
        }
        Ok(())
    }

    /// Unpacks one layer, while it comes or from the store.
    fn unpack(&self, at: usize) -> Result<(), PullError> {
        let layer = &self.job.layers[at];
        let stack: Vec<_> = self.job.layers[..at].iter().map(|layer| layer.wanted).collect();
        let (layers, blobs) = (self.job.store.layers(), self.job.store.blobs());
        let given_up = || self.given_up();
        let mut from_transfer = false;
        loop {
            let lower = Lower::new(|| layers.open_all(&stack, &given_up));
            let again = from_transfer;
            let open = || self.open(at, &mut from_transfer);
            let Err(error) = layers.make(&layer.wanted, &lower, open, blobs, self.job.limits) else {
                break;
            };
            // What the unpacker chokes on is often what the downloader is about to find wrong.
            let here = self.blob(at, &[Blob::Here]) == Blob::Here;
            if self.given_up() {
                return Err(PullError::Cancelled);
            }
            // Another pull's transfer may have broken off; ours has brought the whole now.
            if !here || again || !from_transfer {
                return Err(error.into());
            }
        }
        // It may have been unpacked before; its blob is wanted all the same.
        if self.blob(at, &[Blob::Here]) != Blob::Here {
            return Err(PullError::Cancelled);
        }
        (self.job.progress)(Progress::Complete {
            digest: layer.wanted.blob,
        });
        Ok(())
    }

    /// The layer's blob: as it comes, or from the store.
    fn open(&self, at: usize, from_transfer: &mut bool) -> Result<Box<dyn Read + '_>, LayerError> {
        let digest = self.job.layers[at].wanted.blob;
        let lost = |source: std::io::Error| LayerError::read(digest, source);
        loop {
            let state = self.blob(at, &[Blob::Begun, Blob::Here]);
            if self.given_up() || !matches!(state, Blob::Begun | Blob::Here) {
                return Err(lost(std::io::ErrorKind::Interrupted.into()));
            }
            if let Some(download) = self.job.store.downloads().find(&digest) {
                match download.tail() {
                    Ok(tail) => {
                        *from_transfer = true;
                        return Ok(Box::new(tail.until(|| self.given_up())));
                    }
                    // It has just ended; or failed, and then it is tried again.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => return Err(lost(error)),
                }
            }
            let path = self.job.store.blobs().path(&digest);
            match std::fs::File::open(&path) {
                Ok(file) => return Ok(Box::new(file)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(source) => return Err(failed("open", &path)(source).into()),
            }
        }
    }
}

fn what(digest: &Digest) -> String {
    format!("layer {digest}")
}

fn innermost(error: &PullError) -> String {
    let mut source: &dyn std::error::Error = error;
    while let Some(next) = source.source() {
        source = next;
    }
    source.to_string()
}

/// How long to wait before the next try: doubling, or what the registry asks for.
fn pause(error: &PullError, failures: u32) -> Duration {
    if let PullError::Registry {
        source: RegistryError::Status {
            retry_after: Some(seconds),
            ..
        },
        ..
    } = error
    {
        return Duration::from_secs((*seconds).min(RETRY_AFTER));
    }
    let (first, longest) = PAUSE;
    // The first cut after progress is most likely an accident.
    if failures <= 1 {
        return first / 5;
    }
    first
        .saturating_mul(1 << failures.saturating_sub(2).min(10))
        .min(longest)
}

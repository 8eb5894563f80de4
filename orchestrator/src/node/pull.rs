//! Pulls for containers: imagePullPolicy, pull secrets, back-off, and what is told about them.
//!
//! A pull runs beside the pod's worker, so that a registry that hangs holds up nobody: not another
//! pod, not another container, and not this pod's deletion, which ends the pull.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use berth_api::kinds;
use berth_image::Credentials;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as api;

use super::backoff::{after, retry_delay};
use super::env::Sources;
use super::execute::chain;
use super::observed::{Failure, State};
use super::pod::Definition;
use super::worker::{Input, Worker};
use crate::images::Images;
use crate::store::Key;

/// First and longest pause between two pulls of one container's image, in seconds (kubelet's).
const BACKOFF: (i64, i64) = (10, 300);
/// How long `ErrImagePull` is shown before it becomes `ImagePullBackOff`, in seconds.
const SHOWN: i64 = 1;
/// How often is looked whether the image has come by other ways during the back-off, in seconds.
const LOOK: i64 = 5;

/// What is known of one container's pulls. It is not kept over a restart of berthd: then they
/// begin anew.
#[derive(Debug, Default)]
pub(super) struct Pulls {
    /// The run, counted from 0, that the image was pulled for.
    done: Option<u32>,
    failures: u32,
    /// No pull before that.
    until: Option<Timestamp>,
    /// Why the last one failed.
    cause: String,
    /// Ends the pull that runs.
    unwanted: Option<Arc<AtomicBool>>,
}

impl Drop for Pulls {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl Pulls {
    /// Ends the pull that runs, if any.
    pub(super) fn cancel(&mut self) {
        if let Some(unwanted) = self.unwanted.take() {
            unwanted.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the image was pulled for this run.
    pub(super) fn brought(&self, attempt: u32) -> bool {
        self.done == Some(attempt)
    }

    /// Something has changed that may make the next pull succeed: a secret.
    pub(super) fn hurry(&mut self) {
        self.until = None;
        self.failures = 0;
    }
}

/// An image that was pulled, for the event.
#[derive(Debug)]
pub struct PulledImage {
    seconds: f64,
    bytes: u64,
}

impl Worker {
    /// Whether a container's image is there and may be used for this run. Otherwise a pull is
    /// begun, or waited for, and the container's state says so.
    pub(super) fn image_is_ready(&mut self, definition: &Definition, attempt: u32) -> bool {
        let container = &definition.spec;
        let (name, image) = (
            container.name.clone(),
            container.image.clone().unwrap_or_default(),
        );
        let policy = container.image_pull_policy.as_deref().unwrap_or("IfNotPresent");
        // A name that cannot be understood, or a damaged store, is judged where the image is used.
        let Ok(found) = self.node.images.store().resolve(&image) else {
            return true;
        };
        let pulls = self.pulls.entry(name.clone()).or_default();
        let ready = match policy {
            "Never" => true,
            "Always" => found.is_some() && pulls.done == Some(attempt),
            _ => found.is_some(),
        };
        if ready {
            return true;
        }
        let now = Timestamp::now();
        if let Some(until) = pulls.until.filter(|until| *until > now) {
            let message = format!("Back-off pulling image {image:?}: {}", pulls.cause);
            let count = pulls.failures;
            let first = !matches!(&self.seen.seen(&name).state,
                State::Refused(failure) if failure.reason == "ImagePullBackOff");
            if first {
                self.event(
                    Some(&name),
                    false,
                    "BackOff",
                    &format!("Back-off pulling image {image:?}"),
                );
                self.event(Some(&name), true, "Failed", "Error: ImagePullBackOff");
            }
            // With IfNotPresent somebody may import the image meanwhile.
            let retry = if policy == "Always" {
                until
            } else {
                until.min(after(now, LOOK))
            };
            self.refuse(&name, "ImagePullBackOff", message, count, retry);
            return false;
        }
        self.begin_pull(&name, attempt, image);
        false
    }

    fn refuse(&mut self, name: &str, reason: &str, message: String, count: u32, retry: Timestamp) {
        self.seen.seen_mut(name).state = State::Refused(Failure {
            reason: reason.to_owned(),
            message,
            count,
            retry,
        });
    }

    fn begin_pull(&mut self, name: &str, attempt: u32, image: String) {
        let credentials = self.pull_credentials();
        self.event(Some(name), false, "Pulling", &format!("Pulling image {image:?}"));
        let unwanted = Arc::new(AtomicBool::new(false));
        if let Some(pulls) = self.pulls.get_mut(name) {
            pulls.cancel();
            pulls.unwanted = Some(Arc::clone(&unwanted));
        }
        self.seen.seen_mut(name).state = State::Pulling;
        let (images, sender, container) = (self.node.images.clone(), self.sender(), name.to_owned());
        tokio::spawn(async move {
            let stop = Arc::clone(&unwanted);
            let work = tokio::task::spawn_blocking(move || pull(&images, &image, &credentials, &stop));
            let outcome = work
                .await
                .unwrap_or_else(|_| Err("the pull was cut off".to_owned()));
            if !unwanted.load(Ordering::Relaxed) {
                let _ = sender.send(Input::Pulled {
                    container,
                    attempt,
                    outcome,
                });
            }
        });
    }

    /// Takes the end of a pull over.
    pub(super) fn pulled(&mut self, name: &str, attempt: u32, outcome: Result<PulledImage, String>) {
        let image = self
            .pod
            .as_ref()
            .and_then(|pod| pod.container(name))
            .and_then(|definition| definition.spec.image.clone())
            .unwrap_or_default();
        let pulls = self.pulls.entry(name.to_owned()).or_default();
        pulls.unwanted = None;
        let waits = matches!(self.seen.seen(name).state, State::Pulling);
        let (count, cause) = match outcome {
            Ok(pulled) => {
                pulls.hurry();
                pulls.done = Some(attempt);
                if waits {
                    self.seen.seen_mut(name).state = State::Absent;
                }
                let (seconds, bytes) = (pulled.seconds, pulled.bytes);
                let message = format!(
                    "Successfully pulled image {image:?} in {seconds:.3}s ({seconds:.3}s including waiting). Image size: {bytes} bytes."
                );
                self.event(Some(name), false, "Pulled", &message);
                return;
            }
            Err(cause) => {
                pulls.failures += 1;
                let pause = retry_delay(pulls.failures, BACKOFF.0, BACKOFF.1);
                pulls.until = Some(after(Timestamp::now(), pause));
                pulls.cause =
                    format!("{cause}; an archive of it can be loaded with: berthctl image import FILE");
                (pulls.failures, pulls.cause.clone())
            }
        };
        let message = format!("Failed to pull image {image:?}: {cause}");
        self.event(Some(name), true, "Failed", &message);
        self.event(Some(name), true, "Failed", "Error: ErrImagePull");
        if waits {
            let shown = after(Timestamp::now(), SHOWN);
            self.refuse(name, "ErrImagePull", message, count, shown);
        }
    }

    /// The pod's pull secrets, or those of its service account where it names none (upstream's
    /// ServiceAccount admission).
    fn pull_credentials(&self) -> Credentials {
        let Some(pod) = &self.pod else {
            return Credentials::none();
        };
        let spec = pod.spec();
        let own = spec.image_pull_secrets.clone().unwrap_or_default();
        let references = if own.is_empty() {
            self.account_secrets(spec.service_account_name.as_deref())
        } else {
            own
        };
        let sources = self.sources();
        let (mut credentials, mut missing) = (Credentials::none(), Vec::new());
        for reference in references {
            let secret = sources.secret(&reference.name);
            let text = secret
                .as_ref()
                .and_then(|data| data.get(".dockerconfigjson").or_else(|| data.get(".dockercfg")));
            match text.map(|text| Credentials::parse(text)) {
                Some(Ok(found)) => credentials.extend(found),
                Some(Err(error)) => missing.push(format!("{} ({})", reference.name, chain(&error))),
                None => missing.push(reference.name),
            }
        }
        if !missing.is_empty() {
            let message = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            self.event(None, true, "FailedToRetrieveImagePullSecret", &message);
        }
        credentials
    }

    fn account_secrets(&self, account: Option<&str>) -> Vec<api::LocalObjectReference> {
        let name = account.filter(|name| !name.is_empty()).unwrap_or("default");
        let key = Key::new(kinds::SERVICE_ACCOUNT, &self.seen.namespace, name);
        let object = self.node.store.get(&key).ok().flatten();
        object
            .and_then(|object| object.parse::<api::ServiceAccount>().ok())
            .and_then(|account| account.image_pull_secrets)
            .unwrap_or_default()
    }
}

/// Pulls an image for a container; the error is the whole story in one line. Blocks.
fn pull(
    images: &Images,
    name: &str,
    credentials: &Credentials,
    unwanted: &AtomicBool,
) -> Result<PulledImage, String> {
    let begun = Instant::now();
    let unwanted = || unwanted.load(Ordering::Relaxed);
    let pulled = images
        .pull(name, credentials, &unwanted, &|_| ())
        .map_err(|error| crate::images::chain(&error))?;
    Ok(PulledImage {
        seconds: begun.elapsed().as_secs_f64(),
        bytes: pulled.image.size,
    })
}

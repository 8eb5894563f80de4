//! The worker of one pod: takes inputs, plans, executes, writes the status.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use berth_api::kinds;
use berth_client::protocol::Record;
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use super::claims::UNSCHEDULABLE;
use super::monitor::{Link, Notice};
use super::observed::{Ended, Observed, Seen, State};
use super::paths::PodPaths;
use super::plan::{self, Plan};
use super::pod::{Pod, Role};
use super::probes::{Kind, Report};
use super::pull::{PulledImage, Pulls};
use super::{Node, blocking, recover, status};
use crate::store::{Key, Object, StoreError};

/// What a worker is told.
#[derive(Debug)]
pub enum Input {
    /// The pod as it is stored now.
    Pod(Box<Pod>),
    /// The pod is not in the store any more.
    Gone,
    /// From the monitor.
    Notice(Notice),
    /// From a probe of a container's run.
    Probe {
        container: String,
        attempt: u32,
        kind: Kind,
        report: Report,
    },
    /// A hook of a container's run has ended.
    Hook {
        container: String,
        attempt: u32,
        pre_stop: bool,
        outcome: Result<(), String>,
    },
    /// The pull of a container's image has ended; the error is the whole story in one line.
    Pulled {
        container: String,
        attempt: u32,
        outcome: Result<PulledImage, String>,
    },
    /// A ConfigMap or Secret of this namespace has changed.
    Source(Arc<str>),
    /// A claim of this namespace (of all, if it is empty) has changed, or who uses it.
    Claim(Arc<str>),
    /// The node needs the room, or the pod has taken too much of it.
    Evict {
        /// Why.
        message: String,
        /// Seconds that it gets; its own if None.
        grace: Option<i64>,
        /// It goes for the sake of others.
        disruption: bool,
    },
}

/// One pod.
pub struct Worker {
    pub(super) node: Arc<Node>,
    pub(super) paths: PodPaths,
    /// The pod as stored; None for one that is on the node only.
    pub(super) pod: Option<Box<Pod>>,
    /// The store has said that the pod is gone.
    gone: bool,
    pub(super) seen: Observed,
    pub(super) link: Option<Link>,
    inputs: mpsc::UnboundedReceiver<Input>,
    sender: mpsc::UnboundedSender<Input>,
    /// The probes that run, by container, run and kind.
    pub(super) tasks: HashMap<(String, u32, Kind), tokio::task::JoinHandle<()>>,
    /// Pulls of images, by container.
    pub(super) pulls: HashMap<String, Pulls>,
    /// A ConfigMap or Secret has changed: volumes may have to follow.
    stale_sources: bool,
    /// The status as last written.
    written: Option<Value>,
    /// The state file as last written.
    saved: String,
    /// Nothing is left to do for this pod, for ever.
    finished: bool,
    /// The connection to the monitor is to be made anew, and what it holds compared with what is known.
    reconnect: bool,
}

impl Worker {
    /// For a pod that the node has not seen yet.
    pub(super) fn new(node: &Arc<Node>, object: &Object) -> Worker {
        let seen = Observed::new(
            &node.boot,
            object.namespace(),
            object.name(),
            object.uid(),
            Timestamp::now(),
        );
        Worker::with(node, seen, false)
    }

    /// For a pod that an earlier `berthd` has left.
    pub(super) fn recovered(node: &Arc<Node>, seen: Observed) -> Worker {
        Worker::with(node, seen, true)
    }

    fn with(node: &Arc<Node>, seen: Observed, reconnect: bool) -> Worker {
        let (sender, inputs) = mpsc::unbounded_channel();
        Worker {
            node: Arc::clone(node),
            paths: node.paths(&seen.namespace, &seen.name, &seen.uid),
            pod: None,
            gone: false,
            seen,
            link: None,
            inputs,
            sender,
            tasks: HashMap::new(),
            pulls: HashMap::new(),
            stale_sources: false,
            written: None,
            saved: String::new(),
            finished: false,
            reconnect,
        }
    }

    /// Where to send inputs.
    pub(super) fn sender(&self) -> mpsc::UnboundedSender<Input> {
        self.sender.clone()
    }

    /// Works until the pod is gone or the node shuts down.
    pub(super) async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        // The first input says whether the pod is still stored.
        tokio::select! {
            input = self.inputs.recv() => if let Some(input) = input { self.take(input) },
            _ = shutdown.wait_for(|stop| *stop) => return,
        }
        loop {
            while let Ok(input) = self.inputs.try_recv() {
                self.take(input);
            }
            if std::mem::take(&mut self.reconnect) {
                recover::reconnect(&mut self).await;
            }
            self.refresh_sources().await;
            let plan = self.plan();
            if plan.actions.is_empty() {
                self.sync_probes();
                self.save().await;
                self.publish().await;
                let wake = Self::pause(plan.wake).min(self.token_pause());
                tokio::select! {
                    input = self.inputs.recv() => if let Some(input) = input { self.take(input) },
                    () = tokio::time::sleep(wake) => self.stale_sources |= self.token_pause() <= wake,
                    _ = shutdown.wait_for(|stop| *stop) => break,
                }
                continue;
            }
            for action in plan.actions {
                self.execute(action).await;
                if self.finished || *shutdown.borrow() {
                    break;
                }
            }
            self.save().await;
            if self.finished || *shutdown.borrow() {
                break;
            }
        }
        for probe in self.tasks.values() {
            probe.abort();
        }
    }

    fn plan(&self) -> Plan {
        let now = Timestamp::now();
        match (&self.pod, self.gone) {
            (Some(pod), false) => plan::plan(pod, &self.seen, now),
            _ => plan::plan_orphan(&self.seen, now),
        }
    }

    /// How long to wait for the time of the plan.
    fn pause(wake: Option<Timestamp>) -> Duration {
        let Some(wake) = wake else {
            return Duration::from_hours(24);
        };
        // A little later, so that the time has come for sure when the plan is asked again.
        Duration::try_from(wake.duration_since(Timestamp::now())).unwrap_or_default()
            + Duration::from_millis(2)
    }

    /// How long the tokens in the pod's volumes may go unlooked at: a tenth of their life, so that none gets old.
    fn token_pause(&self) -> Duration {
        let seconds = self
            .pod
            .as_ref()
            .and_then(|pod| super::volumes::token_seconds(pod));
        seconds.map_or(Duration::MAX, |s| {
            Duration::from_secs(s.clamp(600, 86_400) as u64 / 10)
        })
    }

    /// Marks the worker as done.
    pub(super) fn finish(&mut self) {
        self.finished = true;
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Pod(pod) => {
                if self.seen.containers.is_empty() && !self.seen.sandbox.touched {
                    self.seen.containers = recover::from_status(&pod);
                }
                // Nobody waits for the image of a pod that is being deleted.
                if pod.deletion.is_some() {
                    self.pulls.clear();
                }
                self.adopt(pod);
            }
            Input::Gone => {
                self.gone = true;
                self.pulls.clear();
            }
            Input::Pulled {
                container,
                attempt,
                outcome,
            } => self.pulled(&container, attempt, outcome),
            Input::Notice(Notice::Exited(record)) => self.exited(&record),
            Input::Notice(Notice::Lost(serial)) => {
                if self.link.as_ref().is_some_and(|link| link.serial == serial) {
                    self.link = None;
                    self.seen.sandbox.monitor = false;
                    self.reconnect = true;
                }
            }
            Input::Probe {
                container,
                attempt,
                kind,
                report,
            } => {
                self.probed(&container, attempt, kind, report);
            }
            Input::Hook {
                container,
                attempt,
                pre_stop,
                outcome,
            } => {
                self.hooked(&container, attempt, pre_stop, outcome);
            }
            Input::Claim(namespace) => {
                if (namespace.is_empty() || *namespace == *self.seen.namespace)
                    && let Some(failure) = &mut self.seen.failure
                    && matches!(failure.reason.as_str(), UNSCHEDULABLE | "FailedMount")
                {
                    failure.retry = Timestamp::now();
                }
            }
            Input::Evict {
                message,
                grace,
                disruption,
            } => self.evicted(message, grace, disruption),
            Input::Source(namespace) => {
                if *namespace == *self.seen.namespace {
                    self.stale_sources = true;
                    self.retry_refused();
                }
            }
        }
    }

    /// Takes the pod as it is stored now. Files in volumes tell of labels and annotations, and may tell of what was before
    /// this `berthd`.
    fn adopt(&mut self, pod: Box<Pod>) {
        let told = |pod: &Pod| {
            let metadata = &pod.object.metadata;
            (metadata.labels.clone(), metadata.annotations.clone())
        };
        self.stale_sources |= self.pod.as_ref().is_none_or(|old| told(old) != told(&pod));
        self.pod = Some(pod);
    }

    /// The pod fails as a whole, unless it ends anyway.
    fn evicted(&mut self, message: String, grace: Option<i64>, disruption: bool) {
        if self.seen.verdict.is_some() || self.pod.as_ref().is_none_or(|pod| pod.deletion.is_some()) {
            return;
        }
        self.event(None, true, "Evicted", &message);
        self.seen.verdict = Some(("Evicted".to_owned(), message));
        let own = self.pod.as_ref().map_or(0, |pod| pod.grace);
        self.seen.grace = grace.map(|grace| grace.min(own));
        self.seen.disrupted = disruption;
        // A pod that has not begun has nothing to end, but must be found failed after a restart, too.
        self.seen.sandbox.touched = true;
        self.pulls.clear();
    }

    /// What waits for a ConfigMap or Secret may go on now.
    fn retry_refused(&mut self) {
        let now = Timestamp::now();
        for seen in self.seen.containers.values_mut() {
            if let State::Refused(failure) = &mut seen.state
                && matches!(
                    failure.reason.as_str(),
                    "CreateContainerConfigError" | "ErrImagePull" | "ImagePullBackOff"
                )
            {
                failure.retry = now;
            }
        }
        self.pulls.values_mut().for_each(Pulls::hurry);
        if let Some(failure) = &mut self.seen.failure
            && failure.reason == "FailedMount"
        {
            failure.retry = now;
        }
    }

    /// Takes the end of a container over.
    pub(super) fn exited(&mut self, record: &Record) {
        let Some((name, seen)) = self.seen.by_id(&record.container) else {
            return;
        };
        let (name, attempt) = (name.clone(), seen.attempt);
        let Some(exit) = &record.exit else { return };
        if seen.ended().is_some() {
            return;
        }
        let reason = match (exit.oom_killed, exit.code) {
            (true, _) => "OOMKilled",
            (_, 0) => "Completed",
            _ => "Error",
        };
        let parse = |text: &str| text.parse::<Timestamp>().ok();
        let ended = Ended {
            id: record.container.clone(),
            code: exit.code,
            signal: exit.signal,
            reason: reason.to_owned(),
            message: String::new(),
            started: record.started_at.as_deref().and_then(parse),
            finished: parse(&exit.finished_at).unwrap_or_else(Timestamp::now),
            start_failed: false,
            removed: false,
        };
        let message = self.termination_message(&name, attempt, exit.code);
        let ended = Ended { message, ..ended };
        let seen = self.seen.seen_mut(&name);
        let was_asked = seen.stop.is_some();
        seen.state = State::Ended(ended.clone());
        stopped(seen);
        self.tell_death(&name, &ended, was_asked);
    }

    /// The program's last words: its termination-log, else the end of its log if the pod wants that.
    fn termination_message(&self, container: &str, attempt: u32, code: i32) -> String {
        let spec = self
            .pod
            .as_ref()
            .and_then(|p| p.container(container))
            .map(|c| &c.spec);
        let file = self.paths.bundle(container, attempt).join("termination-log");
        let text = std::fs::read(file).unwrap_or_default();
        if !text.is_empty() {
            // kubelet's limit of a message.
            return String::from_utf8_lossy(&text[..text.len().min(4096)]).into_owned();
        }
        let policy = spec.and_then(|s| s.termination_message_policy.as_deref());
        if code != 0 && policy == Some("FallbackToLogsOnError") {
            return super::logs::last_words(&self.paths.log(container, attempt), 80, 2048);
        }
        String::new()
    }

    /// Connects to the pod's monitor.
    pub(super) async fn connect(&mut self) -> Result<(), super::monitor::MonitorError> {
        let sender = self.sender.clone();
        let link = Link::open(&self.paths.run, move |notice| {
            let _ = sender.send(Input::Notice(notice));
        })
        .await?;
        self.link = Some(link);
        self.seen.sandbox.monitor = true;
        Ok(())
    }

    /// Brings changed ConfigMaps and Secrets into the volumes.
    async fn refresh_sources(&mut self) {
        if !std::mem::take(&mut self.stale_sources) || !self.seen.sandbox.ready || self.seen.released {
            return;
        }
        let Some(pod) = self.pod.clone() else { return };
        let (places, facts, sources) = (self.paths.volumes(), self.facts(), self.sources());
        let refreshed = blocking(move || super::volumes::refresh(&pod, &places, &facts, &sources)).await;
        if let Some(Err(error)) = refreshed {
            tracing::debug!(pod = self.seen.name, %error, "a volume keeps its content");
        }
    }

    /// Writes the state file if it has changed.
    pub(super) async fn save(&mut self) {
        if !self.seen.sandbox.touched || self.finished {
            return;
        }
        let text = match serde_json::to_string(&self.seen) {
            Ok(text) if text != self.saved => text,
            _ => return,
        };
        let (path, copy) = (self.paths.state(), text.clone());
        match blocking(move || recover::write_state(&path, &copy)).await {
            Some(Ok(())) => self.saved = text,
            Some(Err(error)) => tracing::error!(pod = self.seen.name, %error, "write the pod's state file"),
            None => {}
        }
    }

    /// Writes the status if it has changed.
    pub(super) async fn publish(&mut self) {
        let Some(pod) = self.pod.as_ref().filter(|_| !self.gone) else {
            return;
        };
        let status = status::status(pod, &self.seen, &Node::host_ip(), Timestamp::now());
        if self.written.as_ref() == Some(&status) {
            return;
        }
        match self
            .node
            .store
            .update_status(&self.key(), &self.seen.uid, status.clone())
            .await
        {
            Ok(stored) => {
                // Transition times come from the stored status.
                if let Ok(fresh) = Pod::new(&stored) {
                    self.adopt(Box::new(fresh));
                }
                self.written = Some(status);
            }
            Err(StoreError::NotFound { .. } | StoreError::Conflict { .. }) => self.gone = true,
            Err(error) => tracing::error!(pod = self.seen.name, %error, "write the pod's status"),
        }
    }

    /// The pod's key in the store.
    pub(super) fn key(&self) -> Key {
        Key::new(kinds::POD, &self.seen.namespace, &self.seen.name)
    }

    /// Records an event about the pod or one of its containers.
    pub(super) fn event(&self, container: Option<&str>, warning: bool, reason: &str, message: &str) {
        let Some(pod) = &self.pod else { return };
        let about = pod.about.clone();
        let about = match container.and_then(|name| pod.container(name)) {
            Some(c) if c.role == Role::Main => about.container("containers", &c.spec.name),
            Some(c) if c.role == Role::Ephemeral => about.container("ephemeralContainers", &c.spec.name),
            Some(c) => about.container("initContainers", &c.spec.name),
            None => about,
        };
        self.node.event(about, warning, reason, message);
    }
}

/// Clears what only makes sense of a container that runs.
pub(super) fn stopped(seen: &mut Seen) {
    seen.ready = false;
    seen.started = false;
    seen.stop = None;
    seen.unhealthy = None;
}

//! Executes the actions of a plan. What fails is written into [`super::observed::Observed`], with the time
//! of the next try; nothing is thrown away.

use std::path::PathBuf;
use std::time::Duration;

use berth_client::protocol::{Create, LogTarget};
use jiff::Timestamp;

use super::backoff::{after, retry_delay};
use super::env::{self, Facts};
use super::monitor::MonitorError;
use super::network::Member;
use super::observed::{Ended, Failure, State, Step};
use super::plan::Action;
use super::pod::Definition;
use super::prepare::{Preparation, Refusal};
use super::resize::Share;
use super::sources::Stored;
use super::worker::{Worker, stopped};
use super::{Node, blocking, claims, etc, links, monitor, resources, sandbox, teardown, volumes};
use crate::fault::point;
use crate::store::{Preconditions, StoreError};

/// First and longest pause before a failed set-up is tried again, in seconds.
const RETRY: (i64, i64) = (1, 30);
/// Before a pod's claims are looked at again if nothing changes, in seconds.
const WAIT_FOR_CLAIMS: i64 = 3600;
/// The same for a missing image or ConfigMap; a changed ConfigMap or Secret ends the pause.
const RETRY_REFUSED: (i64, i64) = (1, 10);

/// The whole chain of causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Names of the points before and after an action.
fn points(action: &Action) -> (&'static str, &'static str) {
    match action {
        Action::SetUp => ("set up: before", "set up: after"),
        Action::StartMonitor => ("start monitor: before", "start monitor: after"),
        Action::Create { .. } => ("create: before", "create: after"),
        Action::Stop { .. } => ("stop: before", "stop: after"),
        Action::Signal { .. } => ("signal: before", "signal: after"),
        Action::Remove { .. } => ("remove: before", "remove: after"),
        Action::Fail { .. } => ("fail: before", "fail: after"),
        Action::Sweep { .. } => ("sweep: before", "sweep: after"),
        Action::Resize => ("resize: before", "resize: after"),
        Action::TearDown(_) => ("tear down: before", "tear down: after"),
        Action::Forget => ("forget: before", "forget: after"),
    }
}

/// The same for a step of the teardown.
fn step_points(step: Step) -> (&'static str, &'static str) {
    match step {
        Step::Containers => ("containers: before", "containers: after"),
        Step::Monitor => ("monitor's end: before", "monitor's end: after"),
        Step::Cgroups => ("cgroups: before", "cgroups: after"),
        Step::Network => ("network: before", "network: after"),
        Step::Mounts => ("mounts: before", "mounts: after"),
        Step::Directories => ("directories: before", "directories: after"),
    }
}

impl Worker {
    /// Executes one action.
    pub(super) async fn execute(&mut self, action: Action) {
        tracing::debug!(pod = self.seen.name, ?action, "execute");
        let (before, after) = points(&action);
        point(before);
        match action {
            Action::SetUp => self.set_up().await,
            Action::StartMonitor => self.start_monitor().await,
            Action::Create { container, attempt } => self.create(&container, attempt).await,
            Action::Stop {
                container,
                grace,
                cause,
            } => self.stop(&container, grace, &cause).await,
            Action::Signal { container, kill } => self.signal(&container, kill).await,
            Action::Remove { container } => self.remove(&container).await,
            Action::Sweep { container } => self.sweep(&container).await,
            Action::Resize => self.resize().await,
            Action::Fail { reason, message } => self.seen.verdict = Some((reason, message)),
            Action::TearDown(step) => self.tear_down(step).await,
            Action::Forget => self.forget().await,
        }
        point(after);
    }

    /// The program of the pod's runtime, and the directory of its state.
    pub(super) fn runtime(&self) -> (PathBuf, PathBuf) {
        super::runtime::program_and_root(&self.node, self.seen.sandbox.runtime.as_ref())
    }

    /// What environment and volumes can say about node and pod.
    pub(super) fn facts(&self) -> Facts {
        let host_ip = Node::host_ip();
        let host_network = self.pod.as_ref().is_some_and(|p| p.host_network());
        let pod_ips = if host_network {
            vec![host_ip.clone()]
        } else {
            self.seen.sandbox.ips.iter().map(ToString::to_string).collect()
        };
        let (cpu, memory) = (self.node.cpu, self.node.memory);
        Facts {
            node: self.node.config.name.clone(),
            host_ip,
            pod_ips,
            cpu,
            memory,
        }
    }

    /// The namespace's ConfigMaps and Secrets.
    pub(super) fn sources(&self) -> Stored {
        Stored {
            store: self.node.store.clone(),
            namespace: self.seen.namespace.clone(),
            tokens: std::sync::Arc::clone(&self.node.tokens),
        }
    }

    /// Towards CNI.
    pub(super) fn member(&self) -> Member {
        Member {
            namespace: self.seen.namespace.clone(),
            name: self.seen.name.clone(),
            uid: self.seen.uid.clone(),
            netns: self.paths.netns.clone(),
            ports: self.pod.as_ref().map(|pod| pod.host_ports()).unwrap_or_default(),
        }
    }

    /// Notes a failure of the pod as a whole, to be tried again later.
    pub(super) fn fail(&mut self, reason: &str, message: String) {
        let count = self
            .seen
            .failure
            .as_ref()
            .filter(|f| f.reason == reason)
            .map_or(0, |f| f.count)
            + 1;
        let retry = after(Timestamp::now(), retry_delay(count, RETRY.0, RETRY.1));
        tracing::warn!(pod = self.seen.name, reason, message, count, "tried again later");
        self.event(None, true, reason, &message);
        self.seen.failure = Some(Failure {
            reason: reason.to_owned(),
            message,
            count,
            retry,
        });
    }

    async fn set_up(&mut self) {
        if self.waits_for_claims().await {
            return;
        }
        let Some(pod) = self.pod.clone() else { return };
        self.seen.sandbox.touched = true;
        match super::runtime::find(&self.node, &pod) {
            Ok(runtime) => self.seen.sandbox.runtime = runtime,
            Err(error) => return self.fail("FailedCreatePodSandBox", chain(&error)),
        }
        // Its first question about a name must find the way to the DNS server.
        self.node.routes.clone().ready().await;
        let (paths, node) = (self.paths.clone(), std::sync::Arc::clone(&self.node));
        let copy = pod.clone();
        let made = blocking(move || -> Result<Option<u32>, sandbox::SandboxError> {
            let ids = copy.own_users().then(|| node.ids.take(&copy.uid)).transpose()?;
            sandbox::set_up(&copy, &paths, &node.config.name, ids)?;
            Ok(ids)
        });
        let ids = match made.await {
            Some(Ok(ids)) => ids,
            Some(Err(error)) => return self.fail("FailedCreatePodSandBox", chain(&error)),
            None => return self.fail("FailedCreatePodSandBox", "the set-up was cut off".to_owned()),
        };
        // A set-up that failed later has attached the pod already.
        if !pod.host_network() && self.seen.sandbox.ips.is_empty() {
            // The state is on disk before anything outside the pod's own directories is made.
            let again = std::mem::replace(&mut self.seen.sandbox.attached, true);
            self.save().await;
            let (shared, member) = (std::sync::Arc::clone(&self.node), self.member());
            point("set up: before the network is attached");
            let attached = blocking(move || shared.network.attach(&member, again)).await;
            point("set up: after the network is attached");
            match attached {
                Some(Ok(ips)) => self.seen.sandbox.ips = ips,
                Some(Err(error)) => return self.fail("FailedCreatePodSandBox", chain(&error)),
                None => return self.fail("FailedCreatePodSandBox", "the set-up was cut off".to_owned()),
            }
        }
        let (paths, node) = (self.paths.clone(), self.node.config.name.clone());
        let (facts, sources, ips) = (self.facts(), self.sources(), self.seen.sandbox.ips.clone());
        let dns = self.node.dns;
        let ready = blocking(move || -> Result<Vec<etc::Warning>, (&'static str, String)> {
            let ips = if ips.is_empty() {
                facts.pod_ips.iter().filter_map(|ip| ip.parse().ok()).collect()
            } else {
                ips
            };
            let warnings = etc::write_files(&pod, &paths, &node, &ips, dns, ids)
                .map_err(|error| ("FailedCreatePodSandBox", chain(&error)))?;
            volumes::prepare(&pod, &paths.volumes(), &facts, &sources)
                .and_then(|_| volumes::give_group(&pod, &sources))
                .map(|()| warnings)
                .map_err(|error| ("FailedMount", chain(&error)))
        });
        match ready.await {
            Some(Ok(warnings)) => {
                for (reason, message) in warnings {
                    self.event(None, true, reason, &message);
                }
                self.seen.sandbox.ready = true;
                self.seen.failure = None;
            }
            Some(Err((reason, message))) => self.fail(reason, message),
            None => self.fail("FailedCreatePodSandBox", "the set-up was cut off".to_owned()),
        }
    }

    /// Whether the pod's claims keep it from running; it is woken when they change.
    async fn waits_for_claims(&mut self) -> bool {
        let Some(pod) = self.pod.clone().filter(|pod| claims::has_claims(pod)) else {
            return false;
        };
        let look = |worker: &Worker| {
            let node = crate::admission::node(&worker.node.store, &worker.node.config.name);
            claims::obstacle(&worker.node.store, &node, &pod)
        };
        let mut why = look(self);
        let waited = self
            .seen
            .failure
            .as_ref()
            .is_some_and(|f| f.reason == claims::UNSCHEDULABLE);
        if why.is_none() && waited {
            self.seen.failure = None;
            // A claim is let go while its pods wait. From now on this one does not: what was asked for in between is seen
            // by the second look.
            self.publish().await;
            why = look(self);
        }
        let Some(why) = why else { return false };
        let known = self.seen.failure.as_ref().filter(|f| f.message == why);
        let count = known.map_or(0, |failure| failure.count) + 1;
        // Most claims are bound within moments of their pod's creation: only what lasts is told.
        if count == 2
            && let Some(pod) = &self.pod
        {
            self.node.event_by(
                "default-scheduler",
                pod.about.clone(),
                true,
                claims::UNSCHEDULABLE,
                &why,
            );
        }
        let pause = if count == 1 { RETRY.0 } else { WAIT_FOR_CLAIMS };
        self.seen.failure = Some(Failure {
            reason: claims::UNSCHEDULABLE.to_owned(),
            message: why,
            count,
            retry: after(Timestamp::now(), pause),
        });
        true
    }

    async fn start_monitor(&mut self) {
        let config = self.node.config.clone();
        let dir = self.paths.run.clone();
        let (program, root) = self.runtime();
        let started = blocking(move || match monitor::pid(&dir) {
            // Another one serves the pod: it is connected to.
            Some(_) => Ok(()),
            None => monitor::start(&config.monitor, &dir, &program, &root),
        });
        let result = match started.await {
            Some(Ok(())) => self.connect().await,
            Some(Err(error)) => Err(error),
            None => Err(MonitorError::Gone),
        };
        match result {
            Ok(()) => self.seen.failure = None,
            Err(error) => self.fail("FailedCreatePodSandBox", chain(&error)),
        }
    }

    async fn create(&mut self, name: &str, attempt: u32) {
        let now = Timestamp::now();
        let Some(definition) = self.pod.as_ref().and_then(|p| p.container(name)).cloned() else {
            return;
        };
        let seen = self.seen.seen_mut(name);
        if attempt > seen.attempt
            && let State::Ended(ended) = std::mem::take(&mut seen.state)
        {
            seen.backoff.next(ended.finished, now);
            seen.last = Some(ended);
            seen.attempt = attempt;
        }
        let failures = match &seen.state {
            State::Refused(failure) => failure.count,
            _ => 0,
        };
        stopped(seen);
        if !self.image_is_ready(&definition, attempt) {
            return;
        }
        let id = format!("{}-{name}-{attempt}", self.seen.uid);
        if let Err(refusal) = self.prepare(&definition, attempt, &id, failures).await {
            let count = failures + 1;
            let retry = after(now, retry_delay(count, RETRY_REFUSED.0, RETRY_REFUSED.1));
            self.event(Some(name), true, "Failed", &refusal.message);
            let failure = Failure {
                reason: refusal.reason.to_owned(),
                message: refusal.message,
                count,
                retry,
            };
            self.seen.seen_mut(name).state = State::Refused(failure);
            return;
        }
        let seen = self.seen.seen_mut(name);
        seen.state = State::Creating { id: id.clone() };
        seen.share = Some(Share::of(&definition.spec));
        self.save().await;
        point("create: before the monitor is asked");
        let result = self.launch(name, attempt, &id).await;
        match result {
            Ok(since) => {
                self.event(Some(name), false, "Started", &format!("Started container {name}"));
                self.running(name, &id, since);
                let hook = definition
                    .spec
                    .lifecycle
                    .as_ref()
                    .is_some_and(|l| l.post_start.is_some());
                if hook {
                    self.start_hook(name, false, Duration::from_hours(1));
                }
            }
            Err(MonitorError::Gone) => {}
            Err(error) => {
                let message = chain(&error);
                self.event(Some(name), true, "Failed", &format!("Error: {message}"));
                let ended = Ended {
                    id,
                    code: 128,
                    signal: None,
                    reason: "StartError".to_owned(),
                    message,
                    started: None,
                    finished: Timestamp::now(),
                    start_failed: true,
                    removed: false,
                };
                self.seen.seen_mut(name).state = State::Ended(ended);
            }
        }
    }

    /// Marks a container as running; probes decide later what it has to prove first.
    pub(super) fn running(&mut self, name: &str, id: &str, since: Timestamp) {
        let spec = self.pod.as_ref().and_then(|p| p.container(name)).map(|c| &c.spec);
        let startup = spec.is_some_and(|s| s.startup_probe.is_some());
        let readiness = spec.is_some_and(|s| s.readiness_probe.is_some());
        let seen = self.seen.seen_mut(name);
        stopped(seen);
        seen.state = State::Running {
            id: id.to_owned(),
            since,
        };
        seen.started = !startup;
        seen.ready = !startup && !readiness;
    }

    /// Asks the monitor to create and start the prepared container.
    async fn launch(&self, name: &str, attempt: u32, id: &str) -> Result<Timestamp, MonitorError> {
        let link = self.link.clone().ok_or(MonitorError::Gone)?;
        let definition = self.pod.as_ref().and_then(|p| p.container(name));
        let asks = |field: fn(&k8s_openapi::api::core::v1::Container) -> Option<bool>| {
            definition.and_then(|c| field(&c.spec)).unwrap_or(false)
        };
        let create = Create {
            container: id.to_owned(),
            bundle: self.paths.bundle(name, attempt),
            log: LogTarget {
                path: self.paths.log(name, attempt),
                max_bytes: self.node.config.log_max_bytes,
                max_files: self.node.config.log_max_files,
            },
            cgroup: self.cgroup(name),
            stdin: asks(|c| c.stdin),
            stdin_once: asks(|c| c.stdin_once),
            terminal: asks(|c| c.tty),
            owner: self.node.ids.of(&self.seen.uid).map(|first| (first, first)),
        };
        link.create(create).await?;
        point("create: before the start");
        self.event(
            Some(name),
            false,
            "Created",
            &format!("Created container: {name}"),
        );
        self.protect().await;
        let record = link.start(id).await?;
        point("create: after the start");
        let since = record.started_at.as_deref().and_then(|text| text.parse().ok());
        Ok(since.unwrap_or_else(Timestamp::now))
    }

    /// Path of a container's cgroup.
    pub(super) fn cgroup(&self, name: &str) -> String {
        format!(
            "{}/{name}",
            sandbox::cgroup_path(&self.node.config.cgroup_parent, &self.seen.uid)
        )
    }

    /// Brings what containers asked for of memory into the cgroups above them: the kernel protects nothing beyond what is
    /// protected there (cgroup v2, `memory.min`).
    pub(super) async fn protect(&self) {
        if !self.node.layout.is_unified() {
            return;
        }
        let memory = |pod: &serde_json::Value| {
            let needs = berth_api::room::needs(pod);
            needs.get("memory").map_or(0, |amount| amount.ceil().max(0))
        };
        let (mut own, mut all) = (0, 0);
        for object in self.node.store.list(berth_api::kinds::POD, None).items {
            let pod = object.value();
            if berth_api::room::is_bound(&pod) && berth_api::room::is_live(&pod) {
                all += memory(&pod);
                if object.uid() == self.seen.uid {
                    own = memory(&pod);
                }
            }
        }
        let (node, uid) = (std::sync::Arc::clone(&self.node), self.seen.uid.clone());
        blocking(move || sandbox::protect(&node.layout, &node.config.cgroup_parent, &uid, own, all)).await;
    }

    /// Makes root file system, bundle and log folder of a container.
    async fn prepare(
        &mut self,
        definition: &Definition,
        attempt: u32,
        id: &str,
        failures: u32,
    ) -> Result<(), Refusal> {
        let Some(pod) = self.pod.clone() else {
            return Ok(());
        };
        let config_error = |message: String| Refusal {
            reason: "CreateContainerConfigError",
            message,
        };
        let links = links::variables(&pod, &self.sources().services());
        let environment = env::environment(&pod, &definition.spec, links, &self.facts(), &self.sources())
            .map_err(|error| config_error(error.to_string()))?;
        resources::Amounts::check(&definition.spec).map_err(|error| config_error(error.to_string()))?;
        let shared_pids = match self.link.clone().filter(|_| pod.shares_processes()) {
            Some(link) => Some(self.hold_pids(&link, &pod).await?),
            None => None,
        };
        let work = Preparation {
            node: std::sync::Arc::clone(&self.node),
            paths: self.paths.clone(),
            definition: definition.clone(),
            environment,
            facts: self.facts(),
            sources: self.sources(),
            cgroup: self.cgroup(&definition.spec.name),
            attempt,
            id: id.to_owned(),
            shared_pids,
            target_bundle: definition
                .target
                .as_ref()
                .map(|target| self.paths.bundle(target, self.seen.seen(target).attempt)),
            pod,
        };
        let prepared = blocking(move || work.run()).await;
        let (image, stop_signal) = prepared.unwrap_or_else(|| {
            Err(Refusal {
                reason: "CreateContainerError",
                message: "the preparation was cut off".to_owned(),
            })
        })?;
        let name = &definition.spec.name;
        let fresh = self.pulls.get(name).is_some_and(|pulls| pulls.brought(attempt));
        if !fresh && (failures > 0 || self.seen.seen(name).image.is_none()) {
            let message = format!("Container image {:?} already present on machine", image.0);
            self.event(Some(name), false, "Pulled", &message);
        }
        let seen = self.seen.seen_mut(name);
        seen.image = Some(image);
        seen.stop_signal = stop_signal;
        Ok(())
    }

    /// The process namespace that the pod's containers share.
    async fn hold_pids(&self, link: &monitor::Link, pod: &super::pod::Pod) -> Result<PathBuf, Refusal> {
        let join = sandbox::shared_namespaces(pod, &self.paths);
        let join = join.into_iter().map(|(_, path)| path).collect();
        match link.hold_pids(join).await {
            Ok(pid) => Ok(PathBuf::from(format!("/proc/{pid}/ns/pid"))),
            Err(error) => Err(Refusal {
                reason: "CreateContainerError",
                message: chain(&error),
            }),
        }
    }

    async fn tear_down(&mut self, step: Step) {
        if step == Step::Containers {
            self.publish().await;
        }
        self.seen.teardown = Some(step);
        self.save().await;
        let (before, after) = step_points(step);
        point(before);
        let done = teardown::step(self, step).await;
        point(after);
        match done {
            Ok(()) => {
                self.seen.failure = None;
                self.seen.teardown = step.next();
                if self.seen.teardown.is_none() {
                    self.seen.released = true;
                    self.seen.sandbox.touched = false;
                    self.seen.sandbox.ready = false;
                }
            }
            Err(message) => self.fail("FailedKillPod", format!("{}: {message}", step.what())),
        }
    }

    async fn forget(&mut self) {
        let paths = self.paths.clone();
        let removed =
            blocking(move || sandbox::remove_dirs(&paths).and_then(|()| sandbox::remove_logs(&paths)));
        if let Some(Err(error)) = removed.await {
            tracing::warn!(
                pod = self.seen.name,
                error = chain(&error),
                "files of a deleted pod stay"
            );
        }
        match self
            .node
            .store
            .delete(&self.key(), Preconditions::uid(&self.seen.uid))
            .await
        {
            Ok(_) | Err(StoreError::NotFound { .. } | StoreError::Conflict { .. }) => self.finish(),
            Err(error) => {
                tracing::error!(pod = self.seen.name, %error, "remove the pod from the store");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

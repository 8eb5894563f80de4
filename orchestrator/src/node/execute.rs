//! Executes the actions of a plan. What fails is written into [`super::observed::Observed`], with the time
//! of the next try; nothing is thrown away.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_client::protocol::{Call, Create, LogTarget, RefusalKind};
use berth_image::{Rootfs, user};
use jiff::Timestamp;
use serde_json::Value;

use super::backoff::{after, retry_delay};
use super::env::{self, Facts};
use super::monitor::MonitorError;
use super::network::Member;
use super::observed::{Ended, Failure, State, Step, Stop, StopPhase};
use super::plan::Action;
use super::pod::Definition;
use super::sources::Stored;
use super::spec::{self, Bind, Device, Identity, Parts};
use super::worker::{Worker, stopped};
use super::{Node, blocking, image, monitor, resources, sandbox, teardown, volumes};
use crate::store::{Preconditions, StoreError};

/// First and longest pause before a failed set-up is tried again, in seconds.
const RETRY: (i64, i64) = (1, 30);
/// The same for a missing image or ConfigMap; a changed ConfigMap or Secret ends the pause.
const RETRY_REFUSED: (i64, i64) = (1, 10);

/// A container that could not be created, with kubelet's word for it.
struct Refusal {
    reason: &'static str,
    message: String,
}

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

impl Worker {
    /// Executes one action.
    pub(super) async fn execute(&mut self, action: Action) {
        tracing::debug!(pod = self.seen.name, ?action, "execute");
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
            Action::Fail { reason, message } => self.seen.verdict = Some((reason, message)),
            Action::TearDown(step) => self.tear_down(step).await,
            Action::Forget => self.forget().await,
        }
    }

    /// What environment and volumes can say about node and pod.
    pub(super) fn facts(&self) -> Facts {
        let host_ip = self.node.host_ip();
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
        }
    }

    /// Towards CNI.
    pub(super) fn member(&self) -> Member {
        Member {
            namespace: self.seen.namespace.clone(),
            name: self.seen.name.clone(),
            uid: self.seen.uid.clone(),
            netns: self.paths.netns.clone(),
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
        let Some(pod) = self.pod.clone() else { return };
        self.seen.sandbox.touched = true;
        let (paths, node) = (self.paths.clone(), self.node.config.name.clone());
        let copy = pod.clone();
        match blocking(move || sandbox::set_up(&copy, &paths, &node)).await {
            Some(Ok(())) => {}
            Some(Err(error)) => return self.fail("FailedCreatePodSandBox", chain(&error)),
            None => return self.fail("FailedCreatePodSandBox", "the set-up was cut off".to_owned()),
        }
        // A set-up that failed later has attached the pod already.
        if !pod.host_network() && self.seen.sandbox.ips.is_empty() {
            // The state is on disk before anything outside the pod's own directories is made.
            let again = std::mem::replace(&mut self.seen.sandbox.attached, true);
            self.save().await;
            let (shared, member) = (std::sync::Arc::clone(&self.node), self.member());
            match blocking(move || shared.network.attach(&member, again)).await {
                Some(Ok(ips)) => self.seen.sandbox.ips = ips,
                Some(Err(error)) => return self.fail("FailedCreatePodSandBox", chain(&error)),
                None => return self.fail("FailedCreatePodSandBox", "the set-up was cut off".to_owned()),
            }
        }
        let (paths, node) = (self.paths.clone(), self.node.config.name.clone());
        let (facts, sources, ips) = (self.facts(), self.sources(), self.seen.sandbox.ips.clone());
        let ready = blocking(move || -> Result<(), (&'static str, String)> {
            let ips = if ips.is_empty() {
                facts.pod_ips.iter().filter_map(|ip| ip.parse().ok()).collect()
            } else {
                ips
            };
            sandbox::write_files(&pod, &paths, &node, &ips)
                .map_err(|error| ("FailedCreatePodSandBox", chain(&error)))?;
            volumes::prepare(&pod, &paths.volumes(), &facts, &sources)
                .map(drop)
                .map_err(|error| ("FailedMount", chain(&error)))
        });
        match ready.await {
            Some(Ok(())) => {
                self.seen.sandbox.ready = true;
                self.seen.failure = None;
            }
            Some(Err((reason, message))) => self.fail(reason, message),
            None => self.fail("FailedCreatePodSandBox", "the set-up was cut off".to_owned()),
        }
    }

    async fn start_monitor(&mut self) {
        let config = self.node.config.clone();
        let (dir, root) = (self.paths.run.clone(), self.node.runtime_root());
        let started = blocking(move || match monitor::pid(&dir) {
            // Another one serves the pod: it is connected to.
            Some(_) => Ok(()),
            None => monitor::start(&config.monitor, &dir, &config.runtime, &root),
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
        let id = format!("{}-{name}-{attempt}", self.seen.uid);
        if let Err(refusal) = self.prepare(&definition, attempt, &id, failures).await {
            let count = failures + 1;
            let retry = after(now, retry_delay(count, RETRY_REFUSED.0, RETRY_REFUSED.1));
            if failures == 0 || !matches!(refusal.reason, "ImagePullBackOff") {
                self.event(Some(name), true, "Failed", &refusal.message);
            }
            let failure = Failure {
                reason: refusal.reason.to_owned(),
                message: refusal.message,
                count,
                retry,
            };
            self.seen.seen_mut(name).state = State::Refused(failure);
            return;
        }
        self.seen.seen_mut(name).state = State::Creating { id: id.clone() };
        self.save().await;
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
                    self.start_hook(name, false, Duration::from_secs(3600));
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
        let stdin = self
            .pod
            .as_ref()
            .and_then(|p| p.container(name))
            .and_then(|c| c.spec.stdin);
        let create = Create {
            container: id.to_owned(),
            bundle: self.paths.bundle(name, attempt),
            log: LogTarget {
                path: self.paths.log(name, attempt),
                max_bytes: self.node.config.log_max_bytes,
                max_files: self.node.config.log_max_files,
            },
            cgroup: self.cgroup(name),
            stdin: stdin.unwrap_or(false),
        };
        link.create(create).await?;
        self.event(
            Some(name),
            false,
            "Created",
            &format!("Created container: {name}"),
        );
        let record = link.start(id).await?;
        let since = record.started_at.as_deref().and_then(|text| text.parse().ok());
        Ok(since.unwrap_or_else(Timestamp::now))
    }

    /// Path of a container's cgroup.
    fn cgroup(&self, name: &str) -> String {
        format!(
            "{}/{name}",
            sandbox::cgroup_path(&self.node.config.cgroup_parent, &self.seen.uid)
        )
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
        let environment = env::environment(&pod, &definition.spec, &self.facts(), &self.sources())
            .map_err(|error| config_error(error.to_string()))?;
        resources::Amounts::check(&definition.spec).map_err(|error| config_error(error.to_string()))?;
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
            failures,
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
        if failures > 0 || self.seen.seen(name).image.is_none() {
            let message = format!("Container image {:?} already present on machine", image.0);
            self.event(Some(name), false, "Pulled", &message);
        }
        let seen = self.seen.seen_mut(name);
        seen.image = Some(image);
        seen.stop_signal = stop_signal;
        Ok(())
    }

    async fn stop(&mut self, name: &str, grace: i64, cause: &str) {
        let deadline = after(Timestamp::now(), grace);
        let seen = self.seen.seen_mut(name);
        seen.ready = false;
        seen.stop = Some(Stop {
            deadline,
            phase: StopPhase::Due,
            cause: cause.to_owned(),
        });
        let message = if cause.is_empty() {
            format!("Stopping container {name}")
        } else {
            format!("Stopping container {name}: {cause}")
        };
        self.event(Some(name), false, "Killing", &message);
        // Whoever sends requests here learns it before the program does.
        self.publish().await;
        if grace > 0 && self.start_hook(name, true, Duration::from_secs(grace as u64)) {
            if let Some(stop) = &mut self.seen.seen_mut(name).stop {
                stop.phase = StopPhase::Hook;
            }
        }
    }

    async fn signal(&mut self, name: &str, kill: bool) {
        let seen = self.seen.seen(name);
        let (Some(id), Some(link)) = (seen.id(), self.link.clone()) else {
            return;
        };
        let asked = if seen.stop_signal == 0 {
            nix::libc::SIGTERM
        } else {
            seen.stop_signal
        };
        let signal = if kill { nix::libc::SIGKILL } else { asked };
        // Where the pid namespace is the host's, the first process' end does not end the others.
        let all = kill
            && self
                .pod
                .as_ref()
                .is_some_and(|p| p.spec().host_pid.unwrap_or(false));
        let sent = link
            .call(Call::Kill {
                container: id.to_owned(),
                signal,
                all,
            })
            .await;
        if let Some(stop) = &mut self.seen.seen_mut(name).stop {
            stop.phase = if kill { StopPhase::Killed } else { StopPhase::Asked };
        }
        match sent {
            Ok(_) => {}
            Err(MonitorError::Refused(refusal))
                if matches!(refusal.kind, RefusalKind::NotRunning | RefusalKind::NotFound) => {}
            Err(error) => tracing::warn!(pod = self.seen.name, container = name, %error, "send a signal"),
        }
    }

    /// The runtime forgets an ended container, and its root file system goes.
    async fn remove(&mut self, name: &str) {
        let seen = self.seen.seen(name);
        let Some(id) = seen.id().map(str::to_owned) else {
            return;
        };
        let Some(link) = self.link.clone() else { return };
        let deleted = link.call(Call::Delete { container: id }).await;
        if let Err(error) = deleted {
            return self.fail(
                "FailedKillPod",
                format!("remove container {name}: {}", chain(&error)),
            );
        }
        let (root, bundle) = (
            self.paths.root(name, seen.attempt),
            self.paths.bundle(name, seen.attempt),
        );
        let subpaths = self.paths.subpath(name, seen.attempt, 0);
        let removed = blocking(move || -> Result<(), String> {
            if let Some(subpaths) = subpaths.parent() {
                sandbox::unmount_below(subpaths).map_err(|error| chain(&error))?;
                let _ = std::fs::remove_dir_all(subpaths);
            }
            Rootfs::remove(&root).map_err(|error| chain(&error))?;
            let _ = std::fs::remove_dir_all(bundle);
            Ok(())
        });
        if let Some(Err(message)) = removed.await {
            return self.fail("FailedKillPod", format!("remove container {name}: {message}"));
        }
        self.seen.failure = None;
        if let State::Ended(ended) = &mut self.seen.seen_mut(name).state {
            ended.removed = true;
        }
    }

    async fn tear_down(&mut self, step: Step) {
        if step == Step::Containers {
            self.publish().await;
        }
        self.seen.teardown = Some(step);
        self.save().await;
        match teardown::step(self, step).await {
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

/// Everything that the blocking part of a container's creation needs.
struct Preparation {
    node: std::sync::Arc<Node>,
    paths: super::paths::PodPaths,
    pod: Box<super::pod::Pod>,
    definition: Definition,
    environment: Vec<(String, String)>,
    facts: Facts,
    sources: Stored,
    cgroup: String,
    attempt: u32,
    id: String,
    failures: u32,
}

impl Preparation {
    /// Returns the image (name and id) and the number of its stop signal.
    fn run(&self) -> Result<((String, String), i32), Refusal> {
        let container = &self.definition.spec;
        let name = &container.name;
        let failed = |message: String| Refusal {
            reason: "CreateContainerError",
            message,
        };
        let config_failed = |message: String| Refusal {
            reason: "CreateContainerConfigError",
            message,
        };
        let found =
            image::find(&self.node.images, container, self.failures).map_err(|error| match error {
                image::ImageError::Missing { reason, text } => Refusal {
                    reason,
                    message: text,
                },
                error => Refusal {
                    reason: "InvalidImageName",
                    message: chain(&error),
                },
            })?;
        let root = self.paths.root(name, self.attempt);
        Rootfs::remove(&root).map_err(|error| failed(chain(&error)))?;
        std::fs::create_dir_all(&root)
            .map_err(|error| failed(format!("make {}: {error}", root.display())))?;
        let rootfs = self
            .node
            .images
            .prepare_rootfs(&found, &root)
            .map_err(|error| failed(chain(&error)))?;
        rootfs.mount().map_err(|error| failed(chain(&error)))?;
        let identity = self
            .identity(&rootfs.target, &image::user(&found))
            .map_err(config_failed)?;
        let bundle = self.paths.bundle(name, self.attempt);
        std::fs::create_dir_all(&bundle)
            .map_err(|error| failed(format!("make {}: {error}", bundle.display())))?;
        let binds = self
            .binds(&bundle)
            .map_err(|error| config_failed(chain(&error)))?;
        let privileged = container
            .security_context
            .as_ref()
            .and_then(|s| s.privileged)
            .unwrap_or(false);
        let parts = Parts {
            pod: &self.pod,
            container,
            image: &image::settings(&found),
            identity: &identity,
            env: &self.environment,
            hostname: &sandbox::hostname(&self.pod, &self.node.config.name),
            rootfs: &rootfs.target,
            namespaces: &sandbox::shared_namespaces(&self.pod, &self.paths),
            binds: &binds,
            cgroup: &self.cgroup,
            oom_score: resources::oom_score(resources::qos(self.pod.spec()), container, self.node.memory),
            last_capability: self.node.last_capability,
            devices: &if privileged {
                host_devices(Path::new("/dev"))
            } else {
                Vec::new()
            },
            local_seccomp: self.local_seccomp().map_err(config_failed)?,
        };
        let config = spec::config(&parts).map_err(|error| failed(error.to_string()))?;
        let path = bundle.join("config.json");
        std::fs::write(&path, config.to_string())
            .map_err(|error| failed(format!("write {}: {error}", path.display())))?;
        self.prepare_log()
            .map_err(|error| failed(format!("prepare the log of {}: {error}", self.id)))?;
        let id = found.id.to_string();
        Ok((
            (container.image.clone().unwrap_or_default(), id),
            image::stop_signal(&found),
        ))
    }

    /// Who the program runs as: the image's user, unless the pod says otherwise.
    fn identity(&self, rootfs: &Path, image_user: &str) -> Result<Identity, String> {
        let own = self.definition.spec.security_context.as_ref();
        let pod = self.pod.spec().security_context.as_ref();
        let run_as_user = own
            .and_then(|s| s.run_as_user)
            .or(pod.and_then(|s| s.run_as_user));
        let run_as_group = own
            .and_then(|s| s.run_as_group)
            .or(pod.and_then(|s| s.run_as_group));
        let text = match (run_as_user, run_as_group) {
            (Some(user), Some(group)) => format!("{user}:{group}"),
            (Some(user), None) => user.to_string(),
            (None, Some(group)) => {
                let user = image_user
                    .split(':')
                    .next()
                    .filter(|u| !u.is_empty())
                    .unwrap_or("0");
                format!("{user}:{group}")
            }
            (None, None) => image_user.to_owned(),
        };
        let found = if text.is_empty() {
            user::lookup(rootfs, "0")
        } else {
            user::lookup(rootfs, &text)
        };
        let found = found.map_err(|error| chain(&error))?;
        let non_root = own
            .and_then(|s| s.run_as_non_root)
            .or(pod.and_then(|s| s.run_as_non_root));
        if non_root == Some(true) && found.uid == 0 {
            return Err(format!(
                "container {} has runAsNonRoot, but would run as root: set runAsUser, or a USER in the image",
                self.definition.spec.name
            ));
        }
        let mut additional = found.additional_gids;
        let more = pod
            .and_then(|s| s.supplemental_groups.clone())
            .unwrap_or_default();
        for group in more.into_iter().chain(pod.and_then(|s| s.fs_group)) {
            let group = u32::try_from(group).map_err(|_| format!("group {group} is out of range"))?;
            if !additional.contains(&group) {
                additional.push(group);
            }
        }
        Ok(Identity {
            uid: found.uid,
            gid: found.gid,
            additional,
        })
    }

    /// The node's files and the volumes.
    fn binds(&self, bundle: &Path) -> Result<Vec<Bind>, volumes::VolumeError> {
        let container = &self.definition.spec;
        let bind = |source: PathBuf, target: &str, read_only| Bind {
            source,
            target: target.to_owned(),
            read_only,
            propagation: "rprivate",
        };
        let run = &self.paths.run;
        let mut binds = vec![
            bind(run.join("hosts"), "/etc/hosts", false),
            bind(run.join("hostname"), "/etc/hostname", false),
            bind(run.join("resolv.conf"), "/etc/resolv.conf", false),
            bind(run.join("shm"), "/dev/shm", false),
        ];
        let words = bundle.join("termination-log");
        let made = std::fs::File::create(&words)
            .and_then(|file| file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)));
        made.map_err(|source| volumes::VolumeError::File {
            path: words.clone(),
            source,
        })?;
        let place = container
            .termination_message_path
            .as_deref()
            .filter(|p| !p.is_empty());
        binds.push(bind(words, place.unwrap_or("/dev/termination-log"), false));
        let hosts = volumes::prepare(&self.pod, &self.paths.volumes(), &self.facts, &self.sources)?;
        for (number, wanted) in container.volume_mounts.iter().flatten().enumerate() {
            let path = hosts
                .get(&wanted.name)
                .ok_or_else(|| volumes::VolumeError::Undeclared {
                    container: container.name.clone(),
                    volume: wanted.name.clone(),
                })?;
            let source = match self.subpath_of(wanted) {
                None => path.clone(),
                Some(sub) => {
                    let target = self.paths.subpath(&container.name, self.attempt, number);
                    sandbox::unmount_below(&target).map_err(|error| volumes::VolumeError::File {
                        path: target.clone(),
                        source: std::io::Error::other(error),
                    })?;
                    volumes::bind_subpath(&wanted.name, path, &sub, &target)?;
                    target
                }
            };
            binds.retain(|known| known.target != wanted.mount_path);
            binds.push(Bind {
                source,
                target: wanted.mount_path.clone(),
                read_only: wanted.read_only.unwrap_or(false),
                propagation: match wanted.mount_propagation.as_deref() {
                    Some("Bidirectional") => "rshared",
                    Some("HostToContainer") => "rslave",
                    _ => "rprivate",
                },
            });
        }
        // An outer place is mounted before what lies in it.
        binds.sort_by_key(|known| known.target.matches('/').count());
        Ok(binds)
    }

    /// `subPath`, or `subPathExpr` with the container's variables in it.
    fn subpath_of(&self, wanted: &k8s_openapi::api::core::v1::VolumeMount) -> Option<String> {
        let plain = wanted.sub_path.clone().filter(|p| !p.is_empty());
        plain.or_else(|| {
            let text = wanted.sub_path_expr.as_deref().filter(|p| !p.is_empty())?;
            let variables: BTreeMap<&str, &String> = self
                .environment
                .iter()
                .map(|(name, value)| (name.as_str(), value))
                .collect();
            Some(env::expand(text, |name| {
                variables.get(name).map(|value| (*value).clone())
            }))
        })
    }

    /// A `Localhost` seccomp profile from `<data-dir>/seccomp`.
    fn local_seccomp(&self) -> Result<Option<Value>, String> {
        let own = self
            .definition
            .spec
            .security_context
            .as_ref()
            .and_then(|s| s.seccomp_profile.as_ref());
        let pod = self
            .pod
            .spec()
            .security_context
            .as_ref()
            .and_then(|s| s.seccomp_profile.as_ref());
        let Some(profile) = own.or(pod).filter(|p| p.type_ == "Localhost") else {
            return Ok(None);
        };
        let name = profile.localhost_profile.clone().unwrap_or_default();
        let relative = Path::new(&name);
        let plain = relative
            .components()
            .all(|c| matches!(c, std::path::Component::Normal(_)));
        if name.is_empty() || !plain {
            return Err(format!(
                "seccompProfile.localhostProfile {name:?} must be a relative path without \"..\""
            ));
        }
        let path = self.node.config.data_dir.join("seccomp").join(relative);
        let text =
            std::fs::read(&path).map_err(|e| format!("read seccomp profile {}: {e}", path.display()))?;
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|e| format!("seccomp profile {} is not JSON: {e}", path.display()))
    }

    /// Makes the log's folder and removes the logs of runs before the last one.
    fn prepare_log(&self) -> std::io::Result<()> {
        let path = self.paths.log(&self.definition.spec.name, self.attempt);
        let Some(dir) = path.parent() else { return Ok(()) };
        std::fs::create_dir_all(dir)?;
        for entry in std::fs::read_dir(dir)?.flatten() {
            let name = entry.file_name();
            let number = name
                .to_str()
                .and_then(|n| n.split('.').next())
                .and_then(|n| n.parse::<u32>().ok());
            if number.is_some_and(|number| number + 1 < self.attempt) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// Devices of the host that a privileged container gets: everything in /dev but terminals of the host's
/// own devpts and what the runtime makes itself.
fn host_devices(dir: &Path) -> Vec<Device> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(meta) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        let kind = meta.file_type();
        if kind.is_dir() {
            if !matches!(
                entry.file_name().to_str(),
                Some("pts" | "shm" | "mqueue" | "fd" | "hugepages")
            ) {
                found.extend(host_devices(&path));
            }
        } else if kind.is_char_device() || kind.is_block_device() {
            if path == Path::new("/dev/console") || path == Path::new("/dev/ptmx") {
                continue;
            }
            let Some(text) = path.to_str() else { continue };
            found.push(Device {
                path: text.to_owned(),
                kind: if kind.is_char_device() { "c" } else { "b" },
                major: nix::sys::stat::major(meta.rdev()),
                minor: nix::sys::stat::minor(meta.rdev()),
                mode: meta.mode() & 0o777,
                uid: meta.uid(),
                gid: meta.gid(),
            });
        }
    }
    found
}

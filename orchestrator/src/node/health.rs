//! Probes and lifecycle hooks of a pod's containers: starting them, and what follows from their outcome.

use std::sync::Arc;
use std::time::Duration;

use super::Node;
use super::observed::{State, StopPhase, Unhealthy};
use super::pod::Role;
use super::probes::{self, Kind, Report, Target};
use super::worker::{Input, Worker};

impl Worker {
    /// Takes the report of a probe over.
    pub(super) fn probed(&mut self, container: &str, attempt: u32, kind: Kind, report: Report) {
        let Some(seen) = self.seen.containers.get_mut(container) else {
            return;
        };
        if seen.attempt != attempt || !seen.running() {
            return;
        }
        match report {
            Report::Failed(text) => {
                let message = format!("{} probe failed: {text}", kind.title());
                self.event(Some(container), true, "Unhealthy", &message);
            }
            Report::Verdict(ok, text) => match kind {
                Kind::Startup if ok => {
                    seen.started = true;
                    let readiness = self.pod.as_ref().and_then(|p| p.container(container));
                    seen.ready = readiness.is_some_and(|c| c.spec.readiness_probe.is_none());
                }
                Kind::Readiness => seen.ready = ok && seen.stop.is_none(),
                Kind::Liveness if ok => {}
                Kind::Liveness | Kind::Startup => {
                    let definition = self.pod.as_ref().and_then(|p| p.container(container));
                    let grace = definition
                        .and_then(|c| kind.of(&c.spec))
                        .and_then(|probe| probe.termination_grace_period_seconds);
                    let which = kind.title().to_lowercase();
                    let cause =
                        format!("Container {container} failed {which} probe, will be restarted: {text}");
                    seen.unhealthy = Some(Unhealthy { cause, grace });
                }
            },
        }
    }

    /// Takes the end of a hook over.
    pub(super) fn hooked(
        &mut self,
        container: &str,
        attempt: u32,
        pre_stop: bool,
        outcome: Result<(), String>,
    ) {
        let Some(seen) = self.seen.containers.get_mut(container) else {
            return;
        };
        if seen.attempt != attempt {
            return;
        }
        let (reason, hook) = if pre_stop {
            ("FailedPreStopHook", "PreStop")
        } else {
            ("FailedPostStartHook", "PostStart")
        };
        if pre_stop {
            if let Some(stop) = &mut seen.stop
                && stop.phase == StopPhase::Hook
            {
                stop.phase = StopPhase::Due;
            }
        } else if let Err(text) = &outcome {
            let cause = format!("Container {container} failed its postStart hook: {text}");
            seen.unhealthy = Some(Unhealthy { cause, grace: None });
        }
        if let Err(text) = outcome {
            self.event(
                Some(container),
                true,
                reason,
                &format!("{hook} hook failed: {text}"),
            );
        }
    }

    /// Starts and ends probes so that they fit the containers that run.
    pub(super) fn sync_probes(&mut self) {
        let mut wanted = Vec::new();
        if let (Some(pod), Some(_)) = (&self.pod, &self.link) {
            for definition in &pod.containers {
                let name = &definition.spec.name;
                let seen = self.seen.seen(name);
                if matches!(definition.role, Role::Init | Role::Ephemeral)
                    || !seen.running()
                    || seen.stop.is_some()
                {
                    continue;
                }
                let kinds: &[Kind] = if seen.started {
                    &[Kind::Liveness, Kind::Readiness]
                } else {
                    &[Kind::Startup]
                };
                for kind in kinds.iter().filter(|kind| kind.of(&definition.spec).is_some()) {
                    wanted.push((name.clone(), seen.attempt, *kind));
                }
            }
        }
        self.tasks.retain(|key, task| {
            let keep = wanted.contains(key);
            if !keep {
                task.abort();
            }
            keep
        });
        for key in wanted {
            if !self.tasks.contains_key(&key)
                && let Some(task) = self.start_probe(&key)
            {
                self.tasks.insert(key, task);
            }
        }
    }

    fn start_probe(&self, key: &(String, u32, Kind)) -> Option<tokio::task::JoinHandle<()>> {
        let (container, attempt, kind) = key.clone();
        let seen = self.seen.seen(&container);
        let State::Running { since, .. } = seen.state else {
            return None;
        };
        let target = self.target(&container)?;
        let probe = kind.of(&target.spec)?.clone();
        let verdict = match kind {
            Kind::Readiness => Some(seen.ready),
            Kind::Liveness => Some(true),
            Kind::Startup => None,
        };
        let sender = self.sender();
        Some(tokio::spawn(probes::run(
            kind,
            probe,
            target,
            since,
            verdict,
            move |report| {
                let _ = sender.send(Input::Probe {
                    container: container.clone(),
                    attempt,
                    kind,
                    report,
                });
            },
        )))
    }

    /// How to reach a running container.
    pub(super) fn target(&self, container: &str) -> Option<Target> {
        let pod = self.pod.as_ref()?;
        let seen = self.seen.seen(container);
        let ip = match self.seen.sandbox.ips.first() {
            Some(ip) if !pod.host_network() => ip.to_string(),
            _ => Node::host_ip(),
        };
        Some(Target {
            link: self.link.clone()?,
            container: seen.id()?.to_owned(),
            bundle: self.paths.bundle(container, seen.attempt),
            ip,
            spec: Arc::new(pod.container(container)?.spec.clone()),
        })
    }

    /// Runs a lifecycle hook beside the worker and reports its end.
    pub(super) fn start_hook(&self, container: &str, pre_stop: bool, timeout: Duration) -> bool {
        let Some(target) = self.target(container) else {
            return false;
        };
        let lifecycle = target.spec.lifecycle.as_ref();
        let handler = lifecycle.and_then(|l| {
            if pre_stop {
                l.pre_stop.clone()
            } else {
                l.post_start.clone()
            }
        });
        let Some(handler) = handler else { return false };
        let (sender, container) = (self.sender(), container.to_owned());
        let attempt = self.seen.seen(&container).attempt;
        tokio::spawn(async move {
            let outcome = probes::hook(&handler, &target, timeout).await;
            let _ = sender.send(Input::Hook {
                container,
                attempt,
                pre_stop,
                outcome,
            });
        });
        true
    }
}

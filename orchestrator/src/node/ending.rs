//! The end of containers: they are asked to end, killed, forgotten by the runtime, and their files are removed.

use std::time::Duration;

use berth_client::protocol::{Call, RefusalKind};
use berth_image::Rootfs;
use jiff::Timestamp;

use super::backoff::after;
use super::execute::chain;
use super::monitor::MonitorError;
use super::observed::{State, Stop, StopPhase};
use super::worker::Worker;
use super::{blocking, sandbox};
use crate::fault::point;

/// How long connections that are in use may go on before a program is asked to end, within half its grace period.
const DRAIN: Duration = Duration::from_secs(5);

impl Worker {
    /// Asks a container to end: the preStop hook, or the signal, when nobody is led to it any more.
    pub(super) async fn stop(&mut self, name: &str, grace: i64, cause: &str) {
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
        if grace > 0 {
            // The other half is the program's.
            let half = Duration::from_secs(grace as u64) / 2;
            let (mut routes, store) = (self.node.routes.clone(), self.node.store.clone());
            routes
                .leave(&store, &self.seen.sandbox.ips, DRAIN.min(half), half)
                .await;
        }
        if grace > 0
            && self.start_hook(name, true, Duration::from_secs(grace as u64))
            && let Some(stop) = &mut self.seen.seen_mut(name).stop
        {
            stop.phase = StopPhase::Hook;
        }
    }

    /// Sends the container's stop signal, or SIGKILL.
    pub(super) async fn signal(&mut self, name: &str, kill: bool) {
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
        // Where the container has not its own pid namespace, the first process' end does not end the others.
        let all = kill && self.pod.as_ref().is_some_and(|p| p.has_common_processes());
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

    /// The runtime forgets an ended container. Its root file system goes later: a new run need not wait for that.
    pub(super) async fn remove(&mut self, name: &str) {
        let seen = self.seen.seen(name);
        let Some(id) = seen.id().map(str::to_owned) else {
            return;
        };
        let Some(link) = self.link.clone() else { return };
        // How it ended is on disk before the monitor forgets it: killed in between, the next `berthd` would take the
        // run for one that has never been, and begin it again.
        self.save().await;
        point("remove: before the monitor forgets");
        let deleted = link.call(Call::Delete { container: id }).await;
        if let Err(error) = deleted {
            return self.fail(
                "FailedKillPod",
                format!("remove container {name}: {}", chain(&error)),
            );
        }
        self.seen.failure = None;
        let seen = self.seen.seen_mut(name);
        if !seen.remains.contains(&seen.attempt) {
            seen.remains.push(seen.attempt);
        }
        if let State::Ended(ended) = &mut seen.state {
            ended.removed = true;
        }
    }

    /// What former runs of a container have left on the disk goes.
    pub(super) async fn sweep(&mut self, name: &str) {
        for attempt in self.seen.seen(name).remains {
            let (root, bundle) = (self.paths.root(name, attempt), self.paths.bundle(name, attempt));
            let subpaths = self.paths.subpath(name, attempt, 0);
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
                return self.fail(
                    "FailedKillPod",
                    format!("remove the files of container {name}: {message}"),
                );
            }
            self.seen.seen_mut(name).remains.retain(|other| *other != attempt);
        }
        self.seen.failure = None;
    }
}

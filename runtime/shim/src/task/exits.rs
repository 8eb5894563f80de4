//! The end of children: runtimes, the containers' processes, logging programs, orphans.
//!
//! The order in which ends are told is part of the service: a start before its end, and the end of a container's
//! first process after those of all others.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use super::Shim;
use super::jobs::{Job, Verb};
use crate::container::Container;
use crate::events;
use crate::log::warning;
use crate::process::{Exit, Phase, Process};

/// Ends of unknown children that are kept at most.
const MAX_STRAYS: usize = 4096;

/// How a child ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    pid: i32,
    status: ExitStatus,
}

impl Ended {
    fn exit(self) -> Exit {
        let killed = || 128 + self.status.signal().unwrap_or(0);
        Exit {
            status: self.status.code().unwrap_or_else(killed) as u32,
            at: events::now(),
        }
    }
}

impl Shim {
    /// Collects every child that has ended. Runtimes come first: a container's process becomes ours when its runtime
    /// ends, and both may be found in one round. First processes come last.
    pub fn reap(&mut self) {
        let mut ended = Vec::new();
        loop {
            match berth_sys::process::reap() {
                Ok(Some((pid, status))) => ended.push(Ended { pid, status }),
                Ok(None) => break,
                Err(error) => {
                    warning!("wait for children: {error}");
                    break;
                }
            }
        }
        let rank = |one: &Ended| {
            if self.is_job(one.pid) {
                0
            } else if self.containers.iter().any(|c| c.init.pid == one.pid) {
                2
            } else {
                1
            }
        };
        let mut ranked: Vec<(i32, Ended)> = ended.into_iter().map(|one| (rank(&one), one)).collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        for (_, one) in ranked {
            self.ended(one);
        }
        if !self.is_launching() {
            self.strays = Vec::new();
        }
    }

    fn is_launching(&self) -> bool {
        self.jobs
            .iter()
            .any(|job| matches!(job.verb, Verb::Create | Verb::Exec | Verb::Restore))
    }

    fn ended(&mut self, one: Ended) {
        if self.job_ended(one.pid, one.status)
            || self.helper_ended(one.pid, one.status)
            || self.publisher.ended(one.pid, one.status.success())
            || self.logger_ended(one.pid)
            || self.process_ended(one)
        {
            return;
        }
        if self.is_launching() && self.strays.len() < MAX_STRAYS {
            self.strays.push(one);
        }
    }

    /// Treats the end of a process that was reaped before its id was known.
    pub(super) fn claim(&mut self, pid: i32) {
        if let Some(index) = self.strays.iter().position(|stray| stray.pid == pid) {
            let stray = self.strays.swap_remove(index);
            self.ended(stray);
        }
    }

    fn logger_ended(&mut self, pid: i32) -> bool {
        let before = self.loggers.len();
        self.loggers.retain(|logger| logger.pid() != pid);
        if self.loggers.len() != before {
            return true;
        }
        // One that still has streams: what the container writes is lost from here on, as the pipes have no reader.
        self.containers
            .iter_mut()
            .flat_map(Container::processes_mut)
            .any(|process| {
                let own = process.io.logger().is_some_and(|logger| logger.pid() == pid);
                if own && process.ends.is_none() {
                    warning!("the logging program {pid} has ended before the process that it logs");
                    process.io.take_logger();
                }
                own
            })
    }

    fn process_ended(&mut self, one: Ended) -> bool {
        let mine = |p: &Process| p.pid == one.pid && p.exit.is_none() && p.held.is_none();
        let found = self.containers.iter().find_map(|container| {
            let process = container.processes().find(|p| mine(p))?;
            Some((container.id.clone(), process.exec.clone()))
        });
        let Some((id, exec)) = found else { return false };
        if exec.is_some() {
            self.tell_end(&id, exec.as_deref(), &one.exit());
        } else if let Ok(container) = self.container(&id) {
            container.init.held = Some(one.exit());
            if container.kill_others {
                self.kill_others(&id);
            }
        }
        self.tell_held_end(&id);
        true
    }

    /// Kills what shares no pid namespace of the container's own with its first process.
    fn kill_others(&mut self, id: &str) {
        let Ok(container) = self.container(id) else { return };
        let signal = nix::libc::SIGKILL.to_string();
        match container.runtime.kill(id, &signal, true).spawn() {
            Ok(pending) => {
                self.jobs.push(Job {
                    pending,
                    verb: Verb::KillOthers,
                    container: id.to_owned(),
                    exec: None,
                    asker: None,
                    console: None,
                });
            }
            Err(error) => warning!("container {id}: {}", crate::error::chain(&error)),
        }
    }

    /// Tells the end of the first process if it was held back and nothing holds it back any more.
    pub(super) fn tell_held_end(&mut self, id: &str) {
        let killing = self
            .jobs
            .iter()
            .any(|job| job.container == id && job.verb == Verb::KillOthers);
        let Ok(container) = self.container(id) else { return };
        let others = container.execs.iter().any(Process::is_alive);
        if killing || others || container.init.phase == Phase::Starting {
            return;
        }
        if let Some(exit) = container.init.held.take() {
            self.tell_end(id, None, &exit);
        }
    }
}

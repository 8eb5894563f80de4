//! The end of children: runtimes, containers, programs run in containers.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use berth_client::protocol::{Answer, Refusal, RefusalKind};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use crate::exec::{Asker, Io, Run, read_pid};
use crate::monitor::{Job, Monitor, Verb, failed, unknown};

/// Exits of processes that nobody has claimed yet.
const MAX_STRAYS: usize = 32;

/// How a child ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    pid: i32,
    code: i32,
    signal: Option<i32>,
}

impl Ended {
    fn status(self) -> ExitStatus {
        ExitStatus::from_raw(self.signal.unwrap_or((self.code & 0xff) << 8))
    }
}

impl Monitor {
    /// Collects every child that has ended. Runtimes come before containers: a container's process becomes
    /// ours when its runtime ends, and both may be found in one round.
    pub fn reap(&mut self) {
        let mut ended = Vec::new();
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => {
                    ended.push(Ended {
                        pid: pid.as_raw(),
                        code,
                        signal: None,
                    });
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    let signal = signal as i32;
                    ended.push(Ended {
                        pid: pid.as_raw(),
                        code: 128 + signal,
                        signal: Some(signal),
                    });
                }
                Ok(WaitStatus::StillAlive) | Err(nix::Error::ECHILD) => break,
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(error) => {
                    eprintln!("wait for children: {error}");
                    break;
                }
            }
        }
        ended.sort_by_key(|e| !self.is_runtime(e.pid));
        for one in ended {
            self.ended(one);
        }
    }

    fn is_runtime(&self, pid: i32) -> bool {
        self.jobs.iter().any(|job| job.pending.pid() == pid)
            || self
                .execs
                .iter()
                .any(|e| e.launcher.as_ref().is_some_and(|l| l.pid() == pid))
    }

    fn ended(&mut self, one: Ended) {
        if let Some(n) = self.jobs.iter().position(|job| job.pending.pid() == one.pid) {
            let job = self.jobs.swap_remove(n);
            self.job_ended(job, one);
        } else if let Some(n) = self.execs.iter().position(|e| {
            e.launcher
                .as_ref()
                .is_some_and(|launcher| launcher.pid() == one.pid)
        }) {
            self.exec_launched(n, one);
        } else if let Some(n) = self.execs.iter().position(|e| e.pid == Some(one.pid)) {
            let exec = self.execs.swap_remove(n);
            self.program_ended(exec, one.code);
        } else if let Some(n) = self
            .containers
            .iter()
            .position(|c| c.record.pid == one.pid && c.record.exit.is_none())
        {
            let Some(container) = self.containers.get_mut(n) else {
                return;
            };
            container.exited(one.code, one.signal, &mut self.buffer);
            let record = container.record.clone();
            self.announce(record);
            self.dismiss(n);
        } else if self.pids.as_ref().is_some_and(|held| held.pid == one.pid) {
            // Somebody has killed it, and with it all containers: the next one gets a new namespace.
            self.pids = None;
        } else {
            // A grandchild, or a process whose runtime is not known to have ended.
            if self.strays.len() == MAX_STRAYS {
                self.strays.pop_front();
            }
            self.strays.push_back(one);
        }
    }

    fn job_ended(&mut self, job: Job, one: Ended) {
        let Job {
            pending,
            verb,
            container: id,
            asker,
        } = job;
        let result = pending.finish(one.status(), &[]).map_err(|error| failed(&error));
        match (verb, result) {
            (Verb::Create, Ok(())) => self.created(&id, asker),
            (Verb::Create, Err(refusal)) => {
                self.containers.retain(|c| c.record.container != id);
                self.reply(asker, Err(refusal));
            }
            (Verb::Start, result) => {
                let Some(container) = self.find(&id) else {
                    return self.reply(asker, Err(unknown(&id)));
                };
                if result.is_err() {
                    container.record.started_at = None;
                }
                container.save();
                let record = container.record.clone();
                self.reply(asker, result.map(|()| Answer::Container(record)));
            }
            (Verb::Delete, result) => {
                if result.is_ok() {
                    self.containers.retain(|c| c.record.container != id);
                }
                self.reply(asker, result.map(|()| Answer::Done));
            }
            (Verb::Kill, result) => self.reply(asker, result.map(|()| Answer::Done)),
        }
    }

    fn created(&mut self, id: &str, asker: Asker) {
        let Some(container) = self.find(id) else {
            return self.reply(asker, Err(unknown(id)));
        };
        let pid_file = container.create.bundle.join("pid");
        let Some(pid) = read_pid(&pid_file) else {
            let message = format!("read the pid of container {id} from {}", pid_file.display());
            return self.reply(
                asker,
                Err(Refusal {
                    kind: RefusalKind::Failed,
                    message,
                }),
            );
        };
        container.record.pid = pid;
        if !container.take_terminal() {
            eprintln!("the runtime has sent no terminal for container {id}");
        }
        container.save();
        let record = container.record.clone();
        self.reply(asker, Ok(Answer::Container(record)));
        self.claim(pid);
    }

    fn exec_launched(&mut self, n: usize, one: Ended) {
        let Some(exec) = self.execs.get_mut(n) else { return };
        let Some(launcher) = exec.launcher.take() else {
            return;
        };
        let program = exec.launched();
        let refused = |message: &str| Refusal {
            kind: RefusalKind::Failed,
            message: message.to_owned(),
        };
        let failure = match launcher.finish(one.status(), &[]) {
            // Killed by the deadline before the program began.
            Err(_) if exec.expired => {
                let exec = self.execs.swap_remove(n);
                return self.program_ended(exec, one.code);
            }
            Err(error) => failed(&error),
            Ok(()) => match (program, &exec.io) {
                (None, _) => refused("the runtime did not write the pid of the program"),
                (Some(pid), Io::Captured(_)) => return self.claim(pid),
                (Some(pid), Io::Handed { .. }) => {
                    if let Some((streams, ends)) = exec.take_ends() {
                        let asker = exec.asker;
                        self.hand_over(asker, streams, &ends);
                        return self.claim(pid);
                    }
                    exec.hang_up();
                    refused("the runtime has sent no terminal")
                }
            },
        };
        let exec = self.execs.swap_remove(n);
        self.reply(exec.asker, Err(failure));
    }

    fn program_ended(&mut self, mut exec: Run, code: i32) {
        match exec.io {
            Io::Captured(_) => {
                let result = exec.result(code, &mut self.buffer);
                self.reply(exec.asker, Ok(Answer::Exec(result)));
            }
            Io::Handed { .. } => self.tell_end(exec.asker, code),
        }
    }

    /// Treats the exit of a process that was reaped before its pid was known.
    fn claim(&mut self, pid: i32) {
        if let Some(n) = self.strays.iter().position(|stray| stray.pid == pid)
            && let Some(stray) = self.strays.remove(n)
        {
            self.ended(stray);
        }
    }
}

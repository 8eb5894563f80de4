//! Delete: the output is handed on, the runtime takes the container away, the root is unmounted.

use std::time::{Duration, Instant};

use containerd_shim_protos::api::{DeleteRequest, DeleteResponse};
use containerd_shim_protos::protobuf::MessageField;

use super::jobs::{Job, Verb};
use super::{Asker, Outcome, Shim, encode};
use crate::container::{Change, Container};
use crate::error::TaskError;
use crate::log::warning;
use crate::process::{Deleting, Exit, Phase, Process, pid_file};
use crate::{events, rootfs};

/// How long a reader may take for output that a process has left; as containerd's own shims wait.
const DRAIN: Duration = Duration::from_secs(10);

impl Shim {
    pub(super) fn delete(&mut self, asker: Asker, request: &DeleteRequest) -> Outcome {
        if request.exec_id.is_empty() {
            return self.change(asker, &request.id, Change::Delete);
        }
        let process = self.process(&request.id, &request.exec_id)?;
        if !matches!(process.phase, Phase::Added | Phase::Stopped) {
            return Err(TaskError::State {
                verb: "delete",
                id: request.exec_id.clone(),
                state: process.phase.name(),
            });
        }
        begin(process, asker)?;
        // The next tick sees whether its output is taken.
        Ok(None)
    }

    /// The container's turn to be deleted has come.
    pub(super) fn begin_delete(&mut self, id: &str, asker: Asker) -> Result<(), TaskError> {
        let container = self.container(id)?;
        let phase = container.init.phase;
        if !matches!(phase, Phase::Created | Phase::Stopped) {
            return Err(TaskError::State {
                verb: "delete",
                id: id.to_owned(),
                state: phase.name(),
            });
        }
        begin(&mut container.init, asker)
    }

    /// Goes on with every Delete whose process' output was taken, or whose time is over.
    pub(super) fn delete_drained(&mut self, now: Instant) {
        let mut drained = Vec::new();
        for container in &mut self.containers {
            let id = container.id.clone();
            for process in container.processes_mut() {
                let Some(deleting) = process.deleting.as_mut().filter(|d| !d.running) else {
                    continue;
                };
                let late = deleting.deadline <= now;
                if process.io.drain(&mut self.buffer) || late {
                    if late {
                        warning!("container {id}: nobody has read all output: the rest is lost");
                    }
                    deleting.running = true;
                    drained.push((id.clone(), process.exec.clone()));
                }
            }
        }
        for (id, exec) in drained {
            match exec {
                Some(exec) => self.delete_exec(&id, &exec),
                None => self.run_delete(&id),
            }
        }
    }

    fn delete_exec(&mut self, id: &str, exec: &str) {
        let Ok(container) = self.container(id) else { return };
        let Some(index) = container
            .execs
            .iter()
            .position(|p| p.exec.as_deref() == Some(exec))
        else {
            return;
        };
        let process = container.execs.swap_remove(index);
        let pid_file = pid_file(&container.bundle, Some(exec));
        for path in process.spec.iter().chain([&pid_file]) {
            // Best effort: an exec that was never started has written none.
            let _ = std::fs::remove_file(path);
        }
        self.release(process);
    }

    fn run_delete(&mut self, id: &str) {
        let Ok(container) = self.container(id) else { return };
        if container.images.is_some() && container.init.pid == 0 {
            // Never restored: the runtime knows nothing of it.
            return self.deleted(id, Ok(()));
        }
        match container.runtime.delete(id, false).spawn() {
            Ok(pending) => self.jobs.push(Job {
                pending,
                verb: Verb::Delete,
                container: id.to_owned(),
                exec: None,
                asker: None,
                console: None,
            }),
            Err(error) => self.deleted(id, Err(error)),
        }
    }

    /// The runtime has taken the container away, or could not.
    pub(super) fn deleted(&mut self, id: &str, result: Result<(), berth_client::Error>) {
        let failed = match result {
            // A checkpoint leaves nothing to delete.
            Err(error) if !error.is_not_found() => Some(TaskError::Runtime {
                verb: "delete",
                source: error,
            }),
            _ => None,
        };
        if let Some(error) = failed {
            if let Ok(container) = self.container(id)
                && let Some(deleting) = container.init.deleting.take()
            {
                self.answer(Some(deleting.asker), Err(error));
            }
            return self.change_done(id);
        }
        self.reap_first(id);
        let Ok(index) = self.index(id) else { return };
        let container = self.containers.swap_remove(index);
        let Container {
            bundle,
            mounted,
            init,
            execs,
            changes,
            ..
        } = container;
        if mounted && let Err(error) = rootfs::unmount(&bundle.join(rootfs::DIR)) {
            warning!("{}", crate::error::chain(&error));
        }
        self.tell_deleted(id, init.pid, init.exit.as_ref());
        self.release(init);
        for process in execs {
            self.release(process);
        }
        for (asker, _) in changes {
            let gone = TaskError::NotFound {
                what: "container",
                id: id.to_owned(),
            };
            self.answer(Some(asker), Err(gone));
        }
    }

    /// The runtime's `delete` of a container that was never started has killed its process: its end is told, too.
    fn reap_first(&mut self, id: &str) {
        let Ok(container) = self.container(id) else { return };
        if container.init.pid == 0 || container.init.exit.is_some() {
            return;
        }
        let exit = container.init.held.take().unwrap_or_else(|| {
            let pid = nix::unistd::Pid::from_raw(container.init.pid);
            // Best effort: if it is not a zombie by now, the next round of reaping gets it.
            let _ = nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::WNOHANG));
            Exit {
                status: 128 + nix::libc::SIGKILL as u32,
                at: events::now(),
            }
        });
        self.tell_end(id, None, &exit);
    }

    /// Answers everybody who still asks for a process that is gone, and lets go of its streams.
    fn release(&mut self, mut process: Process) {
        if let Some(deleting) = process.deleting.take() {
            let mut response = DeleteResponse::new();
            response.pid = process.pid as u32;
            if let Some(exit) = &process.exit {
                response.exit_status = exit.status;
                response.exited_at = MessageField::some(exit.at.clone());
            }
            let answer = encode(&response);
            self.answer(Some(deleting.asker), answer);
        }
        for waiter in process.waiters {
            self.answer(Some(waiter), Err(TaskError::Finished));
        }
        if let Some(mut logger) = process.io.take_logger() {
            logger.streams_ended();
            self.loggers.push(logger);
        }
    }
}

fn begin(process: &mut Process, asker: Asker) -> Result<(), TaskError> {
    if process.deleting.is_some() {
        return Err(TaskError::State {
            verb: "delete",
            id: process.exec.clone().unwrap_or_default(),
            state: "being deleted",
        });
    }
    process.deleting = Some(Deleting {
        asker,
        deadline: Instant::now() + DRAIN,
        running: false,
    });
    Ok(())
}

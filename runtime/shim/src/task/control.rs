//! Kill, CloseIO, ResizePty: they never wait behind anything else of the container.

use berth_sys::terminal::WindowSize;
use containerd_shim_protos::api::{CloseIORequest, KillRequest, ResizePtyRequest};
use nix::errno::Errno;
use std::os::fd::AsFd;

use super::jobs::{Job, Verb};
use super::{Asker, NOTHING, Outcome, Shim};
use crate::error::TaskError;
use crate::process::Phase;

impl Shim {
    pub(super) fn kill(&mut self, asker: Asker, request: &KillRequest) -> Outcome {
        let process = self.process(&request.id, &request.exec_id)?;
        match process.phase {
            Phase::Stopped => return Err(TaskError::Finished),
            Phase::Added | Phase::Launching => {
                return Err(TaskError::State {
                    verb: "kill",
                    id: process.exec.clone().unwrap_or_else(|| request.id.clone()),
                    state: process.phase.name(),
                });
            }
            _ => {}
        }
        let pid = process.pid;
        if pid == 0 {
            return Err(TaskError::Finished);
        }
        if process.exec.is_some() {
            // Our unreaped child: the pid cannot have been reused.
            return match send(pid, request.signal as i32) {
                Ok(()) => NOTHING,
                Err(Errno::ESRCH) => Err(TaskError::Finished),
                Err(errno) => Err(TaskError::File {
                    what: "send a signal to",
                    path: request.exec_id.clone().into(),
                    source: errno.into(),
                }),
            };
        }
        let container = self.container(&request.id)?;
        let signal = request.signal.to_string();
        let call = container.runtime.kill(&request.id, &signal, request.all);
        let pending = call
            .spawn()
            .map_err(|source| TaskError::Runtime { verb: "kill", source })?;
        self.jobs.push(Job {
            pending,
            verb: Verb::Kill,
            container: request.id.clone(),
            exec: None,
            asker: Some(asker),
            console: None,
        });
        Ok(None)
    }

    pub(super) fn close_io(&mut self, request: &CloseIORequest) -> Outcome {
        let process = self.process(&request.id, &request.exec_id)?;
        if request.stdin {
            process.io.close_stdin();
        }
        NOTHING
    }

    pub(super) fn resize_pty(&mut self, request: &ResizePtyRequest) -> Outcome {
        let process = self.process(&request.id, &request.exec_id)?;
        let Some(console) = process.io.console() else {
            return NOTHING;
        };
        let size = WindowSize {
            rows: request.height.min(u16::MAX.into()) as u16,
            columns: request.width.min(u16::MAX.into()) as u16,
        };
        berth_sys::terminal::set_size(console.as_fd(), size)
            .map_err(TaskError::file("resize the terminal of", &request.id))?;
        NOTHING
    }
}

/// kill(2) with any signal number, also a real-time one.
fn send(pid: i32, signal: i32) -> Result<(), Errno> {
    let handle = berth_sys::pidfd::open(pid);
    let sent = handle.and_then(|handle| berth_sys::pidfd::send_signal(handle.as_fd(), signal));
    sent.map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or_default()))
}

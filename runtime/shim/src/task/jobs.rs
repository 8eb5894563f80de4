//! Runs of the runtime that are under way, and what follows when one has ended.

use std::process::ExitStatus;

use berth_client::{Failure, Pending};
use containerd_shim_protos::api::{CreateTaskResponse, StartResponse};

use super::{Asker, Shim, encode};
use crate::error::TaskError;
use crate::log::warning;
use crate::process::{Phase, pid_file, read_pid};
use crate::stdio::{ConsoleSocket, StdioError};

/// A run of the runtime.
#[derive(Debug)]
pub struct Job {
    pub pending: Pending,
    pub verb: Verb,
    pub container: String,
    pub exec: Option<String>,
    /// Whom to answer; a launch has it in its process.
    pub asker: Option<Asker>,
    pub console: Option<ConsoleSocket>,
}

/// What the runtime was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    Create,
    Restore,
    Exec,
    Start,
    Kill,
    /// Of what is left when the first process has ended.
    KillOthers,
    Pause,
    Resume,
    Update,
    Checkpoint {
        path: String,
    },
    Delete,
}

impl Verb {
    /// For messages.
    pub fn name(&self) -> &'static str {
        match self {
            Verb::Create => "create",
            Verb::Restore => "restore",
            Verb::Exec => "exec",
            Verb::Start => "start",
            Verb::Kill => "kill",
            Verb::KillOthers => "killall",
            Verb::Pause => "pause",
            Verb::Resume => "resume",
            Verb::Update => "update",
            Verb::Checkpoint { .. } => "checkpoint",
            Verb::Delete => "delete",
        }
    }
}

impl Shim {
    /// Whether `pid` is a run of the runtime.
    pub(super) fn is_job(&self, pid: i32) -> bool {
        self.jobs.iter().any(|job| job.pending.pid() == pid)
    }

    /// Goes on after a run of the runtime; whether `pid` was one.
    pub(super) fn job_ended(&mut self, pid: i32, status: ExitStatus) -> bool {
        let Some(index) = self.jobs.iter().position(|job| job.pending.pid() == pid) else {
            return false;
        };
        let Job {
            pending,
            verb,
            container: id,
            exec,
            asker,
            console,
        } = self.jobs.swap_remove(index);
        let result = pending.finish(status, &[]);
        match verb {
            Verb::Create | Verb::Restore | Verb::Exec => {
                let failed = |source| TaskError::Runtime {
                    verb: verb.name(),
                    source,
                };
                let launched = result
                    .map_err(failed)
                    .and_then(|()| self.launched(&id, exec.as_deref(), &verb, console.as_ref()));
                match launched {
                    Ok(pid) => self.claim(pid),
                    Err(error) => {
                        use std::os::unix::process::ExitStatusExt;
                        if status.signal().is_some() {
                            self.take_away_half(&id, exec.as_deref());
                        }
                        self.launch_failed(&id, exec.as_deref(), error);
                    }
                }
            }
            Verb::Start => self.started(&id, asker, result),
            Verb::Kill => self.answer(asker, killed(result).map(|()| Vec::new())),
            Verb::KillOthers => {
                if let Err(error) = killed(result) {
                    warning!("container {id}: {}", crate::error::chain(&error));
                }
                self.tell_held_end(&id);
            }
            Verb::Delete => self.deleted(&id, result),
            Verb::Pause | Verb::Resume | Verb::Update | Verb::Checkpoint { .. } => {
                self.changed(&id, asker, &verb, result);
            }
        }
        true
    }

    /// The process of a launch is there: its id, its terminal, its events, the answer.
    fn launched(
        &mut self,
        id: &str,
        exec: Option<&str>,
        verb: &Verb,
        console: Option<&ConsoleSocket>,
    ) -> Result<i32, TaskError> {
        let container = self.container(id)?;
        let bundle = container.bundle.clone();
        let Some(process) = container.process_mut(exec) else {
            return Err(TaskError::NotFound {
                what: "exec",
                id: exec.unwrap_or_default().to_owned(),
            });
        };
        let pid_file = pid_file(&bundle, exec);
        let pid = read_pid(&pid_file).ok_or_else(|| TaskError::File {
            what: "find the process' id in",
            path: pid_file,
            source: std::io::ErrorKind::InvalidData.into(),
        })?;
        process.pid = pid;
        if let Some(console) = console {
            let terminal = console.receive().map_err(StdioError::Console)?;
            process.io.connect(terminal)?;
        }
        let asker = process.launching.take();
        process.phase = if *verb == Verb::Create {
            Phase::Created
        } else {
            Phase::Running
        };
        if exec.is_none() {
            self.watch(id);
        }
        let answer = if *verb == Verb::Create {
            self.tell_created(id);
            let mut response = CreateTaskResponse::new();
            response.pid = pid as u32;
            encode(&response)
        } else {
            self.tell_started(id, exec, pid);
            let mut response = StartResponse::new();
            response.pid = pid as u32;
            encode(&response)
        };
        self.answer(asker, answer);
        if *verb == Verb::Restore {
            self.change_done(id);
        }
        Ok(pid)
    }

    /// Finds the container's cgroup. Without it there are no statistics and no OOM events, but the container runs.
    fn watch(&mut self, id: &str) {
        if self.layout().is_none() {
            return;
        }
        let Ok(index) = self.index(id) else { return };
        let Some(layout) = &self.layout else { return };
        if let Err(error) = self.containers[index].find_cgroup(layout) {
            warning!("container {id}: watch its cgroup: {error}");
        }
    }

    /// A launch has come to nothing.
    pub(super) fn launch_failed(&mut self, id: &str, exec: Option<&str>, error: TaskError) {
        let mut asker = None;
        let mut restoring = false;
        // On a full disk the runtime has no log: what it wrote on the process' streams is all that it said.
        let silent = matches!(&error, TaskError::Runtime { source, .. } if source.is_silent());
        let mut buffer = std::mem::take(&mut self.buffer);
        if let Ok(container) = self.container(id) {
            restoring = exec.is_none() && container.images.is_some();
            if let Some(process) = container.process_mut(exec) {
                asker = process.launching.take();
                process.phase = Phase::Stopped;
                if let Some(logger) = process.io.take_logger() {
                    logger.kill();
                }
                if silent {
                    process.io.drain(&mut buffer);
                }
                process.io = crate::stdio::Io::default();
            }
        }
        self.buffer = buffer;
        self.answer(asker, Err(error));
        if restoring {
            // It stays, without a process, until Delete.
            self.change_done(id);
        } else if exec.is_none() {
            self.undo_create(id);
        } else {
            self.tell_held_end(id);
        }
    }

    /// After a runtime that was killed in the middle of `create`.
    fn take_away_half(&mut self, id: &str, exec: Option<&str>) {
        if exec.is_some() {
            return;
        }
        let Ok(container) = self.container(id) else { return };
        if let Err(error) = container.runtime.delete(id, true).run()
            && !error.is_not_found()
        {
            warning!("{}", crate::error::chain(&error));
        }
    }

    fn started(&mut self, id: &str, asker: Option<Asker>, result: Result<(), berth_client::Error>) {
        let Ok(container) = self.container(id) else { return };
        let pid = container.init.pid;
        match result {
            Ok(()) => {
                container.init.phase = Phase::Running;
                self.tell_started(id, None, pid);
                let mut response = StartResponse::new();
                response.pid = pid as u32;
                self.answer(asker, encode(&response));
            }
            Err(source) => {
                container.init.phase = Phase::Created;
                let verb = "start";
                self.answer(asker, Err(TaskError::Runtime { verb, source }));
            }
        }
        self.tell_held_end(id);
        self.change_done(id);
    }

    pub(super) fn answer(&mut self, asker: Option<Asker>, answer: Result<Vec<u8>, TaskError>) {
        if let Some(asker) = asker {
            self.answers.push((asker, answer.map_err(Into::into)));
        }
    }
}

/// Who is gone need not be killed; the caller is told as containerd expects it.
fn killed(result: Result<(), berth_client::Error>) -> Result<(), TaskError> {
    result.map_err(|source| match source.failure() {
        Some(Failure::NotRunning | Failure::NotFound) => TaskError::Finished,
        _ => TaskError::Runtime { verb: "kill", source },
    })
}

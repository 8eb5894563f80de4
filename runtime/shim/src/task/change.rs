//! Calls that change a container as a whole, one after the other: Start, Pause, Resume, Update, Checkpoint, and the
//! turn of Delete.

use std::path::{Path, PathBuf};

use berth_client::{CheckpointOptions, Invocation};
use containerd_shim_protos::api::{
    CheckpointTaskRequest, PauseRequest, ResumeRequest, StartRequest, UpdateTaskRequest,
};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::shim::oci;

use super::jobs::{Job, Verb};
use super::launch::criu_work;
use super::{Asker, Outcome, Shim};
use crate::container::{Change, Container};
use crate::error::TaskError;
use crate::process::Phase;

impl Shim {
    pub(super) fn start(&mut self, asker: Asker, request: &StartRequest) -> Outcome {
        if request.exec_id.is_empty() {
            return self.change(asker, &request.id, Change::Start);
        }
        let init = self.container(&request.id)?.init.phase;
        let process = self.process(&request.id, &request.exec_id)?;
        if process.phase != Phase::Added || init == Phase::Stopped {
            return Err(TaskError::State {
                verb: "start",
                id: request.exec_id.clone(),
                state: if init == Phase::Stopped {
                    "in a stopped container"
                } else {
                    process.phase.name()
                },
            });
        }
        let launched = self.launch(&request.id, Some(&request.exec_id), asker);
        if launched.is_err() {
            let process = self.process(&request.id, &request.exec_id)?;
            process.phase = Phase::Stopped;
            process.launching = None;
        }
        launched.map(|()| None)
    }

    pub(super) fn pause(&mut self, asker: Asker, request: &PauseRequest) -> Outcome {
        self.change(asker, &request.id, Change::Pause)
    }

    pub(super) fn resume(&mut self, asker: Asker, request: &ResumeRequest) -> Outcome {
        self.change(asker, &request.id, Change::Resume)
    }

    pub(super) fn update(&mut self, asker: Asker, request: UpdateTaskRequest) -> Outcome {
        let resources = request.resources.into_option().unwrap_or_default().value;
        if resources.is_empty() {
            return Err(TaskError::Invalid {
                field: "resources",
                reason: "must be the JSON of an OCI LinuxResources object".to_owned(),
            });
        }
        self.change(asker, &request.id, Change::Update(resources))
    }

    pub(super) fn checkpoint(&mut self, asker: Asker, request: CheckpointTaskRequest) -> Outcome {
        let id = request.id.clone();
        self.change(asker, &id, Change::Checkpoint(Box::new(request)))
    }

    /// Puts a change at the end of the container's line.
    pub(super) fn change(&mut self, asker: Asker, id: &str, change: Change) -> Outcome {
        let container = self.container(id)?;
        container.changes.push_back((asker, change));
        self.next_change(id);
        Ok(None)
    }

    /// The change under way is over.
    pub(super) fn change_done(&mut self, id: &str) {
        if let Ok(container) = self.container(id) {
            container.changing = false;
        }
        self.next_change(id);
    }

    fn next_change(&mut self, id: &str) {
        loop {
            let Ok(container) = self.container(id) else { return };
            if container.changing {
                return;
            }
            let Some((asker, change)) = container.changes.pop_front() else {
                return;
            };
            container.changing = true;
            match self.begin(id, asker, change) {
                Ok(()) => {}
                Err(error) => {
                    if let Ok(container) = self.container(id) {
                        container.changing = false;
                    }
                    self.answer(Some(asker), Err(error));
                }
            }
        }
    }

    fn begin(&mut self, id: &str, asker: Asker, change: Change) -> Result<(), TaskError> {
        let container = self.container(id)?;
        let (verb, call) = match change {
            Change::Delete => return self.begin_delete(id, asker),
            Change::Start => {
                need(container, "start", &[Phase::Created])?;
                if container.images.is_some() {
                    let launched = self.launch(id, None, asker);
                    if launched.is_err() {
                        let container = self.container(id)?;
                        container.init.phase = Phase::Stopped;
                        container.init.launching = None;
                    }
                    return launched;
                }
                container.init.phase = Phase::Starting;
                (Verb::Start, container.runtime.start(id))
            }
            Change::Pause => {
                need(container, "pause", &[Phase::Running])?;
                if container.paused {
                    return Err(state("pause", container, "paused"));
                }
                (Verb::Pause, container.runtime.pause(id))
            }
            Change::Resume => {
                need(container, "resume", &[Phase::Running])?;
                if !container.paused {
                    return Err(state("resume", container, "not paused"));
                }
                (Verb::Resume, container.runtime.resume(id))
            }
            Change::Update(resources) => {
                need(container, "update", &[Phase::Created, Phase::Running])?;
                (Verb::Update, container.runtime.update(id, resources))
            }
            Change::Checkpoint(request) => {
                need(container, "checkpoint", &[Phase::Running])?;
                let call = checkpoint_call(container, &request)?;
                (Verb::Checkpoint { path: request.path }, call)
            }
        };
        let starting = verb == Verb::Start;
        let name = verb.name();
        match call.spawn() {
            Ok(pending) => {
                self.jobs.push(Job {
                    pending,
                    verb,
                    container: id.to_owned(),
                    exec: None,
                    asker: Some(asker),
                    console: None,
                });
                Ok(())
            }
            Err(source) => {
                if starting && let Ok(container) = self.container(id) {
                    container.init.phase = Phase::Created;
                }
                Err(TaskError::Runtime { verb: name, source })
            }
        }
    }

    /// A pause, resume, update or checkpoint has ended.
    pub(super) fn changed(
        &mut self,
        id: &str,
        asker: Option<Asker>,
        verb: &Verb,
        result: Result<(), berth_client::Error>,
    ) {
        let name = verb.name();
        let answer = result.map_err(|source| TaskError::Runtime { verb: name, source });
        if answer.is_ok()
            && let Ok(container) = self.container(id)
        {
            match verb {
                Verb::Pause => {
                    container.paused = true;
                    self.tell_paused(id);
                }
                Verb::Resume => {
                    container.paused = false;
                    self.tell_resumed(id);
                }
                Verb::Checkpoint { path } => self.tell_checkpointed(id, path),
                _ => {}
            }
        }
        self.answer(asker, answer.map(|()| Vec::new()));
        self.change_done(id);
    }
}

/// The run of `checkpoint` that the request describes.
fn checkpoint_call(container: &Container, request: &CheckpointTaskRequest) -> Result<Invocation, TaskError> {
    let given = match request.options.as_ref().filter(|any| !any.type_url.is_empty()) {
        None => oci::CheckpointOptions::new(),
        Some(any) if any.type_url.ends_with("containerd.runc.v1.CheckpointOptions") => {
            oci::CheckpointOptions::parse_from_bytes(&any.value).map_err(|source| TaskError::Decode {
                method: "Checkpoint".to_owned(),
                source,
            })?
        }
        Some(any) => {
            return Err(TaskError::Invalid {
                field: "options",
                reason: format!(
                    "{} is not known: use containerd.runc.v1.CheckpointOptions",
                    any.type_url
                ),
            });
        }
    };
    let first = |choices: &[&Path]| -> PathBuf {
        let found = choices.iter().find(|path| !path.as_os_str().is_empty());
        found.map_or_else(PathBuf::new, |path| path.to_path_buf())
    };
    let image = first(&[
        Path::new(&request.path),
        Path::new(&given.image_path),
        &container.options.criu_image_path,
    ]);
    if image.as_os_str().is_empty() {
        return Err(TaskError::Invalid {
            field: "path",
            reason: "must name the folder for the images".to_owned(),
        });
    }
    let work = first(&[Path::new(&given.work_path), &criu_work(container)]);
    let _ = std::fs::create_dir_all(&work);
    let options = CheckpointOptions {
        image_path: Some(&image),
        work_path: Some(&work),
        parent_path: None,
        leave_running: !given.exit,
        tcp_established: given.open_tcp,
        ext_unix_sk: given.external_unix_sockets,
        shell_job: given.terminal,
        file_locks: given.file_locks,
        empty_ns: &given.empty_namespaces,
        manage_cgroups_mode: &given.cgroups_mode,
    };
    Ok(container.runtime.checkpoint(&container.id, &options))
}

fn need(container: &Container, verb: &'static str, phases: &[Phase]) -> Result<(), TaskError> {
    if phases.contains(&container.init.phase) {
        return Ok(());
    }
    Err(state(verb, container, container.init.phase.name()))
}

fn state(verb: &'static str, container: &Container, state: &'static str) -> TaskError {
    TaskError::State {
        verb,
        id: container.id.clone(),
        state,
    }
}

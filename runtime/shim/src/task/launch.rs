//! How processes come to be: Create, Exec, and the runs of the runtime for both.

use std::path::PathBuf;
use std::process::ExitStatus;

use berth_client::{CreateOptions, ExecOptions, RestoreOptions};
use containerd_shim_protos::api::{CreateTaskRequest, CreateTaskResponse, ExecProcessRequest};

use super::jobs::{Job, Verb};
use super::{Asker, NOTHING, Outcome, Shim, encode};
use crate::config;
use crate::container::{Container, Images};
use crate::error::TaskError;
use crate::log::warning;
use crate::options::Options;
use crate::process::{Phase, Process, pid_file};
use crate::rootfs::{self, Mounting};
use crate::stdio::{ConsoleSocket, Inner, Io, Logger, Names, StdioError};

impl Shim {
    pub(super) fn create(&mut self, asker: Asker, request: CreateTaskRequest) -> Outcome {
        check_id("id", &request.id)?;
        if self.index(&request.id).is_ok() {
            return Err(TaskError::Exists {
                what: "container",
                id: request.id,
            });
        }
        let bundle = PathBuf::from(&request.bundle);
        if !bundle.is_absolute() {
            return Err(TaskError::Invalid {
                field: "bundle",
                reason: format!("{:?} must be an absolute path", request.bundle),
            });
        }
        let options = Options::from_any(request.options.as_ref())?;
        options.save(&bundle)?;
        let runtime = options.runtime(&self.args.namespace, &bundle, self.args.debug);
        let names = Names {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let init = Process::new(None, names);
        let mut container = Container::new(request.id.clone(), bundle, runtime, options, init);
        let root = container.bundle.join(rootfs::DIR);
        container.mounting = Some(Mounting::new(request.rootfs.clone(), root)?);
        container.mounted = !request.rootfs.is_empty();
        container.init.phase = Phase::Launching;
        container.init.launching = Some(asker);
        let id = request.id.clone();
        container.created_with = Some(Box::new(request));
        self.containers.push(container);
        self.finishing = None;
        let created = self.create_on(&id);
        if created.is_err() {
            self.undo_create(&id);
        }
        created
    }

    /// Goes on with Create: the mounts, as far as no program makes them; then the runtime.
    fn create_on(&mut self, id: &str) -> Outcome {
        let container = self.container(id)?;
        if let Some(mounting) = &mut container.mounting {
            if let Some(helper) = mounting.go_on()? {
                self.helpers.push((id.to_owned(), helper));
                return Ok(None);
            }
            container.mounting = None;
        }
        let images = container.created_with.as_ref().map(|request| &request.checkpoint);
        if let Some(images) = images.filter(|images| !images.is_empty()).map(PathBuf::from) {
            return self.create_from_images(id, images);
        }
        match container.init.launching.take() {
            Some(asker) => self.launch(id, None, asker).map(|()| None),
            None => Ok(None),
        }
    }

    /// A program that makes a mount has ended; whether `pid` was one.
    pub(super) fn helper_ended(&mut self, pid: i32, status: ExitStatus) -> bool {
        let Some(index) = self.helpers.iter().position(|(_, helper)| helper.pid() == pid) else {
            return false;
        };
        let (id, helper) = self.helpers.swap_remove(index);
        let Ok(container) = self.container(&id) else {
            return true;
        };
        let asker = container.init.launching;
        let mounted = container
            .mounting
            .as_mut()
            .map_or(Ok(()), |mounting| mounting.helped(helper, status));
        match mounted
            .map_err(TaskError::from)
            .and_then(|()| self.create_on(&id))
        {
            Ok(None) => {}
            Ok(Some(answer)) => self.answer(asker, Ok(answer)),
            Err(error) => {
                self.undo_create(&id);
                self.answer(asker, Err(error));
            }
        }
        true
    }

    /// A container that Start will restore: nothing runs yet.
    fn create_from_images(&mut self, id: &str, path: PathBuf) -> Outcome {
        let container = self.container(id)?;
        container.images = Some(Images { path });
        container.init.phase = Phase::Created;
        container.init.launching = None;
        self.tell_created(id);
        encode(&CreateTaskResponse::new()).map(Some)
    }

    /// Takes back what Create has done; the process of the runtime, if there was one, has ended.
    pub(super) fn undo_create(&mut self, id: &str) {
        let Ok(index) = self.index(id) else { return };
        let mut container = self.containers.swap_remove(index);
        if let Some(logger) = container.init.io.take_logger() {
            logger.kill();
        }
        if container.mounted
            && let Err(error) = rootfs::unmount(&container.bundle.join(rootfs::DIR))
        {
            warning!("{}", crate::error::chain(&error));
        }
    }

    pub(super) fn exec(&mut self, request: ExecProcessRequest) -> Outcome {
        check_id("exec_id", &request.exec_id)?;
        let container = self.container(&request.id)?;
        let exec = request.exec_id;
        if container.process(Some(&exec)).is_some() {
            return Err(TaskError::Exists {
                what: "exec",
                id: exec,
            });
        }
        let phase = container.init.phase;
        if matches!(phase, Phase::Stopped | Phase::Added | Phase::Launching) {
            return Err(TaskError::State {
                verb: "add a process to",
                id: request.id,
                state: phase.name(),
            });
        }
        let invalid = |reason: String| TaskError::Invalid {
            field: "spec",
            reason,
        };
        let mut spec: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&request.spec.value)
                .map_err(|e| invalid(format!("no OCI process object: {e}")))?;
        spec.insert("terminal".to_owned(), request.terminal.into());
        let path = container.bundle.join(format!("exec-{exec}.json"));
        let text = serde_json::to_vec(&spec).map_err(|e| invalid(e.to_string()))?;
        std::fs::write(&path, text).map_err(TaskError::file("write", &path))?;
        let names = Names {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        };
        let mut process = Process::new(Some(exec.clone()), names);
        process.spec = Some(path);
        container.execs.push(process);
        self.tell_exec_added(&request.id, &exec);
        NOTHING
    }

    /// Opens the streams of a process and starts the runtime, at once or as soon as its logging program is ready.
    pub(super) fn launch(&mut self, id: &str, exec: Option<&str>, asker: Asker) -> Result<(), TaskError> {
        let namespace = self.args.namespace.clone();
        let container = self.container(id)?;
        let options = container.options.clone();
        let process = process(container, exec)?;
        let name = exec.unwrap_or(id);
        let mut ends = Inner::Terminal;
        process.io = if process.names.terminal {
            Io::open_terminal(&process.names, name, &namespace)?
        } else {
            let (io, inner) = Io::open(&process.names, &options, name, &namespace)?;
            ends = Inner::Pipes(inner);
            io
        };
        process.phase = Phase::Launching;
        process.launching = Some(asker);
        if process.io.logger().is_some() {
            process.ends = Some(ends);
            return Ok(());
        }
        self.run_launch(id, exec, ends)
    }

    /// Goes on with launches whose logging programs have become ready, or have not.
    pub(super) fn launch_ready(&mut self) {
        let mut ready = Vec::new();
        for container in &mut self.containers {
            let id = container.id.clone();
            for process in container.processes_mut().filter(|p| p.ends.is_some()) {
                let state = process.io.logger().map_or(Ok(true), Logger::check_ready);
                if !matches!(state, Ok(false))
                    && let Some(ends) = process.ends.take()
                {
                    ready.push((id.clone(), process.exec.clone(), ends, state));
                }
            }
        }
        for (id, exec, ends, state) in ready {
            let launched = match state {
                Ok(_) => self.run_launch(&id, exec.as_deref(), ends),
                Err(error) => Err(StdioError::from(error).into()),
            };
            if let Err(error) = launched {
                self.launch_failed(&id, exec.as_deref(), error);
            }
        }
    }

    /// Starts the runtime for a process whose streams are open.
    fn run_launch(&mut self, id: &str, exec: Option<&str>, ends: Inner) -> Result<(), TaskError> {
        let number = self.number();
        let container = self.container(id)?;
        let console = match ends {
            Inner::Pipes(_) => None,
            Inner::Terminal => Some(ConsoleSocket::new(number).map_err(StdioError::Console)?),
        };
        let socket = console.as_ref().map(ConsoleSocket::path);
        let spec = process(container, exec)?.spec.clone().unwrap_or_default();
        let pid_file = pid_file(&container.bundle, exec);
        // A pid of an earlier run must not be taken for the new one.
        let _ = std::fs::remove_file(&pid_file);
        let (verb, call) = if exec.is_some() {
            let options = ExecOptions {
                pid_file: Some(&pid_file),
                console_socket: socket,
                detach: true,
            };
            (Verb::Exec, container.runtime.exec(id, &spec, &options))
        } else if let Some(images) = &container.images {
            let work = criu_work(container);
            let options = RestoreOptions {
                image_path: Some(&images.path),
                work_path: Some(&work),
                pid_file: Some(&pid_file),
                console_socket: socket,
                no_pivot: container.options.no_pivot_root,
                ..RestoreOptions::default()
            };
            let _ = std::fs::create_dir_all(&work);
            let call = container.runtime.restore(id, &container.bundle, &options);
            (Verb::Restore, call)
        } else {
            let options = CreateOptions {
                pid_file: Some(&pid_file),
                console_socket: socket,
                detach: false,
                no_pivot: container.options.no_pivot_root,
                no_new_keyring: container.options.no_new_keyring,
            };
            let call = container.runtime.create(id, &container.bundle, &options);
            (Verb::Create, call)
        };
        let call = match ends {
            Inner::Pipes([stdin, stdout, stderr]) => call.stdio(stdin, stdout, stderr),
            Inner::Terminal => call,
        };
        let pending = call.spawn().map_err(|source| TaskError::Runtime {
            verb: verb.name(),
            source,
        })?;
        if exec.is_none() {
            // Read while the runtime is at work.
            let path = container.bundle.join("config.json");
            container.kill_others = match config::has_own_pid_namespace(&path) {
                Ok(own) => !own,
                Err(error) => {
                    warning!("{}", crate::error::chain(&error));
                    false
                }
            };
        }
        self.jobs.push(Job {
            pending,
            verb,
            container: id.to_owned(),
            exec: exec.map(str::to_owned),
            asker: None,
            console,
        });
        Ok(())
    }
}

/// Where criu works for a container.
pub(super) fn criu_work(container: &Container) -> PathBuf {
    if container.options.criu_work_path.as_os_str().is_empty() {
        container.bundle.join("work")
    } else {
        container.options.criu_work_path.clone()
    }
}

fn process<'a>(container: &'a mut Container, exec: Option<&str>) -> Result<&'a mut Process, TaskError> {
    container.process_mut(exec).ok_or_else(|| TaskError::NotFound {
        what: "exec",
        id: exec.unwrap_or_default().to_owned(),
    })
}

/// Ids become parts of file names in the bundle.
fn check_id(field: &'static str, id: &str) -> Result<(), TaskError> {
    let reason = if id.is_empty() {
        "must not be empty".to_owned()
    } else if id.contains('/') || id == "." || id == ".." || id.contains('\0') {
        format!("{id:?} must not be a path")
    } else {
        return Ok(());
    };
    Err(TaskError::Invalid { field, reason })
}

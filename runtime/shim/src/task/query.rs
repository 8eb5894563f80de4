//! Questions: State, Pids, Stats, Wait, Connect.

use berth_cgroups::Kind;
use containerd_shim_protos::api::{
    ConnectRequest, ConnectResponse, PidsRequest, PidsResponse, ProcessInfo, StateRequest, StateResponse,
    StatsRequest, StatsResponse, WaitRequest,
};
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::shim::oci::ProcessDetails;

use super::tell::wait_response;
use super::{Asker, Outcome, Shim, encode};
use crate::error::TaskError;
use crate::events;
use crate::metrics::{self, MetricsError};
use crate::process::Phase;

impl Shim {
    pub(super) fn state(&mut self, request: &StateRequest) -> Outcome {
        let exec = (!request.exec_id.is_empty()).then_some(request.exec_id.as_str());
        let container = self.container(&request.id)?;
        let Some(process) = container.process(exec) else {
            return Err(TaskError::NotFound {
                what: "exec",
                id: request.exec_id.clone(),
            });
        };
        let mut response = StateResponse::new();
        exec.unwrap_or(&request.id).clone_into(&mut response.id);
        response.bundle = container.bundle.display().to_string();
        response.pid = process.pid as u32;
        response.status = container.status(process).into();
        response.stdin.clone_from(&process.names.stdin);
        response.stdout.clone_from(&process.names.stdout);
        response.stderr.clone_from(&process.names.stderr);
        response.terminal = process.names.terminal;
        response.exec_id.clone_from(&request.exec_id);
        if let Some(exit) = &process.exit {
            response.exit_status = exit.status;
            response.exited_at = MessageField::some(exit.at.clone());
        }
        encode(&response).map(Some)
    }

    pub(super) fn pids(&mut self, request: &PidsRequest) -> Outcome {
        let container = self.container(&request.id)?;
        // Not an empty list: a containerd that has been started again would take the shim for a leaked one, and with it the
        // exit code that nobody has asked for yet.
        if container.init.phase == Phase::Stopped {
            return Err(TaskError::State {
                verb: "list the processes of",
                id: request.id.clone(),
                state: container.init.phase.name(),
            });
        }
        let failed = |source| TaskError::Cgroup {
            id: request.id.clone(),
            source: Box::new(source),
        };
        let pids = match &container.cgroup {
            Some(cgroup) => cgroup.pids().map_err(failed)?,
            None => Vec::new(),
        };
        let mut response = PidsResponse::new();
        for pid in pids {
            let mut info = ProcessInfo::new();
            info.pid = pid;
            let added = container.execs.iter().find(|p| p.pid as u32 == pid);
            if let Some(exec) = added.and_then(|p| p.exec.clone()) {
                let mut details = ProcessDetails::new();
                details.exec_id = exec;
                let any =
                    events::any("containerd.runc.v1.ProcessDetails", &details).map_err(TaskError::Encode)?;
                info.info = MessageField::some(any);
            }
            response.processes.push(info);
        }
        encode(&response).map(Some)
    }

    pub(super) fn stats(&mut self, request: &StatsRequest) -> Outcome {
        let kind = self.layout().map_or(Kind::Unified, berth_cgroups::Layout::kind);
        let container = self.container(&request.id)?;
        let Some(cgroup) = &container.cgroup else {
            return Err(TaskError::NotFound {
                what: "the cgroup of container",
                id: request.id.clone(),
            });
        };
        let stats = metrics::read(cgroup, kind).map_err(|error| match error {
            MetricsError::Cgroup(source) => TaskError::Cgroup {
                id: request.id.clone(),
                source: Box::new(source),
            },
            MetricsError::Encode(source) => TaskError::Encode(source),
        })?;
        let mut response = StatsResponse::new();
        response.stats = MessageField::some(stats);
        encode(&response).map(Some)
    }

    pub(super) fn wait(&mut self, asker: Asker, request: &WaitRequest) -> Outcome {
        let process = self.process(&request.id, &request.exec_id)?;
        match &process.exit {
            Some(exit) => wait_response(exit).map(Some),
            // Nothing will ever end: the launch has failed.
            None if process.phase == Phase::Stopped => Err(TaskError::Finished),
            None => {
                process.waiters.push(asker);
                Ok(None)
            }
        }
    }

    pub(super) fn connect(&mut self, request: &ConnectRequest) -> Outcome {
        let mut response = ConnectResponse::new();
        response.shim_pid = std::process::id();
        if let Ok(container) = self.container(&request.id) {
            response.task_pid = container.init.pid as u32;
        }
        encode(&response).map(Some)
    }
}

//! The events of containers, and who is answered with them.

use containerd_shim_protos::api::WaitResponse;
use containerd_shim_protos::events::task::{
    TaskCheckpointed, TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskIO, TaskOOM,
    TaskPaused, TaskResumed, TaskStart,
};
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::topics;

use super::{Shim, encode};
use crate::error::TaskError;
use crate::events::{self, Event};
use crate::log::warning;
use crate::process::{Exit, Phase};

impl Shim {
    fn publish(&mut self, topic: &'static str, name: &'static str, message: &impl Message) {
        match events::any(name, message) {
            Ok(message) => self.publisher.push(Event { topic, message }),
            Err(error) => warning!("the event {topic} cannot be encoded: {error}"),
        }
    }

    pub(super) fn tell_created(&mut self, id: &str) {
        let Ok(container) = self.container(id) else { return };
        let mut event = TaskCreate::new();
        id.clone_into(&mut event.container_id);
        event.bundle = container.bundle.display().to_string();
        event.pid = container.init.pid as u32;
        let names = &container.init.names;
        let mut io = TaskIO::new();
        io.stdin.clone_from(&names.stdin);
        io.stdout.clone_from(&names.stdout);
        io.stderr.clone_from(&names.stderr);
        io.terminal = names.terminal;
        event.io = MessageField::some(io);
        if let Some(images) = &container.images {
            event.checkpoint = images.path.display().to_string();
        }
        if let Some(request) = container.created_with.take() {
            // The crate has the same message as two types.
            event.rootfs = request
                .rootfs
                .iter()
                .filter_map(|mount| Message::parse_from_bytes(&mount.write_to_bytes().ok()?).ok())
                .collect();
        }
        self.publish(
            topics::TASK_CREATE_EVENT_TOPIC,
            "containerd.events.TaskCreate",
            &event,
        );
    }

    pub(super) fn tell_exec_added(&mut self, id: &str, exec: &str) {
        let mut event = TaskExecAdded::new();
        id.clone_into(&mut event.container_id);
        exec.clone_into(&mut event.exec_id);
        self.publish(
            topics::TASK_EXEC_ADDED_EVENT_TOPIC,
            "containerd.events.TaskExecAdded",
            &event,
        );
    }

    pub(super) fn tell_started(&mut self, id: &str, exec: Option<&str>, pid: i32) {
        if let Some(exec) = exec {
            let mut event = TaskExecStarted::new();
            id.clone_into(&mut event.container_id);
            exec.clone_into(&mut event.exec_id);
            event.pid = pid as u32;
            let topic = topics::TASK_EXEC_STARTED_EVENT_TOPIC;
            return self.publish(topic, "containerd.events.TaskExecStarted", &event);
        }
        let mut event = TaskStart::new();
        id.clone_into(&mut event.container_id);
        event.pid = pid as u32;
        self.publish(
            topics::TASK_START_EVENT_TOPIC,
            "containerd.events.TaskStart",
            &event,
        );
    }

    /// Records an end, tells it, and answers everybody who waits for it.
    pub(super) fn tell_end(&mut self, id: &str, exec: Option<&str>, exit: &Exit) {
        if exec.is_none() {
            // Before the end: a killed container's notice may not have been read yet.
            self.check_oom(id);
        }
        let Ok(container) = self.container(id) else { return };
        if exec.is_none() {
            container.oom = None;
            container.paused = false;
        }
        let Some(process) = container.process_mut(exec) else {
            return;
        };
        process.phase = Phase::Stopped;
        process.exit = Some(exit.clone());
        let pid = process.pid;
        let waiters = std::mem::take(&mut process.waiters);
        let mut event = TaskExit::new();
        id.clone_into(&mut event.container_id);
        exec.unwrap_or(id).clone_into(&mut event.id);
        event.pid = pid as u32;
        event.exit_status = exit.status;
        event.exited_at = MessageField::some(exit.at.clone());
        self.publish(
            topics::TASK_EXIT_EVENT_TOPIC,
            "containerd.events.TaskExit",
            &event,
        );
        for waiter in waiters {
            let answer = wait_response(exit);
            self.answer(Some(waiter), answer);
        }
    }

    pub(super) fn tell_deleted(&mut self, id: &str, pid: i32, exit: Option<&Exit>) {
        let mut event = TaskDelete::new();
        id.clone_into(&mut event.container_id);
        event.pid = pid as u32;
        if let Some(exit) = exit {
            event.exit_status = exit.status;
            event.exited_at = MessageField::some(exit.at.clone());
        }
        self.publish(
            topics::TASK_DELETE_EVENT_TOPIC,
            "containerd.events.TaskDelete",
            &event,
        );
    }

    pub(super) fn tell_paused(&mut self, id: &str) {
        let mut event = TaskPaused::new();
        id.clone_into(&mut event.container_id);
        self.publish(
            topics::TASK_PAUSED_EVENT_TOPIC,
            "containerd.events.TaskPaused",
            &event,
        );
    }

    pub(super) fn tell_resumed(&mut self, id: &str) {
        let mut event = TaskResumed::new();
        id.clone_into(&mut event.container_id);
        self.publish(
            topics::TASK_RESUMED_EVENT_TOPIC,
            "containerd.events.TaskResumed",
            &event,
        );
    }

    pub(super) fn tell_checkpointed(&mut self, id: &str, path: &str) {
        let mut event = TaskCheckpointed::new();
        id.clone_into(&mut event.container_id);
        path.clone_into(&mut event.checkpoint);
        self.publish(
            topics::TASK_CHECKPOINTED_EVENT_TOPIC,
            "containerd.events.TaskCheckpointed",
            &event,
        );
    }

    /// Tells of the OOM killer if it has killed in the container since the last time.
    pub fn check_oom(&mut self, id: &str) {
        let Ok(container) = self.container(id) else { return };
        let (Some(watch), Some(cgroup)) = (&mut container.oom, &container.cgroup) else {
            return;
        };
        if watch.check(cgroup) {
            let mut event = TaskOOM::new();
            id.clone_into(&mut event.container_id);
            self.publish(topics::TASK_OOM_EVENT_TOPIC, "containerd.events.TaskOOM", &event);
        }
    }
}

/// The answer of Wait.
pub(super) fn wait_response(exit: &Exit) -> Result<Vec<u8>, TaskError> {
    let mut response = WaitResponse::new();
    response.exit_status = exit.status;
    response.exited_at = MessageField::some(exit.at.clone());
    encode(&response)
}

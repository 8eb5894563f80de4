//! The task service: what containerd asks of a container, as state machines in one thread.
//!
//! ```text
//! call ─▶ Shim::call ─▶ answered at once                     State, Wait, Pids, Stats, Connect, CloseIO, ResizePty, Exec
//!                  └──▶ Job: a run of the runtime ─SIGCHLD─▶ jobs::ended ─▶ answer     Create, Kill, Start of an exec
//!                  └──▶ Change, one at a time a container ─▶ Job …           Start, Pause, Resume, Update, Checkpoint, Delete
//! ```
//!
//! Who asked is an [`Asker`]; answers are collected in [`Shim::answers`] and written by the server.

mod change;
mod control;
mod delete;
mod exits;
mod jobs;
mod launch;
mod query;
mod tell;

use std::path::Path;
use std::time::{Duration, Instant};

use berth_cgroups::Layout;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::ttrpc::proto::Request;

use crate::args::Args;
use crate::container::Container;
use crate::error::TaskError;
use crate::log::warning;
use crate::process::Process;
use crate::publish::Publisher;
use crate::rootfs::Helper;
use crate::server::wire::Answer;
use crate::stdio::Logger;
use exits::Ended;
use jobs::Job;

/// The names under which containerd 1.x and 2.x know the service; their messages are the same.
const SERVICES: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];

/// How often FIFOs without a reader are looked at: from, to, doubling.
const LOOK: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(64));

/// How long the last events are offered to a containerd that does not take them.
const LAST_EVENTS: Duration = Duration::from_secs(5);

/// One buffer for whatever is read, as large as the pieces in which it is.
const BUFFER: usize = 16 << 10;

/// A call that is to be answered: its connection and its stream on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    /// The connection.
    pub peer: u64,
    /// The stream.
    pub stream: u32,
}

/// The answer of methods that have nothing to say.
const NOTHING: Outcome = Ok(Some(Vec::new()));

/// What a method leaves: an answer, or nothing as it comes later.
type Outcome = Result<Option<Vec<u8>>, TaskError>;

/// Everything the shim holds.
pub struct Shim {
    args: Args,
    /// The containers of the pod.
    pub containers: Vec<Container>,
    jobs: Vec<Job>,
    /// Programs that make a mount, and for which container.
    helpers: Vec<(String, Helper)>,
    /// Logging programs whose streams have ended.
    loggers: Vec<Logger>,
    /// Ends of children that are nobody's yet, kept while a launch is under way.
    strays: Vec<Ended>,
    /// The way to containerd's event bus.
    pub publisher: Publisher,
    /// Answers to be written.
    pub answers: Vec<(Asker, Answer)>,
    layout: Option<Layout>,
    serial: u64,
    look: Option<(Instant, Duration)>,
    /// Told to end; events are offered to containerd until then.
    finishing: Option<Instant>,
    /// For whatever is read.
    pub buffer: Vec<u8>,
}

impl Shim {
    /// A shim without containers.
    pub fn new(args: Args, publisher: Publisher) -> Shim {
        Shim {
            args,
            containers: Vec::new(),
            jobs: Vec::new(),
            helpers: Vec::new(),
            loggers: Vec::new(),
            strays: Vec::new(),
            publisher,
            answers: Vec::new(),
            layout: None,
            serial: 0,
            look: None,
            finishing: None,
            buffer: vec![0; BUFFER],
        }
    }

    /// Takes a call.
    pub fn call(&mut self, asker: Asker, request: &Request) {
        match self.dispatch(asker, request) {
            Ok(Some(payload)) => self.answers.push((asker, Ok(payload))),
            Ok(None) => {}
            Err(error) => self.answers.push((asker, Err(error.into()))),
        }
    }

    fn dispatch(&mut self, asker: Asker, request: &Request) -> Outcome {
        let unknown = || TaskError::Unimplemented {
            service: request.service.clone(),
            method: request.method.clone(),
        };
        if !SERVICES.contains(&request.service.as_str()) {
            return Err(unknown());
        }
        match request.method.as_str() {
            "Create" => self.create(asker, decode(request)?),
            "Start" => self.start(asker, &decode(request)?),
            "Delete" => self.delete(asker, &decode(request)?),
            "Exec" => self.exec(decode(request)?),
            "Kill" => self.kill(asker, &decode(request)?),
            "Pause" => self.pause(asker, &decode(request)?),
            "Resume" => self.resume(asker, &decode(request)?),
            "Update" => self.update(asker, decode(request)?),
            "Checkpoint" => self.checkpoint(asker, decode(request)?),
            "CloseIO" => self.close_io(&decode(request)?),
            "ResizePty" => self.resize_pty(&decode(request)?),
            "State" => self.state(&decode(request)?),
            "Pids" => self.pids(&decode(request)?),
            "Stats" => self.stats(&decode(request)?),
            "Wait" => self.wait(asker, &decode(request)?),
            "Connect" => self.connect(&decode(request)?),
            "Shutdown" => {
                self.asked_to_end();
                NOTHING
            }
            _ => Err(unknown()),
        }
    }

    /// Whether nothing is held any more and the shim was told to end. A containerd that is gone for good must not keep it.
    pub fn is_finished(&self) -> bool {
        let Some(end) = self.finishing else { return false };
        self.is_idle() && (self.publisher.is_empty() || Instant::now() >= end)
    }

    fn is_idle(&self) -> bool {
        self.containers.is_empty() && self.jobs.is_empty() && self.loggers.is_empty()
    }

    /// Whether only output, ends and calls are waited for.
    pub fn is_quiet(&self) -> bool {
        self.jobs.is_empty() && self.helpers.is_empty() && self.publisher.is_empty()
    }

    /// Shutdown, or a polite signal: the shim goes if it holds nothing.
    pub fn asked_to_end(&mut self) {
        if self.containers.is_empty() {
            self.finishing = Some(Instant::now() + LAST_EVENTS);
        }
    }

    /// When [`Shim::tick`] has something to do at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        let processes = || self.containers.iter().flat_map(Container::processes);
        let deleting = processes()
            .filter_map(|p| p.deleting.as_ref())
            .filter(|d| !d.running);
        let loggers = self.loggers.iter().filter_map(Logger::deadline);
        let starting = processes().filter_map(|p| p.io.logger_deadline());
        deleting
            .map(|d| d.deadline)
            .chain(loggers)
            .chain(starting)
            .chain(self.publisher.deadline())
            .chain(self.look.map(|(at, _)| at))
            .chain(self.finishing.filter(|_| self.is_idle()))
            .min()
    }

    /// Does what time or finished input and output allow. Called after every round of events.
    pub fn tick(&mut self) {
        let now = Instant::now();
        self.publisher.expire(now);
        for logger in &mut self.loggers {
            logger.press(now);
        }
        self.look_for_readers(now);
        self.launch_ready();
        self.delete_drained(now);
    }

    fn look_for_readers(&mut self, now: Instant) {
        if self.look.is_some_and(|(at, _)| at > now) {
            return;
        }
        let mut waiting = false;
        for process in self.containers.iter_mut().flat_map(Container::processes_mut) {
            if process.io.is_waiting() {
                process.io.look_for_readers();
                waiting |= process.io.is_waiting();
            }
        }
        self.look = waiting.then(|| {
            let wait = self.look.map_or(LOOK.0, |(_, last)| (last * 2).min(LOOK.1));
            (now + wait, wait)
        });
    }

    /// The next number for a name that must be the only one.
    fn number(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    fn index(&self, id: &str) -> Result<usize, TaskError> {
        let found = self.containers.iter().position(|c| c.id == id);
        found.ok_or_else(|| TaskError::NotFound {
            what: "container",
            id: id.to_owned(),
        })
    }

    fn container(&mut self, id: &str) -> Result<&mut Container, TaskError> {
        let index = self.index(id)?;
        Ok(&mut self.containers[index])
    }

    fn process(&mut self, id: &str, exec: &str) -> Result<&mut Process, TaskError> {
        let container = self.container(id)?;
        let found = container.process_mut((!exec.is_empty()).then_some(exec));
        found.ok_or_else(|| TaskError::NotFound {
            what: "exec",
            id: exec.to_owned(),
        })
    }

    fn layout(&mut self) -> Option<&Layout> {
        if self.layout.is_none() {
            match Layout::detect(Path::new("/")) {
                Ok(layout) => self.layout = Some(layout),
                Err(error) => warning!("{}", crate::error::chain(&error)),
            }
        }
        self.layout.as_ref()
    }
}

fn decode<M: Message>(request: &Request) -> Result<M, TaskError> {
    M::parse_from_bytes(&request.payload).map_err(|source| TaskError::Decode {
        method: request.method.clone(),
        source,
    })
}

fn encode(message: &impl Message) -> Result<Vec<u8>, TaskError> {
    message.write_to_bytes().map_err(TaskError::Encode)
}

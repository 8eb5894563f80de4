//! What the node has seen of a pod: the state that plan and status are made from.
//!
//! It is kept as `pod.json` in the pod's run directory and replaced atomically whenever it changed, so a
//! `berthd` that was killed goes on from it. What happened in between is in the monitor and its records.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::backoff::Backoff;
use super::resize::{Pending, Share};
use super::runtime::Handler;

/// Version of the file; another one is refused.
pub const VERSION: u32 = 1;

/// The state of one pod on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// [`VERSION`].
    pub version: u32,
    /// The boot during which it was written (`/proc/sys/kernel/random/boot_id`): after another one no
    /// process, mount or namespace of the pod is left.
    pub boot: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's uid.
    pub uid: String,
    /// When the node took the pod up.
    pub accepted: Timestamp,
    /// What containers need to run.
    pub sandbox: Sandbox,
    /// A set-up that failed.
    pub failure: Option<Failure>,
    /// The containers, by name.
    pub containers: BTreeMap<String, Seen>,
    /// The pod is being taken down; the step that is next.
    pub teardown: Option<Step>,
    /// Everything is released.
    pub released: bool,
    /// Why the pod has failed as a whole (DeadlineExceeded, say), and the text for it.
    pub verdict: Option<(String, String)>,
    /// Seconds that its containers get then, if not the pod's own.
    #[serde(default)]
    pub grace: Option<i64>,
    /// A resize that is not done yet.
    #[serde(default)]
    pub resize: Option<Pending>,
    /// It had to go for the sake of others.
    #[serde(default)]
    pub disrupted: bool,
}

impl Observed {
    /// Nothing is there yet.
    pub fn new(boot: &str, namespace: &str, name: &str, uid: &str, now: Timestamp) -> Observed {
        Observed {
            version: VERSION,
            boot: boot.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            accepted: now,
            sandbox: Sandbox::default(),
            failure: None,
            containers: BTreeMap::new(),
            teardown: None,
            released: false,
            verdict: None,
            grace: None,
            resize: None,
            disrupted: false,
        }
    }

    /// What is known of a container; a default before anything is.
    pub fn seen(&self, name: &str) -> Seen {
        self.containers.get(name).cloned().unwrap_or_default()
    }

    /// The entry of a container, for changes.
    pub fn seen_mut(&mut self, name: &str) -> &mut Seen {
        self.containers.entry(name.to_owned()).or_default()
    }

    /// The container that the runtime knows under this id.
    pub fn by_id(&mut self, id: &str) -> Option<(&String, &mut Seen)> {
        self.containers.iter_mut().find(|(_, seen)| seen.id() == Some(id))
    }
}

/// What containers need to run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// Namespaces, network, files and volumes are there.
    pub ready: bool,
    /// The monitor runs and is connected.
    pub monitor: bool,
    /// A set-up was begun: there may be something to release.
    pub touched: bool,
    /// The CNI attachment was asked for.
    pub attached: bool,
    /// Addresses of the pod.
    pub ips: Vec<IpAddr>,
    /// The runtime that a RuntimeClass has chosen; None for the node's.
    #[serde(default)]
    pub runtime: Option<Handler>,
}

/// Something that failed and is tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// CamelCase word, as in an event.
    pub reason: String,
    /// The whole story in one line.
    pub message: String,
    /// How often in a row.
    pub count: u32,
    /// When it is tried again.
    pub retry: Timestamp,
}

/// The steps of taking a pod down, in order; each can be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Step {
    /// The runtime forgets the containers, their root file systems are unmounted.
    Containers,
    /// The monitor ends.
    Monitor,
    /// The cgroups are killed and removed.
    Cgroups,
    /// CNI DEL, and the network namespace.
    Network,
    /// Mounts below the pod's directories.
    Mounts,
    /// The directories.
    Directories,
}

impl Step {
    /// The one after this.
    pub fn next(self) -> Option<Step> {
        match self {
            Step::Containers => Some(Step::Monitor),
            Step::Monitor => Some(Step::Cgroups),
            Step::Cgroups => Some(Step::Network),
            Step::Network => Some(Step::Mounts),
            Step::Mounts => Some(Step::Directories),
            Step::Directories => None,
        }
    }

    /// What it does, for messages.
    pub fn what(self) -> &'static str {
        match self {
            Step::Containers => "remove the containers",
            Step::Monitor => "end the monitor",
            Step::Cgroups => "remove the cgroups",
            Step::Network => "detach from the network",
            Step::Mounts => "unmount the pod's directories",
            Step::Directories => "remove the pod's directories",
        }
    }
}

/// What is known of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Number of the present run, counted from 0: the restart count.
    pub attempt: u32,
    /// What it does now.
    pub state: State,
    /// How the run before ended.
    pub last: Option<Ended>,
    /// Its restarts.
    pub backoff: Backoff,
    /// The startup probe, if any, has succeeded.
    pub started: bool,
    /// It runs, and the readiness probe, if any, says that it is ready.
    pub ready: bool,
    /// It is being stopped.
    pub stop: Option<Stop>,
    /// It runs, but must not go on: a probe or the postStart hook has failed.
    pub unhealthy: Option<Unhealthy>,
    /// Signal that asks the program to end (the image's STOPSIGNAL), by number.
    pub stop_signal: i32,
    /// The image it runs: name and id.
    pub image: Option<(String, String)>,
    /// Runs that the runtime has forgotten, but whose files are still there.
    #[serde(default)]
    pub remains: Vec<u32>,
    /// What it has of processors and memory; None if an earlier `berthd` has not noted it.
    #[serde(default)]
    pub share: Option<Share>,
}

impl Seen {
    /// Id of the container in the runtime, while it has one.
    pub fn id(&self) -> Option<&str> {
        match &self.state {
            State::Creating { id } | State::Running { id, .. } => Some(id),
            State::Ended(ended) if !ended.removed => Some(&ended.id),
            _ => None,
        }
    }

    /// Whether it runs.
    pub fn running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// Its exit, if it has ended.
    pub fn ended(&self) -> Option<&Ended> {
        match &self.state {
            State::Ended(ended) => Some(ended),
            _ => None,
        }
    }
}

/// What a container does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Nothing yet.
    #[default]
    Absent,
    /// Its image is being pulled.
    Pulling,
    /// It could not be created: the configuration, the image.
    Refused(Failure),
    /// The runtime has been asked to create it.
    Creating {
        /// Its id.
        id: String,
    },
    /// It runs.
    Running {
        /// Its id.
        id: String,
        /// Since when.
        since: Timestamp,
    },
    /// It has ended.
    Ended(Ended),
}

/// The end of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Its id.
    pub id: String,
    /// Exit code; 128 + signal when it was killed.
    pub code: i32,
    /// The signal, if any.
    pub signal: Option<i32>,
    /// Completed, Error, OOMKilled, StartError, ContainerStatusUnknown, DeadlineExceeded.
    pub reason: String,
    /// More about it.
    pub message: String,
    /// Start of the run.
    pub started: Option<Timestamp>,
    /// End of the run.
    pub finished: Timestamp,
    /// The program never ran: the runtime could not start it.
    pub start_failed: bool,
    /// The runtime and the disk have forgotten it.
    pub removed: bool,
}

/// Why a running container is to be replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unhealthy {
    /// The text of the event.
    pub cause: String,
    /// Seconds between SIGTERM and SIGKILL; None for the pod's.
    pub grace: Option<i64>,
}

/// A container that is being stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// When it is killed.
    pub deadline: Timestamp,
    /// How far it is.
    pub phase: StopPhase,
    /// Why: for the event.
    pub cause: String,
}

/// Stations of [`Stop`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopPhase {
    /// The preStop hook runs.
    Hook,
    /// The hook is done: the stop signal is due.
    Due,
    /// The stop signal was sent.
    Asked,
    /// SIGKILL was sent.
    Killed,
}

//! What `berthd` and `berth-monitor` say to each other, over a unix socket in the pod's folder.
//!
//! ```text
//! frame     length: u32, little endian, at most MAX_FRAME │ body: JSON
//!
//! berthd ──Request { id, call: Hello { version } }──▶ monitor     first; anything else before it ends the connection
//!        ◀─Message::Reply { id, result: Ok(Hello) }──             carries the monitor's version and pid
//!        ──Request { id, call: Create | Start | Exec | Kill | Delete | List | HoldPids | Shutdown }──▶
//!        ◀─Message::Reply { id, result }──                        answers may overtake each other: match by id
//!        ◀─Message::Exited(record)──                              any time after Hello, once for each exit
//!
//! a connection of its own for each person who runs a program in a container, or attaches to one:
//!
//! berthd ──Request { id, call: Open | Attach }──▶ monitor
//!        ◀─Message::Reply { id, result: Ok(Streams) }──           then a byte with a descriptor (SCM_RIGHTS) for each
//!        ──Request { id, call: CloseInput }──▶                    no more input will come
//!        ◀─Message::Ended { id, code }──                          everything that was written is in the pipes
//! ```
//!
//! When such a connection ends first, the program that it opened is hung up, and killed if that does not end it.
//!
//! The monitor serves several connections at once (an old one may linger after `berthd` was killed);
//! events go to all of them. What happened while nobody was connected is in the [`Record`] files.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Failure;

/// Version of this protocol; both sides refuse another one. A call that an older monitor does not know ends the
/// connection it came by, no other: calls may be added without a new version.
pub const VERSION: u32 = 1;
/// Longest body of a frame, in bytes.
pub const MAX_FRAME: usize = 1 << 20;
/// Name of the socket in the pod's folder.
pub const SOCKET: &str = "monitor.sock";
/// Name of the lock file in the pod's folder: locked by the living monitor, contains its pid.
pub const LOCK: &str = "monitor.lock";
/// Name of the [`Record`] file in a container's bundle.
pub const RECORD: &str = "record.json";

/// One call of `berthd`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the caller; the reply repeats it.
    pub id: u64,
    /// What is asked.
    pub call: Call,
}

/// What `berthd` can ask.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Call {
    /// Opens the conversation.
    Hello {
        /// The caller's [`VERSION`].
        version: u32,
    },
    /// Sets a container up: the runtime's `create`, with log pipes held by the monitor.
    Create(Create),
    /// Lets a created container run.
    Start {
        /// Id of the container.
        container: String,
    },
    /// Runs a program in a container and returns its output.
    Exec(Exec),
    /// Runs a program in a container with its standard streams in the caller's hands.
    Open(Open),
    /// Puts the standard streams of a container's first process into the caller's hands.
    Attach(Attach),
    /// The caller of `Open` or `Attach` has no more input.
    CloseInput,
    /// Sends a signal.
    Kill {
        /// Id of the container.
        container: String,
        /// Signal number.
        signal: i32,
        /// To every process of the container, not only the first.
        all: bool,
    },
    /// Takes a container away (the runtime's `delete --force`); an unknown one is no error.
    Delete {
        /// Id of the container.
        container: String,
    },
    /// The records of all containers that are held.
    List,
    /// Ends the monitor; refused while it holds containers.
    Shutdown,
    /// Holds a process namespace for containers to join, as long as the monitor lives; one that is held already is kept.
    HoldPids {
        /// Files of the pod's other namespaces: its first process belongs there.
        join: Vec<PathBuf>,
    },
}

/// Arguments of [`Call::Create`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Create {
    /// Id of the container, unique on the node.
    pub container: String,
    /// Absolute path of the bundle; the [`Record`] is kept in it.
    pub bundle: PathBuf,
    /// Where the log goes; the folder must exist.
    pub log: LogTarget,
    /// Path of the container's cgroup below the roots of the hierarchies: the OOM killer's count is read there.
    pub cgroup: String,
    /// Keep the container's stdin open; else it is empty.
    pub stdin: bool,
    /// The stdin ends when the first who attached to it leaves or ends his input.
    #[serde(default)]
    pub stdin_once: bool,
    /// The process has a terminal (`process.terminal` of the bundle's configuration).
    #[serde(default)]
    pub terminal: bool,
    /// Whom the pipes belong to, as user and group of the host: root of the container's user namespace, who could not
    /// open `/dev/stdout` again otherwise. Those of programs that are run in the container, too.
    #[serde(default)]
    pub owner: Option<(u32, u32)>,
}

/// A log file in CRI format and its limits.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogTarget {
    /// Absolute path.
    pub path: PathBuf,
    /// Size in bytes from which the file is rotated.
    pub max_bytes: u64,
    /// Files that are kept, with the current one; at least 1.
    pub max_files: u32,
}

/// Arguments of [`Call::Exec`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Exec {
    /// Id of the container.
    pub container: String,
    /// The OCI process object, as JSON.
    pub process: serde_json::Value,
    /// Time after which the program is killed, in milliseconds.
    pub timeout_ms: u64,
    /// Bytes of output that are kept; what is longer is read and dropped.
    pub output_limit: usize,
}

/// Arguments of [`Call::Open`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Open {
    /// Id of the container.
    pub container: String,
    /// The OCI process object, as JSON; its `terminal` decides whether the program gets one.
    pub process: serde_json::Value,
    /// The streams that the caller wants; the others are empty.
    pub wanted: Streams,
}

/// Arguments of [`Call::Attach`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Attach {
    /// Id of the container.
    pub container: String,
    /// The streams that the caller wants.
    pub wanted: Streams,
}

/// Which standard streams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streams {
    /// Input.
    pub stdin: bool,
    /// Output; with a terminal, everything that is shown.
    pub stdout: bool,
    /// Error output; none with a terminal.
    pub stderr: bool,
    /// The streams are a terminal.
    pub terminal: bool,
}

/// What the monitor sends.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Message {
    /// The answer to the request of that id.
    Reply {
        /// Id of the request.
        id: u64,
        /// What came of it.
        result: Result<Answer, Refusal>,
    },
    /// A container's process has ended; the record is on disk already.
    Exited(Record),
    /// The program that this connection opened, or the container it is attached to, has ended.
    Ended {
        /// Id of the request that opened it.
        id: u64,
        /// Exit code; 128 + signal when it was killed.
        code: i32,
    },
}

/// The good answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Answer {
    /// To `Hello`.
    Hello {
        /// The monitor's [`VERSION`].
        version: u32,
        /// The monitor's process.
        pid: i32,
    },
    /// To `Create` and `Start`.
    Container(Record),
    /// To `Exec`.
    Exec(ExecResult),
    /// To `Open` and `Attach`: the descriptors that follow this frame, in the order of the fields.
    Streams(Streams),
    /// To `List`.
    List(Vec<Record>),
    /// To `CloseInput`, `Kill`, `Delete` and `Shutdown`.
    Done,
    /// To `HoldPids`.
    Pids {
        /// First process of the namespace, in the host's numbers.
        pid: i32,
    },
}

/// What a program run by [`Call::Exec`] did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecResult {
    /// Exit code; 128 + signal when it was killed.
    pub exit_code: i32,
    /// It was killed because its time was over.
    pub timed_out: bool,
    /// stdout and stderr as they came, cut at the limit; bytes that are not UTF-8 are replaced.
    pub output: String,
    /// The output was longer than the limit.
    pub truncated: bool,
}

/// Why a call was refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Kind of failure.
    pub kind: RefusalKind,
    /// What was attempted, on what, and why it failed.
    pub message: String,
}

/// The kinds of [`Refusal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusalKind {
    /// No such container.
    NotFound,
    /// The id is taken.
    Exists,
    /// The container's process is gone.
    NotRunning,
    /// The program is missing or cannot be executed.
    Program,
    /// The monitor still holds containers.
    Busy,
    /// The request cannot be understood.
    Invalid,
    /// The runtime or the system failed.
    Failed,
}

impl From<Failure> for RefusalKind {
    fn from(failure: Failure) -> RefusalKind {
        match failure {
            Failure::NotFound => RefusalKind::NotFound,
            Failure::Exists => RefusalKind::Exists,
            Failure::NotRunning => RefusalKind::NotRunning,
            Failure::Program => RefusalKind::Program,
            Failure::Other => RefusalKind::Failed,
        }
    }
}

/// A container as the monitor knows it; also the content of the [`RECORD`] file, which is replaced
/// atomically at creation, start and exit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Id of the container.
    pub container: String,
    /// The container's first process in the host's pid namespace.
    pub pid: i32,
    /// When it was created (RFC 3339, UTC, nanoseconds).
    pub created_at: String,
    /// When the user's program was started.
    pub started_at: Option<String>,
    /// How it ended.
    pub exit: Option<Exit>,
}

/// How a container's process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code; 128 + signal when it was killed.
    pub code: i32,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// The kernel's OOM killer has killed in the container's cgroup, and the container failed.
    pub oom_killed: bool,
    /// When it ended (RFC 3339, UTC, nanoseconds).
    pub finished_at: String,
}

/// A frame that breaks the protocol.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The announced length is beyond [`MAX_FRAME`].
    #[error(
        "a frame of {length} bytes is longer than {MAX_FRAME}: the other side does not speak this protocol"
    )]
    TooLong {
        /// The announced length.
        length: usize,
    },
    /// The body is not what it should be.
    #[error("decode a frame of the monitor protocol")]
    Decode(#[from] serde_json::Error),
}

/// Makes one frame.
///
/// # Errors
/// [`FrameError`] when the value is too long for a frame.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, value)?;
    let length = frame.len() - 4;
    if length > MAX_FRAME {
        return Err(FrameError::TooLong { length });
    }
    frame[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(frame)
}

/// Cuts a byte stream into frames; does no I/O itself.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
}

impl Decoder {
    /// Takes what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame, decoded; None until more is pushed.
    ///
    /// # Errors
    /// [`FrameError`]; the stream is of no use afterwards.
    pub fn next_frame<T: serde::de::DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let Some(head) = self.bytes.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*head) as usize;
        if length > MAX_FRAME {
            return Err(FrameError::TooLong { length });
        }
        let Some(body) = self.bytes.get(4..4 + length) else {
            return Ok(None);
        };
        let value = serde_json::from_slice(body)?;
        self.bytes.drain(..4 + length);
        if self.bytes.is_empty() {
            // Give the buffer back: the monitor idles with as little as it can.
            self.bytes = Vec::new();
        }
        Ok(Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_cut() {
        let one = Request {
            id: 7,
            call: Call::Hello { version: VERSION },
        };
        let two = Request {
            id: 8,
            call: Call::Kill {
                container: "c".into(),
                signal: 15,
                all: true,
            },
        };
        let mut stream = encode(&one).unwrap();
        stream.extend(encode(&two).unwrap());
        for step in 1..stream.len() {
            let mut decoder = Decoder::default();
            let mut ids = Vec::new();
            for part in stream.chunks(step) {
                decoder.push(part);
                while let Some(request) = decoder.next_frame::<Request>().unwrap() {
                    ids.push(request.id);
                }
            }
            assert_eq!(ids, [7, 8], "cut at {step}");
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let mut decoder = Decoder::default();
        decoder.push(b"GET / HTTP/1.1\r\n");
        assert!(matches!(
            decoder.next_frame::<Request>(),
            Err(FrameError::TooLong { .. })
        ));
        let mut decoder = Decoder::default();
        decoder.push(&[2, 0, 0, 0, b'{', b'}']);
        assert!(matches!(
            decoder.next_frame::<Request>(),
            Err(FrameError::Decode(_))
        ));
    }
}

//! The connection to a pod's `berth-monitor` (protocol: [`berth_client::protocol`]).

use std::collections::HashMap;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use berth_client::protocol::{
    Answer, Call, Create, Decoder, Exec, ExecResult, FrameError, LOCK, Message, Record, Refusal, Request,
    SOCKET, VERSION, encode,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

/// Why a monitor could not be reached or did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// The program did not start.
    #[error("start the monitor {}: {message}", program.display())]
    Start {
        /// Path of the program.
        program: PathBuf,
        /// What it said.
        message: String,
    },
    /// Nobody answers at the socket.
    #[error("connect to the monitor at {}", dir.display())]
    Connect {
        /// The pod's run directory.
        dir: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The connection is gone.
    #[error("the monitor has gone away")]
    Gone,
    /// The other side does not speak the protocol.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// It answered something else than was asked.
    #[error("the monitor gave an answer that does not fit the question")]
    Answer,
    /// It refused, or the runtime failed.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// What a monitor tells without being asked.
#[derive(Debug)]
pub enum Notice {
    /// A container has ended.
    Exited(Record),
    /// The connection broke; the number is that of [`Link::serial`].
    Lost(u64),
}

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Result<Answer, Refusal>>>>>;

/// An open connection; clones share it.
#[derive(Debug, Clone)]
pub struct Link {
    /// Distinguishes connections over time.
    pub serial: u64,
    requests: mpsc::UnboundedSender<Vec<u8>>,
    waiting: Waiting,
    next: Arc<AtomicU64>,
}

/// Starts a monitor for the pod's run directory. Blocks for some milliseconds.
///
/// # Errors
/// [`MonitorError::Start`] with what the program said.
pub fn start(program: &Path, dir: &Path, runtime: &Path, runtime_root: &Path) -> Result<(), MonitorError> {
    let fail = |message| MonitorError::Start {
        program: program.to_owned(),
        message,
    };
    let output = std::process::Command::new(program)
        .arg("--dir")
        .arg(dir)
        .arg("--runtime")
        .arg(runtime)
        .arg("--runtime-root")
        .arg(runtime_root)
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(|error| fail(error.to_string()))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(fail(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

/// The monitor's pid, if one holds the pod's lock file.
pub fn pid(dir: &Path) -> Option<i32> {
    let path = dir.join(LOCK);
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .ok()?;
    let free = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).is_ok();
    if free {
        None
    } else {
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    }
}

impl Link {
    /// Connects and greets.
    ///
    /// # Errors
    /// [`MonitorError`].
    pub async fn open(dir: &Path, notices: impl Fn(Notice) + Send + 'static) -> Result<Link, MonitorError> {
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        let connect = |source| MonitorError::Connect {
            dir: dir.to_owned(),
            source,
        };
        // Through the folder's descriptor: a path of a socket is limited to 107 bytes.
        let handle = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(nix::fcntl::OFlag::O_PATH.bits())
            .open(dir)
            .map_err(connect)?;
        let path = format!("/proc/self/fd/{}/{SOCKET}", handle.as_raw_fd());
        let stream = UnixStream::connect(path).await.map_err(connect)?;
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let (requests, outgoing) = mpsc::unbounded_channel();
        let waiting = Waiting::default();
        tokio::spawn(serve(stream, outgoing, Arc::clone(&waiting), serial, notices));
        let link = Link {
            serial,
            requests,
            waiting,
            next: Arc::new(AtomicU64::new(1)),
        };
        match link.call(Call::Hello { version: VERSION }).await? {
            Answer::Hello { .. } => Ok(link),
            _ => Err(MonitorError::Answer),
        }
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// [`MonitorError`].
    pub async fn call(&self, call: Call) -> Result<Answer, MonitorError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let frame = encode(&Request { id, call })?;
        let (answer, answered) = oneshot::channel();
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, answer);
        self.requests.send(frame).map_err(|_| MonitorError::Gone)?;
        Ok(answered.await.map_err(|_| MonitorError::Gone)??)
    }

    /// [`Call::Create`].
    ///
    /// # Errors
    /// [`MonitorError`].
    pub async fn create(&self, create: Create) -> Result<Record, MonitorError> {
        self.record(Call::Create(create)).await
    }

    /// [`Call::Start`].
    ///
    /// # Errors
    /// [`MonitorError`].
    pub async fn start(&self, container: &str) -> Result<Record, MonitorError> {
        self.record(Call::Start {
            container: container.to_owned(),
        })
        .await
    }

    async fn record(&self, call: Call) -> Result<Record, MonitorError> {
        match self.call(call).await? {
            Answer::Container(record) => Ok(record),
            _ => Err(MonitorError::Answer),
        }
    }

    /// [`Call::Exec`].
    ///
    /// # Errors
    /// [`MonitorError`].
    pub async fn exec(&self, exec: Exec) -> Result<ExecResult, MonitorError> {
        match self.call(Call::Exec(exec)).await? {
            Answer::Exec(result) => Ok(result),
            _ => Err(MonitorError::Answer),
        }
    }

    /// [`Call::HoldPids`]: the first process of the namespace.
    ///
    /// # Errors
    /// [`MonitorError`].
    pub async fn hold_pids(&self, join: Vec<PathBuf>) -> Result<i32, MonitorError> {
        match self.call(Call::HoldPids { join }).await? {
            Answer::Pids { pid } => Ok(pid),
            _ => Err(MonitorError::Answer),
        }
    }

    /// [`Call::List`].
    ///
    /// # Errors
    /// [`MonitorError`].
    pub async fn list(&self) -> Result<Vec<Record>, MonitorError> {
        match self.call(Call::List).await? {
            Answer::List(list) => Ok(list),
            _ => Err(MonitorError::Answer),
        }
    }
}

/// Moves frames both ways until the connection ends or all handles are gone.
async fn serve(
    mut stream: UnixStream,
    mut outgoing: mpsc::UnboundedReceiver<Vec<u8>>,
    waiting: Waiting,
    serial: u64,
    notices: impl Fn(Notice) + Send + 'static,
) {
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; 8 << 10];
    loop {
        tokio::select! {
            frame = outgoing.recv() => {
                let Some(frame) = frame else { return };
                if stream.write_all(&frame).await.is_err() {
                    break;
                }
            }
            length = stream.read(&mut buffer) => {
                match length {
                    Ok(length) if length > 0 => decoder.push(&buffer[..length]),
                    _ => break,
                }
                if let Err(error) = deliver(&mut decoder, &waiting, &notices) {
                    tracing::warn!(%error, "a monitor's connection is given up");
                    break;
                }
            }
        }
    }
    // Those who wait learn it by their dropped senders.
    waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
    drop(outgoing);
    notices(Notice::Lost(serial));
}

fn deliver(decoder: &mut Decoder, waiting: &Waiting, notices: &impl Fn(Notice)) -> Result<(), FrameError> {
    while let Some(message) = decoder.next_frame::<Message>()? {
        match message {
            Message::Exited(record) => notices(Notice::Exited(record)),
            // Nothing is opened over this connection.
            Message::Ended { .. } => {}
            Message::Reply { id, result } => {
                let asker = waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                if let Some(asker) = asker {
                    let _ = asker.send(result);
                }
            }
        }
    }
    Ok(())
}

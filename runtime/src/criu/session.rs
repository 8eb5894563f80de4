//! A CRIU that works for this process alone (`criu swrk`).

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};

use berth_sys::socket;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::error::CriuError;
use super::message::{self, Kind, Response};
use super::protobuf::Message;

/// Longest answer; the longest that CRIU sends are some hundred bytes.
const LONGEST: usize = 64 * 1024;

/// A version of CRIU; ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub i64, pub i64, pub i64);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)?;
        if self.2 != 0 {
            write!(f, ".{}", self.2)?;
        }
        Ok(())
    }
}

/// What a session comes to.
#[derive(Debug)]
pub enum Event {
    /// CRIU waits at a point of its work until [`Session::go_on`].
    Notify {
        /// Which: a name of criu(8), "--action-script".
        script: String,
        /// The first process, if there is one by then.
        pid: i32,
        /// The master of a terminal, with `orphan-pts-master`.
        descriptor: Option<OwnedFd>,
    },
    /// It is done.
    Done(Response),
}

/// A running CRIU. Dropped before its end, it ends by itself, as its socket closes.
#[derive(Debug)]
pub struct Session {
    socket: Option<OwnedFd>,
    child: Child,
}

fn failed(attempted: &'static str) -> impl Fn(io::Error) -> CriuError {
    move |source| CriuError::Socket { attempted, source }
}

impl Session {
    /// Starts it. `keep` are descriptors it inherits under their own numbers; `stdio` is whether it gets this
    /// process's standard streams, for the processes that it restores.
    pub fn start(stdio: bool, keep: &[BorrowedFd<'_>]) -> Result<Self, CriuError> {
        let (ours, theirs) = socket::pair().map_err(failed("make a socket for criu"))?;
        for fd in keep.iter().copied().chain([theirs.as_fd()]) {
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))
                .map_err(io::Error::from)
                .map_err(failed("let criu inherit a descriptor"))?;
        }
        let mut command = Command::new("criu");
        command.arg("swrk").arg(theirs.as_raw_fd().to_string());
        if !stdio {
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
        }
        berth_sys::command::unblock_signals(&mut command).map_err(failed("read the signal mask"))?;
        let child = command.spawn().map_err(|source| CriuError::Start { source })?;
        Ok(Self {
            socket: Some(ours),
            child,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    fn socket(&self) -> Result<BorrowedFd<'_>, CriuError> {
        self.socket.as_ref().map(AsFd::as_fd).ok_or(CriuError::Protocol)
    }

    fn send(&self, message: &Message) -> Result<(), CriuError> {
        socket::send(self.socket()?, &message.encode()).map_err(failed("send a request to criu"))
    }

    /// Asks for something.
    pub fn ask(&self, kind: Kind, options: Message) -> Result<(), CriuError> {
        self.send(&message::request(kind, Some(options)))
    }

    /// Waits for the next event.
    pub fn wait(&mut self) -> Result<Event, CriuError> {
        let mut buffer = vec![0u8; LONGEST];
        let received = socket::receive_fd(self.socket()?, &mut buffer);
        let (length, descriptor) = match received {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => (0, None),
            other => other.map_err(failed("receive criu's answer"))?,
        };
        if length == 0 {
            return Err(CriuError::Ended { status: self.end()? });
        }
        let response = Response::decode(&buffer[..length]).map_err(|_| CriuError::Protocol)?;
        if !response.success {
            return Err(CriuError::Failed {
                kind: response.kind.name(),
                errno: response.errno,
                message: response
                    .message
                    .map(|text| format!(": {text}"))
                    .unwrap_or_default(),
            });
        }
        match (response.kind, response.notify.clone()) {
            (Kind::Notify, Some((script, pid))) => Ok(Event::Notify {
                script,
                pid,
                descriptor,
            }),
            (Kind::Notify, None) => Err(CriuError::Protocol),
            _ => Ok(Event::Done(response)),
        }
    }

    /// Lets it go on after a notification.
    pub fn go_on(&self) -> Result<(), CriuError> {
        self.send(&message::done())
    }

    /// Closes the socket and waits for the end of the process.
    fn end(&mut self) -> Result<String, CriuError> {
        self.socket = None;
        let status = self.child.wait().map_err(failed("wait for criu"))?;
        Ok(status.to_string())
    }

    /// Takes its leave once it is done. The exit code of a pre-dump means nothing: CRIU would wait for a next one.
    pub fn finish(mut self, kind: Kind) -> Result<(), CriuError> {
        self.socket = None;
        let status = self.child.wait().map_err(failed("wait for criu"))?;
        if status.success() || kind == Kind::PreDump {
            return Ok(());
        }
        Err(CriuError::Ended {
            status: status.to_string(),
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.socket.take().is_some() {
            // It undoes its work when the socket closes.
            let _ = self.child.wait();
        }
    }
}

/// A question that CRIU answers without options.
fn ask(question: &Message) -> Result<Response, CriuError> {
    let mut session = Session::start(false, &[])?;
    session.send(question)?;
    match session.wait()? {
        Event::Done(response) => {
            // It answers and ends; how is of no matter.
            let _ = session.end();
            Ok(response)
        }
        Event::Notify { .. } => Err(CriuError::Protocol),
    }
}

/// The version of the installed CRIU.
pub fn version() -> Result<Version, CriuError> {
    let response = ask(&message::request(Kind::Version, None))?;
    let (major, minor, sublevel) = response.version.ok_or(CriuError::Protocol)?;
    Ok(Version(major, minor, sublevel))
}

/// Whether CRIU and the kernel can do something: `field` of `criu_features`, with its name for the error.
pub fn check_feature(field: u32, name: &'static str) -> Result<(), CriuError> {
    if ask(&message::features(field))?.features.get_flag(field) {
        return Ok(());
    }
    Err(CriuError::Missing { name })
}

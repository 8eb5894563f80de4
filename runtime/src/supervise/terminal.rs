//! The user's terminal, and the container's behind it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use berth_sys::socket::receive_fd;
use berth_sys::terminal::{set_size, size};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::termios::{OutputFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use super::relay::{Kind, Relay, dup_cloexec, nonblocking};
use super::{SuperviseError, system};

/// Our side of a container's terminal.
#[derive(Debug)]
pub(super) struct Terminal {
    /// The user's terminal.
    host: OwnedFd,
    /// Its settings before we made it raw.
    saved: Option<Termios>,
    /// Where the init's message arrives.
    receiver: OwnedFd,
    /// Where the init sends it.
    sender: Option<OwnedFd>,
    /// The container's terminal.
    master: Option<OwnedFd>,
}

impl Terminal {
    /// Finds the user's terminal among the standard descriptors, else the controlling one.
    pub(super) fn prepare() -> Result<Self, SuperviseError> {
        let candidates = [
            dup_if_terminal(&io::stderr()),
            dup_if_terminal(&io::stdout()),
            dup_if_terminal(&io::stdin()),
        ];
        let host = match candidates.into_iter().flatten().next() {
            Some(terminal) => terminal,
            None => File::open("/dev/tty")
                .map_err(|source| SuperviseError::NoTerminal { source })?
                .into(),
        };
        let (receiver, sender) = socketpair(
            AddressFamily::Unix,
            SockType::Stream,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .map_err(system("make a socket pair"))?;
        Ok(Self {
            host,
            saved: None,
            receiver,
            sender: Some(sender),
            master: None,
        })
    }

    /// The init's end of the socket.
    pub(super) fn take_socket(&mut self) -> Option<OwnedFd> {
        self.sender.take()
    }

    /// Receives the container's terminal and connects the user's to it.
    pub(super) fn connect(&mut self) -> Result<Vec<Relay>, SuperviseError> {
        // Ours must be closed, or a dead init would leave us waiting.
        self.sender = None;
        // The message's text, a name for the terminal, is of no use here.
        let (_, master) =
            receive_fd(self.receiver.as_fd(), &mut [0; 4096]).map_err(|source| SuperviseError::System {
                attempted: "receive the container's terminal",
                source,
            })?;
        let master = master.ok_or(SuperviseError::NoConsole)?;
        let mut settings = tcgetattr(&master).map_err(system("get the terminal's settings"))?;
        // The user's terminal already turns line feeds into line ends.
        settings.output_flags.remove(OutputFlags::ONLCR);
        tcsetattr(&master, SetArg::TCSANOW, &settings).map_err(system("set the terminal"))?;
        nonblocking(&master)?;
        let saved = tcgetattr(&self.host).map_err(system("get the terminal's settings"))?;
        let mut raw = saved.clone();
        cfmakeraw(&mut raw);
        // Line feeds become line ends here, since the container's side no longer does that.
        raw.output_flags.insert(OutputFlags::OPOST);
        tcsetattr(&self.host, SetArg::TCSANOW, &raw).map_err(system("make the terminal raw"))?;
        self.saved = Some(saved);
        let input = Relay::new(
            dup_cloexec(&io::stdin())?,
            dup_cloexec(&master)?,
            Kind::TerminalInput,
        );
        let output = Relay::new(dup_cloexec(&master)?, dup_cloexec(&io::stdout())?, Kind::Output);
        self.master = Some(master);
        self.resize();
        Ok(vec![input, output])
    }

    /// Makes the container's terminal as large as the user's. Either may be gone by now: then there is nothing to do.
    pub(super) fn resize(&self) {
        if let (Some(master), Ok(now)) = (&self.master, size(self.host.as_fd())) {
            let _ = set_size(master.as_fd(), now);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(saved) = &self.saved {
            let _ = tcsetattr(&self.host, SetArg::TCSANOW, saved);
        }
    }
}

fn dup_if_terminal(fd: &impl AsFd) -> Option<OwnedFd> {
    if nix::unistd::isatty(fd).unwrap_or(false) {
        dup_cloexec(fd).ok()
    } else {
        None
    }
}

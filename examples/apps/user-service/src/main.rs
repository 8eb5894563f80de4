//! A small HTTP server with /healthz, /env and /crash, run by the examples.
//!
//! | path | answer |
//! | --- | --- |
//! | `/` | version and host name |
//! | `/healthz` | 200 as long as the process lives |
//! | `/readyz` | 200 once started, 503 before and while stopping |
//! | `/env` | the environment variables it may show, one a line |
//! | `/sleep/MS` | 200 after so many milliseconds |
//! | `/crash` | the process exits with code 1 |
//!
//! Environment: `PORT` (8080), `VERSION` (the package's), `START_DELAY_MS` (0: how long it takes
//! to start; until then only /healthz is 200), `SHOW_ENV` (more names for /env, with commas).
//! On SIGTERM it stops accepting, answers what has arrived, and exits with code 0.

#![expect(clippy::print_stdout, reason = "a program's own log goes to standard output")]

mod connection;

use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{self, Backlog};

use connection::{Service, serve};

/// How long requests that have begun may take after SIGTERM: less than Kubernetes' 30 seconds.
const DRAIN: Duration = Duration::from_secs(25);
/// Connections that may wait to be taken.
const QUEUE: i32 = 4096;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("user-service: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    // Blocked before any thread starts, and read from a descriptor: no handler runs, and as
    // process 1 of a container, whose default actions the kernel ignores, it still gets them.
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    signals
        .thread_block()
        .map_err(|error| format!("cannot block signals: {error}"))?;
    let arrived = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)
        .map_err(|error| format!("cannot wait for signals: {error}"))?;

    let port = number("PORT", 8080)?;
    let port = u16::try_from(port).map_err(|_| format!("PORT={port} is no port"))?;
    let delay = Duration::from_millis(number("START_DELAY_MS", 0)?);
    let listener = listen(port)?;
    let service = Arc::new(Service::new(Instant::now() + delay));
    println!("user-service {} listens on port {port}", service.version());

    while !wait(&listener, &arrived)? {
        accept_all(&listener, &service);
    }
    println!("user-service {} stops", service.version());
    service.stop();
    // What the kernel has accepted for us gets its answer, too.
    accept_all(&listener, &service);
    drop(listener);
    if !service.wait_until_idle(DRAIN) {
        return Err(format!(
            "requests still unanswered {} seconds after SIGTERM",
            DRAIN.as_secs()
        ));
    }
    println!("user-service {} ends", service.version());
    Ok(())
}

fn number(name: &str, default: u64) -> Result<u64, String> {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .map_err(|_| format!("{name}={text:?} is not a number")),
        Err(_) => Ok(default),
    }
}

/// Listens on all addresses: those of IPv6, which take IPv4's with them, or only IPv4's where the
/// kernel has no IPv6.
fn listen(port: u16) -> Result<TcpListener, String> {
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let listener = TcpListener::bind(both)
        .or_else(|_| TcpListener::bind(("0.0.0.0", port)))
        .map_err(|error| format!("cannot listen on port {port}: {error}"))?;
    // The library asks for a queue of 128, which a moment without a processor fills at some hundred requests a second;
    // whoever finds it full tries again after a second. The kernel cuts this to net.core.somaxconn.
    Backlog::new(QUEUE)
        .and_then(|queue| socket::listen(&listener, queue))
        .map_err(|error| format!("cannot make the queue of port {port} longer: {error}"))?;
    listener
        .set_nonblocking(true)
        .map_err(|error| format!("cannot prepare the socket: {error}"))?;
    Ok(listener)
}

/// Waits for a connection or a signal; true is a signal.
fn wait(listener: &TcpListener, signals: &SignalFd) -> Result<bool, String> {
    let mut events = [
        PollFd::new(listener.as_fd(), PollFlags::POLLIN),
        PollFd::new(signals.as_fd(), PollFlags::POLLIN),
    ];
    match poll(&mut events, PollTimeout::NONE) {
        Err(nix::errno::Errno::EINTR) => Ok(false),
        Err(error) => Err(format!("cannot wait for connections: {error}")),
        Ok(_) => Ok(events[1].any().unwrap_or(false)),
    }
}

fn accept_all(listener: &TcpListener, service: &Arc<Service>) {
    while let Ok((stream, _)) = listener.accept() {
        let guard = service.begin();
        let service = Arc::clone(service);
        let thread = std::thread::Builder::new().stack_size(256 * 1024);
        // Without a thread the connection is closed, which the client sees at once.
        let _ = thread.spawn(move || {
            serve(&service, &stream);
            drop(guard);
        });
    }
}

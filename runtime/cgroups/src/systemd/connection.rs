//! A blocking connection to systemd: over its own socket, as systemctl(1) does for root, or over a message bus.
//!
//! One thread, no event loop: requests are answered in order, and the only signal of interest is JobRemoved.

use std::env;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::error::SystemdError;
use super::message::{self, Call, Message, Value};

/// How long one request may take, with the job it starts. As runc.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const SYSTEM_PRIVATE: &str = "/run/systemd/private";
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";

/// Whose systemd: the system's, or the calling user's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instance {
    /// PID 1.
    System,
    /// The user's own manager, for rootless containers.
    User,
}

/// Where it may listen.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Endpoint {
    socket: Socket,
    /// systemd itself, not a bus that leads to it.
    direct: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Socket {
    File(PathBuf),
    Abstract(Vec<u8>),
}

impl Endpoint {
    fn file(path: impl Into<PathBuf>, direct: bool) -> Self {
        Self {
            socket: Socket::File(path.into()),
            direct,
        }
    }

    /// Server addresses as in DBUS_SESSION_BUS_ADDRESS: `unix:path=/run/user/1000/bus,guid=…;…`, with bytes escaped
    /// as `%20` (D-Bus Specification, "Server Addresses"). Other transports are passed over.
    fn parse(variable: &'static str, address: &str) -> Result<Vec<Self>, SystemdError> {
        let mut found = Vec::new();
        for one in address.split(';') {
            let Some(pairs) = one.strip_prefix("unix:") else {
                continue;
            };
            for (key, value) in pairs.split(',').filter_map(|pair| pair.split_once('=')) {
                let socket = match (key, unescape(value)) {
                    ("path", Some(bytes)) => Socket::File(OsString::from_vec(bytes).into()),
                    ("abstract", Some(bytes)) => Socket::Abstract(bytes),
                    _ => continue,
                };
                found.push(Self {
                    socket,
                    direct: false,
                });
            }
        }
        if found.is_empty() {
            return Err(SystemdError::Address {
                variable,
                address: address.to_owned(),
            });
        }
        Ok(found)
    }

    fn connect(&self) -> io::Result<UnixStream> {
        match &self.socket {
            Socket::File(path) => UnixStream::connect(path),
            Socket::Abstract(name) => UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?),
        }
    }

    fn name(&self) -> String {
        match &self.socket {
            Socket::File(path) => path.display().to_string(),
            Socket::Abstract(name) => format!("@{}", String::from_utf8_lossy(name)),
        }
    }
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    Some(bytes)
}

/// Where an instance may be reached, best first. An address in the environment is the user's word; else systemd's own
/// socket saves the way over the bus.
fn endpoints(
    instance: Instance,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Vec<Endpoint>, SystemdError> {
    let given = |name: &'static str| match variable(name) {
        Some(address) if !address.is_empty() => Endpoint::parse(name, &address.to_string_lossy()),
        _ => Ok(Vec::new()),
    };
    match instance {
        Instance::System => {
            let mut list = given("DBUS_SYSTEM_BUS_ADDRESS")?;
            list.push(Endpoint::file(SYSTEM_PRIVATE, true));
            list.push(Endpoint::file(SYSTEM_BUS, false));
            Ok(list)
        }
        Instance::User => {
            let mut list = given("DBUS_SESSION_BUS_ADDRESS")?;
            if let Some(runtime) = variable("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
                list.push(Endpoint::file(Path::new(&runtime).join("systemd/private"), true));
                list.push(Endpoint::file(Path::new(&runtime).join("bus"), false));
            }
            Ok(list)
        }
    }
}

/// A job that systemd has finished with.
#[derive(Debug)]
struct Removed {
    sender: String,
    job: String,
    result: String,
}

/// Who answers on the other side, and what was heard from it.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    serial: u32,
    removed: Vec<Removed>,
    deadline: Instant,
}

impl Connection {
    /// Connects to the instance's manager.
    pub(super) fn open(instance: Instance) -> Result<Self, SystemdError> {
        let mut tried = Vec::new();
        for endpoint in endpoints(instance, |name| env::var_os(name))? {
            match endpoint.connect() {
                Ok(stream) => return Self::greet(stream, endpoint.direct),
                Err(error) => tried.push(format!("{}: {error}", endpoint.name())),
            }
        }
        if tried.is_empty() {
            tried.push("neither XDG_RUNTIME_DIR nor DBUS_SESSION_BUS_ADDRESS is set".to_owned());
        }
        let tried = tried.join("; ");
        Err(match instance {
            Instance::System => SystemdError::NotRunning { tried },
            Instance::User => SystemdError::NoSession { tried },
        })
    }

    fn greet(stream: UnixStream, direct: bool) -> Result<Self, SystemdError> {
        let mut connection = Self {
            stream,
            serial: 0,
            removed: Vec::new(),
            deadline: Instant::now() + PATIENCE,
        };
        connection.authenticate()?;
        if !direct {
            connection.join_bus()?;
        }
        Ok(connection)
    }

    /// EXTERNAL without an identity: the other side takes the socket's credentials, which are right also where the
    /// caller's user id is another one outside of its user namespace. All of it in one write: systemd does not look at
    /// a first message that arrives together with BEGIN before another one comes.
    fn authenticate(&mut self) -> Result<(), SystemdError> {
        self.send(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")?;
        let mut answer = Vec::new();
        loop {
            let mut buffer = [0; 512];
            let count = self.read(&mut buffer)?;
            answer.extend_from_slice(&buffer[..count]);
            let text = String::from_utf8_lossy(&answer);
            // "DATA" asks for what was sent already, "OK GUID" ends it.
            for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
                let line = line.trim_end();
                if line.starts_with("OK") {
                    return Ok(());
                }
                if line != "DATA" {
                    return Err(SystemdError::Protocol {
                        what: line.to_owned(),
                    });
                }
            }
            if count == 0 || answer.len() > 4096 {
                return Err(SystemdError::Protocol {
                    what: format!("{:?} while authenticating", text.trim_end()),
                });
            }
        }
    }

    /// What a bus wants before it passes anything on: a name for us, and which signals we want.
    fn join_bus(&mut self) -> Result<(), SystemdError> {
        const BUS: &str = "org.freedesktop.DBus";
        let rule = format!("type='signal',sender='{SYSTEMD}',interface='{MANAGER}',member='JobRemoved'");
        let bus = |member, arguments| Call {
            destination: BUS,
            path: "/org/freedesktop/DBus",
            interface: BUS,
            member,
            arguments,
        };
        self.call("reach", "org.freedesktop.DBus", &bus("Hello", &[]))?;
        self.call(
            "reach",
            "org.freedesktop.DBus",
            &bus("AddMatch", &[Value::Text(rule)]),
        )?;
        // Without it, systemd sends no signals to the bus.
        self.manager("reach", "", "Subscribe", &[])?;
        Ok(())
    }

    /// Calls a method of the manager; `unit` and `action` are for messages.
    pub(super) fn manager(
        &mut self,
        action: &'static str,
        unit: &str,
        member: &str,
        arguments: &[Value],
    ) -> Result<Message, SystemdError> {
        let call = Call {
            destination: SYSTEMD,
            path: MANAGER_PATH,
            interface: MANAGER,
            member,
            arguments,
        };
        self.call(action, unit, &call)
    }

    /// A text property of an object of systemd's.
    pub(super) fn text_property(
        &mut self,
        unit: &str,
        path: &str,
        interface: &str,
        name: &str,
    ) -> Result<String, SystemdError> {
        let arguments = [interface, name].map(|text| Value::Text(text.to_owned()));
        let call = Call {
            destination: SYSTEMD,
            path,
            interface: "org.freedesktop.DBus.Properties",
            member: "Get",
            arguments: &arguments,
        };
        let answer = self.call("look at", unit, &call)?;
        let mut reader = answer.arguments();
        match (answer.signature.as_str(), reader.signature()) {
            ("v", Some("s")) => reader.text().map(str::to_owned),
            _ => None,
        }
        .ok_or_else(|| SystemdError::Protocol {
            what: format!("no text for property {name}"),
        })
    }

    /// The version of the manager, such as 252; 0 if it says something else.
    pub(super) fn version(&mut self) -> Result<u32, SystemdError> {
        let text = self.text_property("", MANAGER_PATH, MANAGER, "Version")?;
        let digits: String = text
            .trim_start_matches('v')
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        Ok(digits.parse().unwrap_or(0))
    }

    /// Calls a method that starts a job, and waits for the job's end.
    pub(super) fn job(
        &mut self,
        action: &'static str,
        unit: &str,
        member: &str,
        arguments: &[Value],
    ) -> Result<(), SystemdError> {
        let answer = self.manager(action, unit, member, arguments)?;
        let job = answer.arguments().text().unwrap_or_default().to_owned();
        if answer.signature != "o" || job.is_empty() {
            return Err(SystemdError::Protocol {
                what: format!("{member} without a job"),
            });
        }
        loop {
            // Only the sender of the answer can tell: others may send signals, too.
            let done = self
                .removed
                .iter()
                .find(|one| one.job == job && one.sender == answer.sender);
            match done.map(|one| one.result.as_str()) {
                Some("done") => return Ok(()),
                Some(result) => {
                    return Err(SystemdError::Job {
                        action,
                        unit: unit.to_owned(),
                        result: result.to_owned(),
                    });
                }
                None => self.receive().map_err(|error| named(error, action, unit))?,
            };
        }
    }

    fn call(&mut self, action: &'static str, unit: &str, call: &Call<'_>) -> Result<Message, SystemdError> {
        self.deadline = Instant::now() + PATIENCE;
        self.serial += 1;
        let serial = self.serial;
        self.send(&call.encode(serial))
            .map_err(|error| named(error, action, unit))?;
        loop {
            let message = self.receive().map_err(|error| named(error, action, unit))?;
            if message.answers != serial {
                continue;
            }
            match message.kind {
                message::RETURN => return Ok(message),
                message::ERROR => {
                    let text = message
                        .signature
                        .starts_with('s')
                        .then(|| message.arguments().text());
                    return Err(SystemdError::Refused {
                        action,
                        unit: unit.to_owned(),
                        message: text.flatten().unwrap_or("without a reason").to_owned(),
                        name: message.error,
                    });
                }
                _ => {}
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), SystemdError> {
        let left = self.left("ask")?;
        self.stream
            .set_write_timeout(Some(left))
            .and_then(|()| self.stream.write_all(bytes))
            .map_err(|source| SystemdError::Io {
                action: "ask",
                source,
            })
    }

    /// The next message; of signals, finished jobs are kept.
    fn receive(&mut self) -> Result<Message, SystemdError> {
        let mut fixed = [0; message::FIXED];
        self.fill(&mut fixed)?;
        let damaged = || SystemdError::Protocol {
            what: "a damaged message".to_owned(),
        };
        let length = message::length(&fixed).ok_or_else(damaged)?;
        let mut bytes = vec![0; length];
        bytes[..fixed.len()].copy_from_slice(&fixed);
        self.fill(&mut bytes[fixed.len()..])?;
        let message = Message::decode(&bytes).ok_or_else(damaged)?;
        let signal = message.kind == message::SIGNAL && message.interface == MANAGER;
        if signal && message.member == "JobRemoved" && message.signature == "uoss" {
            let mut arguments = message.arguments();
            arguments.u32();
            if let (Some(job), Some(_), Some(result)) = (arguments.text(), arguments.text(), arguments.text())
            {
                self.removed.push(Removed {
                    sender: message.sender.clone(),
                    job: job.to_owned(),
                    result: result.to_owned(),
                });
            }
        }
        Ok(message)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), SystemdError> {
        let mut done = 0;
        while done < buffer.len() {
            let count = self.read(&mut buffer[done..])?;
            if count == 0 {
                return Err(SystemdError::Io {
                    action: "hear from",
                    source: io::ErrorKind::UnexpectedEof.into(),
                });
            }
            done += count;
        }
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SystemdError> {
        let fail = |source| SystemdError::Io {
            action: "hear from",
            source,
        };
        loop {
            let left = self.left("hear from")?;
            self.stream.set_read_timeout(Some(left)).map_err(fail)?;
            match self.stream.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The time is over, or nearly so.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result.map_err(fail),
            }
        }
    }

    fn left(&self, action: &'static str) -> Result<Duration, SystemdError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(SystemdError::Io {
                action,
                source: io::ErrorKind::TimedOut.into(),
            });
        }
        Ok(left)
    }
}

/// A request that took too long is told with what it was.
fn named(error: SystemdError, action: &'static str, unit: &str) -> SystemdError {
    match error {
        SystemdError::Io { source, .. } if source.kind() == io::ErrorKind::TimedOut => {
            SystemdError::Timeout {
                action,
                unit: unit.to_owned(),
                seconds: PATIENCE.as_secs(),
            }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(instance: Instance, environment: &[(&str, &str)]) -> Vec<(String, bool)> {
        let variable = |name: &str| {
            let found = environment.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        };
        let list = endpoints(instance, variable).unwrap();
        list.iter().map(|one| (one.name(), one.direct)).collect()
    }

    #[test]
    fn where_the_system_and_the_user_are_looked_for() {
        let pair = |name: &str, direct| (name.to_owned(), direct);
        assert_eq!(
            of(Instance::System, &[]),
            [pair(SYSTEM_PRIVATE, true), pair(SYSTEM_BUS, false)]
        );
        let user = [
            ("XDG_RUNTIME_DIR", "/run/user/7"),
            (
                "DBUS_SESSION_BUS_ADDRESS",
                "unix:abstract=/tmp/x%20y,guid=1;tcp:host=h;unix:path=/b",
            ),
        ];
        assert_eq!(
            of(Instance::User, &user),
            [
                pair("@/tmp/x y", false),
                pair("/b", false),
                pair("/run/user/7/systemd/private", true),
                pair("/run/user/7/bus", false)
            ]
        );
        assert_eq!(of(Instance::User, &[]), []);
        for bad in ["tcp:host=h", "unix:", "unix:path=%zz", "/run/bus"] {
            let error = Endpoint::parse("DBUS_SESSION_BUS_ADDRESS", bad)
                .unwrap_err()
                .to_string();
            assert!(error.contains("unix:path=PATH"), "{error}");
        }
    }

    /// Plays the other side: what it reads does not matter, what it says is given.
    fn against(script: Vec<Vec<u8>>, stays: bool) -> Result<Connection, SystemdError> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            for words in script {
                let _ = theirs.read(&mut buffer);
                let _ = theirs.write_all(&words);
            }
            // Until the test has what it wants.
            while stays && theirs.read(&mut buffer).is_ok_and(|count| count > 0) {}
        });
        Connection::greet(ours, true)
    }

    #[test]
    fn a_refusal_to_authenticate_is_told() {
        let error = against(vec![b"REJECTED EXTERNAL\r\n".to_vec()], true).unwrap_err();
        assert!(error.to_string().contains("REJECTED EXTERNAL"), "{error}");
        let error = against(vec![b"DATA\r\n".to_vec()], false).unwrap_err();
        assert!(error.to_string().contains("while authenticating"), "{error}");
        assert!(against(vec![b"DATA\r\nOK 0123\r\n".to_vec()], true).is_ok());
    }

    #[test]
    fn garbage_after_the_greeting_is_an_error() {
        let mut connection = against(vec![b"DATA\r\nOK 0123\r\n".to_vec(), vec![0xff; 64]], true).unwrap();
        let error = connection
            .manager("start", "a.scope", "StartUnit", &[])
            .unwrap_err();
        assert!(error.to_string().contains("a damaged message"), "{error}");
    }
}

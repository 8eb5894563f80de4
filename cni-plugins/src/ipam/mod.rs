//! Addresses: delegation to the IPAM plugin that the configuration names.
//!
//! host-local and static run in this process when the program of that name in CNI_PATH is this very
//! file, which saves a process; any other IPAM plugin is executed.

pub mod host_local;
pub mod pool;
pub mod static_addresses;
pub mod store;

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::{
    exec::invoke,
    protocol::{AddResult, Command, Failure, Plugin, Reply, Request, code},
};

/// IPAM plugins of this binary.
const OWN: [&Plugin; 2] = [&host_local::PLUGIN, &static_addresses::PLUGIN];

/// The IPAM plugin that a request names.
pub struct Ipam<'a> {
    request: &'a Request,
    kind: Option<&'a str>,
}

impl<'a> Ipam<'a> {
    /// Reads `ipam.type`.
    pub fn of(request: &'a Request) -> Result<Self, Failure> {
        let kind = request.fields().object("ipam")?.text("type")?;
        if let Some(kind) = kind
            && (kind.contains('/') || kind.starts_with('.'))
        {
            return Err(Failure::field(
                "ipam.type",
                format!("{kind:?} is not a plugin's name"),
            ));
        }
        Ok(Self { request, kind })
    }

    /// Whether the configuration names one.
    pub fn is_present(&self) -> bool {
        self.kind.is_some()
    }

    /// Asks for addresses; at least one.
    pub fn add(&self) -> Result<AddResult, Failure> {
        let Reply::Result(text) = self.delegate(Command::Add)? else {
            return Ok(AddResult::default());
        };
        let result = AddResult::parse(&text)?;
        if result.ips.is_empty() {
            return Err(Failure::field("ipam", "the IPAM plugin gave no address"));
        }
        Ok(result)
    }

    /// Gives the addresses back.
    pub fn del(&self) -> Result<(), Failure> {
        self.delegate(Command::Del).map(drop)
    }

    /// Verifies the reservation.
    pub fn check(&self) -> Result<(), Failure> {
        self.delegate(Command::Check).map(drop)
    }

    /// Gives back what is not listed as valid.
    pub fn gc(&self) -> Result<(), Failure> {
        self.delegate(Command::Gc).map(drop)
    }

    /// Whether addresses are left.
    pub fn status(&self) -> Result<(), Failure> {
        self.delegate(Command::Status).map(drop)
    }

    fn delegate(&self, command: Command) -> Result<Reply, Failure> {
        let Some(kind) = self.kind else {
            return Ok(Reply::Nothing);
        };
        let program = find(kind, &self.request.path).ok_or_else(|| {
            let dirs: Vec<String> = self
                .request
                .path
                .iter()
                .map(|p| p.display().to_string())
                .collect();
            Failure::field(
                "ipam.type",
                format!("no plugin {kind:?} in CNI_PATH ({})", dirs.join(":")),
            )
        })?;
        if let Some(own) = OWN
            .into_iter()
            .find(|p| p.name == kind && is_this_program(&program))
        {
            return own.call(&Request {
                command,
                ..self.request.clone()
            });
        }
        let environment = invoke::Environment {
            command,
            container: &self.request.attachment.container,
            netns: self.request.netns.as_deref(),
            ifname: &self.request.attachment.ifname,
            args: &std::env::var("CNI_ARGS").unwrap_or_default(),
            path: &self.request.path,
        };
        match invoke::run(&program, &environment, &self.request.stdin, None) {
            Ok(output) if output.is_empty() => Ok(Reply::Nothing),
            Ok(output) => Ok(Reply::Result(String::from_utf8_lossy(&output).into_owned())),
            Err(error) => Err(error.into_failure(kind)),
        }
    }
}

/// The program of a plugin in CNI_PATH, the first directory first.
pub fn find(name: &str, dirs: &[PathBuf]) -> Option<PathBuf> {
    dirs.iter().map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// Whether a path leads to the running program (hard or symbolic link).
fn is_this_program(path: &Path) -> bool {
    match (std::fs::metadata(path), std::fs::metadata("/proc/self/exe")) {
        (Ok(a), Ok(b)) => a.dev() == b.dev() && a.ino() == b.ino(),
        _ => false,
    }
}

/// The failure for "no address left".
pub(crate) fn exhausted(command: Command, what: &str) -> Failure {
    let code = if command == Command::Status {
        code::NOT_AVAILABLE
    } else {
        code::TRY_AGAIN
    };
    Failure::new(
        code,
        format!("no address left in {what}: free some, or widen the range"),
    )
}

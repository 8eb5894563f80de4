//! From a process's environment to a plugin's function, and its answer to stdout.

use std::{
    io::{Read as _, Write as _},
    process::ExitCode,
};

use serde_json::{Value, json};

use super::{Command, Failure, Request, Version, code};
use crate::netns;

/// What a verb answers on success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A result object, already in the request's version.
    Result(String),
    /// Nothing is printed.
    Nothing,
}

/// A plugin: its name and one function a verb.
#[derive(Debug, Clone, Copy)]
pub struct Plugin {
    /// The name it is called by (`type` in a configuration).
    pub name: &'static str,
    /// ADD.
    pub add: fn(&Request) -> Result<Reply, Failure>,
    /// DEL.
    pub del: fn(&Request) -> Result<(), Failure>,
    /// CHECK.
    pub check: fn(&Request) -> Result<(), Failure>,
    /// GC.
    pub gc: fn(&Request) -> Result<(), Failure>,
    /// STATUS.
    pub status: fn(&Request) -> Result<(), Failure>,
}

impl Plugin {
    /// For verbs that have nothing to do in a plugin.
    pub fn nothing(_: &Request) -> Result<(), Failure> {
        Ok(())
    }

    /// Runs the verb that `request` names.
    pub fn call(&self, request: &Request) -> Result<Reply, Failure> {
        let done = |r: Result<(), Failure>| r.map(|()| Reply::Nothing);
        match request.command {
            Command::Add => (self.add)(request),
            Command::Del => done((self.del)(request)),
            Command::Check => done((self.check)(request)),
            Command::Gc => done((self.gc)(request)),
            Command::Status => done((self.status)(request)),
            Command::Version => Ok(Reply::Nothing),
        }
    }
}

/// Serves one request of this process and gives its exit code.
pub fn run(plugin: &Plugin) -> ExitCode {
    let env = |name: &str| std::env::var(name).ok();
    let Some(command) = env("CNI_COMMAND").filter(|c| !c.is_empty()) else {
        // As the reference plugins: started by hand, a plugin says what it is.
        let about = format!(
            "CNI {} plugin of Berth {}\nCNI protocol versions supported: {}\n",
            plugin.name,
            env!("CARGO_PKG_VERSION"),
            Version::list()
        );
        let _ = std::io::stderr().write_all(about.as_bytes());
        return ExitCode::SUCCESS;
    };
    let mut stdin = Vec::new();
    let (outcome, version) = if command == "VERSION" {
        let _ = std::io::stdin().read_to_end(&mut stdin);
        let version = asked_version(&stdin);
        (Ok(Reply::Result(versions(&version))), version)
    } else {
        let read = Request::read(env, || {
            std::io::stdin().read_to_end(&mut stdin)?;
            Ok(stdin.clone())
        });
        let version = read
            .as_ref()
            .map_or_else(|_| asked_version(&stdin), |r| r.version.to_string());
        (read.and_then(|r| guarded(plugin, &r)), version)
    };
    let (text, exit) = match outcome {
        Ok(Reply::Nothing) => return ExitCode::SUCCESS,
        Ok(Reply::Result(text)) => (text, ExitCode::SUCCESS),
        Err(failure) => (failure.to_json(&version), ExitCode::FAILURE),
    };
    let mut out = std::io::stdout().lock();
    match out
        .write_all(text.as_bytes())
        .and_then(|()| out.write_all(b"\n"))
        .and_then(|()| out.flush())
    {
        Ok(()) => exit,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Refuses a CNI_NETNS that is the plugin's own, which would rebuild the host's network.
fn guarded(plugin: &Plugin, request: &Request) -> Result<Reply, Failure> {
    if matches!(request.command, Command::Add | Command::Del)
        && !request.netns_override
        && let Some(path) = &request.netns
        && netns::is_own(path)
    {
        return Err(Failure::new(
            code::INVALID_NETNS,
            format!(
                "CNI_NETNS: {} is the plugin's own network namespace",
                path.display()
            ),
        ));
    }
    plugin.call(request)
}

/// `cniVersion` of a configuration that may be broken; for error objects and VERSION.
fn asked_version(stdin: &[u8]) -> String {
    serde_json::from_slice::<Value>(stdin)
        .ok()
        .and_then(|v| v.get("cniVersion")?.as_str().map(str::to_owned))
        .filter(|v| !v.is_empty())
        .unwrap_or_else(|| Version::NEWEST.to_string())
}

fn versions(echoed: &str) -> String {
    json!({"cniVersion": echoed, "supportedVersions": Version::ALL.map(Version::as_str)}).to_string()
}

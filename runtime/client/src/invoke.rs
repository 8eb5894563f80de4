//! One run of the runtime binary: started, waited for, and its failure read.

use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, classify, message};

/// A prepared command line. Its stdio is null unless set; [`Invocation::run`] captures stdout.
#[derive(Debug)]
pub struct Invocation {
    command: Command,
    runtime: PathBuf,
    verb: &'static str,
    id: String,
    log: Option<PathBuf>,
    input: Option<Vec<u8>>,
}

impl Invocation {
    /// A command line of `runtime`: global flags, then the verb. `log_dir` is where the runtime's log of
    /// this one run is kept until it has been read.
    pub(crate) fn new(
        runtime: &Path,
        root: Option<&Path>,
        log_dir: Option<&Path>,
        flags: &[&'static str],
        verb: &'static str,
        id: &str,
    ) -> Invocation {
        static RUN: AtomicU64 = AtomicU64::new(0);
        let mut command = Command::new(runtime);
        if let Some(root) = root {
            command.arg("--root").arg(root);
        }
        command.args(flags);
        let log = log_dir.map(|dir| {
            let run = RUN.fetch_add(1, Ordering::Relaxed);
            dir.join(format!("{verb}-{}-{run}.log", std::process::id()))
        });
        if let Some(log) = &log {
            command.arg("--log").arg(log).args(["--log-format", "json"]);
        }
        command.arg(verb);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Invocation {
            command,
            runtime: runtime.to_owned(),
            verb,
            id: id.to_owned(),
            log,
            input: None,
        }
    }

    pub(crate) fn arg(&mut self, arg: impl AsRef<std::ffi::OsStr>) -> &mut Invocation {
        self.command.arg(arg);
        self
    }

    /// Puts a folder in front of PATH.
    pub(crate) fn look_in(&mut self, dir: &Path) {
        let mut path = dir.as_os_str().to_owned();
        if let Some(rest) = std::env::var_os("PATH") {
            path.push(":");
            path.push(rest);
        }
        self.command.env("PATH", path);
    }

    pub(crate) fn input(&mut self, bytes: Vec<u8>) {
        self.input = Some(bytes);
    }

    /// Sets the runtime's own stdio; for `create`, `run` and `exec` the container inherits it.
    #[must_use]
    pub fn stdio(mut self, stdin: Stdio, stdout: Stdio, stderr: Stdio) -> Invocation {
        self.command.stdin(stdin).stdout(stdout).stderr(stderr);
        self
    }

    /// Starts the runtime and leaves the waiting to the caller, who must reap [`Pending::pid`].
    ///
    /// # Errors
    /// [`Error::Spawn`]; [`Error::Pipe`] if the input of the verb could not be kept for it.
    pub fn spawn(mut self) -> Result<Pending, Error> {
        if let Some(input) = self.input.take() {
            let stdin = kept(&input).map_err(|source| Error::Pipe {
                verb: self.verb,
                id: self.id.clone(),
                source,
            })?;
            self.command.stdin(stdin);
        }
        let child = self.command.spawn().map_err(|source| self.spawn_error(source))?;
        // Dropping the handle neither waits nor kills; dropping the command closes our copies of the stdio.
        Ok(Pending {
            pid: child.id() as i32,
            verb: self.verb,
            id: self.id,
            log: self.log,
        })
    }

    /// Runs the runtime to its end and returns what it printed.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn run(mut self) -> Result<Vec<u8>, Error> {
        if self.input.is_some() {
            self.command.stdin(Stdio::piped());
        }
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().map_err(|source| self.spawn_error(source))?;
        let (verb, id) = (self.verb, self.id.clone());
        let pipe = |source| Error::Pipe {
            verb,
            id: id.clone(),
            source,
        };
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), self.input.take()) {
            // A runtime that fails before it reads closes the pipe: its own message matters then.
            let _ = stdin.write_all(&input);
        }
        let mut out = Vec::new();
        if let Some(mut stdout) = child.stdout.take() {
            stdout.read_to_end(&mut out).map_err(pipe)?;
        }
        let mut err = Vec::new();
        if let Some(stderr) = child.stderr.take() {
            stderr.take(64 << 10).read_to_end(&mut err).map_err(pipe)?;
        }
        let status = child.wait().map_err(pipe)?;
        let pending = Pending {
            pid: 0,
            verb,
            id: self.id,
            log: self.log,
        };
        pending.finish(status, &err)?;
        Ok(out)
    }

    fn spawn_error(&self, source: std::io::Error) -> Error {
        Error::Spawn {
            runtime: self.runtime.clone(),
            verb: self.verb,
            source,
        }
    }
}

/// Input for a runtime that nobody waits for: in a pipe if it fits there, else in a file without a name.
fn kept(input: &[u8]) -> std::io::Result<Stdio> {
    /// What a new pipe takes at once, at least (pipe(7): an unprivileged user's pipes beyond the soft limit have one page).
    const PIPE: usize = 4096;
    static FILE: AtomicU64 = AtomicU64::new(0);
    if input.len() <= PIPE {
        let (reader, mut writer) = std::io::pipe()?;
        writer.write_all(input)?;
        return Ok(Stdio::from(reader));
    }
    let number = FILE.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("berth-input-{}-{number}", std::process::id()));
    let mut file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    file.write_all(input)?;
    file.rewind()?;
    Ok(Stdio::from(file))
}

/// A run that has been started by [`Invocation::spawn`].
#[derive(Debug)]
pub struct Pending {
    pid: i32,
    verb: &'static str,
    id: String,
    log: Option<PathBuf>,
}

impl Pending {
    /// The runtime's process, a child of the caller.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Judges the run by its exit status; reads and removes the log file.
    ///
    /// # Errors
    /// [`Error::Failed`] with the runtime's own message.
    pub fn finish(self, status: ExitStatus, stderr: &[u8]) -> Result<(), Error> {
        let result = if status.success() {
            Ok(())
        } else {
            let message = message(self.log.as_deref(), stderr, status);
            Err(Error::Failed {
                verb: self.verb,
                id: self.id,
                failure: classify(&message),
                message,
            })
        };
        if let Some(log) = &self.log {
            let _ = std::fs::remove_file(log);
        }
        result
    }
}

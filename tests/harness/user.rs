//! An unprivileged user for a test: a real user id with files of its own, known to the programs that the test starts.

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, chown};
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// The user's and its group's id. A machine of `tests/vm` with systemd knows it as `berth-user`.
pub const USER_ID: u32 = 42001;
/// The first of the user's subordinate ids, of which there are 65536.
pub const SUBORDINATE_ID: u32 = 420_000;

/// The user, and a directory that belongs to it.
#[derive(Debug)]
pub struct User {
    dir: TempDir,
}

impl User {
    /// Makes the user known to the calling test thread and what it starts, by private /etc/passwd, /etc/group,
    /// /etc/subuid and /etc/subgid; the last two have the user's subordinate ids, or nothing.
    ///
    /// # Panics
    /// Without root.
    pub fn new(subordinate: bool) -> Self {
        let dir = TempDir::with_prefix("berth-user-").expect("temporary directory");
        unshare(CloneFlags::CLONE_NEWNS).expect("unshare mounts");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("make the mounts private");
        let ids = if subordinate {
            format!("berth-user:{SUBORDINATE_ID}:65536\n")
        } else {
            String::new()
        };
        let home = dir.path().join("home");
        let known = |path: &str, line: String| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let others = text.lines().filter(|line| !line.starts_with("berth-user:"));
            others.map(|line| format!("{line}\n")).collect::<String>() + &line
        };
        for (path, text) in [
            (
                "/etc/passwd",
                known(
                    "/etc/passwd",
                    format!("berth-user:x:{USER_ID}:{USER_ID}::{}:/bin/sh\n", home.display()),
                ),
            ),
            (
                "/etc/group",
                known("/etc/group", format!("berth-user:x:{USER_ID}:\n")),
            ),
            ("/etc/subuid", ids.clone()),
            ("/etc/subgid", ids),
        ] {
            let file = dir.path().join(path.trim_start_matches("/etc/"));
            fs::write(&file, text).expect("write a file of /etc");
            mount(Some(&file), path, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap_or_else(|error| {
                panic!("bind over {path} (Debian's packages passwd and uidmap make it): {error}")
            });
        }
        let user = Self { dir };
        chown_all(user.dir.path());
        for folder in ["home", "runtime", "bin"] {
            user.folder(folder);
        }
        user
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The directory that XDG_RUNTIME_DIR names.
    pub fn runtime_dir(&self) -> PathBuf {
        self.dir.path().join("runtime")
    }

    /// Makes a directory of the user's.
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir_all(&path).expect("make a directory");
        chown_all(&path);
        path
    }

    /// A copy of a program that the user may read and run, wherever the original is.
    pub fn program(&self, original: &Path) -> PathBuf {
        let copy = self
            .dir
            .path()
            .join("bin")
            .join(original.file_name().expect("a program's name"));
        if !copy.exists() {
            // By another process, as for busybox: a descriptor open for writing must not be inherited by others.
            crate::run(Command::new("cp").arg(original).arg(&copy)).ok();
        }
        copy
    }

    /// A command that runs as the user, in its directory, with nothing of the test's environment but PATH.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .uid(USER_ID)
            .gid(USER_ID)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .env("USER", "berth-user")
            .env("HOME", self.dir.path().join("home"))
            .env("XDG_RUNTIME_DIR", self.runtime_dir())
            .current_dir(self.dir.path());
        command
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // Podman leaves a process that holds its namespaces.
        let pid = fs::read_to_string(self.runtime_dir().join("libpod/tmp/pause.pid")).ok();
        if let Some(pid) = pid.and_then(|text| text.trim().parse().ok()) {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// Gives a file, or a directory with all in it, to the user.
pub fn chown_all(path: &Path) {
    let link = path.is_symlink();
    if !link {
        chown(path, Some(Uid::from_raw(USER_ID)), Some(Gid::from_raw(USER_ID))).expect("chown");
    }
    if path.is_dir() && !link {
        for entry in fs::read_dir(path).expect("read a directory").flatten() {
            chown_all(&entry.path());
        }
    }
}

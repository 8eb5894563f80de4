//! The namespaces of a pod: made, set up, and held by bind mounts.
//!
//! Those of an ordinary pod are made by a thread that ends with its work. A user namespace only a process with one
//! thread can make (unshare(2)), so for `hostUsers: false` `berthd` runs itself once more:
//!
//! ```text
//! berthd                                      berthd make-pod-namespaces
//!   ──────────── the wishes, as a line of JSON ──▶ unshare(user)
//!   ◀──────────────────────────── "made" ────────
//!   writes uid_map and gid_map
//!   ──────────── "mapped" ──────────────────────▶ becomes root of it, unshare(net, uts, ipc): they belong to it
//!                                                 sets host name and sysctls
//!   ◀──────────────────────────── "made" ────────
//!   mounts /proc/PID/ns/*
//!   ──────────── end of input ──────────────────▶ ends
//! ```

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use serde::{Deserialize, Serialize};

use super::ids::LENGTH;
use super::sandbox::SandboxError;

/// The argument that makes `berthd` do this work instead of its own.
pub const ARGUMENT: &str = "make-pod-namespaces";
/// What the process says when a step is done.
const MADE: &str = "made";

/// What the namespaces are to be.
#[derive(Debug, Serialize, Deserialize)]
pub struct Wishes {
    /// Types, in OCI words.
    pub kinds: Vec<String>,
    /// The host name, where there is a uts namespace.
    pub hostname: String,
    /// Names and values.
    pub sysctls: Vec<(String, String)>,
}

fn system(what: impl Into<String>) -> impl FnOnce(nix::Error) -> SandboxError {
    let what = what.into();
    move |source| SandboxError::System { what, source }
}

/// Makes the namespaces of the calling thread or process anew, and sets them up.
fn make(wishes: &Wishes) -> Result<(), SandboxError> {
    let mut flags = CloneFlags::empty();
    for kind in &wishes.kinds {
        flags |= match kind.as_str() {
            "network" => CloneFlags::CLONE_NEWNET,
            "uts" => CloneFlags::CLONE_NEWUTS,
            "ipc" => CloneFlags::CLONE_NEWIPC,
            _ => CloneFlags::empty(),
        };
    }
    unshare(flags).map_err(system("make the pod's namespaces"))?;
    if flags.contains(CloneFlags::CLONE_NEWUTS) {
        nix::unistd::sethostname(&wishes.hostname)
            .map_err(system(format!("set the host name {}", wishes.hostname)))?;
    }
    if flags.contains(CloneFlags::CLONE_NEWNET) {
        // As containerd 2 does: a program without capabilities may listen on port 80 and ping.
        let _ = std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
        let _ = std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647")
            // Groups that the user namespace does not have cannot be named.
            .or_else(|_| std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 65535"));
    }
    for (name, value) in &wishes.sysctls {
        std::fs::write(Path::new("/proc/sys").join(name.replace('.', "/")), value).map_err(|source| {
            SandboxError::Sysctl {
                name: name.clone(),
                value: value.clone(),
                source,
            }
        })?;
    }
    Ok(())
}

/// Holds the namespaces of a process or thread, `/proc/…/ns`, at their places.
fn hold(of: &Path, wanted: &[(&'static str, PathBuf)]) -> Result<(), SandboxError> {
    for (kind, place) in wanted {
        let short = if *kind == "network" { "net" } else { kind };
        let flags = MsFlags::MS_BIND;
        mount(Some(&of.join(short)), place, None::<&str>, flags, None::<&str>).map_err(system(format!(
            "hold the {kind} namespace at {}",
            place.display()
        )))?;
    }
    Ok(())
}

/// Makes and holds namespaces of the host's users.
///
/// # Errors
/// [`SandboxError`].
pub fn of_host(wanted: Vec<(&'static str, PathBuf)>, wishes: Wishes) -> Result<(), SandboxError> {
    // The thread's namespaces are changed for good: it ends with its work.
    std::thread::spawn(move || {
        make(&wishes)?;
        hold(Path::new("/proc/thread-self/ns"), &wanted)
    })
    .join()
    .map_err(|_| SandboxError::Thread)?
}

/// Makes and holds a user namespace whose id 0 is `first` on the host, and the other namespaces below it.
///
/// # Errors
/// [`SandboxError`].
pub fn of_own_users(
    wanted: &[(&'static str, PathBuf)],
    wishes: &Wishes,
    first: u32,
) -> Result<(), SandboxError> {
    let helper = |source| SandboxError::Helper { source };
    let mut child = Command::new("/proc/self/exe")
        .arg(ARGUMENT)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(helper)?;
    let made = direct(&mut child, wanted, wishes, first);
    // The end of its input ends it; nothing is waited for when it was not to be had.
    drop(child.stdin.take());
    let _ = child.wait();
    made
}

fn direct(
    child: &mut Child,
    wanted: &[(&'static str, PathBuf)],
    wishes: &Wishes,
    first: u32,
) -> Result<(), SandboxError> {
    let helper = |source| SandboxError::Helper { source };
    let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(SandboxError::Thread);
    };
    let mut output = BufReader::new(output);
    let mut answer = || -> Result<(), SandboxError> {
        let mut line = String::new();
        output.read_line(&mut line).map_err(helper)?;
        match line.trim_end() {
            MADE => Ok(()),
            "" => Err(SandboxError::Thread),
            message => Err(SandboxError::Told(message.to_owned())),
        }
    };
    let text = serde_json::json!(wishes);
    writeln!(input, "{text}").map_err(helper)?;
    answer()?;
    let process = PathBuf::from(format!("/proc/{}", child.id()));
    for map in ["uid_map", "gid_map"] {
        let path = process.join(map);
        std::fs::write(&path, format!("0 {first} {LENGTH}")).map_err(|source| SandboxError::File {
            what: "map the pod's users in",
            path,
            source,
        })?;
    }
    writeln!(input, "mapped").map_err(helper)?;
    answer()?;
    hold(&process.join("ns"), wanted)
}

/// The other side: what the process does. Its parent reads its standard output.
pub fn serve() -> ExitCode {
    let result = obey();
    let code = if result.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    };
    if let Err(error) = result {
        // A parent that is gone does not hear it.
        let _ = writeln!(std::io::stdout(), "{}", super::execute::chain(&error));
    }
    code
}

fn obey() -> Result<(), SandboxError> {
    let helper = |source| SandboxError::Helper { source };
    let mut lines = std::io::stdin().lines();
    let mut next = || lines.next().transpose();
    let text = next().map_err(helper)?.unwrap_or_default();
    let wishes: Wishes = serde_json::from_str(&text).map_err(|error| helper(error.into()))?;
    unshare(CloneFlags::CLONE_NEWUSER).map_err(system(
        "make the pod's user namespace (the kernel's limit is the sysctl user.max_user_namespaces)",
    ))?;
    say_made().map_err(helper)?;
    if next().map_err(helper)?.is_none() {
        return Ok(());
    }
    // From here on what is made belongs to the pod's root. No group of the host's is kept.
    let root = (Gid::from_raw(0), Uid::from_raw(0));
    setgroups(&[])
        .and_then(|()| setresgid(root.0, root.0, root.0))
        .and_then(|()| setresuid(root.1, root.1, root.1))
        .map_err(system("become root of the pod's user namespace"))?;
    make(&wishes)?;
    say_made().map_err(helper)?;
    next().map_err(helper)?;
    Ok(())
}

fn say_made() -> std::io::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{MADE}")?;
    out.flush()
}

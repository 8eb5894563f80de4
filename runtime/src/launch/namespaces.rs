//! Namespaces: descriptors of those to join, id maps, time offsets, and /proc/PID files of the first process.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};

use berth_sys::{files, pidfd};

use super::LaunchError;
use crate::plan::{IdMapping, Join, JoinSource};

/// Opens what is to be joined.
pub(super) fn open(join: &Join) -> Result<OwnedFd, LaunchError> {
    match &join.source {
        JoinSource::Path(path) => files::open(path, files::O_RDONLY).map_err(|source| LaunchError::Join {
            what: path.display().to_string(),
            source,
        }),
        JoinSource::Process(pid) => pidfd::open(*pid).map_err(|source| LaunchError::Join {
            what: format!("the namespaces of the container's first process {pid}"),
            source,
        }),
    }
}

/// How a join is named in messages.
pub(super) fn name(join: &Join) -> String {
    match &join.source {
        JoinSource::Path(path) => path.display().to_string(),
        JoinSource::Process(pid) => format!("the namespaces of the container's first process {pid}"),
    }
}

fn lines(maps: &[IdMapping]) -> String {
    let lines: Vec<String> = maps
        .iter()
        .map(|map| format!("{} {} {}\n", map.container, map.host, map.size))
        .collect();
    lines.concat()
}

/// Writes the id maps of a process's new user namespace (user_namespaces(7)). Without the right to, the setuid
/// programs newuidmap(1) and newgidmap(1) are asked, which know what the user was granted.
pub(super) fn write_maps(pid: i32, uids: &[IdMapping], gids: &[IdMapping]) -> Result<(), LaunchError> {
    if !uids.is_empty() {
        match write_proc(pid, "uid_map", &lines(uids)) {
            Err(LaunchError::Proc { source, .. }) if refused(&source) => map_tool("newuidmap", pid, uids)?,
            result => result?,
        }
    }
    if gids.is_empty() {
        return Ok(());
    }
    match write_proc(pid, "gid_map", &lines(gids)) {
        Err(LaunchError::Proc { source, .. }) if refused(&source) => {}
        result => return result,
    }
    let own = nix::unistd::getegid().as_raw();
    if let [only] = gids
        && only.size == 1
        && only.host == own
    {
        // One's own group may be mapped once the process can no longer drop groups that deny it something.
        write_proc(pid, "setgroups", "deny")?;
        return write_proc(pid, "gid_map", &lines(gids));
    }
    map_tool("newgidmap", pid, gids)
}

fn refused(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EPERM)
}

fn map_tool(program: &'static str, pid: i32, maps: &[IdMapping]) -> Result<(), LaunchError> {
    let mut command = Command::new(program);
    command.arg(pid.to_string()).stdin(Stdio::null());
    for map in maps {
        command.args([map.container, map.host, map.size].map(|number| number.to_string()));
    }
    let fail = |reason| LaunchError::MapTool { program, reason };
    let output = command.output().map_err(|error| {
        fail(match error.kind() {
            io::ErrorKind::NotFound => format!(
                "{program} is not installed (Debian: uidmap), and the kernel does not let this user write the map by \
                 itself (for more than its own id CAP_SETUID is needed, for the id 0 CAP_SETFCAP, in the user namespace above)"
            ),
            _ => error.to_string(),
        })
    })?;
    if output.status.success() {
        return Ok(());
    }
    Err(fail(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// Writes a file of /proc/PID in one go, as these files want it.
pub(super) fn write_proc(pid: i32, file: &str, value: &str) -> Result<(), LaunchError> {
    let path = format!("/proc/{pid}/{file}");
    let written = fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut opened| opened.write_all(value.as_bytes()));
    written.map_err(|source| LaunchError::Proc {
        file: path,
        value: value.trim_end().to_owned(),
        advice: match file {
            "uid_map" => "check linux.uidMappings",
            "gid_map" => "check linux.gidMappings",
            "oom_score_adj" => {
                "check process.oomScoreAdj: a value below this process's own needs the capability CAP_SYS_RESOURCE"
            }
            "timens_offsets" => "check linux.timeOffsets",
            _ => "check linux.namespaces",
        },
        source,
    })
}

/// A process's id in its own pid namespace: the last number of the line `NSpid` (proc_pid_status(5)).
pub(super) fn inner_pid(pid: i32) -> io::Result<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    line.and_then(|numbers| numbers.split_whitespace().last()?.parse().ok())
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// A file in memory that hooks inside the container get as standard input.
pub(super) fn document() -> io::Result<OwnedFd> {
    files::memory_file(c"state")
}

/// Fills the file and closes it for changes.
pub(super) fn fill(file: BorrowedFd<'_>, text: &[u8]) -> io::Result<()> {
    let mut opened = File::from(file.try_clone_to_owned()?);
    opened.write_all(text)?;
    files::seal(file)
}

/// Descriptors as the spawner takes them.
pub(super) fn borrowed<'a>(joins: &[Join], opened: &'a [OwnedFd]) -> Vec<(BorrowedFd<'a>, u64)> {
    opened
        .iter()
        .zip(joins)
        .map(|(fd, join)| (fd.as_fd(), join.kinds))
        .collect()
}

//! `start`: the serving process of the container's group is found or made; its address is printed.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use berth_cgroups::{Cgroup, CgroupError, CgroupPath, Layout, LayoutError, PathError};
use sha2::{Digest, Sha256};

use crate::args::Args;
use crate::bootstrap::{Bootstrap, BootstrapError};
use crate::config::{self, ConfigError};
use crate::options::{Options, OptionsError};

/// Environment variable with containerd's socket for events.
pub const TTRPC_ADDRESS: &str = "TTRPC_ADDRESS";

/// The most that is read from standard input, as containerd's own shims do.
const MAX_INPUT: u64 = 10 << 20;

/// Annotations that name a group of containers which share one shim, in the order in which they count.
const GROUPS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

/// Why no shim could be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What containerd wrote.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// The container's configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The runtime's options.
    #[error("read the runtime's options")]
    Options(#[from] OptionsError),
    /// A file, a socket or a process.
    #[error("{what} {}", path.display())]
    File {
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The host's cgroups.
    #[error("ShimCgroup: find the host's cgroups")]
    Layout(#[from] LayoutError),
    /// The option ShimCgroup is no path of a cgroup.
    #[error("ShimCgroup")]
    CgroupPath(#[from] PathError),
    /// The shim's cgroup.
    #[error("ShimCgroup: move the shim")]
    Cgroup(#[from] CgroupError),
    /// The answer cannot be encoded.
    #[error("encode the answer")]
    Encode(#[from] containerd_shim_protos::protobuf::Error),
}

fn file(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StartError {
    let path = path.to_owned();
    move |source| StartError::File { what, path, source }
}

/// Runs `start` in the bundle (the working directory).
///
/// # Errors
/// [`StartError`]; no socket and no process is left then.
pub fn run(args: &Args) -> Result<(), StartError> {
    let stdin = Path::new("standard input");
    let mut input = Vec::new();
    std::io::stdin()
        .take(MAX_INPUT)
        .read_to_end(&mut input)
        .map_err(file("read", stdin))?;
    let given = Bootstrap::new(&input, args, std::env::var(TTRPC_ADDRESS).ok())?;
    let annotations = config::annotations(Path::new("config.json"))?;
    let group = GROUPS
        .iter()
        .find_map(|name| annotations.get(*name))
        .unwrap_or(&args.id);
    let path = socket_path(&given, &args.namespace, group);
    let address = format!("unix://{}", path.display());
    if let Some(listener) = bind(&path)?
        && let Err(error) = serve(args, &given, listener, &path)
    {
        // Best effort: the error that led here is the one to tell.
        let _ = std::fs::remove_file(&path);
        return Err(error);
    }
    // containerd 1.x finds the shim by this file after its own restart.
    write_atomically(Path::new("address"), address.as_bytes())?;
    let answer = given.answer(&address)?;
    std::io::stdout()
        .write_all(&answer)
        .map_err(file("write the address to", Path::new("standard output")))
}

/// The same name as containerd's own shims use: of the hash of containerd's socket, the namespace and the group.
fn socket_path(given: &Bootstrap, namespace: &str, group: &str) -> PathBuf {
    let text = Path::new(&given.address).join(namespace).join(group);
    let digest = Sha256::digest(text.as_os_str().as_encoded_bytes());
    let name = digest.iter().fold(String::with_capacity(64), |mut name, byte| {
        use std::fmt::Write as _;
        let _ = write!(name, "{byte:02x}");
        name
    });
    given.socket_dir.join(name)
}

/// Listens on the socket; `None` if a shim does so already. A socket that nobody answers on is replaced.
fn bind(path: &Path) -> Result<Option<UnixListener>, StartError> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(file("create", dir))?;
    }
    let listener = match UnixListener::bind(path) {
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {
            if UnixStream::connect(path).is_ok() {
                return Ok(None);
            }
            std::fs::remove_file(path).map_err(file("remove the old socket", path))?;
            UnixListener::bind(path)
        }
        result => result,
    };
    let listener = listener.map_err(file("listen on", path))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .map_err(file("set the mode of", path))?;
    Ok(Some(listener))
}

/// Starts the serving process with the socket as its standard input.
fn serve(args: &Args, given: &Bootstrap, listener: UnixListener, socket: &Path) -> Result<(), StartError> {
    let options = Options::from_any(given.options.as_ref())?;
    // By its own path, not by /proc/self/exe: ps and top show the name of the file that was executed.
    let program = std::env::current_exe().map_err(file("find", Path::new("/proc/self/exe")))?;
    let mut command = Command::new(&program);
    command
        .args([
            "-namespace",
            &args.namespace,
            "-id",
            &args.id,
            "-address",
            &given.address,
        ])
        .arg("-publish-binary")
        .arg(&args.publish_binary)
        .arg("-socket")
        .arg(socket);
    if given.debug {
        command.arg("-debug");
    }
    match &given.ttrpc_address {
        Some(address) => command.env(TTRPC_ADDRESS, address),
        None => command.env_remove(TTRPC_ADDRESS),
    };
    command
        .process_group(0)
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if std::env::var_os("SCHED_CORE").is_some_and(|v| !v.is_empty()) {
        berth_sys::process::schedule_group_on_own_cores().map_err(file(
            "share processor cores with nobody else:",
            Path::new("prctl(PR_SCHED_CORE)"),
        ))?;
    }
    let mut child = command.spawn().map_err(file("start", &program))?;
    let placed = place(&options, child.id());
    if placed.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    placed
}

/// Puts the serving process into its cgroup, and makes it a little likelier to be killed for lack of memory than
/// containerd is.
fn place(options: &Options, pid: u32) -> Result<(), StartError> {
    if !options.shim_cgroup.is_empty() {
        let path = CgroupPath::parse(&options.shim_cgroup)?;
        Cgroup::open(&Layout::detect(Path::new("/"))?, &path)?.add(pid)?;
    }
    let parent = PathBuf::from(format!("/proc/{}/oom_score_adj", nix::unistd::getppid()));
    let score = std::fs::read_to_string(&parent).map_err(file("read", &parent))?;
    let score = (score.trim().parse().unwrap_or(0) + 1).min(1000);
    let own = PathBuf::from(format!("/proc/{pid}/oom_score_adj"));
    match std::fs::write(&own, score.to_string()) {
        // Without the right to lower the score (a user's containerd), it stays what it is.
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
        result => result.map_err(file("write", &own)),
    }
}

fn write_atomically(path: &Path, text: &[u8]) -> Result<(), StartError> {
    let temporary = path.with_extension("new");
    std::fs::write(&temporary, text).map_err(file("write", &temporary))?;
    std::fs::rename(&temporary, path).map_err(file("rename into place", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_named_as_by_containerds_own_shims() {
        let args = Args {
            address: "/run/containerd/containerd.sock".to_owned(),
            ..Args::default()
        };
        let given = Bootstrap::new(&[], &args, None).unwrap();
        // printf /run/containerd/containerd.sock/default/one | sha256sum
        assert_eq!(
            socket_path(&given, "default", "one"),
            Path::new("/run/containerd/s/807c19c0f9e3589fd68d61496d6cc415b3a5bdfef35f683f88a1d6c8cd58eed9")
        );
    }

    #[test]
    fn a_socket_without_a_shim_is_replaced_and_one_with_a_shim_is_joined() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deeper/s");
        let listener = bind(&path).unwrap().unwrap();
        assert!(bind(&path).unwrap().is_none(), "somebody listens");
        drop(listener);
        assert!(bind(&path).unwrap().is_some(), "nobody listens any more");
    }
}

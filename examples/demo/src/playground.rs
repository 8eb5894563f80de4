//! `up` and `down`: a node that stays, with its API on the user's loopback.

use crate::{DemoError, Place, cgroups, enclosure, node};
use std::net::TcpListener;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

/// Starts a node in namespaces of its own and leaves it running.
pub fn up(place: &Place) -> Result<ExitCode, DemoError> {
    enclosure::require_root()?;
    let place = enclosure::absolute(place)?;
    let lock = enclosure::lock(&place.dir)?;
    cgroups::remove_leftovers(&node::cgroup_parent(&place.dir))?;
    // Bound here, before anything leaves the host's network: this is how the user reaches it.
    let listener = TcpListener::bind("127.0.0.1:0").map_err(DemoError::io("listen on the loopback"))?;
    for descriptor in [listener.as_fd(), lock.as_fd()] {
        // The node keeps both: the socket to serve on, the lock as long as it lives.
        nix::fcntl::fcntl(
            descriptor,
            nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
        )
        .map_err(DemoError::io("hand a descriptor over"))?;
    }
    let pid = start_detached(&place, listener.as_raw_fd(), lock.as_raw_fd())?;
    let kubeconfig = place.dir.join("kubeconfig");
    let result = publish_kubeconfig(&place, pid, &kubeconfig).and_then(|()| populate(&place, &kubeconfig));
    if let Err(error) = result {
        drop(lock);
        down(&place.dir)?;
        return Err(error);
    }
    // Dropping it would unlock it for the node as well, which shares the open file.
    std::mem::forget(lock);
    println!("{}", hints(&place, &kubeconfig));
    Ok(ExitCode::SUCCESS)
}

/// Starts the node's first process in new namespaces, detached from the terminal. Gives its pid
/// as the host sees it, also kept in the folder's file `pid`.
fn start_detached(place: &Place, socket: i32, lock: i32) -> Result<u32, DemoError> {
    let log_path = place.dir.join("node.log");
    let log =
        std::fs::File::create(&log_path).map_err(DemoError::io(format!("create {}", log_path.display())))?;
    let exe = enclosure::init_command("serve", place)?;
    // unshare(1) is util-linux: essential on Debian. This process itself must stay on the host.
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--"]);
    command.arg(exe.get_program()).args(exe.get_args());
    let child = command
        .env("BERTH_DEMO_SOCKET", socket.to_string())
        .env("BERTH_DEMO_LOCK", lock.to_string())
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(DemoError::io("share the log"))?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .map_err(DemoError::io("start the node's first process"))?;
    std::fs::write(place.dir.join("pid"), child.id().to_string())
        .map_err(DemoError::io("write the pid file"))?;
    Ok(child.id())
}

/// Copies the administrator's kubeconfig out of the node's own mount namespace.
fn publish_kubeconfig(place: &Place, unshare: u32, to: &Path) -> Result<(), DemoError> {
    let text = node::wait("berthd's API", Duration::from_mins(1), || {
        let children =
            std::fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children")).map_err(|e| {
                format!(
                    "the node ended: {e}; see {}",
                    place.dir.join("node.log").display()
                )
            })?;
        let first = children.split_whitespace().next().ok_or("no process yet")?;
        let inside = format!("/proc/{first}/root{}", node::kubeconfig(&place.dir).display());
        std::fs::read_to_string(&inside).map_err(|e| format!("{inside}: {e}"))
    })?;
    write_private(to, &text)?;
    node::wait("berthd's API", Duration::from_mins(1), || {
        node::ctl(place, to, &["get", "namespace", "default"], "")
            .map(drop)
            .map_err(|e| e.to_string())
    })
}

fn write_private(path: &Path, text: &str) -> Result<(), DemoError> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let action = || format!("write {}", path.display());
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(DemoError::io(action()))?;
    file.write_all(text.as_bytes()).map_err(DemoError::io(action()))
}

fn populate(place: &Place, kubeconfig: &Path) -> Result<(), DemoError> {
    node::import_images(place, kubeconfig)?;
    for file in ["db-secret.yaml", "user-service.yaml"] {
        let path = place.manifests.join(file).display().to_string();
        node::ctl(place, kubeconfig, &["apply", "-f", &path], "")?;
    }
    node::ctl(
        place,
        kubeconfig,
        &["rollout", "status", "deployment/user-service"],
        "",
    )
    .map(drop)
}

fn hints(place: &Place, kubeconfig: &Path) -> String {
    let ctl = place.bin_dir.join("berthctl");
    let ctl = ctl.display();
    format!(
        "A node is running. Five commands to try (kubectl takes the same words as {ctl}):\n\n\
         export KUBECONFIG={}\n\n\
         {ctl} get pods -o wide\n\
         {ctl} logs deployment/user-service\n\
         {ctl} scale deployment user-service --replicas 5\n\
         {ctl} describe deployment user-service\n\
         {ctl} rollout restart deployment/user-service\n\n\
         `make down` takes it away.",
        kubeconfig.display()
    )
}

/// Ends the node of this folder, if there is one, and removes the folder.
pub fn down(dir: &Path) -> Result<ExitCode, DemoError> {
    enclosure::require_root()?;
    let dir: PathBuf =
        std::path::absolute(dir).map_err(DemoError::io(format!("resolve {}", dir.display())))?;
    if !dir.exists() {
        println!("no node is running");
        return Ok(ExitCode::SUCCESS);
    }
    let pid = std::fs::read_to_string(dir.join("pid"))
        .ok()
        .and_then(|text| text.trim().parse::<i32>().ok());
    if let Some(pid) = pid.filter(|pid| is_node(*pid, &dir)) {
        let raw = nix::unistd::Pid::from_raw(pid);
        // unshare --kill-child: its child, the namespace's PID 1, goes with it.
        nix::sys::signal::kill(raw, nix::sys::signal::Signal::SIGKILL)
            .map_err(DemoError::io("end the node"))?;
    }
    let lock = node::wait("the node to end", Duration::from_secs(30), || {
        enclosure::lock(&dir).map_err(|e| e.to_string())
    })?;
    cgroups::remove_leftovers(&node::cgroup_parent(&dir))?;
    drop(lock);
    std::fs::remove_dir_all(&dir).map_err(DemoError::io(format!("remove {}", dir.display())))?;
    println!("the node is gone");
    Ok(ExitCode::SUCCESS)
}

/// Whether the pid is still the node that was started for this folder.
fn is_node(pid: i32, dir: &Path) -> bool {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command);
    command.starts_with("unshare\0") && command.contains(&*dir.to_string_lossy())
}

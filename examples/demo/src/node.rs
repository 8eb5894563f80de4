//! The demo's node: `berthd` with all its files below one folder, and `berthctl` against it.

use crate::{DemoError, Place};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The API's port inside the demo's own network; nothing else listens there.
const PORT: u16 = 6443;

/// The folder of the node's files: a tmpfs in the demo's mount namespace.
pub fn files(dir: &Path) -> PathBuf {
    dir.join("node")
}

/// The cgroup that the node's pods are below, named after the demo's folder so that two demos
/// in two folders never meet.
pub fn cgroup_parent(dir: &Path) -> String {
    use std::hash::{Hash as _, Hasher as _};
    let mut hasher = std::hash::DefaultHasher::new();
    dir.hash(&mut hasher);
    format!("berth-demo-{:08x}", hasher.finish() & 0xffff_ffff)
}

/// Brings `lo` up with Berth's own plugin: the host may have no `ip`.
pub fn loopback_up(place: &Place) -> Result<(), DemoError> {
    use std::io::Write as _;
    let mut child = Command::new(place.bin_dir.join("cni-plugins"))
        .arg("loopback")
        .env("CNI_COMMAND", "ADD")
        .env("CNI_CONTAINERID", "demo")
        .env("CNI_NETNS", "/proc/thread-self/ns/net")
        .env("CNI_NETNS_OVERRIDE", "1")
        .env("CNI_IFNAME", "lo")
        .env("CNI_PATH", &place.bin_dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(DemoError::io("start the loopback plugin"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(br#"{"cniVersion": "1.1.0", "name": "lo", "type": "loopback"}"#)
            .map_err(DemoError::io("configure the loopback plugin"))?;
    }
    let output = child
        .wait_with_output()
        .map_err(DemoError::io("wait for the loopback plugin"))?;
    if output.status.success() {
        Ok(())
    } else {
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        Err(DemoError::Command {
            command: "loopback ADD".to_owned(),
            stderr: said,
        })
    }
}

/// A `berthd` and how to talk to it.
pub struct Node {
    place: Place,
    daemon: Option<Child>,
}

impl Node {
    /// Starts `berthd` and waits until its API answers.
    pub fn start(place: &Place) -> Result<Self, DemoError> {
        let mut node = Self {
            place: place.clone(),
            daemon: None,
        };
        node.spawn()?;
        Ok(node)
    }

    /// Starts `berthd` (again) on the node's files.
    pub fn spawn(&mut self) -> Result<(), DemoError> {
        let mut command = daemon_command(&self.place)?;
        command.arg("--listen").arg(format!("127.0.0.1:{PORT}"));
        self.daemon = Some(command.spawn().map_err(DemoError::io("start berthd"))?);
        let kubeconfig = kubeconfig(&self.place.dir);
        wait("berthd's API", Duration::from_mins(1), || {
            if !kubeconfig.exists() {
                return Err(format!("no {} yet", kubeconfig.display()));
            }
            self.ctl(&["get", "namespace", "default"], "")
                .map(drop)
                .map_err(|e| e.to_string())
        })
        .map_err(|error| match error {
            DemoError::Timeout { what, seconds, last } => DemoError::Timeout {
                what,
                seconds,
                last: format!("{last}\n{}", self.log_tail()),
            },
            other => other,
        })
    }

    /// `berthd`'s pid.
    pub fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Child::id)
    }

    /// Kills `berthd` with SIGKILL.
    pub fn kill(&mut self) -> Result<(), DemoError> {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().map_err(DemoError::io("kill berthd"))?;
            daemon.wait().map_err(DemoError::io("reap berthd"))?;
        }
        Ok(())
    }

    /// Asks `berthd` to end (SIGTERM) and waits for it.
    pub fn terminate(&mut self) -> Result<(), DemoError> {
        if let Some(mut daemon) = self.daemon.take() {
            let pid = nix::unistd::Pid::from_raw(daemon.id().cast_signed());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)
                .map_err(DemoError::io("end berthd"))?;
            let status = daemon.wait().map_err(DemoError::io("reap berthd"))?;
            if !status.success() {
                return Err(DemoError::Wrong(format!(
                    "berthd ended with {status}:\n{}",
                    self.log_tail()
                )));
            }
        }
        Ok(())
    }

    /// Runs `berthctl` and gives its standard output.
    pub fn ctl(&self, arguments: &[&str], input: &str) -> Result<String, DemoError> {
        ctl(&self.place, &kubeconfig(&self.place.dir), arguments, input)
    }

    /// A `berthctl` to be started by the caller.
    pub fn ctl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.place.bin_dir.join("berthctl"));
        command
            .env("KUBECONFIG", kubeconfig(&self.place.dir))
            .args(arguments);
        command
    }

    /// An object as JSON.
    pub fn get(&self, arguments: &[&str]) -> Result<serde_json::Value, DemoError> {
        let text = self.ctl(&[&["get"], arguments, &["-o", "json"]].concat(), "")?;
        serde_json::from_str(&text)
            .map_err(|e| DemoError::Wrong(format!("berthctl get {arguments:?} printed no JSON: {e}")))
    }

    /// The last lines of `berthd`'s log.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(log_file(&self.place.dir)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

/// Imports the example application as `user-service:v1.0.0` and `:v2.0.0`.
pub fn import_images(place: &Place, kubeconfig: &Path) -> Result<(), DemoError> {
    // Not below the node's folder: with `up`, the caller does not see that tmpfs.
    let root = place.dir.join("image");
    std::fs::create_dir_all(&root).map_err(DemoError::io(format!("create {}", root.display())))?;
    let program = place.bin_dir.join(&place.app);
    std::fs::copy(&program, root.join("user-service"))
        .map_err(DemoError::io(format!("copy {}", program.display())))?;
    for version in ["v1.0.0", "v2.0.0"] {
        let name = format!("user-service:{version}");
        let environment = format!("VERSION={version}");
        let root = root.display().to_string();
        let arguments = [
            "image",
            "import",
            &root,
            "--name",
            &name,
            "--entrypoint",
            "/user-service",
            "--env",
            &environment,
        ];
        ctl(place, kubeconfig, &arguments, "")?;
    }
    std::fs::remove_dir_all(&root).map_err(DemoError::io(format!("remove {}", root.display())))
}

/// Runs `berthctl` with a kubeconfig and gives its standard output.
pub fn ctl(place: &Place, kubeconfig: &Path, arguments: &[&str], input: &str) -> Result<String, DemoError> {
    use std::io::Write as _;
    let mut child = Command::new(place.bin_dir.join("berthctl"))
        .env("KUBECONFIG", kubeconfig)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(DemoError::io("start berthctl"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(input.as_bytes())
            .map_err(DemoError::io("write to berthctl"))?;
    }
    let output = child
        .wait_with_output()
        .map_err(DemoError::io("wait for berthctl"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(DemoError::Command {
            command: format!("berthctl {}", arguments.join(" ")),
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }
}

/// The administrator's kubeconfig that `berthd` writes.
pub fn kubeconfig(dir: &Path) -> PathBuf {
    files(dir).join("data/admin.kubeconfig")
}

fn log_file(dir: &Path) -> PathBuf {
    files(dir).join("berthd.log")
}

/// `berthd` with its folders; where it listens is the caller's.
fn daemon_command(place: &Place) -> Result<Command, DemoError> {
    let files = files(&place.dir);
    let plugins = files.join("cni");
    std::fs::create_dir_all(&plugins).map_err(DemoError::io(format!("create {}", plugins.display())))?;
    for plugin in ["bridge", "host-local", "loopback", "portmap", "firewall"] {
        let link = plugins.join(plugin);
        if !link.exists() {
            std::os::unix::fs::symlink(place.bin_dir.join("cni-plugins"), &link)
                .map_err(DemoError::io(format!("create {}", link.display())))?;
        }
    }
    let log_path = log_file(&place.dir);
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log_path)
        .map_err(DemoError::io(format!("open {}", log_path.display())))?;
    let mut command = Command::new(place.bin_dir.join("berthd"));
    command
        .arg("--data-dir")
        .arg(files.join("data"))
        .arg("--run-dir")
        .arg(files.join("run"));
    command.arg("--runtime").arg(place.bin_dir.join("berth"));
    command.arg("--monitor").arg(place.bin_dir.join("berth-monitor"));
    command
        .arg("--cni-bin-dir")
        .arg(plugins)
        // Networks that another program configured on this host are not the demo's.
        .arg("--cni-conf-dir")
        .arg(files.join("net.d"))
        // It writes little: a disk that is nearly full is no reason to end its pods.
        .arg("--eviction-hard")
        .arg("memory.available<100Mi")
        .arg("--cgroup-parent")
        .arg(cgroup_parent(&place.dir));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    Ok(command)
}

/// `up`, inside: `berthd` on the socket that the caller of `up` listens on, until it ends.
pub fn serve(place: &Place) -> Result<(), DemoError> {
    let wrong = || DemoError::Wrong("serve: no listening socket was handed over".to_owned());
    let number = |name| -> Option<u32> { std::env::var(name).ok()?.parse().ok() };
    let socket = number("BERTH_DEMO_SOCKET").ok_or_else(wrong)?;
    let lock = number("BERTH_DEMO_LOCK").ok_or_else(wrong)?;
    let daemon = daemon_command(place)?;
    // The shell moves the socket to where socket activation wants it and then becomes berthd,
    // so that LISTEN_PID is true. The folder's lock stays with this process's parent alone.
    let close = |number| {
        if number == 3 {
            String::new()
        } else {
            format!("exec {number}<&-; ")
        }
    };
    let script = format!(
        "exec 9<&{socket}; {}{}exec 3<&9 9<&-; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"",
        close(socket),
        close(lock)
    );
    let mut shell = Command::new("/bin/sh");
    shell
        .arg("-c")
        .arg(script)
        .arg("sh")
        .arg(daemon.get_program())
        .args(daemon.get_args());
    let log = std::fs::File::create(log_file(&place.dir)).map_err(DemoError::io("create berthd's log"))?;
    let status = shell
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .status()
        .map_err(DemoError::io("start berthd"))?;
    Err(DemoError::Wrong(format!("berthd ended with {status}")))
}

/// Waits until the condition gives a value, looking again every few milliseconds.
pub fn wait<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<T, String>,
) -> Result<T, DemoError> {
    let end = Instant::now() + limit;
    loop {
        match condition() {
            Ok(value) => return Ok(value),
            Err(last) if Instant::now() >= end => {
                return Err(DemoError::Timeout {
                    what: what.to_owned(),
                    seconds: limit.as_secs(),
                    last,
                });
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

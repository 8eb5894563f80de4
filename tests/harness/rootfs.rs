//! Root file systems from Debian's busybox-static, and bundles around them.

use serde_json::{Value, json};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The applets that the tests' containers use; each a symbolic link to busybox.
const APPLETS: &[&str] = &[
    "[",
    "addgroup",
    "awk",
    "base64",
    "basename",
    "cat",
    "chgrp",
    "chmod",
    "chown",
    "cp",
    "cut",
    "date",
    "dd",
    "df",
    "dirname",
    "dmesg",
    "echo",
    "env",
    "expr",
    "false",
    "find",
    "grep",
    "head",
    "hostname",
    "httpd",
    "id",
    "ip",
    "kill",
    "ln",
    "ls",
    "mkdir",
    "mkfifo",
    "mknod",
    "mount",
    "mv",
    "nc",
    "nproc",
    "od",
    "ping",
    "pidof",
    "printf",
    "ps",
    "pwd",
    "readlink",
    "realpath",
    "rm",
    "rmdir",
    "route",
    "sed",
    "seq",
    "sh",
    "sha256sum",
    "sleep",
    "sort",
    "stat",
    "stty",
    "sync",
    "tail",
    "tar",
    "tee",
    "test",
    "timeout",
    "top",
    "touch",
    "tr",
    "true",
    "tty",
    "udhcpc",
    "umount",
    "uname",
    "unshare",
    "vi",
    "wc",
    "wget",
    "which",
    "whoami",
    "xargs",
    "yes",
];

/// Fills `dir` with a small root file system: busybox, its links, users root and nobody.
///
/// # Panics
/// When Debian's `busybox-static` is not installed.
pub fn busybox_rootfs(dir: &Path) {
    let busybox = crate::program("busybox").expect("busybox-static is installed (make deps)");
    for sub in [
        "bin", "dev", "etc", "home", "proc", "root", "run", "sys", "tmp", "usr/bin", "var",
    ] {
        std::fs::create_dir_all(dir.join(sub)).expect("create a directory of the rootfs");
    }
    // By another process: a descriptor open for writing in this one would be inherited by what other tests' threads
    // fork at that moment, and the kernel refuses to execute a file that somebody may write ("text file busy").
    crate::run(
        std::process::Command::new("cp")
            .arg(busybox)
            .arg(dir.join("bin/busybox")),
    )
    .ok();
    for applet in APPLETS {
        symlink("busybox", dir.join("bin").join(applet)).expect("link an applet");
    }
    let write =
        |path: &str, text: &str| std::fs::write(dir.join(path), text).expect("write a file of the rootfs");
    write(
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\nalice:x:1000:1000::/home:/bin/sh\n",
    );
    write(
        "etc/group",
        "root:x:0:\nnogroup:x:65534:\nalice:x:1000:\nextra:x:2000:alice\n",
    );
}

/// An OCI bundle in a temporary directory, removed with the value.
pub struct Bundle {
    dir: TempDir,
    /// The configuration; [`Bundle::write`] stores it.
    pub config: Value,
}

impl Bundle {
    /// A bundle with a busybox root file system, and the configuration that `runc spec` writes
    /// (with `terminal` false and a writable root), running `args`.
    pub fn new(args: &[&str]) -> Self {
        let dir = TempDir::with_prefix("berth-test-").expect("temporary directory");
        std::fs::create_dir(dir.path().join("rootfs")).expect("create rootfs");
        busybox_rootfs(&dir.path().join("rootfs"));
        let mut bundle = Self {
            dir,
            config: default_config(),
        };
        bundle.config["process"]["args"] = json!(args);
        bundle.write();
        bundle
    }

    /// The bundle's directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The bundle's root file system.
    pub fn rootfs(&self) -> PathBuf {
        self.dir.path().join("rootfs")
    }

    /// Changes the configuration and stores it.
    pub fn edit(&mut self, change: impl FnOnce(&mut Value)) -> &mut Self {
        change(&mut self.config);
        self.write();
        self
    }

    /// Stores the configuration as config.json.
    pub fn write(&self) {
        let text = serde_json::to_vec_pretty(&self.config).expect("serialise config");
        std::fs::write(self.dir.path().join("config.json"), text).expect("write config.json");
    }
}

/// The configuration of `runc spec`, with `terminal` false and a writable root.
fn default_config() -> Value {
    let caps = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    json!({
        "ociVersion": "1.2.0",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": false},
        "hostname": "berth",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"}],
            "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}

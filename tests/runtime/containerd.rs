//! Debian's containerd, its own daemon and shim, with berth in runc's place: what a user sees is the same.

use harness::{bin, busybox_rootfs, need_program, need_root, run};
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// One container's life through `ctr`. Runs in mount and PID namespaces of its own, so that nothing
/// of containerd's outlives the test.
const LIFE: &str = r#"
set -u
cd "$1"; runtime=$2
containerd --config config.toml >containerd.log 2>&1 &
daemon=$!
ctr() { command ctr --address "$PWD/containerd.sock" "$@"; }
tries=0
until ctr version >/dev/null 2>&1; do
    tries=$((tries + 1)); [ $tries -lt 300 ] || { cat containerd.log; exit 1; }
    sleep 0.1
done
run="run --rootfs --runc-binary $runtime"
ctr $run --rm "$PWD/rootfs" one /bin/sh -c \
    'echo hello; grep -E "^(Cap|NoNew|Seccomp:)" /proc/self/status; cut -d" " -f4- /proc/self/mountinfo | grep -vE "overlay|/dev/vd" | wc -l; id; exit 3'
echo "run: $?"
ctr $run --detach --memory-limit 33554432 "$PWD/rootfs" two /bin/sleep 1000
echo "detached: $?"
ctr tasks ls | grep -o "RUNNING"
ctr tasks exec --exec-id extra two /bin/sh -c 'echo from exec; pidof sleep | wc -w; exit 7'
echo "exec: $?"
ctr tasks exec --exec-id bad two /nosuch 2>&1 | grep -o 'exec: "/nosuch".*'
ctr tasks metrics two | grep -c memory.usage_in_bytes
ctr tasks kill --signal 9 two
until ctr tasks ls | grep -q STOPPED; do sleep 0.05; done
ctr tasks rm two 2>/dev/null
echo "killed: $?"
ctr containers rm two
ctr $run --rm "$PWD/rootfs" three /nosuch 2>&1 | grep -o 'unable to start container process.*'
ctr tasks ls | tail -n +2
kill $daemon; wait $daemon
"#;

fn life(runtime: &Path) -> String {
    let dir = TempDir::with_prefix("berth-containerd-").expect("temporary directory");
    std::fs::create_dir(dir.path().join("rootfs")).expect("create rootfs");
    busybox_rootfs(&dir.path().join("rootfs"));
    let path = dir.path().display();
    let config = format!(
        "version = 2\nroot = \"{path}/root\"\nstate = \"{path}/state\"\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{path}/containerd.sock\"\n"
    );
    std::fs::write(dir.path().join("config.toml"), config).expect("write the configuration");
    run(Command::new("timeout")
        .args([
            "--kill-after=5",
            "120",
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child",
        ])
        .args(["sh", "-c", LIFE, "sh"])
        .arg(dir.path())
        .arg(runtime))
    .ok()
}

#[test]
fn containerd_runs_berth_as_it_runs_runc() {
    need_root!();
    need_program!("containerd");
    need_program!("ctr");
    let runc = need_program!("runc");
    let with_runc = life(&runc);
    for seen in [
        "hello",
        "run: 3",
        "RUNNING",
        "from exec",
        "exec: 7",
        "no such file or directory",
    ] {
        assert!(
            with_runc.contains(seen),
            "containerd with runc does not show `{seen}`:\n{with_runc}"
        );
    }
    assert_eq!(life(&bin("berth")), with_runc);
}

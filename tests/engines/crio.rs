//! CRI-O has no package here. Its calls are replayed as its source makes them (internal/oci/runtime_oci.go): conmon
//! with these flags, exec by conmon and by the runtime itself, state and update by the runtime.

use crate::table;
use harness::{Lab, need_program, need_root, repository_root};

/// `$path` and `$root` come from the configuration in examples/kubernetes.
const CALLS: &str = r#"
bundle=$LAB/bundle; mkdir -p $bundle exits attach logs-c
id=$LAB_NAME-c; log=$LAB/logs-c/log
monitor() { conmon --syslog -c $id -n k8s_c -l k8s-file:$log --socket-dir-path $LAB/attach --log-level info \
    --exit-dir $LAB/exits -r $path --runtime-arg=--root=$root "$@"; }
# CreateContainer: conmon makes the container, then the runtime is asked what became of it.
monitor -b $bundle -p $bundle/pidfile -P $bundle/conmon-pidfile -u $id --persist-dir $bundle
wait_until [ -s $bundle/pidfile ]
$path --root $root state $id | grep -o '"status": *"[a-z]*"'
# StartContainer
$path --root $root start $id; echo "start: $?"
wait_until grep -q 'stdout F begun' $log && cut -d' ' -f2- $log
# ExecSyncContainer: a process object in a file, conmon with -e, the exit code by the synchronisation pipe
echo '{"args": ["/bin/sh", "-c", "echo synced; exit 3"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}' >process
_OCI_SYNCPIPE=5 conmon -c $id -n k8s_c -r $path -p $LAB/execpid -e -l $LAB/logs-c/exec --socket-dir-path $LAB/attach --log-level info \
    --sync --exec-process-spec $LAB/process --runtime-arg --root=$root 5>sync
wait_until grep -q exit_code sync; grep -o '"exit_code": *[0-9]*' sync; cut -d' ' -f2- $LAB/logs-c/exec
# ExecContainer: the runtime itself, with the streams of the request
$path --root $root exec --process $LAB/process $id; echo "exec by the runtime: $?"
# UpdateContainer
echo '{"memory": {"limit": 67108864}}' | $path --root $root update --resources - $id; echo "update: $?"
cat /sys/fs/cgroup/{,memory/}$LAB_NAME/c/memory.{max,limit_in_bytes} 2>/dev/null
# PauseContainer, UnpauseContainer, signals
$path --root $root pause $id; $path --root $root state $id | grep -o '"status": *"paused"'; $path --root $root resume $id
$path --root $root kill $id TERM; echo "kill: $?"
wait_until [ -e exits/$id ]; echo "exit: $(cat exits/$id)"
# DeleteContainer
$path --root $root delete --force $id; echo "delete: $?"
$path --root $root state $id 2>&1 | grep -o 'does not exist'
ls $root | wc -l
"#;

fn calls(path: &str) -> String {
    let lab = Lab::new();
    table::prepare(&lab);
    let example =
        std::fs::read_to_string(repository_root().join("examples/kubernetes/crio.conf")).expect("read");
    let value = |key: &str| {
        let line = example
            .lines()
            .find(|line| line.starts_with(key))
            .expect("the key");
        line.split('"').nth(1).expect("a value").to_owned()
    };
    assert_eq!(
        (value("runtime_path").as_str(), value("runtime_type").as_str()),
        ("/usr/local/bin/berth", "oci")
    );
    // The root is below /run, which is the lab's own.
    let root = value("runtime_root");
    let bundle = lab.path().join("bundle");
    std::fs::create_dir(&bundle).expect("create");
    let mut prepared = harness::Bundle::new(&[
        "sh",
        "-c",
        "trap 'exit 8' TERM; echo begun; while :; do sleep 0.05; done",
    ]);
    let group = format!("/{}/c", lab.name());
    prepared.edit(|config| {
        config["root"]["path"] = lab.path().join("rootfs").display().to_string().into();
        config["linux"]["cgroupsPath"] = group.into();
    });
    std::fs::copy(prepared.path().join("config.json"), bundle.join("config.json")).expect("copy");
    let text = lab
        .sh(&format!("path={path}; root={root}; mkdir -p $root\n{CALLS}"))
        .ok();
    lab.sh("wait_until eval '! pgrep -x conmon >/dev/null'").ok();
    assert_eq!(lab.processes(), Vec::<String>::new(), "processes are left");
    text
}

#[test]
fn cri_o_gets_the_answers_that_it_expects() {
    need_root!();
    need_program!("conmon");
    let runc = need_program!("runc");
    let theirs = calls(&runc.display().to_string());
    for seen in [
        "\"created\"",
        "stdout F begun",
        "\"exit_code\": 3",
        "exec by the runtime: 3",
        "67108864",
        "paused",
        "exit: 8",
        "does not exist",
    ] {
        assert!(
            theirs.contains(seen),
            "conmon with runc does not show `{seen}`:\n{theirs}"
        );
    }
    let plain = |text: &str| text.replace("\": \"", "\":\"");
    assert_eq!(plain(&calls("$LAB/bin/berth")), plain(&theirs));
}

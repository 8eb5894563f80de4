//! containerd by `ctr`: the same invocations with its own shim and runc, and with Berth's.

use crate::table::{self, PROBE, Row};
use harness::{Containerd, Release};

harness::with_each_containerd!(
    ctr_shows_the_same_with_both_shims,
    every_snapshotter_of_the_daemon_serves_both_shims,
    a_container_is_checkpointed_and_restored
);

const ROWS: &[Row] = &[
    ("", PROBE),
    ("--memory-limit 67108864", PROBE),
    ("--cpus 0.5", PROBE),
    ("--cpu-quota 20000 --cpu-period 50000", PROBE),
    ("--env A=b --cwd /tmp", PROBE),
    ("--user 1000:2000", PROBE),
    ("--user nobody", PROBE),
    ("--cap-add CAP_NET_ADMIN", PROBE),
    ("--cap-drop CAP_CHOWN --allow-new-privs", PROBE),
    ("--read-only", PROBE),
    ("--privileged", PROBE),
    ("--seccomp", PROBE),
    (
        "--seccomp --seccomp-profile $LAB/seccomp.json",
        "/bin/sh -c 'mkdir /tmp/x; echo $?'",
    ),
    ("--net-host", "/bin/ls /sys/class/net"),
    ("--with-ns network:/proc/1/ns/net", "/bin/ls /sys/class/net"),
    (
        "--mount type=bind,src=$LAB/share,dst=/share,options=rbind:ro",
        "/bin/sh -c 'cat /share/file; touch /share/x; echo $?'",
    ),
    ("--mount type=tmpfs,dst=/t,options=size=64k:mode=700", PROBE),
    ("--device /dev/fuse", PROBE),
    ("--rootfs-propagation rslave", PROBE),
    ("--annotation a=b", "/bin/true"),
    ("", "/bin/sh -c 'exit 42'"),
    ("", "/bin/sh -c 'kill -9 $$'"),
    ("", "/nosuch"),
    ("", "nosuch"),
    ("", "/etc/passwd"),
    ("--user nosuch", "/bin/true"),
    (
        "--memory-limit 20971520",
        "/bin/sh -c 'dd if=/dev/zero of=/dev/null bs=100M; echo $?'",
    ),
];

/// Options that ctr has only since version 2.
const NEWER: &[Row] = &[
    ("--hostname abc", PROBE),
    ("--rlimit-nofile 99:100", PROBE),
    ("--cpu-shares 512 --cpuset-cpus 0", PROBE),
    (
        "--uidmap 0:700000:65536 --gidmap 0:700000:65536 --remap-labels",
        PROBE,
    ),
];

fn import(containerd: &Containerd) {
    table::prepare(&containerd.lab);
    // Users of a container's own are to reach the root.
    containerd
        .lab
        .sh("chmod 755 . root root/*; chmod 711 state state/*")
        .ok();
    let script = format!("namespace=$LAB_NAME\n{}", table::ARCHIVES);
    containerd.lab.sh(&script).ok();
}

/// What differs between runc under containerd's shim and Berth under its own, with `options` for all rows.
fn differences(containerd: &Containerd, rows: &[Row], options: &str) -> String {
    let lab = &containerd.lab;
    table::differences(lab, rows, |runtime, number, (row, command)| {
        let shim = match runtime {
            "runc" => "--runtime io.containerd.runc.v2 --runc-root $LAB/runtime-runc",
            _ => "--runtime io.containerd.berth.v2",
        };
        format!(
            "export CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=1; ctr --address $LAB/c.sock --namespace $LAB_NAME run --rm \
             {shim} {options} {row} localhost/busybox:1 $LAB_NAME-{runtime}{number} {command} 2>&1; echo \"code $?\""
        )
    })
}

fn ctr_shows_the_same_with_both_shims(release: &Release) {
    let containerd = release.start();
    import(&containerd);
    let newer = if *release == Release::Packaged { &[] } else { NEWER };
    let text = differences(&containerd, &[ROWS, newer].concat(), "");
    assert_eq!(text, "", "runc and berth differ:\n{text}");
    containerd.assert_nothing_left();
}

/// Block files need a file system to start from; erofs needs its tools and the kernel's.
const SNAPSHOTTERS: &str = "[plugins.\"io.containerd.snapshotter.v1.blockfile\"]\nroot_path = \"DIR/blockfile\"\n\
    scratch_file = \"DIR/scratch\"\nfs_type = \"ext4\"\nmount_options = []\n";

fn every_snapshotter_of_the_daemon_serves_both_shims(release: &Release) {
    let mut containerd = Containerd::new(release, "", SNAPSHOTTERS);
    containerd.lab.sh("mkfs.ext4 -q scratch 32M").ok();
    containerd.kill();
    containerd.start();
    import(&containerd);
    let list = "ctr plugins ls | awk '$1 ~ /snapshotter/ && $NF == \"ok\" { print $2 }'";
    let list = containerd.sh(list).ok();
    assert!(list.contains("overlayfs") && list.contains("native"), "{list}");
    if *release != Release::Packaged {
        assert!(list.contains("blockfile") && list.contains("erofs"), "{list}");
    }
    let rows: &[Row] = &[("", PROBE), ("", "/bin/sh -c 'echo x >/etc/new && cat /etc/new'")];
    for snapshotter in list.split_whitespace() {
        let text = differences(&containerd, rows, &format!("--snapshotter {snapshotter}"));
        assert_eq!(text, "", "with {snapshotter} runc and berth differ:\n{text}");
    }
    containerd.assert_nothing_left();
}

/// A container that counts is checkpointed while it runs, taken away, and restored under another name. `$run` are the
/// options for shim and runtime.
const CHECKPOINT: &str = r#"
count() { ctr tasks exec --exec-id $RANDOM $1 /bin/cat /count; }
beyond() { local now; now=$(count $1) && [ "$now" -gt $2 ]; }
gone() {
    ctr tasks kill --signal 9 $1
    wait_until eval "ctr tasks ls | grep '^$1 .*STOPPED'" >/dev/null
    ctr tasks rm $1 2>&1 | grep -o 'exit code 137'
    ctr containers rm $1
}
start() { ctr run $run --detach "$@" /bin/sh -c 'n=0; while :; do n=$((n+1)); echo $n >/count.new; mv /count.new /count; sleep 0.1; done'; }
command ctr --address $LAB/c.sock --namespace $LAB_NAME events >events 2>/dev/null & listener=$!
wait_until eval 'ctr namespaces label $LAB_NAME x=$(date +%N); grep -q namespaces events'
start localhost/busybox:1 $LAB_NAME-one
wait_until beyond $LAB_NAME-one 3
# The task alone. (Of another container: to keep the same configuration twice is an error for containerd.)
start --env NUMBER=three localhost/busybox:1 $LAB_NAME-three
wait_until beyond $LAB_NAME-three 1
ctr tasks checkpoint $LAB_NAME-three >/dev/null; echo "task: $?"
kept=$(count $LAB_NAME-three)
wait_until beyond $LAB_NAME-three $kept && echo "counts on"
gone $LAB_NAME-three
# With everything that restore needs.
ctr containers checkpoint --image --rw --task $LAB_NAME-one localhost/kept:1; echo "container: $?"
kept=$(count $LAB_NAME-one)
gone $LAB_NAME-one
ctr containers restore --rw --live $LAB_NAME-two localhost/kept:1 || exit 1
wait_until beyond $LAB_NAME-two $((kept + 1)) && echo "went on"
ctr tasks exec --exec-id e $LAB_NAME-two /bin/sh -c 'exit 4'; echo "exec: $?"
gone $LAB_NAME-two
kill $listener
grep -c /tasks/checkpointed events || :
# containerd leaves what it has unpacked for the restore.
rm -rf tmp/ctrd-checkpoint*
"#;

fn a_container_is_checkpointed_and_restored(release: &Release) {
    let criu = harness::need_program!("criu");
    // It writes a log where it is.
    let check = harness::run(
        std::process::Command::new(criu)
            .arg("check")
            .current_dir(std::env::temp_dir()),
    );
    if !check.status.success() {
        harness::skip!("criu does not work with this kernel");
    }
    let shims = [
        "--runtime io.containerd.runc.v2 --runc-root $LAB/runtime-runc",
        "--runtime io.containerd.runc.v2 --runc-root $LAB/runtime --runc-binary $LAB/bin/berth",
        "--runtime io.containerd.berth.v2 --runtime-config-path $LAB/berth.toml",
    ];
    for run in shims {
        let containerd = release.start();
        import(&containerd);
        let text = containerd.sh(&format!("run=\"{run}\"\n{CHECKPOINT}")).ok();
        let lines: Vec<&str> = text.lines().collect();
        let (events, lines) = lines.split_last().expect("lines");
        let expected = [
            "task: 0",
            "counts on",
            "exit code 137",
            "container: 0",
            "exit code 137",
            "went on",
            "exec: 4",
            "exit code 137",
        ];
        assert_eq!(lines, expected, "with {run}");
        // containerd's own shim of version 1 does not tell of it.
        if run.contains("berth.v2") {
            assert_eq!(*events, "2", "events of checkpoints");
        }
        containerd.assert_nothing_left();
    }
}

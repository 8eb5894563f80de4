//! Crashes: of containerd, of the shim, of the container, of the machine's supply of processes.

use harness::{Release, wait_for};
use std::time::Duration;

harness::with_each_containerd!(
    containers_survive_containerd_and_ends_meanwhile_are_known_afterwards,
    a_killed_shim_takes_its_container_along_and_leaves_nothing,
    a_container_killed_from_outside_is_seen_as_killed,
    without_processes_left_on_the_machine_creation_fails_cleanly
);

const START: &str = "ctr run $shim --rootfs --detach --cgroup $LAB_NAME-c $LAB/rootfs $LAB_NAME-c";

fn containers_survive_containerd_and_ends_meanwhile_are_known_afterwards(release: &Release) {
    let mut containerd = release.start();
    containerd
        .sh(&format!(
            "{START} /bin/sh -c 'while [ ! -e /tmp/go ]; do sleep 0.05; done; exit 9'"
        ))
        .ok();
    containerd
        .sh("ctr run $shim --rootfs --detach --cgroup $LAB_NAME-d $LAB/rootfs $LAB_NAME-d /bin/sleep 1000")
        .ok();
    containerd.kill();
    assert_eq!(
        containerd.lab.sh("pgrep -fc '[s]him-berth-v2 -namespace'").ok(),
        "2\n"
    );
    std::fs::write(containerd.lab.path().join("rootfs/tmp/go"), "").expect("write");
    containerd
        .lab
        .sh("wait_until eval '! pgrep -f [/]tmp/go >/dev/null'")
        .ok();
    containerd.start();
    let text = containerd
        .sh(r#"
ctr tasks ls | sed -n "s/^$LAB_NAME-\([cd]\) .* /\1 /p" | sort
ctr tasks exec --exec-id e $LAB_NAME-d /bin/echo still served
ctr tasks rm $LAB_NAME-c 2>&1 | grep -o 'exit code 9'
ctr tasks kill --signal 9 $LAB_NAME-d
wait_until eval 'ctr tasks ls | grep -q STOPPED'
ctr tasks rm $LAB_NAME-d 2>&1 | grep -o 'exit code 137'
ctr containers rm $LAB_NAME-c $LAB_NAME-d
"#)
        .ok();
    // A task that has ended is listed without an exit code; removing it tells the code.
    let text: Vec<&str> = text.lines().filter(|line| !line.contains("STATUS")).collect();
    assert_eq!(
        text,
        [
            "c STOPPED",
            "d RUNNING",
            "still served",
            "exit code 9",
            "exit code 137"
        ]
    );
    containerd.assert_nothing_left();
}

fn a_killed_shim_takes_its_container_along_and_leaves_nothing(release: &Release) {
    let containerd = release.start();
    containerd.sh(&format!("{START} /bin/sleep 1000")).ok();
    let text = containerd
        .sh(r#"
kill -9 $(pgrep -f '[s]him-berth-v2 -namespace')
wait_until eval '! ctr tasks ls | grep -q RUNNING'
ctr tasks ls | tail -n +2 | wc -l
wait_until eval '! pgrep -xf "/bin/sleep 1000" >/dev/null'
ctr tasks rm $LAB_NAME-c >/dev/null 2>&1
ctr containers rm $LAB_NAME-c
# The FIFOs are the client's, which takes them away together with a task only.
rm -r /run/containerd/fifo/*
ctr run $shim --rootfs --rm $LAB/rootfs $LAB_NAME-c /bin/echo the id is free
"#)
        .ok();
    assert!(text.ends_with("the id is free\n"), "{text}");
    containerd.assert_nothing_left();
}

fn a_container_killed_from_outside_is_seen_as_killed(release: &Release) {
    let containerd = release.start();
    containerd.sh(&format!("{START} /bin/sleep 1000")).ok();
    let text = containerd
        .sh(r#"
ctr tasks exec --exec-id e $LAB_NAME-c /bin/sleep 2000 & client=$!
wait_until pgrep -xf "/bin/sleep 2000" >/dev/null
kill -9 $(pgrep -xf "/bin/sleep 1000")
wait $client; echo "exec: $?"
wait_until eval 'ctr tasks ls | grep -q STOPPED'
ctr tasks rm $LAB_NAME-c 2>&1 | grep -o 'exit code 137'
ctr containers rm $LAB_NAME-c
"#)
        .ok();
    assert_eq!(text, "exec: 137\nexit code 137\n");
    containerd.assert_nothing_left();
}

fn without_processes_left_on_the_machine_creation_fails_cleanly(release: &Release) {
    let containerd = release.start();
    let pids = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"]
        .into_iter()
        .map(std::path::PathBuf::from)
        .find(|dir| dir.join("cgroup.procs").exists());
    let Some(pids) = pids else {
        harness::skip!("no pids controller is mounted at its usual place");
    };
    let group = pids.join(format!("outer-{}", containerd.lab.name()));
    // The shim is in a cgroup whose limit stands for the machine's. (containerd itself would crash: Go's runtime does when
    // it cannot start a thread.)
    let text = containerd
        .sh(&format!(
            r#"
group={}
mkdir $group
ctr run $shim --rootfs --detach --annotation io.containerd.runc.v2.group=pod --cgroup $LAB_NAME-c $LAB/rootfs $LAB_NAME-c /bin/sleep 1000
# The shim is there; from here on it can start nothing.
shim_pid=$(pgrep -f '[s]him-berth-v2 -namespace')
echo $shim_pid >$group/cgroup.procs
echo 1 >$group/pids.max
ctr run $shim --rootfs --rm --annotation io.containerd.runc.v2.group=pod $LAB/rootfs $LAB_NAME-new /bin/true >denied 2>&1
echo "code $?"
grep -ioq 'resource temporarily unavailable' denied && echo told || cat denied
ctr tasks ls | grep -c RUNNING
echo max >$group/pids.max
ctr tasks exec --exec-id e $LAB_NAME-c /bin/echo works again
ctr tasks kill --signal 9 $LAB_NAME-c
wait_until eval 'ctr tasks ls | grep -q STOPPED'
ctr tasks rm $LAB_NAME-c 2>/dev/null
ctr containers rm $LAB_NAME-c
"#,
            group.display()
        ))
        .ok();
    assert_eq!(text, "code 1\ntold\n1\nworks again\n");
    containerd
        .sh("wait_until eval '! pgrep -f [s]him-berth-v2 >/dev/null'")
        .ok();
    wait_for("the outer cgroup to be free", Duration::from_secs(30), || {
        std::fs::remove_dir(&group)
    });
    containerd.assert_nothing_left();
}

//! A container's life through `ctr`: the same with every pair of shim and runtime.

use harness::{Release, need_program};

harness::with_each_containerd!(
    every_pair_of_shim_and_runtime_shows_the_same_life,
    events_come_in_their_order
);

/// What a user of `ctr` does and sees. `$run` are the options for shim and runtime.
const LIFE: &str = r#"
state() { ctr tasks ls | awk -v id=$1 '$1 == id { print $3 }'; }
is() { [ "$(state $1)" = $2 ]; }
ctr run $run --rootfs --rm $LAB/rootfs $LAB_NAME-one /bin/sh -c \
    'echo hello; grep -E "^(Cap|NoNew|Seccomp:|SigBlk|SigIgn)" /proc/self/status; cut -d" " -f4- /proc/self/mountinfo | grep -vE "overlay|/dev/vd" | wc -l; id; exit 3'
echo "run: $?"
ctr run $run --rootfs --detach --memory-limit 33554432 --cgroup $LAB_NAME-two $LAB/rootfs $LAB_NAME-two /bin/sleep 1000
echo "detached: $?"
ctr tasks ls | grep -o RUNNING
ctr tasks exec --exec-id extra $LAB_NAME-two /bin/sh -c 'echo from exec; pidof sleep | wc -w; exit 7'
echo "exec: $?"
ctr tasks exec --exec-id bad $LAB_NAME-two /nosuch 2>&1 | grep -o 'exec: "/nosuch".*' | tail -1
ctr tasks exec --exec-id gone $LAB_NAME-two /bin/sh -c 'kill -9 $$'
echo "killed exec: $?"
ctr tasks metrics $LAB_NAME-two | grep -c memory.usage_in_bytes
ctr tasks ps $LAB_NAME-two | tail -n +2 | wc -l
ctr tasks pause $LAB_NAME-two; echo "pause: $?"
state $LAB_NAME-two
ctr tasks resume $LAB_NAME-two; echo "resume: $?"
state $LAB_NAME-two
ctr tasks rm $LAB_NAME-two 2>&1 | grep -o 'must be stopped.*\|cannot delete.*' | wc -l
ctr tasks kill --signal 9 $LAB_NAME-two
wait_until is $LAB_NAME-two STOPPED
ctr tasks kill --signal 9 $LAB_NAME-two 2>&1 | grep -o 'process already finished.*'
ctr tasks rm $LAB_NAME-two 2>/dev/null; echo "removed: $?"
ctr containers rm $LAB_NAME-two
ctr run $run --rootfs --rm $LAB/rootfs $LAB_NAME-three /nosuch 2>&1 | grep -o 'unable to start container process.*' | tail -1
(sleep 1; echo by stdin) | ctr run $run --rootfs --rm $LAB/rootfs $LAB_NAME-four /bin/cat
echo "cat: $?"
script -qec "stty rows 33 cols 77; ctr --address $LAB/c.sock --namespace $LAB_NAME run $run --rootfs --rm --tty $LAB/rootfs $LAB_NAME-five /bin/sh -c 'tty; sleep 0.5; stty size; exit 5'" /dev/null </dev/null | tr -d '\r\000' | sed 's/^\^@//'
echo "terminal: ${PIPESTATUS[0]}"
ctr run $run --rootfs --rm --with-ns pid:/proc/1/ns/pid $LAB/rootfs $LAB_NAME-six /bin/sh -c 'sleep 987 & echo in the pid namespace of the host' 2>&1
pgrep -xf "sleep 987" | wc -l
ctr tasks ls | tail -n +2
ctr containers ls -q
"#;

fn life(release: &Release, run: &str) -> String {
    let containerd = release.start();
    let text = containerd.sh(&format!("run=\"{run}\"\n{LIFE}")).ok();
    containerd.assert_nothing_left();
    text.replace(containerd.lab.name(), "LAB")
}

fn every_pair_of_shim_and_runtime_shows_the_same_life(release: &Release) {
    need_program!("runc");
    let runc = "--runtime io.containerd.runc.v2 --runc-root $LAB/runtime-runc";
    let reference = life(release, runc);
    for seen in [
        "hello",
        "run: 3",
        "RUNNING",
        "from exec",
        "exec: 7",
        "killed exec: 137",
        "PAUSED",
        "no such file or directory",
        "by stdin",
        "33 77",
        "terminal: 5",
        "in the pid namespace",
    ] {
        assert!(
            reference.contains(seen),
            "containerd's own shim and runc do not show `{seen}`:\n{reference}"
        );
    }
    // Known differences of the runtimes, not of the shims: runtime/DESIGN.md.
    let same = |text: &str| text.replace("SigIgn:\t0000000080000000", "SigIgn:\t0000000000000000");
    let berth = "--runtime io.containerd.runc.v2 --runc-root $LAB/runtime --runc-binary $LAB/bin/berth";
    let shim = "--runtime io.containerd.berth.v2 --runtime-config-path $LAB";
    for run in [berth, &format!("{shim}/berth.toml"), &format!("{shim}/runc.toml")] {
        assert_eq!(same(&life(release, run)), same(&reference), "with {run}");
    }
}

/// Kinds of the events of one container, in their order.
fn events_come_in_their_order(release: &Release) {
    let containerd = release.start();
    let text = containerd
        .sh(r#"
command ctr --address $LAB/c.sock --namespace $LAB_NAME events >events 2>/dev/null & listener=$!
wait_until eval 'ctr namespaces label $LAB_NAME x=$(date +%N); grep -q namespaces events'
ctr run $shim --rootfs --detach --memory-limit 20000000 --cgroup $LAB_NAME-e $LAB/rootfs $LAB_NAME-e /bin/sh -c \
    'while [ ! -e /tmp/go ]; do sleep 0.05; done; dd if=/dev/zero of=/dev/null bs=100M'
ctr tasks pause $LAB_NAME-e
ctr tasks resume $LAB_NAME-e
ctr tasks exec --exec-id extra $LAB_NAME-e /bin/touch /tmp/go
wait_until grep -q '"id":"'$LAB_NAME-e'","pid"' events
ctr tasks rm $LAB_NAME-e 2>/dev/null
wait_until grep -q tasks/delete events
kill $listener
grep -o '/tasks/[a-z-]* .*' events | sed -E 's/"(pid|exited_at|bundle|io)":("[^"]*"|[0-9]+|\{[^}]*\}),?//g'
"#)
        .ok()
        .replace(containerd.lab.name(), "LAB");
    let kinds: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    let exec_ends = r#"/tasks/exit {"container_id":"LAB-e","id":"extra",}"#;
    let expected = [
        "/tasks/create",
        "/tasks/start",
        "/tasks/paused",
        "/tasks/resumed",
        "/tasks/exec-added",
        "/tasks/exec-started",
        "/tasks/exit",
        "/tasks/oom",
        "/tasks/exit",
        "/tasks/delete",
    ];
    // The killer may strike while the exec's end is still on its way.
    let mut sorted = kinds.clone();
    sorted.sort_unstable();
    let mut wanted = expected.to_vec();
    wanted.sort_unstable();
    assert_eq!(sorted, wanted, "{text}");
    assert_eq!(kinds[..6], expected[..6], "{text}");
    let place = |what: &str| kinds.iter().position(|kind| *kind == what).expect("in the list");
    let last_exit = kinds
        .iter()
        .rposition(|kind| *kind == "/tasks/exit")
        .expect("in the list");
    assert!(
        place("/tasks/oom") < last_exit && last_exit < place("/tasks/delete"),
        "{text}"
    );
    assert!(text.contains(exec_ends), "{text}");
    assert!(text.contains(r#""id":"LAB-e","exit_status":137"#), "{text}");
    containerd.assert_nothing_left();
}

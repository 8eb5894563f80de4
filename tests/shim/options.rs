//! The runtime's options: what each of them changes.

use harness::{Containerd, Release};

harness::with_each_containerd!(
    options_change_how_the_runtime_is_called_and_what_the_container_sees,
    a_mistake_in_the_options_is_named
);

/// A runtime that notes where it looks for criu, whose its standard error is, and how it is called; and is Berth then.
const NOTING: &str = r#"
cat >noting <<'X'
#!/bin/bash
lab=$(dirname "$0")
echo "$(command -v criu) $(stat -L -c '%u:%g' /proc/self/fd/2) $*" >>$lab/calls
exec $lab/bin/berth "$@"
X
mkdir other-criu
cat >other-criu/criu <<'X'
#!/bin/bash
touch $(dirname "$0")/asked
exit 1
X
chmod 755 noting other-criu/criu
cat >all.toml <<X
BinaryName = "$LAB/noting"
Root = "$LAB/runtime"
NoPivotRoot = true
NoNewKeyring = true
ShimCgroup = "/$LAB_NAME-shim"
IoUid = 1234
IoGid = 2345
CriuPath = "$LAB/other-criu/criu"
CriuImagePath = "$LAB/images"
CriuWorkPath = "$LAB/work"
X
"#;

fn options_change_how_the_runtime_is_called_and_what_the_container_sees(release: &Release) {
    let containerd = release.start();
    containerd.sh(NOTING).ok();
    let text = containerd
        .sh(r#"
set -e
for hierarchy in $(grep -E ' - cgroup2? ' /proc/self/mountinfo | cut -d' ' -f5); do
    [ -e $hierarchy/cgroup.procs ] || continue
    group=$hierarchy/$LAB_NAME-shim
    mkdir $group
    for file in cpuset.cpus cpuset.mems; do
        if [ -e $hierarchy/$file ] && [ -z "$(cat $group/$file)" ]; then cat $hierarchy/$file >$group/$file; fi
    done
done
shim="--runtime io.containerd.berth.v2 --runtime-config-path $LAB/all.toml"
ctr run $shim --rootfs --detach --cgroup $LAB_NAME-c $LAB/rootfs $LAB_NAME-c /bin/sh -c \
    'stat -L -c "%u %g" /proc/self/fd/2 >/tmp/owner; exec sleep 1000'
wait_until [ -s rootfs/tmp/owner ]; cat rootfs/tmp/owner; rm rootfs/tmp/owner
ls runtime/$LAB_NAME
grep -c ":/$LAB_NAME-shim$" /proc/$(pgrep -f '[s]him-berth-v2 -namespace')/cgroup
ctr tasks exec --exec-id e $LAB_NAME-c /bin/true
ctr tasks checkpoint $LAB_NAME-c >/dev/null 2>&1 || echo "checkpoint: $?"
ls other-criu/asked
ctr tasks ls | grep -o RUNNING
ctr tasks kill --signal 9 $LAB_NAME-c
wait_until eval 'ctr tasks ls | grep -q STOPPED'
ctr tasks rm $LAB_NAME-c 2>/dev/null
ctr containers rm $LAB_NAME-c
"#)
        .ok()
        .replace(containerd.lab.name(), "LAB");
    let lines: Vec<&str> = text.lines().collect();
    // A cgroup of its own in every hierarchy that the host has.
    assert!(
        lines.len() == 6 && lines[2].parse::<u32>().is_ok_and(|n| n > 0),
        "{text}"
    );
    assert_eq!(
        (lines[0], lines[1], &lines[3..]),
        (
            // The runtime gives the pipes to the process' user, and leaves their group.
            "0 2345",
            "LAB-c",
            &["checkpoint: 1", "other-criu/asked", "RUNNING"][..]
        ),
        "{text}"
    );
    let calls = std::fs::read_to_string(containerd.lab.path().join("calls")).expect("read the calls");
    let dir = containerd.lab.path().display().to_string();
    let call = |verb: &str| {
        let found = calls.lines().find(|line| line.contains(&format!(" {verb} ")));
        found.unwrap_or_else(|| panic!("no {verb}:\n{calls}")).to_owned()
    };
    let create = call("create");
    for part in [
        "--no-pivot",
        "--no-new-keyring",
        &format!("--root {dir}/runtime/"),
    ] {
        assert!(create.contains(part), "{part}: {create}");
    }
    let checkpoint = call("checkpoint");
    assert!(
        checkpoint.starts_with(&format!("{dir}/other-criu/criu "))
            && checkpoint.contains(&format!("--work-path {dir}/work"))
            && checkpoint.contains("--leave-running"),
        "{checkpoint}"
    );
    nothing_left(&containerd);
}

/// The shim's cgroup is the administrator's: it stays.
fn nothing_left(containerd: &Containerd) {
    containerd
        .sh("wait_until eval '! pgrep -f [s]him-berth-v2 >/dev/null'")
        .ok();
    let name = format!("{}-shim", containerd.lab.name());
    for dir in containerd.lab.cgroups().iter().filter(|dir| dir.ends_with(&name)) {
        std::fs::remove_dir(dir).expect("an empty cgroup");
    }
    containerd.assert_nothing_left();
}

fn a_mistake_in_the_options_is_named(release: &Release) {
    let containerd = release.start();
    let text = containerd
        .sh(r#"
attempt() {
    echo "$1" >wrong.toml
    ctr run --runtime io.containerd.berth.v2 --runtime-config-path $LAB/wrong.toml --rootfs --rm $LAB/rootfs $LAB_NAME-w /bin/true >said 2>&1
    echo "code $?"; grep -o "$2" said || cat said
}
attempt 'BinaryName = "/no/such/runtime"' '/no/such/runtime.*No such file or directory'
attempt 'BinaryNam = "berth"' 'unknown option BinaryNam'
attempt 'SystemdCgroup = 1' SystemdCgroup
attempt 'IoUid = "me"' IoUid
attempt 'ShimCgroup = "a/../b"' ShimCgroup
"#)
        .ok()
        .replace(containerd.lab.name(), "LAB");
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines.len() == 10 && lines.iter().step_by(2).all(|line| *line == "code 1"),
        "{text}"
    );
    assert!(lines[1].starts_with("/no/such/runtime"), "{text}");
    assert_eq!(
        [lines[3], lines[5], lines[7], lines[9]],
        ["unknown option BinaryNam", "SystemdCgroup", "IoUid", "ShimCgroup"],
        "{text}"
    );
    containerd.assert_nothing_left();
}

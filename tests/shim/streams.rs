//! Standard streams: volume, files, logging programs, readers that are late, slow or gone.

use harness::Release;

harness::with_each_containerd!(
    much_output_and_input_arrives_whole,
    files_and_programs_take_the_output,
    a_full_disk_drops_output_and_the_container_goes_on,
    a_full_disk_for_the_bundle_is_an_error_that_leaves_nothing,
    a_full_disk_for_the_streams_is_an_error_that_leaves_nothing,
    a_reader_that_is_gone_holds_up_nobody_else
);

fn much_output_and_input_arrives_whole(release: &Release) {
    let containerd = release.start();
    let text = containerd
        .sh(r#"
run="$shim --rootfs --rm $LAB/rootfs"
ctr run $run $LAB_NAME-out /bin/sh -c 'seq 1 1500000; seq 1 200000 >&2' 2>err | md5sum
seq 1 1500000 | md5sum
md5sum <err; seq 1 200000 | md5sum
(sleep 1; seq 1 1500000) | ctr run $run $LAB_NAME-in /bin/sh -c 'sha256sum'
seq 1 1500000 | sha256sum
"#)
        .ok();
    let sums: Vec<&str> = text.lines().collect();
    assert_eq!(sums.len(), 6, "{text}");
    for pair in sums.chunks(2) {
        assert_eq!(pair[0], pair[1]);
    }
    containerd.assert_nothing_left();
}

fn files_and_programs_take_the_output(release: &Release) {
    let containerd = release.start();
    containerd
        .sh(r#"
cat >logger <<'X'
#!/bin/bash
exec 5>&-
{ echo "$CONTAINER_ID $CONTAINER_NAMESPACE $*"; cat <&3; cat <&4; } >$(dirname $0)/logged
X
cat >silent <<'X'
#!/bin/bash
exit 1
X
chmod 755 logger silent
"#)
        .ok();
    let text = containerd
        .sh(r#"
run="$shim --rootfs --rm"
ctr run $run --log-uri file://$LAB/deep/er/log $LAB/rootfs $LAB_NAME-file /bin/sh -c 'echo out; echo err >&2'
echo "file: $?"; sort deep/er/log
ctr run $run --log-uri "binary://$LAB/logger?key=value&flag" $LAB/rootfs $LAB_NAME-prog /bin/sh -c 'echo to program; echo err >&2'
echo "program: $?"
wait_until grep -q err logged; cat logged
ctr run $run --log-uri "binary-v2://$LAB/silent" $LAB/rootfs $LAB_NAME-silent /bin/true 2>&1 | grep -o 'the logging program.*'
ctr run $run --log-uri "binary://$LAB/missing" $LAB/rootfs $LAB_NAME-none /bin/true 2>&1 | grep -o 'start the logging program.*'
ctr run $run --log-uri "npipe:///x" $LAB/rootfs $LAB_NAME-scheme /bin/true 2>&1 | grep -o 'the scheme.*'
"#)
        .ok()
        .replace(containerd.lab.name(), "LAB")
        .replace(&containerd.lab.path().display().to_string(), "DIR")
        // containerd 1 appends the class of an error.
        .replace(": unknown\n", "\n");
    assert_eq!(
        text,
        "file: 0\nerr\nout\nprogram: 0\nLAB-prog LAB key value flag\nto program\nerr\n\
         the logging program did not say that it is ready: did it fail?\n\
         start the logging program DIR/missing: No such file or directory (os error 2)\n\
         the scheme npipe is not known: known are fifo, file, binary, binary-v2\n"
    );
    containerd.assert_nothing_left();
}

fn a_full_disk_drops_output_and_the_container_goes_on(release: &Release) {
    let containerd = release.start();
    let text = containerd
        .sh(r#"
mkdir small; mount -t tmpfs -o size=64k tmpfs small
ctr run $shim --rootfs --rm --log-uri file://$LAB/small/log $LAB/rootfs $LAB_NAME-full /bin/sh -c 'seq 1 100000; exit 4'
echo "code $?"
stat -c %s small/log
umount small
"#)
        .ok();
    assert!(text.starts_with("code 4\n"), "{text}");
    let kept: u64 = text.lines().nth(1).and_then(|n| n.parse().ok()).expect("a size");
    assert!((4096..=65536).contains(&kept), "{kept} bytes were kept");
    let log = containerd.lab.log("containerd");
    assert!(
        log.contains("output is dropped") && log.contains("No space left"),
        "the warning is in containerd's log"
    );
    containerd.assert_nothing_left();
}

fn a_full_disk_for_the_bundle_is_an_error_that_leaves_nothing(release: &Release) {
    let containerd = release.start();
    let text = containerd
        .sh(r#"
mkdir -p state/io.containerd.runtime.v2.task
mount -t tmpfs -o size=40k tmpfs state/io.containerd.runtime.v2.task
mkdir state/io.containerd.runtime.v2.task/$LAB_NAME
dd if=/dev/zero of=state/io.containerd.runtime.v2.task/filler bs=1k count=24 2>/dev/null
ctr run $shim --rootfs --rm $LAB/rootfs $LAB_NAME-full /bin/true 2>&1 | grep -io 'no space left.*'
echo "code ${PIPESTATUS[0]}"
rm state/io.containerd.runtime.v2.task/filler
mount -o remount,size=1m state/io.containerd.runtime.v2.task
ctr run $shim --rootfs --rm $LAB/rootfs $LAB_NAME-space /bin/echo again
wait_until eval '! pgrep -f [s]him-berth-v2 >/dev/null'
umount state/io.containerd.runtime.v2.task
"#)
        .ok();
    assert!(text.to_lowercase().contains("no space left"), "{text}");
    assert!(text.contains("code 1\nagain\n"), "{text}");
    containerd.assert_nothing_left();
}

/// Of the FIFOs that a client makes, the second one finds no place any more.
fn a_full_disk_for_the_streams_is_an_error_that_leaves_nothing(release: &Release) {
    let containerd = release.start();
    let text = containerd
        .sh(r#"
mkdir -p /run/containerd/fifo
mount -t tmpfs -o nr_inodes=3 tmpfs /run/containerd/fifo
ctr run $shim --rootfs --rm $LAB/rootfs $LAB_NAME-full /bin/true 2>&1 | grep -io 'no space left.*'
echo "code ${PIPESTATUS[0]}"
ctr tasks ls | tail -n +2; ctr containers ls -q
pgrep -fc '[s]him-berth-v2'
rm -rf /run/containerd/fifo/*
mount -o remount,nr_inodes=100 /run/containerd/fifo
ctr run $shim --rootfs --rm $LAB/rootfs $LAB_NAME-space /bin/echo again
find /run/containerd/fifo -mindepth 1
umount /run/containerd/fifo
"#)
        .ok();
    assert_eq!(text, "no space left on device\ncode 1\n0\nagain\n");
    containerd.assert_nothing_left();
}

fn a_reader_that_is_gone_holds_up_nobody_else(release: &Release) {
    let containerd = release.start();
    let text = containerd
        .sh(r#"
# The client of a detached container goes away; its FIFO fills up.
ctr run $shim --rootfs --detach --annotation io.containerd.runc.v2.group=pod --cgroup $LAB_NAME-flood $LAB/rootfs $LAB_NAME-flood /bin/yes >/dev/null
ctr run $shim --rootfs --rm --annotation io.containerd.runc.v2.group=pod $LAB/rootfs $LAB_NAME-other /bin/echo not held up
pgrep -fc '[s]him-berth-v2 -namespace'
ctr tasks kill --signal 9 $LAB_NAME-flood
wait_until eval 'ctr tasks ls | grep -q STOPPED'
ctr tasks rm $LAB_NAME-flood 2>/dev/null
ctr containers rm $LAB_NAME-flood
ctr tasks ls | tail -n +2
"#)
        .ok();
    assert_eq!(text, "not held up\n1\n");
    containerd.assert_nothing_left();
}

//! Containers of a pod share a shim; what that costs.

use harness::{Containerd, Release};

harness::with_each_containerd!(a_pod_has_one_small_shim_that_lives_as_long_as_its_last_container);

/// Kibibytes of proportional set size of the one shim in the lab, once it has settled: the least of some looks.
fn settled_size(containerd: &Containerd) -> u64 {
    let text = containerd
        .sh(r#"
for look in $(seq 20); do
    awk '/^Pss:/ { print $2 }' /proc/$(pgrep -f '[s]him-berth-v2 -namespace')/smaps_rollup
    sleep 0.1
done | sort -n | head -1
"#)
        .ok();
    text.trim().parse().expect("a size")
}

fn a_pod_has_one_small_shim_that_lives_as_long_as_its_last_container(release: &Release) {
    let containerd = release.start();
    let start = |id: u32| {
        containerd
            .sh(&format!(
                "ctr run $shim --rootfs --detach --null-io --annotation io.kubernetes.cri.sandbox-id=pod \
                 --cgroup $LAB_NAME-p{id} $LAB/rootfs $LAB_NAME-p{id} /bin/sleep 1000"
            ))
            .ok();
    };
    start(1);
    let one = settled_size(&containerd);
    for id in 2..=11 {
        start(id);
    }
    assert_eq!(
        containerd.sh("pgrep -fc '[s]him-berth-v2 -namespace'").ok(),
        "1\n"
    );
    let eleven = settled_size(&containerd);
    // The optimised build is measured by the same means: runtime/DESIGN.md. This one is larger, but bounded all the same.
    let (first, further) = if harness::bin("containerd-shim-berth-v2")
        .to_string_lossy()
        .contains("/debug/")
    {
        (8192, 400)
    } else {
        (2048, 204)
    };
    assert!(one <= first, "an idle shim with one container has {one} KiB");
    assert!(
        eleven <= one + 10 * further,
        "with eleven containers it has {eleven} KiB, with one {one}"
    );
    let text = containerd
        .sh(r#"
finish() { ctr tasks kill --signal 9 $1; wait_until eval "ctr tasks ls | grep '^$1 ' | grep -q STOPPED"; ctr tasks rm $1 2>/dev/null; ctr containers rm $1; }
finish $LAB_NAME-p1
ctr tasks exec --exec-id e $LAB_NAME-p2 /bin/echo others live
for id in 3 4 5 6 7 8 9 10 11 2; do finish $LAB_NAME-p$id; done
"#)
        .ok();
    assert_eq!(text, "others live\n");
    containerd.assert_nothing_left();
}

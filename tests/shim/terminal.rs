//! Terminals: a client that attaches, and sizes that change while the container runs.

use harness::Release;

harness::with_each_containerd!(a_terminal_is_attached_and_follows_its_size);

/// The container tells its terminal's size whenever that changes. Its client goes away; another one with a terminal of
/// another size attaches, has that changed, and answers what is asked. `$run` are the options for shim and runtime.
const ATTACH: &str = r#"
client="ctr --address $LAB/c.sock --namespace $LAB_NAME"
seen() { tr -d '\r\000' <attached | grep -qx "$1"; }
mkfifo keys
script -qec "stty rows 33 cols 77; $client run $run --rootfs --detach --tty --cgroup $LAB_NAME-t $LAB/rootfs $LAB_NAME-t /bin/sh -c \
    'trap \"echo size \\\$(stty size)\" WINCH; touch /tmp/ready; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo asked; read line; echo got \$line; exit 6'" \
    /dev/null </dev/null >/dev/null
echo "detached: $?"
wait_until [ -e rootfs/tmp/ready ]
script -qec "stty rows 20 cols 50; $client tasks attach $LAB_NAME-t" /dev/null <keys >attached 2>&1 & terminal=$!
exec 7>keys
wait_until seen 'size 20 50' && echo 'the size of the client'
stty rows 31 cols 61 </proc/$(pgrep -xn ctr)/fd/0
wait_until seen 'size 31 61' && echo 'the new size'
touch rootfs/tmp/go
wait_until seen asked
echo hello >&7
wait $terminal; echo "attached: $?"
exec 7>&-
tr -d '\r\000' <attached | grep -x 'got hello'
rm rootfs/tmp/*
ctr tasks ls | tail -n +2
ctr containers rm $LAB_NAME-t
"#;

fn attach(release: &Release, run: &str) -> String {
    let containerd = release.start();
    let text = containerd.sh(&format!("run=\"{run}\"\n{ATTACH}")).ok();
    containerd.assert_nothing_left();
    text
}

fn a_terminal_is_attached_and_follows_its_size(release: &Release) {
    let expected = "detached: 0\nthe size of the client\nthe new size\nattached: 6\ngot hello\n";
    let theirs = "--runtime io.containerd.runc.v2 --runc-root $LAB/runtime-runc";
    assert_eq!(attach(release, theirs), expected, "containerd's own shim");
    let ours = "--runtime io.containerd.berth.v2 --runtime-config-path $LAB/berth.toml";
    assert_eq!(attach(release, ours), expected);
}

//! A script that drives runc works with `alias runc=berth`: the same words on its command lines, the same words and codes
//! back.

use std::process::Command;

use harness::{Bundle, need_program, need_root, run};
use serde_json::json;

use crate::driver::unique;

/// What an administrator's script does with runc. What differs from one run to the next is taken out at its end.
const SCRIPT: &str = r#"
shopt -s expand_aliases
alias runc="$RUNTIME --root $ROOT"
cd "$BUNDLE"
try() { echo "$ $1"; eval "$1"; echo "= $?"; }
wait_until() { for i in $(seq 200); do runc state $ID | grep -q "\"status\": \"$1\"" && return; sleep 0.1; done; return 1; }
try 'runc state $ID 2>/dev/null'
try 'runc list -q'
try 'runc create --bundle . --pid-file pid $ID </dev/null >/dev/null 2>&1'
try 'runc state $ID | grep -E "\"(status|rootfs|bundle|owner|id)\":"'
try 'runc list --format json | tr , "\n" | grep -E "\"(id|status|bundle|owner)\":" | tr -d "[]{}"'
try 'test "$(cat pid)" = "$(runc ps --format json $ID | tr -d "[]")"'
try 'runc start $ID'
try 'wait_until running'
try 'runc exec $ID sh -c "hostname; exit 3"'
try 'runc exec --user 1000:1000 --cwd /tmp --env GREETING=hi $ID sh -c "id -u; pwd; echo \$GREETING"'
try 'runc exec --additional-gids 7 --additional-gids 8 $ID id -G'
try 'runc exec --detach --pid-file exec.pid $ID sleep 1000 </dev/null >/dev/null 2>&1'
try 'kill -0 $(cat exec.pid)'
try 'runc ps $ID | sed 1d | awk "{print \$8}" | sort'
try 'runc events --stats $ID | tr "{,}" "\n" | grep -cE "\"(type|id)\":"'
try 'runc pause $ID'
try 'wait_until paused'
try 'runc exec $ID true 2>/dev/null'
try 'runc resume $ID'
try 'wait_until running'
try 'runc update --pids-limit 17 --memory 64M --memory-swap 64M $ID'
try 'cat $(find /sys/fs/cgroup -path "*/$ID/pids.max" 2>/dev/null)'
try 'echo "{\"pids\": {\"limit\": 19}}" | runc update -r - $ID'
try 'cat $(find /sys/fs/cgroup -path "*/$ID/pids.max" 2>/dev/null)'
try 'runc kill $ID USR1; runc kill $ID 0'
try 'runc delete $ID 2>/dev/null'
try 'runc kill --all $ID KILL'
try 'wait_until stopped'
try 'runc start $ID 2>/dev/null'
try 'runc delete $ID'
try 'runc list'
touch rootfs/quick
try 'runc run --no-subreaper --no-new-keyring $ID </dev/null'
try 'runc run --keep $ID </dev/null'
try 'runc state $ID | grep "\"status\":"'
try 'runc --debug --log log --log-format json delete $ID'
try 'test -s log'
rm rootfs/quick
try 'runc run --detach --no-pivot $ID </dev/null >/dev/null 2>&1'
try 'runc delete --force $ID'
try 'runc delete $ID 2>/dev/null'
try 'runc nosuch >/dev/null 2>&1'
"#;

/// What the script prints, without what is of one run alone.
fn output(program: &std::path::Path) -> String {
    let root = tempfile::tempdir().unwrap();
    let id = unique();
    let body = "[ -e /quick ] && { echo quick; exit 4; }; trap '' USR1; while :; do sleep 1000; done";
    let mut bundle = Bundle::new(&["sh", "-c", body]);
    bundle.edit(|config| config["linux"]["cgroupsPath"] = json!(format!("/{id}")));
    let mut command = Command::new("bash");
    command
        .args(["-c", SCRIPT])
        .env("RUNTIME", program)
        .env("BUNDLE", bundle.path())
        .env("ROOT", root.path())
        .env("ID", &id)
        .env_remove("NOTIFY_SOCKET");
    let outcome = run(&mut command);
    let text = format!("{}{}", outcome.stdout, outcome.stderr);
    text.replace(&id, "ID")
        .replace(bundle.path().to_str().unwrap(), "BUNDLE")
}

#[test]
fn a_script_for_runc_works_with_berth() {
    need_root!();
    need_program!("bash");
    let runc = need_program!("runc");
    let ours = output(&harness::bin("berth"));
    assert!(
        ours.contains("runc run --keep $ID </dev/null\nquick\n= 4\n"),
        "{ours}"
    );
    assert_eq!(ours, output(&runc));
}

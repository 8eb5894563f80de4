//! Podman (Debian's), with conmon: no daemon, state in the lab's own folders.

use crate::table::{self, PROBE, Row};
use harness::{Lab, Outcome, need_program, need_root, repository_root};

/// A lab where `podman` uses folders of its own and the configuration of examples/engines.
fn lab() -> Lab {
    let lab = Lab::new();
    table::prepare(&lab);
    let example = repository_root().join("examples/engines/podman-containers.conf");
    let text = std::fs::read_to_string(example).expect("read the example");
    let text = text.replace("/usr/local/bin", &lab.path().join("bin").display().to_string());
    std::fs::write(lab.path().join("containers.conf"), text).expect("write");
    sh(&lab, "podman import image.tar busybox >/dev/null 2>&1").ok();
    lab
}

const SETUP: &str = r#"
export CONTAINERS_CONF=$LAB/containers.conf
podman() { command podman --root $LAB/storage --runroot $LAB/run --tmpdir $LAB/tmp --cgroup-manager cgroupfs --events-backend file "$@"; }
"#;

fn sh(lab: &Lab, script: &str) -> Outcome {
    lab.sh(&format!("{SETUP}{script}"))
}

const ROWS: &[Row] = &[
    ("", PROBE),
    ("--memory 64m --memory-swap 64m", PROBE),
    ("--cpus 0.5 --cpu-shares 512", PROBE),
    ("--pids-limit 33", PROBE),
    ("--ulimit nofile=99:100", PROBE),
    ("--cap-add NET_ADMIN --cap-drop CHOWN", PROBE),
    ("--cap-drop all --user 1000:1000", PROBE),
    ("--security-opt seccomp=unconfined", PROBE),
    (
        "--security-opt seccomp=$LAB/seccomp.json",
        "sh -c 'mkdir /tmp/x; echo $?'",
    ),
    ("--security-opt no-new-privileges", PROBE),
    ("--read-only --read-only-tmpfs=false --tmpfs /tmp", PROBE),
    ("--device /dev/fuse", PROBE),
    ("--init", "sh -c 'tr \"\\0\" \" \" </proc/1/cmdline'"),
    ("--sysctl net.ipv4.ip_forward=1", PROBE),
    ("--shm-size 10m --hostname abc", PROBE),
    ("--privileged", PROBE),
    ("--network none", "sh -c 'ls /sys/class/net'"),
    ("--uidmap 0:700000:1000 --gidmap 0:700000:1000", PROBE),
    (
        "-v $LAB/share:/share:ro",
        "sh -c 'cat /share/file; touch /share/x; echo $?'",
    ),
    ("--umask 0077 --timeout 60", PROBE),
    ("--no-hosts --oom-score-adj 300", PROBE),
    ("--memory 64m --memory-reservation 32m --memory-swap 128m", PROBE),
    ("--cpu-quota 20000 --cpu-period 50000 --cpuset-cpus 0", PROBE),
    ("--user 1000:2000 --group-add 3000", PROBE),
    ("--user nobody --workdir /tmp -e A=b", PROBE),
    ("--tmpfs /scratch:size=1m,mode=1770,noexec", PROBE),
    ("--security-opt unmask=ALL", PROBE),
    ("--security-opt mask=/proc/version", PROBE),
    ("--ulimit nproc=50 --ulimit core=0", PROBE),
    (
        "--network host --uts host",
        "sh -c 'ls /sys/class/net | grep -c lo'",
    ),
    (
        "--pid host --ipc host",
        "sh -c 'test -e /proc/1/cmdline && echo seen'",
    ),
    (
        "--cgroupns host",
        "sh -c 'cut -d: -f3 /proc/self/cgroup | sort -u | sed s/[0-9a-f]\\\\{64\\\\}/ID/g'",
    ),
    ("-v named:/data", "sh -c 'echo kept >/data/file; cat /data/file'"),
    ("--mount type=tmpfs,destination=/t,tmpfs-size=65536", PROBE),
    (
        "--device /dev/zero:/dev/other:r",
        "sh -c 'head -c 3 /dev/other | wc -c; echo x >/dev/other; echo $?'",
    ),
    ("-t", "sh -c 'tty; test -t 1 && echo terminal'"),
    (
        "--memory 20m --memory-swap 20m",
        "sh -c 'dd if=/dev/zero of=/dev/null bs=100M; echo $?'",
    ),
    ("", "nosuch"),
    ("", "sh -c 'exit 42'"),
    ("", "sh -c 'kill -9 $$'"),
    ("", "/nosuch"),
    ("", "/etc/passwd"),
];

#[test]
fn podman_shows_the_same_with_both_runtimes() {
    need_root!();
    need_program!("podman");
    need_program!("runc");
    let lab = lab();
    // Removed by trying: where another container's mount namespace was copied in that moment,
    // Podman finds the container's /dev/shm busy, whatever the runtime.
    let text = table::differences(&lab, ROWS, |runtime, number, (options, command)| {
        format!(
            "{SETUP}podman --runtime {runtime} run --name {runtime}{number} --cgroup-parent /$LAB_NAME {options} \
             busybox {command} 2>&1; echo \"code $?\"; podman inspect -f '{{{{.State.Status}}}} {{{{.State.ExitCode}}}} \
             {{{{.State.OOMKilled}}}}' {runtime}{number}; wait_until quietly podman rm -t 0 -f {runtime}{number}"
        )
    });
    assert_eq!(text, "", "runc and berth differ:\n{text}");
    assert_nothing_left(&lab);
}

/// Nothing of containers is left running, mounted or counted.
fn assert_nothing_left(lab: &Lab) {
    lab.sh("wait_until eval '! pgrep -x conmon >/dev/null'").ok();
    let left: Vec<String> = lab
        .processes()
        .into_iter()
        .filter(|p| !p.contains("aardvark-dns"))
        .collect();
    assert_eq!(left, Vec::<String>::new(), "processes are left");
    let mounts: Vec<String> = lab
        .mounts()
        .into_iter()
        .filter(|m| m.contains("merged") || m.contains("userdata"))
        .collect();
    assert_eq!(mounts, Vec::<String>::new(), "mounts are left");
    let cgroups: Vec<_> = lab
        .cgroups()
        .into_iter()
        .filter(|dir| dir.to_string_lossy().contains("libpod-"))
        .collect();
    assert!(cgroups.is_empty(), "cgroups are left: {cgroups:#?}");
}

const WORK: &str = r#"
podman run -d --name web --cgroup-parent /$LAB_NAME -p 127.0.0.1:8088:80 busybox sh -c 'mkdir /www; echo page >/www/index.html; echo serving; exec httpd -f -p 80 -h /www' >/dev/null
wait_until quietly curl -sf http://127.0.0.1:8088/; curl -s http://127.0.0.1:8088/
podman logs web
podman exec web sh -c 'echo in the container; exit 7'; echo "exec: $?"
script -qec "podman --root $LAB/storage --runroot $LAB/run --tmpdir $LAB/tmp --cgroup-manager cgroupfs --events-backend file exec -it web sh -c 'tty; exit 6'" /dev/null </dev/null | tr -d '\r' | sed 's/^\^@//'; echo "terminal: ${PIPESTATUS[0]}"
podman exec nosuch true 2>/dev/null; echo "missing: $?"
podman exec web /nosuch >/dev/null 2>&1; echo "missing program: $?"
podman pause web >/dev/null; podman inspect -f '{{.State.Status}}' web; podman unpause web >/dev/null; podman inspect -f '{{.State.Status}}' web
podman top web args | tail -1
podman stats --no-stream --format '{{.PIDs}}' web
podman stop -t 1 web >/dev/null 2>&1; podman inspect -f '{{.State.Status}}' web
podman start web >/dev/null; wait_until quietly curl -sf http://127.0.0.1:8088/ && echo "started again"
podman restart -t 0 web >/dev/null; wait_until quietly curl -sf http://127.0.0.1:8088/ && echo restarted
wait_until quietly podman rm -f -t 0 web
podman run -d --name again --cgroup-parent /$LAB_NAME --restart on-failure:2 busybox sh -c 'exit 3' >/dev/null
wait_until eval '[ "$(podman inspect -f "{{.RestartCount}} {{.State.Status}}" again)" = "2 exited" ]' && echo "restarted twice"
podman rm again >/dev/null
podman run -d --name polite --cgroup-parent /$LAB_NAME --health-cmd 'test -e /well' --health-interval disable --health-retries 1 \
    -v kept:/kept busybox sh -c 'trap "exit 12" TERM; trap "echo reloaded" HUP; echo ready; while :; do sleep 0.05; done' >/dev/null
wait_until eval 'podman logs polite | grep -q ready'
podman healthcheck run polite >/dev/null 2>&1; echo "health: $?"
podman exec polite touch /well /kept/file; podman healthcheck run polite; echo "health: $?"
podman kill -s HUP polite >/dev/null; wait_until eval 'podman logs polite | grep -q reloaded' && echo "hang-up: seen"
podman update --memory 96m --cpus 0.5 polite >/dev/null; echo "update: $?"
podman exec polite sh -c 'cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us memory.max cpu.max 2>/dev/null'
podman exec -u 1000:2000 -w /tmp -e A=b polite sh -c 'id; pwd; echo $A'; podman exec --privileged polite sh -c 'grep CapEff /proc/self/status'
podman stop -t 20 polite >/dev/null; podman inspect -f '{{.State.Status}} {{.State.ExitCode}}' polite; podman wait polite
wait_until quietly podman rm polite
podman run --rm --cgroup-parent /$LAB_NAME -v kept:/kept busybox ls /kept; podman volume rm kept
podman run -d --name one --cgroup-parent /$LAB_NAME busybox sleep 1000 >/dev/null
podman run --rm --cgroup-parent /$LAB_NAME busybox ping -c 1 -W 5 $(podman inspect -f '{{.NetworkSettings.IPAddress}}' one) | grep -o '1 packets received'
podman run --rm --cgroup-parent /$LAB_NAME --pid container:one --network container:one --ipc container:one busybox sh -c 'ls /sys/class/net | grep -c eth0; tr "\0" " " </proc/1/cmdline; echo'
wait_until quietly podman rm -f -t 0 one
podman pod create --name pod --cgroup-parent /$LAB_NAME >/dev/null
podman run -d --pod pod --name member busybox sleep 1000 >/dev/null
podman exec member sh -c 'cat /proc/1/cmdline | tr "\0" " "'; echo
podman pod inspect -f '{{.State}} {{.NumContainers}}' pod
wait_until quietly podman pod rm -f -t 0 pod
cat >kube.yaml <<'X'
apiVersion: v1
kind: Pod
metadata: {name: played}
spec:
  containers:
  - {name: a, image: localhost/busybox, command: [/bin/sleep, "1000"], resources: {limits: {memory: 64Mi}}}
X
podman play kube kube.yaml >/dev/null 2>&1; echo "played: $?"
podman inspect -f '{{.HostConfig.Memory}}' played-a
podman play kube --down kube.yaml >/dev/null 2>&1
podman ps -aq | wc -l
"#;

#[test]
fn the_daily_work_with_podman_is_the_same() {
    need_root!();
    need_program!("podman");
    need_program!("curl");
    let work = |runtime: &str| {
        let lab = lab();
        lab.sh(&format!(
            "sed -i 's/^runtime = .*/runtime = \"{runtime}\"/' containers.conf"
        ))
        .ok();
        let text = sh(&lab, WORK).ok();
        assert_nothing_left(&lab);
        text
    };
    let theirs = work("runc");
    for seen in [
        "page",
        "exec: 7",
        "terminal: 6",
        "missing program: 127",
        "paused\nrunning",
        "restarted twice",
        "Running 2",
        "health: 1\nhealth: 0",
        "exited 12",
        "1 packets received",
        "67108864",
    ] {
        assert!(
            theirs.contains(seen),
            "podman with runc does not show `{seen}`:\n{theirs}"
        );
    }
    assert_eq!(work("berth"), theirs);
}

#[test]
fn an_unprivileged_user_runs_containers() {
    need_root!();
    need_program!("podman");
    need_program!("newuidmap");
    let lab = Lab::new();
    table::prepare(&lab);
    // A user of the lab's own: the host's lists of users stay as they are.
    let text = lab
        .sh(r#"
for file in passwd group subuid subgid; do cp /etc/$file etc-$file 2>/dev/null || : >etc-$file; done
echo "labuser:x:54321:54321::$LAB/home:/bin/sh" >>etc-passwd; echo "labuser:x:54321:" >>etc-group
echo "labuser:600000:65536" >>etc-subuid; echo "labuser:600000:65536" >>etc-subgid
for file in passwd group subuid subgid; do [ -e /etc/$file ] || touch /etc/$file; mount --bind etc-$file /etc/$file; done
mkdir -p home /run/user/54321; chown 54321:54321 home /run/user/54321; chmod 755 .
cat >as-user <<'X'
export HOME=$LAB/home XDG_RUNTIME_DIR=/run/user/54321 USER=labuser TMPDIR=/run/user/54321
p() { podman --root $HOME/s --runroot $XDG_RUNTIME_DIR/r --cgroup-manager cgroupfs --events-backend file --storage-driver vfs --runtime $1 "${@:2}"; }
cd $HOME
p $1 import $LAB/image.tar busybox >/dev/null 2>&1
p $1 run --rm --network none busybox sh -c 'id -u; cat /proc/self/uid_map | tr -s " "; hostname abc 2>/dev/null; exit 5'; echo "code $?"
p $1 run --rm --network none --user 1000 busybox id -u
X
for runtime in /usr/sbin/runc $LAB/bin/berth; do
    rm -rf home/* /run/user/54321/*
    setpriv --reuid 54321 --regid 54321 --clear-groups --inh-caps=-all bash as-user $runtime 2>&1
    echo ---
done
"#)
        .ok();
    let (runc, berth) = text.split_once("---\n").expect("two parts");
    assert!(
        runc.contains("code 5") && runc.contains("1000"),
        "podman with runc does not work for a user here:\n{text}"
    );
    assert_eq!(berth.trim_end_matches("---\n"), runc);
}

#[test]
fn a_container_is_checkpointed_and_restored() {
    need_root!();
    need_program!("podman");
    need_program!("criu");
    let lab = lab();
    if !lab.sh("criu check").status.success() {
        harness::skip!("criu does not work with this kernel");
    }
    let text = sh(
        &lab,
        r#"
podman run -d --name c --cgroup-parent /$LAB_NAME --network none busybox sh -c 'n=0; while :; do n=$((n+1)); echo $n; sleep 0.1; done' >/dev/null
wait_until eval 'podman logs c | grep -q "^5$"'
podman container checkpoint c >/dev/null; podman inspect -f '{{.State.Status}} {{.State.Checkpointed}}' c
before=$(podman logs c | tail -1)
podman container restore c >/dev/null
wait_until eval '[ $(podman logs c | tail -1) -gt $before ]' && echo "went on"
wait_until quietly podman rm -f -t 0 c
"#,
    )
    .ok();
    assert_eq!(text, "exited true\nwent on\n");
    assert_nothing_left(&lab);
}

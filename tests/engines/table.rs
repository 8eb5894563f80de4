//! What the differential tests share: rows of invocations, a look around from inside, and what may differ.

use harness::Lab;
use std::fmt::Write as _;

/// One invocation: options of `run`, and the command in the container.
pub type Row = (&'static str, &'static str);

/// The command that tells everything about its surroundings.
pub const PROBE: &str = "/bin/probe";

const PROBE_SCRIPT: &str = r#"#!/bin/sh
export PATH=/bin
echo "== id $(id) at $(pwd), umask $(umask), host $(hostname | sed 's/^[0-9a-f]*$/ID/')"
echo "== status"; grep -E '^(Groups|Cap|NoNewPrivs|Seccomp|SigBlk|SigIgn|Speculation)' /proc/self/status
echo "== limits"; cat /proc/self/limits
echo "== maps"; cat /proc/self/uid_map /proc/self/gid_map
echo "== oom $(cat /proc/self/oom_score_adj), session $(tty)"
echo "== mounts"; cut -d' ' -f4- /proc/self/mountinfo
echo "== cgroups"; for file in memory/memory.limit_in_bytes memory/memory.soft_limit_in_bytes memory/memory.memsw.limit_in_bytes \
    memory/memory.swappiness cpu/cpu.shares cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us cpuset/cpuset.cpus cpuset/cpuset.mems \
    pids/pids.max blkio/blkio.throttle.read_bps_device devices/devices.list memory.max memory.low memory.swap.max cpu.weight \
    cpu.max cpuset.cpus pids.max io.max; do
    [ -e /sys/fs/cgroup/$file ] && echo "$file" $(cat /sys/fs/cgroup/$file)
done
echo "== devices"; ls -l /dev | awk '{ print $1, $3, $4, ($1 ~ /^[cb]/ ? $5 $6 : ""), $NF }' | grep -v ^total
echo "== masked"; ls -ld /proc/kcore /proc/keys /proc/timer_list /proc/acpi /sys/firmware 2>&1 | awk '{ print $1, $NF }'
echo "== environment"; env | grep -v -E '^(HOSTNAME|container_uuid|_|SHLVL|PWD|OLDPWD)=' | sort
echo "== descriptors" $(ls /proc/self/fd | head -3)
echo "== namespaces of our own: $(ls /proc/self/ns | tr '\n' ' ')"
echo "== sysctl $(cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmax /proc/sys/net/ipv4/ping_group_range 2>&1 | tr '\n' ' ')"
echo "== first $(tr '\0' ' ' </proc/1/cmdline | cut -c1-60)"
"#;

/// A tar file with the image's root at `image.tar`, and files that the rows name, in the lab.
pub fn prepare(lab: &Lab) {
    std::fs::write(lab.path().join("rootfs/bin/probe"), PROBE_SCRIPT).expect("write the probe");
    lab.sh(r#"
chmod 755 rootfs/bin/probe
mkdir share; echo shared >share/file
cat >seccomp.json <<'X'
{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}
X
tar -C rootfs -cf image.tar .
"#)
    .ok();
}

/// Imports into containerd's `$namespace` an image of the lab's rootfs in Docker's archive format, `localhost/busybox:1`, and
/// one that sleeps, `localhost/pause:1`.
pub const ARCHIVES: &str = r#"
mkdir image; cp image.tar image/layer.tar
digest=$(sha256sum <image/layer.tar | cut -d' ' -f1)
for name in busybox pause; do
    entry='"Cmd": ["/bin/sh"]'; [ $name = pause ] && entry='"Entrypoint": ["/bin/sleep", "100000"]'
    echo '{"architecture": "amd64", "os": "linux", "config": {'$entry', "Env": ["PATH=/bin"]}, "rootfs": {"type": "layers", "diff_ids": ["sha256:'$digest'"]}}' >image/config.json
    echo '[{"Config": "config.json", "RepoTags": ["localhost/'$name':1"], "Layers": ["layer.tar"]}]' >image/manifest.json
    tar -C image -cf $name.tar manifest.json config.json layer.tar
    command ctr --address $LAB/c.sock --namespace $namespace images import $name.tar >/dev/null
done
"#;

/// Runs each row with both runtimes, `run` telling how; returns a text of what differs.
pub fn differences(lab: &Lab, rows: &[Row], run: impl Fn(&str, usize, &Row) -> String + Sync) -> String {
    let all = |runtime: &str| -> Vec<String> {
        rows.iter()
            .enumerate()
            .map(|(number, row)| {
                let outcome = lab.sh(&run(runtime, number, row));
                let text = format!("code {}\n{}{}", outcome.code(), outcome.stdout, outcome.stderr);
                plain(&text.replace(&format!("{runtime}{number}"), "CONTAINER"), lab)
            })
            .collect()
    };
    let (runc, berth) = std::thread::scope(|scope| {
        let runc = scope.spawn(|| all("runc"));
        let berth = scope.spawn(|| all("berth"));
        (
            runc.join().expect("runc's rows"),
            berth.join().expect("berth's rows"),
        )
    });
    let mut text = String::new();
    for (row, (runc, berth)) in rows.iter().zip(runc.iter().zip(&berth)) {
        let (theirs, ours): (Vec<&str>, Vec<&str>) = (runc.lines().collect(), berth.lines().collect());
        // Podman makes masks in the order of a map, so that two runs with the same runtime differ.
        let sorted = |lines: &[&str]| {
            let mut lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
            lines.sort();
            lines
        };
        if sorted(&theirs) == sorted(&ours) {
            continue;
        }
        let _ = writeln!(text, "### {} {}", row.0, row.1);
        for line in theirs.iter().filter(|line| !ours.contains(line)) {
            let _ = writeln!(text, "runc:  {line}");
        }
        for line in ours.iter().filter(|line| !theirs.contains(line)) {
            let _ = writeln!(text, "berth: {line}");
        }
    }
    text
}

/// Differences that are accepted, each a text of one line and what it becomes.
const ACCEPTED: &[(&str, &str, &str)] = &[
    ("berth create failed", "runc create failed", "each names itself"),
    ("berth exec failed", "runc exec failed", "each names itself"),
    ("Error: berth:", "Error: runc:", "each names itself"),
    (
        "c 10:200 rwm ",
        "",
        "runc before 1.2 allows /dev/net/tun to everybody, later ones and Berth do not",
    ),
    (
        "error setting rlimits for ready process: ",
        "",
        "a phase of runc's own",
    ),
    (
        "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: unable to apply caps",
        "CAPABILITIES",
        "where the machine's own root lacks capabilities runc fails at create, Berth at start",
    ),
    (
        "OCI runtime start failed: unable to start container process: error during container init: ",
        "CAPABILITIES",
        "see above",
    ),
    ("CAPABILITIES: : ", "CAPABILITIES: ", "see above"),
    (
        "root nogroup  mqueue",
        "root root  mqueue",
        "runc makes the ipc namespace before its group is mapped",
    ),
    (
        "/t rw,relatime - tmpfs  rw",
        "/t rw,relatime - tmpfs tmpfs rw",
        "a file system without a source has its type for a name",
    ),
    (
        " - tmpfs tmpfs rw,mode=755",
        " - tmpfs tmpfs rw",
        "the mode of the folder that is covered: an option of the mount as with runc since 1.2; earlier ones change it later",
    ),
    (
        "SigIgn:\t0000000080000000",
        "SigIgn:\t0000000000000000",
        "runc passes on what Go's runtime ignores",
    ),
];

/// What was seen without what differs between any two runs: ids, folders, layers, times.
fn plain(text: &str, lab: &Lab) -> String {
    let dir = lab.path().to_string_lossy().into_owned();
    let mut text = text.replace(&dir, "LAB").replace(lab.name(), "NAME");
    for (from, to, _) in ACCEPTED {
        text = text.replace(from, to);
    }
    let mut out = String::new();
    for line in text.lines() {
        let line = match line.split_once(" - overlay ") {
            // Layers and working folders.
            Some((before, _)) => format!("{} - overlay", before.split(" - ").next().unwrap_or_default()),
            None => line.to_owned(),
        };
        out.push_str(&without_ids(&line));
        out.push('\n');
    }
    out
}

/// Replaces words of 12 or more hexadecimal digits, and the numbers of peer groups of mounts.
fn without_ids(line: &str) -> String {
    let mut out = String::new();
    let mut word = String::new();
    for c in line.chars().chain(['\n']) {
        if c.is_ascii_alphanumeric() {
            word.push(c);
            continue;
        }
        if out.ends_with("/dev/") && word.starts_with("loop") {
            out.push_str("loop");
            word.drain(..4);
        }
        let id = word.len() >= 12
            && word
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        // Which device or snapshot was free is chance.
        let number = ["/dev/loop", "/snapshots/"]
            .iter()
            .any(|before| out.ends_with(before))
            && !word.is_empty()
            && word.bytes().all(|b| b.is_ascii_digit());
        // Capability masks are what is compared.
        let mask = line.starts_with("Cap") || line.starts_with("Sig");
        let peer = (out.ends_with("master:") || out.ends_with("shared:"))
            && word.bytes().all(|b| b.is_ascii_digit());
        if (id && !mask) || peer || number {
            out.push_str("ID");
        } else {
            out.push_str(&word);
        }
        word.clear();
        if c != '\n' {
            out.push(c);
        }
    }
    out
}

#[test]
fn ids_are_replaced_and_masks_are_not() {
    assert_eq!(
        without_ids("/x/0123456789ab/y master:12 a"),
        "/x/ID/y master:ID a"
    );
    assert_eq!(
        without_ids("/x/snapshots/12 - ext4 /dev/loop7 /dev/loop-control"),
        "/x/snapshots/ID - ext4 /dev/loopID /dev/loop-control"
    );
    assert_eq!(
        without_ids("CapEff:\t00000000a80425fb"),
        "CapEff:\t00000000a80425fb"
    );
}

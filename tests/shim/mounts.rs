//! The root file system as snapshotters hand it over: layers, devices, files, ids of a user namespace, and file systems
//! that a program serves.

use crate::direct::{Direct, code};
use containerd_shim_protos::api::{Mount, Status};
use containerd_shim_protos::ttrpc::Code;
use harness::{need_program, need_root, wait_for};
use std::time::Duration;

/// The root of the bundle is what the shim mounts; the container's output goes to the file `text`.
fn prepare(shim: &Direct, script: &str) -> String {
    shim.lab
        .sh(&format!(
            r#"
sed -i "s|\"path\": \"[^\"]*rootfs\"|\"path\": \"rootfs\"|" bundles/one/config.json
mkfifo out
cat out >text &
{script}
"#
        ))
        .ok();
    shim.lab.path().display().to_string()
}

fn one(kind: &str, source: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::new();
    kind.clone_into(&mut mount.type_);
    source.clone_into(&mut mount.source);
    mount.options = options.iter().map(|&option| option.to_owned()).collect();
    mount
}

/// Runs the container on these mounts to its end and gives what it said; nothing of the mounts is left then.
fn output(shim: &Direct, mounts: Vec<Mount>) -> String {
    let dir = shim.lab.path().display().to_string();
    let created = shim.create(|request| {
        request.rootfs = mounts;
        request.stdout = format!("{dir}/out");
        request.stderr = format!("{dir}/out");
    });
    created.expect("create");
    shim.start("").expect("start");
    assert_eq!(shim.wait("").expect("wait").exit_status, 0);
    shim.delete("").expect("delete");
    let text = wait_for(
        "the output",
        Duration::from_secs(30),
        || match std::fs::read_to_string(shim.lab.path().join("text")) {
            Ok(text) if text.ends_with("end\n") => Ok(text),
            other => Err(other),
        },
    );
    assert_eq!(shim.lab.mounts(), Vec::<String>::new());
    std::fs::remove_dir(shim.lab.path().join("bundles/one/rootfs")).expect("an empty folder");
    text
}

#[test]
fn many_layers_are_mounted() {
    need_root!();
    let shim = Direct::new(&["sh", "-c", "cat /file99; echo end"]);
    let dir = prepare(
        &shim,
        r#"
for n in $(seq 99); do mkdir -p layers-with-a-rather-long-name/$n/fs; echo $n >layers-with-a-rather-long-name/$n/fs/file$n; done
mkdir -p upper work
"#,
    );
    let layers: Vec<String> = (1..=99)
        .map(|n| format!("{dir}/layers-with-a-rather-long-name/{n}/fs"))
        .chain([format!("{dir}/rootfs")])
        .collect();
    let options = [
        format!("workdir={dir}/work"),
        format!("upperdir={dir}/upper"),
        format!("lowerdir={}", layers.join(":")),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    assert_eq!(
        output(&shim, vec![one("overlay", "overlay", &options)]),
        "99\nend\n"
    );
    shim.shut_down();
}

/// Loop devices of files in the lab, of which none may be left.
fn devices(shim: &Direct) -> String {
    shim.lab
        .sh("losetup --list --noheadings --output BACK-FILE | grep \"^$LAB\"; true")
        .ok()
}

#[test]
fn a_file_is_mounted_by_a_loop_device_that_goes_with_it() {
    need_root!();
    need_program!("mkfs.ext4");
    for (options, written) in [(&["loop"][..], "0"), (&["ro", "loop", "direct-io"], "1")] {
        let script = "echo x 2>/dev/null >/new; echo $?; grep -c ' / / .* - ext4 /dev/loop' /proc/self/mountinfo; echo end";
        let shim = Direct::new(&["sh", "-c", script]);
        let dir = prepare(&shim, "mkfs.ext4 -q -d rootfs image 24M");
        let text = output(&shim, vec![one("ext4", &format!("{dir}/image"), options)]);
        assert_eq!(text, format!("{written}\n1\nend\n"), "{options:?}");
        wait_for(
            "the device to be free",
            Duration::from_secs(30),
            || match devices(&shim).as_str() {
                "" => Ok(()),
                left => Err(left.to_owned()),
            },
        );
        shim.shut_down();
    }
}

/// What containerd 2's erofs snapshotter hands over: a read-only image a layer, and a writable one above them.
#[test]
fn layers_of_erofs_are_mounted_below_an_overlay() {
    need_root!();
    need_program!("mkfs.erofs");
    let known = std::fs::read_to_string("/proc/filesystems").is_ok_and(|text| text.contains("erofs"));
    if !known {
        harness::skip!("needs erofs in the kernel");
    }
    let shim = Direct::new(&["sh", "-c", "echo x >/new && cat /new; echo end"]);
    let dir = prepare(
        &shim,
        "mkfs.erofs -Eforce-inode-compact layer rootfs >/dev/null 2>&1; mkdir upper work; mkdir -p bundles/one/rootfs",
    );
    let layer = one("erofs", &format!("{dir}/layer"), &["ro", "loop"]);
    let root = format!("{dir}/bundles/one/rootfs");
    let options = [
        format!("lowerdir={root}"),
        format!("upperdir={dir}/upper"),
        format!("workdir={dir}/work"),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let text = output(&shim, vec![layer, one("overlay", "overlay", &options)]);
    assert_eq!(text, "x\nend\n");
    shim.shut_down();
}

/// What containerd's overlay snapshotter hands over for a container with a user namespace.
#[test]
fn files_of_an_image_have_the_ids_of_the_containers_users() {
    need_root!();
    let script = "stat -c '%u %g' /bin/busybox /etc; echo x >/etc/new; stat -c %u /etc/new; cat /proc/self/uid_map | tr -s ' '; echo end";
    let expected = "0 0\n0 0\n0\n 0 700000 65536\nend\n";
    let maps = ["uidmap=0:700000:65536", "gidmap=0:700000:65536"];
    // A layer; a folder, of which the files belong to users of the host.
    for layered in [true, false] {
        let shim = Direct::new(&["sh", "-c", script]);
        let dir = prepare(
            &shim,
            r#"
chmod 755 . bundles bundles/one
mkdir upper work layer; cp -a rootfs/. layer; chown 700000:700000 upper work; chmod 755 upper work
jq '.linux.namespaces += [{"type": "user"}] | .linux.uidMappings = [{"containerID": 0, "hostID": 700000, "size": 65536}]
    | .linux.gidMappings = .linux.uidMappings' bundles/one/config.json >new; mv new bundles/one/config.json
"#,
        );
        let mount = if layered {
            let options = [
                format!("workdir={dir}/work"),
                format!("upperdir={dir}/upper"),
                format!("lowerdir={dir}/rootfs"),
            ];
            let options: Vec<&str> = options.iter().map(String::as_str).chain(maps).collect();
            one("overlay", "overlay", &options)
        } else {
            one(
                "bind",
                &format!("{dir}/layer"),
                &["rbind", "rw", maps[0], maps[1]],
            )
        };
        assert_eq!(output(&shim, vec![mount]), expected, "layered: {layered}");
        assert!(!shim.lab.path().join("bundles/one/layers").exists());
        let (file, owner) = if layered { ("upper", 700_000) } else { ("layer", 0) };
        let made = shim.lab.sh(&format!("stat -c %u {file}/etc/new")).ok();
        assert_eq!(made.trim(), owner.to_string());
        shim.shut_down();
    }
}

/// What containerd's fuse-overlayfs snapshotter hands over.
#[test]
fn a_program_serves_the_root_and_goes_with_it() {
    need_root!();
    need_program!("mount.fuse3");
    need_program!("fuse-overlayfs");
    let script = "grep -c ' / / .* - fuse.fuse-overlayfs ' /proc/self/mountinfo; echo x >/new; cat /new; ls /etc/below; echo end";
    let shim = Direct::new(&["sh", "-c", script]);
    let dir = prepare(
        &shim,
        "mkdir upper work below below/etc; touch below/etc/below; grep -q fuse /proc/filesystems || modprobe fuse",
    );
    let options = [
        format!("workdir={dir}/work"),
        format!("upperdir={dir}/upper"),
        format!("lowerdir={dir}/below:{dir}/rootfs"),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let text = output(&shim, vec![one("fuse3.fuse-overlayfs", "overlay", &options)]);
    assert_eq!(text, "1\nx\n/etc/below\nend\n");
    let new = std::fs::read_to_string(shim.lab.path().join("upper/new")).expect("the upper layer");
    assert_eq!(new, "x\n");
    shim.lab
        .sh("wait_until eval '! pgrep -x fuse-overlayfs >/dev/null'")
        .ok();
    shim.shut_down();
}

/// The program takes its time: the shim answers everybody else meanwhile, and the mounts after it are made in their order.
#[test]
fn a_program_that_takes_its_time_holds_up_no_other_call() {
    need_root!();
    let shim = Direct::new(&["sh", "-c", "cat /given /over; echo end"]);
    let dir = prepare(
        &shim,
        r#"
mkdir over; echo over >over/over; touch rootfs/given rootfs/over; echo "$LAB" >where
cat >bin/mount.fuse3 <<'X'
#!/bin/bash
lab=$(dirname "$(dirname "$0")")
echo "$@" >$lab/arguments
touch $lab/asked
while [ ! -e $lab/go ]; do sleep 0.05; done
mount --bind $lab/rootfs "$2"
X
chmod 755 bin/mount.fuse3
"#,
    );
    let mounts = vec![
        one("fuse3.slow-fs", "source", &["a=1,b", "ro"]),
        {
            let mut second = one("bind", &format!("{dir}/over/over"), &["bind", "ro"]);
            second.target = "over".to_owned();
            second
        },
        {
            let mut third = one("bind", &format!("{dir}/where"), &["bind", "ro"]);
            third.target = "given".to_owned();
            third
        },
    ];
    let text = std::thread::scope(|scope| {
        let work = scope.spawn(|| output(&shim, mounts));
        shim.lab.sh("wait_until [ -e asked ]").ok();
        assert_eq!(shim.state().status.unwrap(), Status::CREATED);
        let (kind, refusal) = code(shim.create(|_| ()));
        assert_eq!(kind, Code::ALREADY_EXISTS, "{refusal}");
        assert_eq!(code(shim.kill("", 9)).0, Code::FAILED_PRECONDITION);
        assert_eq!(code(shim.delete("")).0, Code::FAILED_PRECONDITION);
        shim.lab.sh("touch go").ok();
        work.join().expect("the container")
    });
    assert_eq!(text, format!("{dir}\nover\nend\n"));
    let arguments = std::fs::read_to_string(shim.lab.path().join("arguments")).expect("read");
    assert_eq!(
        arguments.trim(),
        format!("source {dir}/bundles/one/rootfs -o a=1,b -o ro -t slow-fs")
    );
    shim.shut_down();
}

/// What a program says is what the user is told, and what was mounted before it is gone.
#[test]
fn a_program_that_fails_is_quoted() {
    need_root!();
    let shim = Direct::new(&["true"]);
    let dir = prepare(
        &shim,
        r#"
printf '#!/bin/sh\necho "no such layer"\necho "try another" >&2\nexit 3\n' >bin/mount.fuse3; chmod 755 bin/mount.fuse3; exec 3<>out
"#,
    );
    let mounts = vec![
        one("bind", &dir, &["rbind", "ro"]),
        one("fuse3.some-fs", "source", &["x"]),
    ];
    let (kind, text) = code(shim.create(|request| request.rootfs = mounts));
    assert_eq!(kind, Code::UNKNOWN);
    assert!(
        text.contains("rootfs[1]: mount fuse3.some-fs source onto")
            && text.contains("no such layer; try another (exit status: 3)"),
        "{text}"
    );
    assert_eq!(shim.lab.mounts(), Vec::<String>::new());
    std::fs::write(shim.lab.path().join("bundles/one/init.pid"), "").expect("write");
    let _ = std::fs::remove_dir(shim.lab.path().join("bundles/one/rootfs"));
    shim.shut_down();
}

#[test]
fn what_cannot_be_mounted_is_named_and_leaves_nothing() {
    need_root!();
    let shim = Direct::new(&["true"]);
    let dir = prepare(&shim, "echo >file; exec 3<>out");
    let refused = |mount: Mount| {
        let answer = shim.create(|request| request.rootfs = vec![mount]);
        let (kind, text) = code(answer);
        assert_eq!(kind, Code::UNKNOWN, "{text}");
        text
    };
    for (mount, reason) in [
        (
            one("ext4", &format!("{dir}/missing"), &["loop"]),
            "rootfs[0].options: attach",
        ),
        (
            one("ext4", &format!("{dir}/file"), &["loop"]),
            "rootfs[0]: mount ext4",
        ),
        (
            one("bind", &dir, &["rbind", "uidmap=0:1:2"]),
            "only used together",
        ),
        (
            one("bind", &dir, &["rbind", "uidmap=0:1", "gidmap=0:1:2"]),
            "uidmap=0:1: must be INSIDE:HOST:COUNT",
        ),
        (
            one(
                "overlay",
                "x",
                &["lowerdir=/a/none:/a/no", "uidmap=0:1:2", "gidmap=0:1:2"],
            ),
            "map the ids of",
        ),
        (
            one("fuse3.no-such-file-system", "x", &[]),
            "rootfs[0]: mount fuse3.no-such-file-system x onto",
        ),
        (
            // No program takes an argument of that length.
            one("fuse.some-fs", &"x".repeat(200_000), &[]),
            "rootfs[0].type: fuse.some-fs: start the program mount.fuse: Argument list too long",
        ),
    ] {
        let text = refused(mount);
        assert!(text.contains(reason), "{text}");
        assert_eq!(shim.lab.mounts(), Vec::<String>::new());
        assert_eq!(devices(&shim), "");
        assert!(!shim.lab.path().join("bundles/one/layers").exists());
    }
    std::fs::write(shim.lab.path().join("bundles/one/init.pid"), "").expect("write");
    let _ = std::fs::remove_dir(shim.lab.path().join("bundles/one/rootfs"));
    shim.shut_down();
}

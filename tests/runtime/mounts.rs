//! Mounts, seen from inside.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Command;

use harness::{Bundle, need_root, run};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::driver::Runtime;

/// A bundle that prints its mounts, with one more mount in its configuration.
fn with(mounts: &[Value], script: &str) -> Bundle {
    let mut bundle = Bundle::new(&["sh", "-c", script]);
    bundle.edit(|config| {
        config["mounts"].as_array_mut().unwrap().extend_from_slice(mounts);
    });
    bundle
}

/// Fields of the line of /proc/self/mountinfo for a mount point: its options, and those of the file system.
fn line<'a>(mountinfo: &'a str, point: &str) -> (Vec<&'a str>, Vec<&'a str>) {
    let found = mountinfo
        .lines()
        .rev()
        .find(|line| line.split(' ').nth(4) == Some(point));
    let found = found.unwrap_or_else(|| panic!("{point} in\n{mountinfo}"));
    let (mount, filesystem) = found.split_once(" - ").unwrap();
    let last = filesystem.rsplit(' ').next().unwrap();
    (
        mount.split(' ').nth(5).unwrap().split(',').collect(),
        last.split(',').collect(),
    )
}

const MOUNTINFO: &str = "cat /proc/self/mountinfo";

#[test]
fn options_of_new_file_systems() {
    need_root!();
    let mount = json!({"destination": "/deep/er", "type": "tmpfs", "source": "tmpfs",
        "options": ["nosuid", "nodev", "noexec", "noatime", "size=1m,nr_inodes=10", "ro"]});
    for runtime in Runtime::all() {
        let text = runtime
            .run_bundle(&mut with(std::slice::from_ref(&mount), MOUNTINFO))
            .ok();
        let (options, filesystem) = line(&text, "/deep/er");
        for option in ["ro", "nosuid", "nodev", "noexec", "noatime"] {
            assert!(
                options.contains(&option),
                "{}: {option} in {options:?}",
                runtime.name
            );
        }
        assert!(
            filesystem.contains(&"size=1024k") && filesystem.contains(&"nr_inodes=10"),
            "{filesystem:?}"
        );
    }
}

#[test]
fn options_of_binds() {
    need_root!();
    let source = TempDir::new().unwrap();
    fs::write(source.path().join("file"), "text").unwrap();
    let path = source.path().to_str().unwrap();
    let bind = |target: &str, options: &[&str]| {
        let mut all = vec!["bind"];
        all.extend(options);
        json!({"destination": target, "type": "bind", "source": path, "options": all})
    };
    let mounts = [
        bind("/b/plain", &[]),
        bind("/b/ro", &["ro"]),
        bind("/b/several", &["nosuid", "nodev", "noexec"]),
        bind("/b/noatime", &["noatime"]),
        bind("/b/slave", &["rslave"]),
        bind("/b/shared", &["rshared"]),
    ];
    for runtime in Runtime::all() {
        let script = format!("{MOUNTINFO}; cat /b/plain/file; touch /b/ro/x; echo $?");
        let outcome = runtime.run_bundle(&mut with(&mounts, &script));
        let text = outcome.stdout;
        assert!(line(&text, "/b/ro").0.contains(&"ro"), "{text}");
        let (several, _) = line(&text, "/b/several");
        assert!(
            ["nosuid", "nodev", "noexec", "rw"]
                .iter()
                .all(|option| several.contains(option)),
            "{several:?}"
        );
        assert!(line(&text, "/b/noatime").0.contains(&"noatime"), "{text}");
        assert!(
            text.lines()
                .any(|line| line.contains(" /b/shared ") && line.contains(" shared:")),
            "{text}"
        );
        assert!(text.ends_with("text1\n"), "{}: {text}", runtime.name);
    }
}

#[test]
fn recursive_attributes_reach_the_mounts_below() {
    need_root!();
    harness::isolate();
    let source = TempDir::new().unwrap();
    let below = source.path().join("below");
    fs::create_dir(&below).unwrap();
    nix::mount::mount(
        Some("x"),
        &below,
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();
    let path = source.path().to_str().unwrap();
    let mounts = [
        json!({"destination": "/all", "type": "bind", "source": path, "options": ["rbind", "rro", "rnosuid"]}),
        json!({"destination": "/top", "type": "bind", "source": path, "options": ["rbind", "ro"]}),
    ];
    let runtime = Runtime::berth();
    let outcome = runtime.run_bundle(&mut with(&mounts, MOUNTINFO));
    nix::mount::umount2(&below, nix::mount::MntFlags::MNT_DETACH).unwrap();
    let text = outcome.ok();
    let (options, _) = line(&text, "/all/below");
    assert!(options.contains(&"ro") && options.contains(&"nosuid"), "{text}");
    assert!(line(&text, "/top").0.contains(&"ro"), "{text}");
    assert!(line(&text, "/top/below").0.contains(&"rw"), "{text}");
}

#[test]
fn missing_targets_are_made_as_files_or_folders_inside_the_root() {
    need_root!();
    let source = TempDir::new().unwrap();
    fs::write(source.path().join("file"), "text").unwrap();
    let outside = TempDir::new().unwrap();
    for runtime in Runtime::all() {
        let mounts = [
            json!({"destination": "/new/file", "type": "bind", "source": source.path().join("file"), "options": ["bind"]}),
            json!({"destination": "/link/sub", "type": "bind", "source": source.path(), "options": ["bind"]}),
            json!({"destination": "/up/../../../where", "type": "bind", "source": source.path(), "options": ["bind"]}),
        ];
        let script = "cat /new/file; ls -d /link/sub/file /where/file";
        let mut bundle = with(&mounts, script);
        // Absolute inside the root, wherever it leads outside.
        symlink(outside.path(), bundle.rootfs().join("link")).unwrap();
        let text = runtime.run_bundle(&mut bundle).ok();
        assert_eq!(text, "text/link/sub/file\n/where/file\n", "{}", runtime.name);
        assert_eq!(
            fs::read_dir(outside.path()).unwrap().count(),
            0,
            "{}",
            runtime.name
        );
    }
}

#[test]
fn tmpcopyup_brings_contents_owners_and_modes() {
    need_root!();
    let mount =
        json!({"destination": "/up", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "ro"]});
    let runtime = Runtime::berth();
    let mut bundle = with(
        &[mount],
        "stat -c '%n %a %u:%g %F' /up /up/* /up/d/*; cat /up/d/f; readlink /up/l; touch /up/n",
    );
    let up = bundle.rootfs().join("up");
    fs::create_dir_all(up.join("d")).unwrap();
    fs::write(up.join("d/f"), "inside\n").unwrap();
    symlink("/else/where", up.join("l")).unwrap();
    fs::set_permissions(&up, fs::Permissions::from_mode(0o711)).unwrap();
    fs::set_permissions(up.join("d/f"), fs::Permissions::from_mode(0o4750)).unwrap();
    nix::unistd::chown(&up.join("d"), Some(5.into()), Some(6.into())).unwrap();
    let outcome = runtime.run_bundle(&mut bundle);
    assert_eq!(
        outcome.stdout,
        "/up 711 0:0 directory\n/up/d 755 5:6 directory\n/up/l 777 0:0 symbolic link\n/up/d/f 4750 0:0 regular file\ninside\n/else/where\n"
    );
    assert!(
        outcome.stderr.contains("Read-only file system"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn ids_of_a_mount_are_mapped() {
    need_root!();
    let source = TempDir::new().unwrap();
    fs::write(source.path().join("file"), "").unwrap();
    let mount = json!({"destination": "/m", "type": "bind", "source": source.path(), "options": ["bind", "idmap"],
        "uidMappings": [{"containerID": 0, "hostID": 1234, "size": 1}],
        "gidMappings": [{"containerID": 0, "hostID": 4321, "size": 1}]});
    let outcome = Runtime::berth().run_bundle(&mut with(&[mount], "stat -c %u:%g /m/file"));
    if outcome.stderr.contains("has no id-mapped mounts on this kernel") {
        harness::skip!("needs id-mapped mounts in the temporary directory");
    }
    assert_eq!(outcome.ok(), "1234:4321\n");
}

#[test]
fn a_read_only_dev_still_has_its_devices() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = Bundle::new(&[
            "sh",
            "-c",
            "echo x > /dev/null && ! touch /dev/x 2>/dev/null && ls -l /dev/full",
        ]);
        bundle.edit(|config| {
            config["mounts"][1]["options"]
                .as_array_mut()
                .unwrap()
                .push(json!("ro"));
        });
        let text = runtime.run_bundle(&mut bundle).ok();
        assert!(text.starts_with("crw-rw-rw-"), "{}: {text}", runtime.name);
    }
}

#[test]
fn the_roots_propagation() {
    need_root!();
    for (word, field) in [
        ("slave", ""),
        ("rprivate", ""),
        ("shared", " shared:"),
        ("unbindable", " unbindable"),
    ] {
        let mut bundle = Bundle::new(&["sh", "-c", MOUNTINFO]);
        bundle.edit(|config| config["linux"]["rootfsPropagation"] = json!(word));
        let text = Runtime::berth().run_bundle(&mut bundle).ok();
        let root = text
            .lines()
            .find(|line| line.split(' ').nth(4) == Some("/"))
            .unwrap()
            .to_owned();
        match field {
            "" => assert!(
                !root.contains("shared:") && !root.contains("unbindable"),
                "{word}: {root}"
            ),
            field => assert!(root.contains(field), "{word}: {root}"),
        }
    }
}

#[test]
fn without_pivot_root_the_hosts_proc_is_gone() {
    need_root!();
    let mut bundle = Bundle::new(&["sh", "-c", "cat /proc/self/mountinfo; ls -d /proc/self"]);
    let runtime = Runtime::berth();
    let container = runtime.container(&mut bundle);
    let text = container.verb("run", &["--no-pivot"]).ok();
    assert!(text.ends_with("/proc/self\n"), "{text}");
    assert_eq!(
        text.lines()
            .filter(|line| line.contains(" - proc ") && line.contains(" / /proc "))
            .count(),
        1,
        "{text}"
    );
}

#[test]
fn a_mount_that_fails_names_its_place_and_reason() {
    need_root!();
    let cases = [
        (
            json!({"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["size=lots"]}),
            "size",
        ),
        (
            json!({"destination": "/b", "type": "bind", "source": "/no/such", "options": ["bind"]}),
            "/no/such",
        ),
        (
            json!({"destination": "/etc/passwd/x", "type": "tmpfs", "source": "tmpfs"}),
            "not a directory",
        ),
        (
            json!({"destination": "/f", "type": "no-such-fs", "source": "x"}),
            "no such device",
        ),
    ];
    for (mount, word) in cases {
        let runtime = Runtime::berth();
        let mut bundle = with(std::slice::from_ref(&mount), "true");
        let container = runtime.container(&mut bundle);
        let text = container.run().err();
        assert!(
            text.contains(word) && text.contains("mounts[7]"),
            "{mount}: {text}"
        );
        assert!(
            text.contains(mount["destination"].as_str().unwrap()),
            "{mount}: {text}"
        );
        assert_eq!(text.trim_end().lines().count(), 1, "{text}");
        assert!(crate::driver::cgroups_named(&container.id).is_empty());
    }
}

/// Links are mounted, and mounted on, as what they are; also where the runtime opens the source for a user namespace.
#[test]
fn a_link_itself_can_be_source_or_target() {
    need_root!();
    let source = TempDir::new().unwrap();
    fs::set_permissions(source.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(source.path().join("file"), "from outside\n").unwrap();
    symlink("/inside", source.path().join("link")).unwrap();
    for user in [false, true] {
        let mounts = [
            json!({"destination": "/a", "type": "bind", "source": source.path().join("link"), "options": ["bind", "src-nofollow"]}),
            json!({"destination": "/b", "type": "bind", "source": source.path().join("file"), "options": ["bind", "dest-nofollow"]}),
            json!({"destination": "/c", "type": "bind", "source": source.path().join("file"), "options": ["bind"]}),
        ];
        let mut bundle = with(&mounts, "readlink /a; cat /a /b /away /c /followed");
        for (name, text) in [("inside", "inside\n"), ("away", "away\n"), ("followed", "")] {
            fs::write(bundle.rootfs().join(name), text).unwrap();
        }
        symlink("/away", bundle.rootfs().join("b")).unwrap();
        symlink("/followed", bundle.rootfs().join("c")).unwrap();
        if user {
            for dir in [bundle.path().to_path_buf(), bundle.rootfs()] {
                fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
            }
            bundle.edit(|config| {
                config["linux"]["namespaces"]
                    .as_array_mut()
                    .unwrap()
                    .push(json!({"type": "user"}));
                let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
                config["linux"]["uidMappings"] = ids.clone();
                config["linux"]["gidMappings"] = ids;
            });
        }
        let text = Runtime::berth().run_bundle(&mut bundle).ok();
        let wanted = "/inside\ninside\nfrom outside\naway\nfrom outside\nfrom outside\n";
        assert_eq!(text, wanted, "user namespace: {user}");
    }
}

/// A user namespace whose root is an ordinary user of the host.
fn with_user_namespace(bundle: &mut Bundle) {
    bundle.edit(|config| {
        config["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .push(json!({"type": "user"}));
        let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        config["linux"]["uidMappings"] = ids.clone();
        config["linux"]["gidMappings"] = ids;
    });
    let root = bundle.rootfs();
    run(Command::new("chown").args(["-R", "100000:100000"]).arg(root)).ok();
}

#[test]
fn a_source_in_the_root_is_what_earlier_mounts_show() {
    need_root!();
    for (user, idmap) in [(false, false), (true, false), (false, true), (true, true)] {
        // The root of the user namespace could not come into this folder by itself.
        let private = TempDir::new().unwrap();
        let volume = private.path().join("volume");
        fs::create_dir_all(volume.join("sub")).unwrap();
        fs::write(volume.join("sub/file"), "of the volume\n").unwrap();
        let mut bundle = Bundle::new(&["cat", "/copy/file", "/all/sub/file", "/all/tmpfs/mark"]);
        if user {
            with_user_namespace(&mut bundle);
        }
        for name in ["volume", "copy", "all", "volume/tmpfs"] {
            let _ = fs::create_dir(bundle.rootfs().join(name));
        }
        fs::create_dir(volume.join("tmpfs")).unwrap();
        let below = |name: &str| bundle.rootfs().join(name);
        let mut options = vec!["rbind"];
        if idmap {
            options.push("idmap");
        }
        let mut mounts = vec![
            json!({"destination": "/volume", "type": "bind", "source": volume, "options": ["bind"]}),
            json!({"destination": "/volume/tmpfs", "type": "tmpfs", "source": "x", "options": ["mode=777"]}),
            json!({"destination": "/volume/tmpfs/mark", "type": "bind", "source": volume.join("sub/file"), "options": ["bind"]}),
            json!({"destination": "/copy", "type": "bind", "source": below("volume/sub"), "options": options}),
            json!({"destination": "/all", "type": "bind", "source": below("volume"), "options": options}),
        ];
        if idmap && !user {
            let ids = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
            for mount in &mut mounts[3..] {
                mount["uidMappings"] = ids.clone();
                mount["gidMappings"] = ids.clone();
            }
        }
        bundle.edit(|config| config["mounts"].as_array_mut().unwrap().extend(mounts));
        let text = Runtime::berth().run_bundle(&mut bundle).ok();
        assert_eq!(text, "of the volume\n".repeat(3), "user {user}, idmap {idmap}");
    }
}

#[test]
fn a_link_under_an_earlier_mount_does_not_lead_out() {
    need_root!();
    let (volume, outside) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    fs::write(outside.path().join("secret"), "of the host").unwrap();
    symlink(outside.path(), volume.path().join("way")).unwrap();
    let mut bundle = Bundle::new(&["cat", "/copy/secret"]);
    for name in ["volume", "copy"] {
        fs::create_dir(bundle.rootfs().join(name)).unwrap();
    }
    with_user_namespace(&mut bundle);
    let source = bundle.rootfs().join("volume/way");
    bundle.edit(|config| {
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.push(
            json!({"destination": "/volume", "type": "bind", "source": volume.path(), "options": ["bind"]}),
        );
        mounts.push(json!({"destination": "/copy", "type": "bind", "source": source, "options": ["bind"]}));
    });
    let runtime = Runtime::berth();
    let container = runtime.container(&mut bundle);
    let text = container.run().err();
    assert!(
        text.contains("no such file or directory") && text.contains("volume/way"),
        "{text}"
    );
    assert!(crate::driver::cgroups_named(&container.id).is_empty());
}

#[test]
fn a_tmpfs_has_the_mode_of_the_folder_it_covers() {
    need_root!();
    let script = "stat -c %a /kept /given /new; grep -E ' /(kept|given|new) ' /proc/mounts";
    let mut bundle = Bundle::new(&["sh", "-c", script]);
    for name in ["kept", "given"] {
        let folder = bundle.rootfs().join(name);
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o2710)).unwrap();
    }
    bundle.edit(|config| {
        let mounts = config["mounts"].as_array_mut().unwrap();
        for (name, options) in [("kept", json!(["ro"])), ("given", json!(["mode=1500"])), ("new", json!([]))] {
            mounts.push(json!({"destination": format!("/{name}"), "type": "tmpfs", "source": "x", "options": options}));
        }
    });
    let text = Runtime::berth().run_bundle(&mut bundle).ok();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..3], ["2710", "1500", "1777"], "{text}");
    assert!(
        lines[3].contains("mode=2710") && lines[3].contains("ro,"),
        "{text}"
    );
    assert!(lines[4].contains("mode=1500"), "{text}");
    assert!(!lines[5].contains("mode="), "{text}");
}

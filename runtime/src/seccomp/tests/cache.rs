//! Kept filters are the compiled ones, and what is not exactly a kept filter is compiled.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;

use berth_spec::{LinuxSeccomp, LinuxSeccompAction};
use serde_json::json;
use tempfile::TempDir;

use super::profiles::{Random, engine_like, names, parse, random};
use crate::seccomp::{Cache, Program, compile};

struct Kept {
    folder: TempDir,
    cache: Cache,
}

impl Kept {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("filters"));
        Self { folder, cache }
    }

    /// The only file there is.
    fn file(&self) -> PathBuf {
        let mut found = fs::read_dir(self.folder.path().join("filters")).unwrap();
        let file = found.next().unwrap().unwrap().path();
        assert!(found.next().is_none(), "one profile, one file");
        file
    }
}

/// A kept program that no compiler makes for the profile: the second of two, in the first one's file. Whoever gets it
/// was given what was kept.
fn swap(kept: &Kept, profile: &LinuxSeccomp, other: &LinuxSeccomp) -> Program {
    let wrong = compile(other).unwrap();
    let words = crate::seccomp::cache::words(profile);
    fs::write(kept.file(), crate::seccomp::cache::encode(&wrong, &words)).unwrap();
    wrong
}

fn denying(call: &str) -> LinuxSeccomp {
    parse(&json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": [call, "not a\nsystem call"], "action": "SCMP_ACT_ERRNO"}],
    }))
}

#[test]
fn what_was_kept_is_what_was_compiled() {
    let kept = Kept::new();
    let (mut chance, names) = (Random::new(11), names());
    for round in 0..150 {
        let profile = random(&mut chance, &names);
        let Ok(compiled) = compile(&profile) else {
            assert!(kept.cache.compile(&profile).is_err(), "round {round}");
            continue;
        };
        for _ in 0..2 {
            assert_eq!(kept.cache.compile(&profile).unwrap(), compiled, "round {round}");
        }
    }
    let count = fs::read_dir(kept.folder.path().join("filters")).unwrap().count();
    assert!((32..=64).contains(&count), "{count} files, of at most 64");
}

#[test]
fn a_kept_filter_is_used_and_only_for_its_own_profile() {
    let kept = Kept::new();
    let profile = denying("mkdir");
    assert_eq!(
        kept.cache.compile(&profile).unwrap().ignored,
        ["not a\nsystem call"]
    );
    let wrong = swap(&kept, &profile, &denying("rmdir"));
    assert_eq!(kept.cache.compile(&profile).unwrap(), wrong, "the kept one");

    // The same file, under whatever name another profile looks for it.
    let file = fs::read(kept.file()).unwrap();
    for place in 0..64 {
        fs::write(kept.folder.path().join(format!("filters/{place:02x}")), &file).unwrap();
    }
    for call in ["chmod", "rmdir", "mknod"] {
        let other = denying(call);
        assert_eq!(
            kept.cache.compile(&other).unwrap(),
            compile(&other).unwrap(),
            "{call}"
        );
    }
}

#[test]
fn every_part_of_a_profile_tells_it_apart() {
    let base = denying("mkdir");
    let edits: [fn(&mut LinuxSeccomp); 9] = [
        |it| it.default_action = LinuxSeccompAction::ScmpActErrno,
        |it| it.default_errno_ret = Some(0),
        |it| it.architectures = Some(vec![berth_spec::Arch::ScmpArchX86_64]),
        |it| it.flags = Some(Vec::new()),
        |it| it.syscalls.as_mut().unwrap()[0].names.swap(0, 1),
        |it| it.syscalls.as_mut().unwrap()[0].names = vec!["mkdirnot a\nsystem call".to_owned()],
        |it| it.syscalls.as_mut().unwrap()[0].errno_ret = Some(1),
        |it| it.syscalls.as_mut().unwrap()[0].action = LinuxSeccompAction::ScmpActLog,
        |it| {
            let condition = json!([{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]);
            it.syscalls.as_mut().unwrap()[0].args =
                berth_spec::read(condition.to_string().as_bytes()).unwrap().value;
        },
    ];
    let mut seen = vec![crate::seccomp::cache::words(&base)];
    for edit in edits {
        let mut edited = base.clone();
        edit(&mut edited);
        let words = crate::seccomp::cache::words(&edited);
        assert!(!seen.contains(&words), "{edited:?}");
        seen.push(words);
    }
}

#[test]
fn the_agent_is_the_profiles_own() {
    let kept = Kept::new();
    let of = |path: &str| {
        let mut profile = denying("mkdir");
        profile.syscalls.as_mut().unwrap()[0].action = LinuxSeccompAction::ScmpActNotify;
        profile.listener_path = Some(path.into());
        profile
    };
    for path in ["/run/one", "/run/two"] {
        let program = kept.cache.compile(&of(path)).unwrap();
        assert_eq!(program.listener.unwrap().path, PathBuf::from(path));
    }
    let mut without = of("");
    without.listener_path = None;
    let error = kept.cache.compile(&without).unwrap_err().to_string();
    assert!(error.contains("linux.seccomp.listenerPath"), "{error}");
}

#[test]
fn a_damaged_file_is_compiled_anew() {
    let kept = Kept::new();
    let profile = denying("mkdir");
    let right = kept.cache.compile(&profile).unwrap();
    let file = fs::read(kept.file()).unwrap();
    for length in 0..file.len() {
        fs::write(kept.file(), &file[..length]).unwrap();
        assert_eq!(kept.cache.compile(&profile).unwrap(), right, "cut to {length}");
        assert_eq!(fs::read(kept.file()).unwrap(), file, "replaced");
    }
    for at in 0..file.len() {
        let mut changed = file.clone();
        changed[at] ^= 0x10;
        fs::write(kept.file(), &changed).unwrap();
        assert_eq!(kept.cache.compile(&profile).unwrap(), right, "byte {at} changed");
    }
}

#[test]
fn a_file_that_others_could_write_is_not_believed() {
    let kept = Kept::new();
    let profile = denying("mkdir");
    let right = kept.cache.compile(&profile).unwrap();
    let expect = |why: &str| assert_eq!(kept.cache.compile(&profile).unwrap(), right, "{why}");

    swap(&kept, &profile, &denying("rmdir"));
    fs::set_permissions(kept.file(), fs::Permissions::from_mode(0o620)).unwrap();
    expect("its group may write");

    swap(&kept, &profile, &denying("rmdir"));
    let aside = kept.folder.path().join("aside");
    fs::hard_link(kept.file(), &aside).unwrap();
    expect("it has another name");

    swap(&kept, &profile, &denying("rmdir"));
    let file = kept.file();
    fs::remove_file(&aside).unwrap();
    fs::rename(&file, &aside).unwrap();
    symlink(&aside, &file).unwrap();
    expect("it is a link");

    if nix::unistd::geteuid().is_root() {
        swap(&kept, &profile, &denying("rmdir"));
        std::os::unix::fs::chown(kept.file(), Some(65534), None).unwrap();
        expect("it is another user's");
    }
}

#[test]
fn without_a_folder_profiles_are_compiled() {
    let folder = tempfile::tempdir().unwrap();
    let profile = engine_like();
    let right = compile(&profile).unwrap();
    for place in ["missing/filters", "file/filters"] {
        fs::write(folder.path().join("file"), "").unwrap();
        let cache = Cache::new(folder.path().join(place));
        assert_eq!(cache.compile(&profile).unwrap(), right, "{place}");
    }
}

//! A family of configurations from one seed: each is the reference's default with some changes drawn at random.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use serde_json::{Value, json};

/// Numbers from a seed (splitmix64): the same on every machine and in every year.
pub struct Draw(u64);

impl Draw {
    /// The sequence of one member of a family.
    pub fn new(seed: u64, number: u64) -> Self {
        let mut draw = Self(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        draw.next();
        draw
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("below a usize")
    }

    /// Whether something of so many percent happens.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of several.
    pub fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// Each of several with so many percent.
    pub fn some<'a, T>(&mut self, of: &'a [T], percent: usize) -> Vec<&'a T> {
        of.iter().filter(|_| self.chance(percent)).collect()
    }
}

/// A configuration with what belongs to it.
pub struct Member {
    /// config.json; `BUNDLE` in a text stands for the bundle's directory.
    pub config: Value,
    /// What was drawn, for people and for the table of known differences.
    pub drawn: Vec<&'static str>,
    /// Options of `run` and `create`.
    pub options: Vec<String>,
    /// The namespace paths of this process take the place of `HOLDER`.
    pub joins: bool,
}

type Feature = (&'static str, fn(&mut Draw, &mut Member));

/// Everything that may be drawn, by name.
const FEATURES: &[Feature] = &[
    ("user", super::process::user),
    ("capabilities", super::process::capabilities),
    ("new-privileges", |_, member| {
        member.config["process"]["noNewPrivileges"] = json!(false);
    }),
    ("rlimits", super::process::rlimits),
    ("oom", super::process::oom_score),
    ("env", super::process::environment),
    ("cwd", super::process::working_directory),
    ("args", super::process::arguments),
    ("io-priority", super::process::io_priority),
    ("scheduler", super::process::scheduler),
    ("personality", super::process::personality),
    ("labels", super::process::labels),
    ("read-only-root", |_, member| {
        member.config["root"]["readonly"] = json!(true)
    }),
    ("propagation", super::files::root_propagation),
    ("root-path", super::files::root_path),
    ("tmpfs", super::files::tmpfs),
    ("tmpfs", super::files::tmpfs),
    ("bind", super::files::bind),
    ("bind", super::files::bind),
    ("bind", super::files::bind),
    ("recursive", super::files::recursive_attributes),
    ("overlay", super::files::overlay),
    ("default-mounts", super::files::default_mounts),
    ("mount-in-proc", super::files::in_proc),
    ("copy-up", super::files::copy_up),
    ("odd-mount", super::files::odd_mount),
    ("masked", super::files::masked),
    ("read-only-paths", super::files::read_only_paths),
    ("devices", super::linux::devices),
    ("names", super::linux::names),
    ("fewer-namespaces", super::linux::fewer_namespaces),
    ("joined-namespaces", super::linux::joined_namespaces),
    ("user-namespace", super::linux::user_namespace),
    ("time-namespace", super::linux::time_namespace),
    ("memory", super::linux::memory),
    ("cpu", super::linux::cpu),
    ("limits", super::linux::other_limits),
    ("device-rules", super::linux::device_rules),
    ("cgroup-path", super::linux::cgroup_path),
    ("sysctl", super::linux::sysctl),
    ("seccomp", super::linux::seccomp),
    ("annotations", super::linux::annotations),
    ("hooks", super::linux::hooks),
    ("version", super::linux::version),
    ("options", super::linux::options),
];

/// The member of a family with this number: one feature in turn, so that each is there, and up to four more.
pub fn member(base: Value, seed: u64, number: u64) -> Member {
    let mut draw = Draw::new(seed, number);
    let mut member = Member {
        config: base,
        drawn: Vec::new(),
        options: Vec::new(),
        joins: false,
    };
    let turn = usize::try_from(number).expect("a small number") % FEATURES.len();
    let mut chosen = vec![turn];
    for _ in 0..draw.below(5) {
        chosen.push(draw.below(FEATURES.len()));
    }
    chosen.sort_unstable();
    chosen.dedup();
    for (name, change) in chosen.into_iter().map(|index| FEATURES[index]) {
        change(&mut draw, &mut member);
        if !member.drawn.contains(&name) {
            member.drawn.push(name);
        }
    }
    member
}

/// What every member's bundle has: files to bind, links to mislead, folders of several kinds.
pub fn prepare(bundle: &Path, rootfs: &Path) {
    let write = |path: &Path, text: &str| fs::write(path, text).expect("write a file of the bundle");
    let folder = |path: &Path| fs::create_dir_all(path).expect("make a folder of the bundle");
    for below in ["files/folder/below", "lower", "upper", "work"] {
        folder(&bundle.join(below));
    }
    write(&bundle.join("files/file"), "bound\n");
    write(&bundle.join("files/folder/inner"), "bound\n");
    write(&bundle.join("lower/lower"), "lower\n");
    symlink("folder", bundle.join("files/link")).expect("link");
    for below in ["mnt/there", "data/deep", "masked", "secret"] {
        folder(&rootfs.join(below));
    }
    write(&rootfs.join("data/file"), "image\n");
    write(&rootfs.join("masked/inner"), "hidden\n");
    write(&rootfs.join("etc/hosts"), "127.0.0.1 localhost\n");
    write(&rootfs.join("etc/plain"), "plain\n");
    write(&rootfs.join("etc/script"), "#!/bin/sh\nexec /probe \"$@\"\n");
    fs::set_permissions(rootfs.join("etc/script"), fs::Permissions::from_mode(0o755)).expect("chmod");
    fs::set_permissions(rootfs.join("secret"), fs::Permissions::from_mode(0o700)).expect("chmod");
    fs::set_permissions(rootfs.join("tmp"), fs::Permissions::from_mode(0o1777)).expect("chmod");
    symlink("/data", rootfs.join("inside")).expect("link");
    symlink("../../../../data", rootfs.join("climbing")).expect("link");
    symlink("/no/such/place", rootfs.join("dangling")).expect("link");
    symlink("/data/file", rootfs.join("file-link")).expect("link");
}

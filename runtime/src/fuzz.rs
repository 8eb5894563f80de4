//! What the fuzz targets in tests/fuzz call: each takes any bytes, and must neither panic nor let its promise be broken.
//! The corpora kept there are replayed by the test below.

use std::path::Path;

use crate::bundle::{self, Bundle};
use crate::criu::{Message, Response};
use crate::host::{HostFacts, KernelVersion, Namespaces};
use crate::plan::options::MountOptions;
use crate::plan::{self, CreateOptions, Gate};
use crate::wire::{self, Report};
use crate::{seccomp, validate};

/// A host with everything, so that no check ends the way early.
fn host() -> HostFacts {
    let mounts = "30 20 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                  31 20 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    #[allow(clippy::expect_used)] // The text is right.
    let cgroups = berth_cgroups::Layout::from_mountinfo(Path::new("/"), mounts, "2:memory:/\n0::/\n")
        .expect("a layout");
    HostFacts {
        kernel: KernelVersion { major: 6, minor: 18 },
        euid: 0,
        egid: 0,
        in_user_namespace: false,
        namespaces: Namespaces {
            user: true,
            cgroup: true,
            time: true,
        },
        apparmor: true,
        selinux: true,
        resctrl: None,
        cgroups,
        joined: Vec::new(),
    }
}

/// config.json to a plan, which is then read back from its wire form by its text.
pub fn config(data: &[u8]) {
    let Ok((spec, _)) = bundle::parse_spec(Path::new("config.json"), data) else {
        return;
    };
    let host = host();
    let _ = validate::warnings(&spec);
    if validate::validate(&spec, &host).is_err() {
        return;
    }
    let bundle = Bundle {
        path: "/bundle".into(),
        rootfs: "/bundle/rootfs".into(),
        spec,
        config: Vec::new(),
        warnings: Vec::new(),
    };
    let paths = [(String::new(), "/sys/fs/cgroup/unified/c".into())].into();
    let options = CreateOptions {
        id: "c",
        cgroup_paths: &paths,
        no_pivot: false,
        no_new_keyring: false,
        preserve_fds: 0,
        listen_fds: 0,
        console: true,
        gate: Gate::Park,
        seccomp: None,
        network: false,
    };
    if let Ok(plan) = plan::create(&bundle, &host, &options) {
        let _ = plan.to_string();
    }
}

/// A plan and a report as the other side reads them.
pub fn wire(data: &[u8]) {
    if let Ok((_, steps)) = wire::decode(data) {
        for step in steps {
            // All of it is looked at, or the compiler leaves the reading out.
            std::hint::black_box(format!("{step:?}"));
        }
    }
    std::hint::black_box(format!("{:?}", Report::decode(data)));
}

/// Mount options, one a line.
pub fn mount_options(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let words: Vec<&str> = text.lines().collect();
    let options = MountOptions::parse(&words);
    // Nothing is both set and, not as part of a wider field, cleared for the file system.
    assert!(options.data.len() <= words.len());
    for word in words {
        let _ = plan::options::propagation(word);
    }
}

/// A seccomp profile, compiled.
pub fn seccomp(data: &[u8]) {
    let Ok(document) = bundle::parse::<berth_spec::LinuxSeccomp>(Path::new("seccomp.json"), data) else {
        return;
    };
    if let Ok(program) = seccomp::compile(&document.value) {
        // The kernel takes no longer ones (BPF_MAXINSNS).
        assert!(
            program.filter.len() <= 4096,
            "{} instructions",
            program.filter.len()
        );
    }
}

/// /etc/passwd, searched for the user whose id are the first four bytes.
pub fn passwd(data: &[u8]) {
    let Some((uid, text)) = data.split_first_chunk::<4>() else {
        return;
    };
    let home = crate::init::home_of(text, u32::from_le_bytes(*uid));
    assert!(!home.contains(&0) && !home.contains(&b'\n'), "{home:?}");
}

/// Paths of cgroups.
pub fn cgroup_path(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let parsed = berth_cgroups::CgroupPath::parse(&text);
    let configured = berth_cgroups::CgroupPath::for_container(Some(Path::new(text.as_ref())), "c");
    for path in [parsed, configured].into_iter().flatten() {
        let shown = path.to_string();
        assert!(!shown.split('/').any(|part| part == ".."), "{shown}");
    }
}

/// What CRIU answers.
pub fn criu(data: &[u8]) {
    let _ = Response::decode(data);
    if let Ok(message) = Message::decode(data) {
        assert_eq!(Message::decode(&message.encode()), Ok(message));
    }
}

#[cfg(test)]
mod tests {
    type Target = fn(&[u8]);

    #[test]
    fn corpora_are_replayed() {
        let targets: [(&str, Target); 7] = [
            ("config", super::config),
            ("wire", super::wire),
            ("mount_options", super::mount_options),
            ("seccomp", super::seccomp),
            ("passwd", super::passwd),
            ("cgroup_path", super::cgroup_path),
            ("criu", super::criu),
        ];
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus");
        for (name, target) in targets {
            let mut replayed = 0;
            for entry in std::fs::read_dir(corpus.join(name)).unwrap() {
                target(&std::fs::read(entry.unwrap().path()).unwrap());
                replayed += 1;
            }
            assert!(replayed > 0, "no corpus of {name}");
        }
    }
}

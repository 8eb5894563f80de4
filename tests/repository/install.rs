//! `make install` and `make uninstall`, with the programs of this build.

use harness::{HostSnapshot, bin, repository_root, run};
use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

const PROGRAMS: &[&str] = &[
    "berth",
    "containerd-shim-berth-v2",
    "berthd",
    "berthctl",
    "berth-monitor",
];
const PLUGINS: &[&str] = &[
    "bridge",
    "host-local",
    "static",
    "loopback",
    "portmap",
    "firewall",
    "bandwidth",
    "tuning",
    "ptp",
    "macvlan",
];

/// Completions and man pages: as built, and as installed.
const DOCUMENTS: &[(&str, &str)] = &[
    ("completions/berth", "bash-completion/completions/berth"),
    ("completions/_berth", "zsh/site-functions/_berth"),
    ("completions/berth.fish", "fish/vendor_completions.d/berth.fish"),
    ("man/berth.8", "man/man8/berth.8"),
    ("man/berth-run.8", "man/man8/berth-run.8"),
];

fn files(dir: &Path) -> BTreeSet<String> {
    let prefix = dir.to_string_lossy().into_owned();
    let found = HostSnapshot::take(&prefix, &[dir]).files;
    let below = |path: String| path.strip_prefix(&prefix).map(str::to_owned);
    found
        .into_iter()
        .filter(|path| !Path::new(path).is_dir())
        .filter_map(below)
        .collect()
}

/// A make call that takes the programs as built: those of the directory that this test's are in.
fn make(target: &str, built: &Path, dest: &Path) -> Command {
    let mut command = Command::new("make");
    command
        .current_dir(repository_root())
        .args(["--no-print-directory", "--old-file=build", target])
        .arg(format!("TARGET={}", built.display()))
        .arg(format!("DESTDIR={}", dest.display()))
        .env_remove("MAKEFLAGS")
        .env_remove("MAKELEVEL");
    command
}

#[test]
fn install_puts_everything_in_place_and_uninstall_takes_it_away() {
    let dir = TempDir::with_prefix("berth-install-").expect("temporary directory");
    let built = dir.path().join("target");
    std::fs::create_dir_all(built.join("berth/bin")).expect("create the directory of programs");
    for program in PROGRAMS.iter().chain(&["cni-plugins"]) {
        std::os::unix::fs::symlink(bin(program), built.join("berth/bin").join(program)).expect("link");
    }
    // Those of the build are made by a program of their own, which has its own test.
    for (made, _) in DOCUMENTS {
        let path = built.join("berth").join(made);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("create their directory");
        std::fs::write(path, made).expect("write a document");
    }
    let dest = dir.path().join("root");
    let foreign = dest.join("opt/cni/bin/ipvlan");
    std::fs::create_dir_all(foreign.parent().expect("a parent")).expect("create the plugin directory");
    std::fs::write(&foreign, "somebody else's").expect("write a foreign plugin");

    run(&mut make("install", &built, &dest)).ok();
    let mode = |path: &Path| {
        path.metadata()
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
            .permissions()
            .mode()
            & 0o777
    };
    for program in PROGRAMS {
        assert_eq!(
            mode(&dest.join("usr/local/bin").join(program)),
            0o755,
            "{program}"
        );
    }
    for (made, installed) in DOCUMENTS {
        let path = dest.join("usr/local/share").join(installed);
        assert_eq!(mode(&path), 0o644, "{installed}");
        assert_eq!(std::fs::read_to_string(path).expect(installed), *made);
    }
    let plugins = dest.join("opt/cni/bin");
    let shared = plugins.join("cni-plugins").metadata().expect("the program").ino();
    for plugin in PLUGINS {
        assert_eq!(
            plugins.join(plugin).metadata().expect(plugin).ino(),
            shared,
            "{plugin}"
        );
    }
    let unit = std::fs::read_to_string(dest.join("etc/systemd/system/berthd.service")).expect("the unit");
    assert!(
        unit.contains("ExecStart=/usr/local/bin/berthd") && unit.contains("/opt/cni/bin"),
        "{unit}"
    );
    assert!(!unit.contains('@'), "a placeholder is left: {unit}");
    let list = dest.join("etc/cni/net.d/10-berth.conflist");
    assert_eq!(mode(&list), 0o644);
    for program in ["berthd", "berthctl"] {
        run(Command::new(dest.join("usr/local/bin").join(program)).arg("--version")).ok();
    }

    // A changed configuration is the administrator's: a second install keeps it, and so does uninstall.
    std::fs::write(&list, "{}").expect("change the list");
    run(&mut make("install", &built, &dest)).ok();
    assert_eq!(std::fs::read_to_string(&list).expect("the list"), "{}");
    run(&mut make("uninstall", &built, &dest)).ok();
    let left: Vec<String> = files(&dest).into_iter().collect();
    assert_eq!(left, ["/etc/cni/net.d/10-berth.conflist", "/opt/cni/bin/ipvlan"]);

    std::fs::remove_file(&list).expect("remove the list");
    run(&mut make("install", &built, &dest)).ok();
    run(&mut make("uninstall", &built, &dest)).ok();
    let left: Vec<String> = files(&dest).into_iter().collect();
    assert_eq!(left, ["/opt/cni/bin/ipvlan"]);
}

/// What the configurations of examples/ name is where `make install` puts it.
#[test]
fn engines_find_what_is_installed_where_the_examples_say() {
    let root = repository_root();
    let makefile = std::fs::read_to_string(root.join("Makefile")).expect("read the Makefile");
    let prefix = makefile
        .lines()
        .find_map(|line| line.strip_prefix("PREFIX ?= "))
        .expect("a default prefix");
    let mut named = BTreeSet::new();
    for dir in ["examples/engines", "examples/kubernetes"] {
        for entry in root.join(dir).read_dir().expect(dir) {
            let path = entry.expect(dir).path();
            let text = std::fs::read_to_string(&path).expect("read the example");
            let paths = text.split(|c: char| c.is_whitespace() || "\"',;".contains(c));
            let paths = paths.map(|word| word.trim_end_matches('.'));
            named.extend(paths.filter(|word| word.starts_with("/usr/")).map(str::to_owned));
        }
    }
    assert!(named.contains(&format!("{prefix}/bin/berth")), "{named:?}");
    for path in &named {
        let file = path.strip_prefix(&format!("{prefix}/bin"));
        let name = file.unwrap_or_else(|| panic!("{path} is not below {prefix}/bin"));
        let name = name.trim_start_matches('/');
        assert!(
            name.is_empty() || PROGRAMS.contains(&name),
            "{path} is not installed"
        );
    }
}

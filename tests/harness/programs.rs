//! Where the programs are: Berth's own, the host's, and kubectl in several versions.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The root of the repository: `BERTH_REPOSITORY`, or where the tests were compiled.
pub fn repository_root() -> PathBuf {
    if let Some(given) = std::env::var_os("BERTH_REPOSITORY") {
        return given.into();
    }
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ has a parent")
        .to_path_buf()
}

/// One of Berth's own programs: from `BERTH_BIN_DIR`, else from the directory that holds this
/// test's build.
///
/// # Panics
/// When it has not been built: a test never passes for want of the program under test.
pub fn bin(name: &str) -> PathBuf {
    let dir = std::env::var_os("BERTH_BIN_DIR").map_or_else(build_directory, PathBuf::from);
    let path = dir.join(name);
    assert!(
        path.exists(),
        "{} is not there: build it first (make build, or cargo build --workspace)",
        path.display()
    );
    path
}

/// `target/TRIPLE/PROFILE`, two levels above the running test program.
fn build_directory() -> PathBuf {
    let exe = std::env::current_exe().expect("path of the test program");
    exe.ancestors().nth(2).expect("a build directory").to_path_buf()
}

/// A program of the host by name on `PATH` or in the administrator's directories.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"])
        .map(|dir| Path::new(dir).join(name))
        .find(|candidate| candidate.is_file())
}

/// The newest kubectl at hand: from `tests/fetch-kubectl`'s cache, else from `PATH`.
pub fn kubectl() -> Option<PathBuf> {
    kubectl_versions().into_iter().last()
}

/// Every kubectl at hand, oldest first: Debian's, and those that `tests/fetch-kubectl` put into
/// its cache directory (`BERTH_KUBECTL_DIR`, or `target/kubectl`).
pub fn kubectl_versions() -> Vec<PathBuf> {
    let cache = std::env::var_os("BERTH_KUBECTL_DIR")
        .map_or_else(|| repository_root().join("target/kubectl"), PathBuf::from);
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir(cache)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .chain(program("kubectl"))
        .filter_map(|path| Some((minor_version(&path)?, path)))
        .collect();
    found.sort();
    found.dedup_by_key(|(minor, _)| *minor);
    found.into_iter().map(|(_, path)| path).collect()
}

/// The minor version a kubectl says it has.
pub fn minor_version(kubectl: &Path) -> Option<u32> {
    let output = Command::new(kubectl)
        .args(["version", "--client", "-o", "json"])
        .output()
        .ok()?;
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let minor = document["clientVersion"]["minor"].as_str()?;
    minor.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok()
}

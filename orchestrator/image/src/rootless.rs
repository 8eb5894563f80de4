//! The store in a user namespace of its own: the test runs itself there.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::fixture::{Tar, docker_archive};
use crate::import::ImportOptions;
use crate::store::ImageStore;

const FOLDER: &str = "BERTH_ROOTLESS_FOLDER";
/// First of the ids that the namespace has beside its root, outside.
const FIRST: u32 = 200_000;

fn archive(owner: u64) -> Vec<u8> {
    let below = Tar::new()
        .directory("d", 0o755)
        .file("d/gone", b"1")
        .file("d/stays", b"2")
        .directory("opaque", 0o755)
        .file("opaque/hidden", b"3")
        .device("null", (1, 3))
        .raw(b'0', "owned", "", 0o4755, (owner, owner), b"4", (0, 0))
        .pax(&[("SCHILY.xattr.trusted.x", "y")])
        .file("attributes", b"5")
        .finish();
    let top = Tar::new()
        .file("d/.wh.gone", b"")
        .directory("opaque", 0o755)
        .file("opaque/.wh..wh..opq", b"")
        .finish();
    docker_archive(&["rootless:1"], &[below, top])
}

/// Runs inside; by itself it has nothing to do.
#[test]
fn inside() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let folder = Path::new(&folder);
    let store = ImageStore::open(&folder.join("store")).unwrap();
    store
        .import(&archive(1000)[..], &ImportOptions::default())
        .unwrap();
    let image = store.resolve("rootless:1").unwrap().unwrap();
    let container = folder.join("container");
    fs::create_dir(&container).unwrap();
    let rootfs = store.prepare_rootfs(&image, &container).unwrap();
    rootfs.mount().unwrap();
    let root = &rootfs.target;
    assert_eq!(fs::read(root.join("d/stays")).unwrap(), b"2");
    assert!(!root.join("d/gone").exists() && !root.join("opaque/hidden").exists());
    let names: Vec<_> = fs::read_dir(root.join("d"))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names, ["stays"]);
    let owned = fs::metadata(root.join("owned")).unwrap();
    assert_eq!((owned.uid(), owned.mode() & 0o7777), (1000, 0o4755));
    assert!(!root.join("null").exists());
    fs::write(root.join("d/new"), "x").unwrap();
    crate::Rootfs::remove(&container).unwrap();
    let error = store
        .import(&archive(1_000_000)[..], &ImportOptions::default())
        .unwrap_err();
    let text = std::error::Error::source(&error)
        .map(|source| {
            format!(
                "{source} {:?}",
                std::error::Error::source(source).map(ToString::to_string)
            )
        })
        .unwrap_or_default();
    assert!(format!("{error} {text}").contains("subuid"), "{error}: {text}");
    eprintln!("inside: done");
}

#[test]
fn a_user_namespace_is_enough_to_unpack_and_mount() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIP: needs root, to map ids");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = std::env::current_exe().unwrap();
    let mut child = Command::new("unshare")
        .args([
            "--user",
            "--mount",
            "--",
            "sh",
            "-c",
            "read go; exec \"$@\"",
            "sh",
        ])
        .arg(&program)
        .args(["rootless::inside", "--exact", "--nocapture"])
        .env(FOLDER, folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let entry = Path::new("/proc").join(child.id().to_string());
    let namespace = |path: &Path| fs::read_link(path.join("ns/user")).ok();
    let end = Instant::now() + Duration::from_secs(30);
    while namespace(&entry) == namespace(Path::new("/proc/self")) {
        assert!(Instant::now() < end, "unshare does not come");
        std::thread::sleep(Duration::from_millis(5));
    }
    for map in ["uid_map", "gid_map"] {
        // Its root is the one who started it, and has rights only in there.
        fs::write(entry.join(map), format!("0 0 1\n1 {FIRST} 65535")).unwrap();
    }
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && text.contains("inside: done"),
        "{text}{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

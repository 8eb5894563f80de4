//! The image store in the hands of an unprivileged user: unpacking and mounting need a user namespace only.

use berth_image::{ImageStore, ImportFormat, ImportOptions, Rootfs};
use harness::{User, need_program, need_root, run};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Names the folder for the part that runs as the user.
const FOLDER: &str = "BERTH_ROOTLESS_IMAGES";

/// Runs in the user's namespace; by itself it has nothing to do.
#[test]
fn inside() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let folder = Path::new(&folder);
    let root = folder.join("root");
    fs::create_dir_all(root.join("etc")).expect("make a folder");
    fs::write(root.join("etc/name"), "rootless").expect("write");
    // Its second user is one that only newuidmap can give.
    std::os::unix::fs::chown(root.join("etc/name"), Some(1000), Some(1000)).expect("chown");
    let archive = folder.join("root.tar");
    run(std::process::Command::new("tar")
        .arg("-C")
        .arg(&root)
        .arg("-cf")
        .arg(&archive)
        .arg("."))
    .ok();
    let store = ImageStore::open(&folder.join("store")).expect("open the store");
    let options = ImportOptions {
        format: ImportFormat::Root,
        name: Some("rootless:1".to_owned()),
        ..ImportOptions::default()
    };
    store
        .import(fs::File::open(&archive).expect("open"), &options)
        .expect("import");
    let image = store.resolve("rootless:1").expect("look").expect("the image");
    let container = folder.join("container");
    fs::create_dir(&container).expect("make a folder");
    let rootfs = store.prepare_rootfs(&image, &container).expect("prepare");
    rootfs.mount().expect("mount");
    let name = rootfs.target.join("etc/name");
    assert_eq!(fs::read_to_string(&name).expect("read"), "rootless");
    assert_eq!(fs::metadata(&name).expect("stat").uid(), 1000);
    fs::write(rootfs.target.join("etc/new"), "x").expect("write into the container");
    fs::remove_file(&name).expect("remove in the container");
    assert!(!name.exists());
    Rootfs::remove(&container).expect("remove");
    let checked = store.check(&berth_image::Check {
        deep: true,
        ..berth_image::Check::default()
    });
    assert_eq!(checked.expect("check").problems, []);
    eprintln!("inside: done");
}

#[test]
fn an_unprivileged_user_unpacks_and_mounts() {
    need_root!();
    need_program!("newuidmap");
    let user = User::new(true);
    let program = user.program(&std::env::current_exe().expect("this program"));
    let outcome = run(user
        .command("unshare")
        .args(["--user", "--map-root-user", "--map-auto", "--mount", "--"])
        .arg(program)
        .args(["rootless_images::inside", "--exact", "--nocapture"])
        .env(FOLDER, user.folder("images")));
    assert!(
        outcome.status.success() && outcome.stderr.contains("inside: done"),
        "{outcome:?}"
    );
}

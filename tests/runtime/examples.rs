//! Every bundle in examples/bundles runs and prints what its `expected` says, under berth and runc.

use harness::{bin, busybox_rootfs, need_program, need_root, repository_root, run};
use std::process::Command;
use tempfile::TempDir;

#[test]
fn example_bundles_print_what_they_promise() {
    need_root!();
    let runc = need_program!("runc");
    let examples = repository_root().join("examples/bundles");
    let mut count = 0;
    for entry in std::fs::read_dir(examples).expect("list the examples").flatten() {
        if !entry.path().is_dir() {
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        let bundle = TempDir::with_prefix("berth-example-").expect("temporary directory");
        std::fs::create_dir(bundle.path().join("rootfs")).expect("create rootfs");
        busybox_rootfs(&bundle.path().join("rootfs"));
        std::fs::copy(
            entry.path().join("config.json"),
            bundle.path().join("config.json"),
        )
        .expect("copy config.json");
        let expected = std::fs::read_to_string(entry.path().join("expected")).expect("read expected");
        for runtime in [&bin("berth"), &runc] {
            let id = format!("example-{name}-{}", std::process::id());
            let root = bundle.path().join("state");
            let printed = run(Command::new(runtime)
                .arg("--root")
                .arg(&root)
                .arg("run")
                .arg("--bundle")
                .arg(bundle.path())
                .arg(&id));
            assert_eq!(printed.ok(), expected, "{name} under {}", runtime.display());
        }
        count += 1;
    }
    assert!(count >= 2, "the examples were found");
}

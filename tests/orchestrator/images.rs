//! Images by `berthctl` and the real `berthd`: from a folder, from archives, until they are gone.

use crate::application;
use harness::{Node, NodeOptions, need_program, need_root, run, wait_for};
use std::process::Command;
use std::time::Duration;

fn start() -> Node {
    harness::isolate();
    Node::start(NodeOptions::default())
}

fn files(node: &Node, folder: &str) -> usize {
    let path = node.data_dir().join("images").join(folder);
    std::fs::read_dir(path).map_or(0, Iterator::count)
}

#[test]
fn images_are_imported_listed_and_removed() {
    need_root!();
    let tar = need_program!("tar");
    let node = start();
    let root = application::root(&node);
    let root = root.to_str().expect("a path of text");
    let import = |source: &str, more: &[&str]| node.ctl(&[&["image", "import", source], more].concat());

    import(
        root,
        &[
            "--name",
            "app:1",
            "--entrypoint",
            "/user-service",
            "--env",
            "VERSION=1",
        ],
    )
    .ok();
    // The same folder under another configuration shares its layer.
    import(
        root,
        &[
            "--name",
            "app:2",
            "--entrypoint",
            "[\"/user-service\"]",
            "--env",
            "VERSION=2",
        ],
    )
    .ok();
    assert_eq!(files(&node, "layers"), 1);

    // The store is an OCI layout: as a folder and as an archive it can be imported again.
    let store = node.data_dir().join("images");
    let archive = node.path().join("layout.tar");
    run(Command::new(tar)
        .arg("-C")
        .arg(&store)
        .arg("-cf")
        .arg(&archive)
        .args(["oci-layout", "index.json", "blobs"]))
    .ok();
    let listed = node.ctl(&["image", "ls"]).ok();
    for name in ["app:1", "app:2"] {
        node.ctl(&["image", "rm", name]).ok();
    }
    assert_eq!((files(&node, "layers"), files(&node, "blobs/sha256")), (0, 0));
    import(archive.to_str().expect("a path of text"), &[]).ok();
    let again = node.ctl(&["image", "ls"]).ok();
    let ids = |text: &str| -> Vec<String> {
        text.lines()
            .map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
            .collect()
    };
    assert_eq!(ids(&listed), ids(&again));

    for (source, more, expected) in [
        (root, &[][..], "--name"),
        (root, &["--name", "UPPER"], "lower-case"),
        (root, &["--name", "app:3", "--port", "0"], "--port"),
        (root, &["--name", "app:3", "--env", "X"], "--env"),
        ("/nowhere", &["--name", "app:3"], "/nowhere"),
        (
            "/etc/hostname",
            &["--name", "app:3"],
            "cannot read the image archive",
        ),
        (
            archive.to_str().expect("a path of text"),
            &["--name", "app:3"],
            "images: leave --name out",
        ),
        (
            archive.to_str().expect("a path of text"),
            &["--env", "A=b"],
            "archive",
        ),
    ] {
        let message = import(source, more).err();
        assert!(
            message.contains(expected) && message.lines().count() == 1,
            "{source} {more:?}: {message}"
        );
    }
    assert_eq!(
        ids(&node.ctl(&["image", "ls"]).ok()),
        ids(&listed),
        "a refused import leaves nothing"
    );
    assert!(node.ctl(&["image", "rm", "app:9"]).err().contains("NotFound"));
}

#[test]
fn an_image_in_use_stays_also_when_berthd_is_killed() {
    need_root!();
    let mut node = start();
    application::import(&node, "v1.0.0");
    application::apply(&node, "v1.0.0", 1);
    node.ctl(&["rollout", "status", "deployment/user-service", "--timeout", "60s"])
        .ok();
    assert!(
        node.ctl(&["image", "rm", "user-service:v1.0.0"])
            .err()
            .contains("in use")
    );

    // The name moves to another image; the pod's own is nameless now, but not garbage.
    let root = application::root(&node);
    let root = root.to_str().expect("a path of text");
    let moved = [
        "image",
        "import",
        root,
        "--name",
        "user-service:v1.0.0",
        "--entrypoint",
        "/user-service",
        "--label",
        "a=b",
    ];
    node.ctl(&moved).ok();
    assert!(node.ctl(&["image", "prune"]).ok().contains("Deleted 0 images"));
    node.kill_daemon();
    std::fs::create_dir_all(node.data_dir().join("images/tmp/7/layer")).expect("what a kill leaves");
    node.spawn();
    assert_eq!(files(&node, "tmp"), 0);
    assert!(node.ctl(&["image", "ls"]).ok().contains("<none>"));
    assert_eq!(application::answer(&node), "v1.0.0");

    node.clear();
    let pruned = wait_for("the old image to be free", Duration::from_secs(30), || {
        let pruned = node.ctl(&["image", "prune"]).ok();
        if pruned.contains("Deleted 1 images") {
            Ok(pruned)
        } else {
            Err(pruned)
        }
    });
    assert!(pruned.contains("0 layers"), "the layer is shared: {pruned}");
    node.ctl(&["image", "rm", "user-service:v1.0.0"]).ok();
}

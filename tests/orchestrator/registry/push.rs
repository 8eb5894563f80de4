//! Pushing, tagging, saving, loading.

use super::Lab;
use super::image::{Image, Packing, architecture, digest, files, noise};
use super::server::{Auth, Fault, Proxy, Registry};
use harness::{need_program, need_root, run};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Mutex;

fn sample() -> Image {
    let layers = [
        (
            files(&[("etc/", b""), ("etc/a", b"1"), ("big", &noise(21, 400_000))]),
            Packing::Gzip,
        ),
        (files(&[("etc/b", b"2")]), Packing::Zstd),
    ];
    Image::with(
        &layers,
        &json!({ "Cmd": ["/big"], "Labels": { "x": "y" } }),
        architecture(),
        false,
    )
}

#[test]
fn an_image_is_pushed_byte_for_byte_and_blobs_are_mounted() {
    need_root!();
    need_program!("docker-registry");
    let lab = Lab::new();
    let (from, to) = (Registry::start(&Auth::Nobody), Registry::start(&Auth::Nobody));
    let image = sample();
    image.push(from.port, "a/b", "1");
    let source = format!("{}/a/b:1", from.host());
    lab.pull(&source);
    let proxy = Proxy::start(to.port, |_| Fault::None);
    let target = format!("{}/c/d:2", proxy.host());
    let pushed = lab.node.ctl(&["image", "push", &source, &target]).ok();
    assert!(pushed.contains(&image.digest()), "{pushed}");
    // By a name of its own, and again: nothing is uploaded twice.
    let tagged = lab.node.ctl(&["image", "tag", &source, &target]).ok();
    assert!(tagged.contains(&target), "{tagged}");
    proxy.forget();
    let again = lab.node.ctl(&["image", "push", &target]).ok();
    assert!(again.contains("0B transferred"), "{again}");
    assert!(
        !proxy.asked().iter().any(|asked| asked.method == "POST"),
        "{:?}",
        proxy.asked()
    );
    // Into another repository of the same registry the blobs are mounted.
    let other = format!("{}/e/f:3", proxy.host());
    let mounted = lab.node.ctl(&["image", "push", &target, &other]).ok();
    assert!(mounted.contains("0B transferred"), "{mounted}");
    for name in [&source, &target] {
        lab.node.ctl(&["image", "rm", name]).ok();
    }
    lab.assert_empty();
    lab.pull(&other);
    assert_eq!(lab.inspect(&other)["id"], digest(&image.config));
    assert_eq!(lab.inspect(&other)["digest"], image.digest());
    lab.assert_clean();

    for (name, target, expected) in [
        ("none:1", "127.0.0.1:1/x", "no image"),
        (other.as_str(), "127.0.0.1:1/x", "cannot connect"),
        (other.as_str(), "UPPER", "lower-case"),
    ] {
        let message = lab.node.ctl(&["image", "push", name, target]).err();
        assert!(message.contains(expected), "{message}");
    }
    let digest = format!("x@{}", image.digest());
    assert!(
        lab.node
            .ctl(&["image", "tag", &other, &digest])
            .err()
            .contains("give a tag")
    );
    assert!(
        lab.node
            .ctl(&["image", "tag", "none", "x"])
            .err()
            .contains("NotFound")
    );
}

#[test]
fn a_push_that_is_cut_off_is_tried_again() {
    need_root!();
    need_program!("docker-registry");
    let lab = Lab::new();
    let (from, to) = (Registry::start(&Auth::Nobody), Registry::start(&Auth::Nobody));
    let image = sample();
    image.push(from.port, "a", "1");
    let source = format!("{}/a:1", from.host());
    lab.pull(&source);
    // Of each blob the first upload breaks off in the middle, and one manifest before it is there.
    let seen = Mutex::new(BTreeSet::new());
    let proxy = Proxy::start(to.port, move |asked| {
        let mut seen = seen.lock().expect("no panic");
        let blob = asked.path.split("digest=").nth(1).unwrap_or_default().to_owned();
        match asked.method.as_str() {
            "PUT" if seen.insert(blob) => Fault::CutRequest(50),
            _ => Fault::None,
        }
    });
    let target = format!("{}/a:2", proxy.host());
    let pushed = lab.node.ctl(&["image", "push", &source, &target]).ok();
    assert!(pushed.contains(&image.digest()), "{pushed}");
    let puts = proxy.asked().iter().filter(|asked| asked.method == "PUT").count();
    assert_eq!(puts, 2 * (image.layers.len() + 2), "{:?}", proxy.asked());
    lab.node.ctl(&["image", "rm", &source]).ok();
    lab.pull(&format!("{}/a:2", to.host()));
    lab.assert_clean();
    // One that never succeeds ends with the reason.
    let never = Proxy::start(to.port, |asked| match asked.method.as_str() {
        "PUT" => Fault::CutRequest(50),
        _ => Fault::None,
    });
    let message = lab
        .node
        .ctl(&[
            "image",
            "push",
            &format!("{}/a:2", to.host()),
            &format!("{}/b:2", never.host()),
        ])
        .err();
    assert!(
        message.contains("blob sha256:") && message.lines().count() < 30,
        "{message}"
    );
}

#[test]
fn saved_images_load_again_in_every_form() {
    need_root!();
    need_program!("docker-registry");
    let lab = Lab::new();
    let registry = Registry::start(&Auth::Nobody);
    sample().push(registry.port, "a", "1");
    let name = format!("{}/a:1", registry.host());
    lab.pull(&name);
    lab.node.ctl(&["image", "tag", &name, "second:name"]).ok();
    let id = lab.inspect(&name)["id"].clone();
    for format in ["docker-archive", "oci-archive", "oci-dir"] {
        let path = lab.node.path().join(format);
        let path = path.to_str().expect("a path of text");
        let saved = lab
            .node
            .ctl(&[
                "image",
                "save",
                &name,
                "second:name",
                "--format",
                format,
                "-o",
                path,
            ])
            .ok();
        assert!(saved.contains(path), "{saved}");
        for name in [name.as_str(), "second:name"] {
            lab.node.ctl(&["image", "rm", name]).ok();
        }
        lab.assert_empty();
        lab.node.ctl(&["image", "load", path]).ok();
        for name in [name.as_str(), "second:name"] {
            assert_eq!(lab.inspect(name)["id"], id, "{format}");
        }
        assert_eq!(lab.content(&name, "big"), noise(21, 400_000), "{format}");
        lab.assert_clean();
    }
    // The same image gives the same archive, and standard output takes it, too.
    let first = std::fs::read(lab.node.path().join("docker-archive")).expect("the archive");
    let again = Command::new(harness::bin("berthctl"))
        .env("KUBECONFIG", lab.node.kubeconfig())
        .args(["image", "save", "second:name", &name])
        .output()
        .expect("run berthctl");
    assert!(again.status.success());
    let tags = |archive: &[u8]| {
        let file = lab.node.path().join("list.tar");
        std::fs::write(&file, archive).expect("write");
        let text = run(Command::new("tar").arg("-xOf").arg(&file).arg("manifest.json")).ok();
        let value: Value = serde_json::from_str(&text).expect("JSON");
        value[0]["RepoTags"].clone()
    };
    assert_eq!(tags(&first), tags(&again.stdout));

    let nowhere = lab.node.ctl(&["image", "save", "none", "-o", "/tmp/x"]).err();
    assert!(nowhere.contains("NotFound"), "{nowhere}");
    let full = lab.node.path().join("oci-dir");
    let full = lab
        .node
        .ctl(&[
            "image",
            "save",
            &name,
            "--format",
            "oci-dir",
            "-o",
            full.to_str().expect("text"),
        ])
        .err();
    assert!(full.contains("is not empty"), "{full}");
    let unnamed = lab
        .node
        .ctl(&["image", "save", &name, "--format", "oci-dir"])
        .err();
    assert!(unnamed.contains("--output"), "{unnamed}");
    let root = lab.node.ctl(&["image", "load", "/etc"]).err();
    assert!(root.contains("image import"), "{root}");
}

#[test]
fn damage_is_found_and_repaired() {
    need_root!();
    need_program!("docker-registry");
    let lab = Lab::new();
    let registry = Registry::start(&Auth::Nobody);
    let image = sample();
    image.push(registry.port, "a", "1");
    let name = format!("{}/a:1", registry.host());
    lab.pull(&name);
    lab.assert_clean();
    let blob = digest(&image.layers[0]);
    let path = lab
        .store()
        .join("blobs/sha256")
        .join(blob.trim_start_matches("sha256:"));
    let mut bytes = std::fs::read(&path).expect("the blob");
    bytes[1000] ^= 1;
    std::fs::write(&path, bytes).expect("damage it");
    let found = lab.node.ctl(&["image", "check"]);
    assert!(
        !found.status.success() && found.stdout.contains(&blob),
        "{found:?}"
    );
    assert!(found.stdout.contains("lacks blob"), "{found:?}");
    let repaired = lab.node.ctl(&["image", "check", "--repair"]);
    assert!(repaired.stderr.contains("pull or import"), "{repaired:?}");
    lab.pull(&name);
    lab.assert_clean();
}

#[test]
fn damage_of_an_unpacked_file_is_found_by_a_deep_check() {
    need_root!();
    need_program!("docker-registry");
    let lab = Lab::new();
    let registry = Registry::start(&Auth::Nobody);
    sample().push(registry.port, "a", "1");
    let name = format!("{}/a:1", registry.host());
    lab.pull(&name);
    let deep = |more: &[&str]| lab.node.ctl(&[&["image", "check", "--deep"], more].concat());
    assert!(deep(&[]).ok().contains("The store is clean"));
    let chain = lab.inspect(&name)["layers"][0]["chainId"]
        .as_str()
        .expect("an id")
        .to_owned();
    let folder = lab
        .store()
        .join("layers")
        .join(chain.trim_start_matches("sha256:"))
        .join("fs");
    // The same size and time: only the content tells.
    let file = std::fs::File::options()
        .write(true)
        .open(folder.join("etc/a"))
        .expect("open");
    let time = file
        .metadata()
        .and_then(|meta| meta.modified())
        .expect("its time");
    std::io::Write::write_all(&mut &file, b"2").expect("damage it");
    file.set_modified(time).expect("set the time");
    lab.assert_clean();
    let found = deep(&[]);
    let line = format!("layer {chain} is damaged: /etc/a has another content");
    assert!(
        !found.status.success() && found.stdout.contains(&line),
        "{found:?}"
    );
    let repaired = deep(&["--repair"]);
    assert!(
        repaired.stdout.contains("it is unpacked again when it is wanted"),
        "{repaired:?}"
    );
    lab.pull(&name);
    assert_eq!(lab.content(&name, "etc/a"), b"1");
    assert!(deep(&[]).ok().contains("The store is clean"));
    assert_eq!(lab.files("tmp").len(), 0);
}

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::error::{LayerError, StoreError};
use crate::fixture::{Layout, Tar, docker_archive, gzip};
use crate::rootfs::Rootfs;

fn store(folder: &Path) -> ImageStore {
    ImageStore::open(&folder.join("store")).unwrap()
}

fn options() -> ImportOptions {
    ImportOptions::default()
}

fn layer(name: &str) -> Vec<u8> {
    Tar::new()
        .directory("etc", 0o755)
        .file(&format!("etc/{name}"), name.as_bytes())
        .finish()
}

/// Every file of the store but the lock: to see that nothing is left behind.
fn files(folder: &Path) -> usize {
    let listed = Command::new("find")
        .arg(folder.join("store"))
        .args(["-type", "f"])
        .output()
        .unwrap();
    String::from_utf8(listed.stdout).unwrap().lines().count()
}

#[test]
fn docker_archives_with_legacy_links_are_imported() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let (a, b) = (layer("a"), layer("b"));
    let config = crate::fixture::config(&[a.clone(), b.clone(), a.clone()]);
    let manifest = r#"[{"Config":"c.json","RepoTags":["app:1","quay.io/x/app:1"],"Layers":["1/layer.tar","2/layer.tar","3/layer.tar"]}]"#;
    let tar = Tar::new()
        .file("manifest.json", manifest.as_bytes())
        .file("c.json", &config)
        .directory("1", 0o755)
        .file("1/layer.tar", &a)
        .file("2/layer.tar", &b)
        .symlink("3/layer.tar", "../1/layer.tar")
        .finish();
    let imported = store.import(&gzip(&tar)[..], &options()).unwrap();
    assert_eq!(imported.len(), 1);
    assert_eq!(imported[0].id, Digest::of(&config));
    for name in [
        "app:1",
        "docker.io/library/app:1",
        "quay.io/x/app:1",
        &imported[0].id.to_string(),
    ] {
        let image = store.resolve(name).unwrap().unwrap_or_else(|| panic!("{name}"));
        assert_eq!(image.id, imported[0].id);
        assert_eq!(image.layers.len(), 3);
        assert_eq!(
            image
                .config
                .config()
                .as_ref()
                .unwrap()
                .entrypoint()
                .as_deref()
                .unwrap(),
            ["/bin/app"]
        );
    }
    assert_eq!(store.resolve("app:2").unwrap().map(|image| image.id), None);
    let by_digest = format!("app@{}", imported[0].manifest);
    assert_eq!(store.resolve(&by_digest).unwrap().unwrap().id, imported[0].id);
    assert_eq!(
        store
            .resolve(&format!("other@{}", imported[0].manifest))
            .unwrap()
            .map(|image| image.id),
        None
    );
}

#[test]
fn oci_layouts_with_any_compression_are_imported() {
    let plain = [layer("a"), layer("b"), layer("c")];
    let layers = [
        plain[0].clone(),
        gzip(&plain[1]),
        zstd::encode_all(&plain[2][..], 3).unwrap(),
    ];
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let layout = Layout::new("example.com/app:2", &layers, &plain);
    let imported = store.import(&layout.archive()[..], &options()).unwrap();
    assert_eq!(imported[0].names[0].to_string(), "example.com/app:2");
    assert_eq!(store.list()[0].size, 3);

    let named = ImportOptions {
        name: Some("mine".to_owned()),
        ..options()
    };
    let again = store.import(&layout.archive()[..], &named).unwrap();
    assert_eq!(again[0].manifest, imported[0].manifest);
    let names: Vec<String> = store.list()[0].names.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["docker.io/library/mine:latest", "example.com/app:2"]);
}

#[test]
fn indexes_are_searched_for_this_machine() {
    let plain = [layer("a")];
    let mut layout = Layout::new("app:1", &plain, &plain);
    let mut inner = layout.index["manifests"][0].clone();
    let host = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    inner["platform"] = serde_json::json!({ "os": "linux", "architecture": host });
    let mut foreign = inner.clone();
    foreign["platform"] = serde_json::json!({ "os": "linux", "architecture": "s390x" });
    let wrap = |manifests: serde_json::Value| {
        serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": manifests,
        })
        .to_string()
        .into_bytes()
    };
    let describe = |blob: &[u8]| {
        serde_json::json!({
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "digest": Digest::of(blob).to_string(),
            "size": blob.len(),
            "annotations": { "io.containerd.image.name": "docker.io/library/app:1" },
        })
    };
    let blob = wrap(serde_json::json!([foreign.clone(), inner]));
    layout.index["manifests"] = serde_json::json!([describe(&blob)]);
    layout.blobs.push(blob);
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    assert_eq!(
        store.import(&layout.archive()[..], &options()).unwrap()[0].names[0].familiar(),
        "app:1"
    );

    let blob = wrap(serde_json::json!([foreign]));
    layout.index["manifests"] = serde_json::json!([describe(&blob)]);
    layout.blobs.push(blob);
    let error = store.import(&layout.archive()[..], &options()).unwrap_err();
    assert!(error.to_string().contains("linux/s390x"), "{error}");
}

#[test]
fn root_file_systems_get_their_config() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let root = RootOptions {
        entrypoint: vec!["/user-service".to_owned()],
        cmd: vec!["--flag".to_owned()],
        env: vec!["VERSION=v1".to_owned()],
        working_dir: Some("/etc".to_owned()),
        user: Some("1000:1000".to_owned()),
        ports: vec!["8080".to_owned(), "53/udp".to_owned()],
        labels: vec!["a.b/c=d=e".to_owned()],
        stop_signal: Some("SIGINT".to_owned()),
    };
    let wanted = ImportOptions {
        format: ImportFormat::Root,
        name: Some("user-service:v1.0.0".to_owned()),
        root,
        ..options()
    };
    let first = store.import(&layer("a")[..], &wanted).unwrap();
    let image = store.resolve("user-service:v1.0.0").unwrap().unwrap();
    let config = image.config.config().clone().unwrap();
    assert_eq!(config.entrypoint().as_deref().unwrap(), ["/user-service"]);
    assert_eq!(config.cmd().as_deref().unwrap(), ["--flag"]);
    assert_eq!(config.env().as_deref().unwrap(), ["VERSION=v1"]);
    assert_eq!(config.working_dir().as_deref(), Some("/etc"));
    assert_eq!(config.user().as_deref(), Some("1000:1000"));
    assert_eq!(config.stop_signal().as_deref(), Some("SIGINT"));
    assert_eq!(config.labels().as_ref().unwrap()["a.b/c"], "d=e");
    let mut ports = config.exposed_ports().clone().unwrap();
    ports.sort();
    assert_eq!(ports, ["53/udp", "8080/tcp"]);

    let second = store.import(&layer("a")[..], &wanted).unwrap();
    assert_eq!(first, second, "the same folder and options give the same image");
    let compressed = store.import(&gzip(&layer("a"))[..], &wanted).unwrap();
    assert_eq!(
        compressed[0].id, first[0].id,
        "the id does not depend on the compression"
    );

    for (change, expected) in [
        (
            RootOptions {
                ports: vec!["0".to_owned()],
                ..RootOptions::default()
            },
            "--port",
        ),
        (
            RootOptions {
                env: vec!["X".to_owned()],
                ..RootOptions::default()
            },
            "--env",
        ),
        (
            RootOptions {
                labels: vec!["=".to_owned()],
                ..RootOptions::default()
            },
            "--label",
        ),
        (
            RootOptions {
                working_dir: Some("x".to_owned()),
                ..RootOptions::default()
            },
            "--workdir",
        ),
    ] {
        let wanted = ImportOptions {
            root: change,
            ..wanted.clone()
        };
        let error = store.import(&layer("a")[..], &wanted).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// Each case: an archive that must be refused, and a part of the message.
#[test]
fn damaged_and_hostile_archives_are_refused_and_leave_nothing() {
    let plain = [layer("a")];
    let good = docker_archive(&["app:1"], &plain);
    let zipped = gzip(&good);
    let mut cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("no archive", b"hello".to_vec(), "cannot read the image archive"),
        ("empty", Vec::new(), "neither manifest.json"),
        (
            "some other tar",
            Tar::new().file("a", b"").finish(),
            "neither manifest.json",
        ),
        (
            "truncated",
            good[..good.len() / 2 + 100].to_vec(),
            "cannot read the image archive",
        ),
        (
            "truncated gzip",
            zipped[..zipped.len() - 20].to_vec(),
            "cannot read the image archive",
        ),
        ("unnamed", docker_archive(&[], &plain), "--name"),
        ("bad tag", docker_archive(&["UPPER/../x"], &plain), "image name"),
    ];

    let mut layout = Layout::new("app:1", &plain, &plain);
    layout.index["manifests"][0]["size"] = serde_json::json!(1);
    cases.push(("wrong size", layout.archive(), "bytes, not 1"));
    let mut layout = Layout::new("app:1", &plain, &plain);
    layout.blobs.remove(0);
    cases.push(("missing layer", layout.archive(), "which blobs/sha256/"));
    cases.push((
        "index is no index",
        Tar::new().file("index.json", b"[]").finish(),
        "\"index.json\" in the archive is malformed",
    ));
    let wrong = Tar::new()
        .file(&format!("blobs/sha256/{}", Digest::of(b"right").hex()), b"wrong")
        .file("index.json", b"{}")
        .finish();
    cases.push(("wrong digest", wrong, "the archive is damaged"));
    cases.push((
        "layer whose uncompressed content is another",
        Layout::new("app:1", &[gzip(&layer("b"))], &plain).archive(),
        "but the image's config says",
    ));
    let compressed = gzip(&plain[0]);
    let cut = compressed[..compressed.len() - 12].to_vec();
    cases.push((
        "truncated layer",
        Layout::new("app:1", &[cut], &plain).archive(),
        "cannot unpack layer",
    ));
    cases.push((
        "fewer layers than diff ids",
        Layout::new("app:1", &plain, &[plain[0].clone(), layer("b")]).archive(),
        "1 layers, but its config 2",
    ));
    let evil = [Tar::new().file("../../evil", b"").finish()];
    cases.push((
        "escaping layer",
        docker_archive(&["app:1"], &evil),
        "cannot unpack layer",
    ));
    let links = Tar::new()
        .file(
            "manifest.json",
            br#"[{"Config":"c","RepoTags":["a:1"],"Layers":["l"]}]"#,
        )
        .file("c", &crate::fixture::config(&plain))
        .symlink("l", "m")
        .symlink("m", "l")
        .finish();
    cases.push(("links in a circle", links, "the archive has no \"l\""));
    let outside = Tar::new()
        .file(
            "manifest.json",
            br#"[{"Config":"c","RepoTags":["a:1"],"Layers":["/etc/passwd"]}]"#,
        )
        .file("c", &crate::fixture::config(&plain))
        .finish();
    cases.push((
        "member outside the archive",
        outside,
        "the archive has no \"/etc/passwd\"",
    ));

    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let before = files(folder.path());
    for (name, archive, expected) in cases {
        let error = store.import(&archive[..], &options()).expect_err(name);
        assert!(error.to_string().contains(expected), "{name}: {error}");
        store.gc(&BTreeSet::new()).unwrap();
        assert_eq!(files(folder.path()), before, "{name} left something behind");
    }
    assert!(store.list().is_empty());
}

#[test]
fn names_move_and_images_in_use_stay() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let old = store
        .import(
            &docker_archive(&["app:1"], &[layer("base"), layer("old")])[..],
            &options(),
        )
        .unwrap();
    let new = store
        .import(
            &docker_archive(&["app:1"], &[layer("base"), layer("new")])[..],
            &options(),
        )
        .unwrap();
    let (old, new) = (old[0].id, new[0].id);
    assert_eq!(store.resolve("app:1").unwrap().unwrap().id, new);
    assert_eq!(store.list().len(), 2, "the old image lost its name, not its life");
    assert_eq!(store.list()[0].unique_size, 3, "the base layer is shared");

    let in_use = BTreeSet::from([old, new]);
    assert_eq!(store.gc(&in_use).unwrap().images, 0);
    assert!(matches!(
        store.remove("app:1", &in_use),
        Err(StoreError::InUse { .. })
    ));
    assert!(store.resolve("app:1").unwrap().is_some());
    let collected = store.gc(&BTreeSet::from([new])).unwrap();
    assert_eq!((collected.images, collected.layers), (1, 1));
    assert!(store.resolve(&old.to_string()).unwrap().is_none());

    let removed = store.remove("docker.io/library/app:1", &BTreeSet::new()).unwrap();
    assert_eq!(removed.deleted, Some(new));
    assert_eq!(removed.collected.layers, 2);
    assert!(matches!(
        store.remove("app:1", &BTreeSet::new()),
        Err(StoreError::NotFound { .. })
    ));
    assert!(matches!(
        store.remove("app:", &BTreeSet::new()),
        Err(StoreError::Name(_))
    ));
}

#[test]
fn a_store_is_found_again_and_swept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let archive = docker_archive(&["app:1"], &[layer("a")]);
    let id = {
        let store = store(folder.path());
        assert!(matches!(ImageStore::open(&path), Err(StoreError::Locked { .. })));
        store.import(&archive[..], &options()).unwrap()[0].id
    };
    // What a kill at the worst moments leaves.
    fs::create_dir_all(path.join("tmp/0/layer/fs")).unwrap();
    fs::write(path.join("tmp/0/blob-0"), "half").unwrap();
    fs::write(
        path.join("blobs/sha256").join(Digest::of(b"orphan").hex()),
        "orphan",
    )
    .unwrap();
    fs::create_dir_all(path.join("layers").join(Digest::of(b"half").hex()).join("fs")).unwrap();
    std::os::unix::fs::symlink("../layers/nothing/fs", path.join("l/zz")).unwrap();
    fs::remove_file(path.join("l/0")).unwrap();
    {
        let store = store(folder.path());
        assert_eq!(store.resolve("app:1").unwrap().unwrap().id, id);
        assert_eq!(fs::read_dir(path.join("tmp")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(path.join("layers")).unwrap().count(), 1);
        assert_eq!(fs::read_dir(path.join("blobs/sha256")).unwrap().count(), 3);
        assert_eq!(fs::read_dir(path.join("l")).unwrap().count(), 1);
        assert!(path.join("l/0/etc/a").exists());
    }
    // A damaged document takes its image out of use, and importing it again repairs it.
    fs::write(path.join("blobs/sha256").join(id.hex()), "damage").unwrap();
    let store = store(folder.path());
    assert_eq!(store.damaged().len(), 1);
    assert!(store.resolve("app:1").unwrap().is_none());
    store.import(&archive[..], &options()).unwrap();
    assert!(store.damaged().is_empty());
    assert_eq!(store.resolve("app:1").unwrap().unwrap().id, id);
}

#[test]
fn concurrent_imports_share_layers() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let base = layer("base");
    std::thread::scope(|scope| {
        for index in 0..8 {
            let archive = docker_archive(
                &[&format!("app:{index}")],
                &[base.clone(), layer(&format!("own{index}"))],
            );
            let store = store.clone();
            scope.spawn(move || store.import(&archive[..], &options()).unwrap());
        }
    });
    assert_eq!(store.list().len(), 8);
    assert_eq!(
        fs::read_dir(folder.path().join("store/layers")).unwrap().count(),
        9
    );
}

/// A mount namespace for the calling thread: overlays mounted in it are gone with the thread.
fn with_own_mounts(work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use nix::mount::{MsFlags, mount};
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            work();
        });
    });
}

#[test]
fn the_kernel_merges_the_layers_as_the_image_means() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: mounting an overlay needs root");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let bottom = Tar::new()
        .directory("keep", 0o755)
        .file("keep/file", b"bottom")
        .file("gone", b"")
        .directory("emptied", 0o755)
        .file("emptied/a", b"")
        .directory("replaced", 0o755)
        .file("replaced/a", b"")
        .file("was-file", b"")
        .finish();
    let top = Tar::new()
        .file("keep/.wh.file", b"")
        .file(".wh.gone", b"")
        .file("emptied/.wh..wh..opq", b"")
        .file("emptied/b", b"")
        .file(".wh.replaced", b"")
        .directory("replaced", 0o700)
        .file("replaced/c", b"")
        .directory("was-file", 0o755)
        .file("fresh/.wh.nothing", b"")
        .finish();
    store
        .import(&docker_archive(&["app:1"], &[bottom, top])[..], &options())
        .unwrap();
    let image = store.resolve("app:1").unwrap().unwrap();
    let container = folder.path().join("container, with odd\\name");
    fs::create_dir(&container).unwrap();
    with_own_mounts(|| {
        let rootfs = store.prepare_rootfs(&image, &container).unwrap();
        assert_eq!(rootfs.lower.len(), 2);
        rootfs.mount().unwrap();
        rootfs.mount().unwrap();
        let names = |path: &str| {
            let listed = fs::read_dir(rootfs.target.join(path)).unwrap();
            let mut names: Vec<String> = listed
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        assert_eq!(names(""), ["emptied", "fresh", "keep", "replaced", "was-file"]);
        assert!(names("keep").is_empty() && names("fresh").is_empty() && names("was-file").is_empty());
        assert_eq!(
            (names("emptied"), names("replaced")),
            (vec!["b".to_owned()], vec!["c".to_owned()])
        );
        fs::write(rootfs.target.join("gone"), "back").unwrap();
        assert_eq!(fs::read_to_string(rootfs.upper.join("gone")).unwrap(), "back");
        Rootfs::remove(&container).unwrap();
        Rootfs::remove(&container).unwrap();
        assert_eq!(fs::read_dir(&container).unwrap().count(), 0);
    });
}

#[test]
fn a_hundred_and_fifty_layers_mount() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: mounting an overlay needs root");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let layers: Vec<Vec<u8>> = (0..150)
        .map(|index| Tar::new().file(&format!("f{index}"), b"").finish())
        .collect();
    store
        .import(&docker_archive(&["deep:1"], &layers)[..], &options())
        .unwrap();
    let image = store.resolve("deep:1").unwrap().unwrap();
    let container = folder.path().join("container");
    fs::create_dir(&container).unwrap();
    with_own_mounts(|| {
        let rootfs = store.prepare_rootfs(&image, &container).unwrap();
        rootfs.mount().unwrap();
        assert_eq!(fs::read_dir(&rootfs.target).unwrap().count(), 150);
        Rootfs::remove(&container).unwrap();
    });
}

#[test]
fn a_lost_layer_is_unpacked_again_and_a_lost_blob_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let image = {
        let store = store(folder.path());
        store
            .import(&docker_archive(&["app:1"], &[layer("a")])[..], &options())
            .unwrap();
        store.resolve("app:1").unwrap().unwrap()
    };
    let layer = path.join("layers").join(image.layers[0].digest().hex());
    fs::remove_dir_all(&layer).unwrap();
    let container = folder.path().join("container");
    fs::create_dir(&container).unwrap();
    {
        let store = store(folder.path());
        store.prepare_rootfs(&image, &container).unwrap();
        assert!(layer.join("fs/etc/a").exists());
    }
    fs::remove_dir_all(&layer).unwrap();
    fs::remove_file(path.join("blobs/sha256").join(image.layers[0].digest().hex())).unwrap();
    let error = store(folder.path())
        .prepare_rootfs(&image, &container)
        .unwrap_err();
    assert!(
        matches!(
            error,
            crate::RootfsError::Layer(LayerError::Store(StoreError::File { .. }))
        ),
        "{error}"
    );
}

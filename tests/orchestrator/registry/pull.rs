//! Pulls that go well, and those that are refused.

use super::Lab;
use super::image::{
    Image, OCI_INDEX, OCI_MANIFEST, Packing, architecture, digest, files, index, noise, put_manifest,
};
use super::server::{Auth, Fake, Fault, Proxy, Registry, TokenServer, key_and_certificate};
use harness::{need_program, need_root, run};
use serde_json::json;
use std::process::Command;

/// Layers in all packings, the last over the first.
fn mixed() -> Vec<(Vec<u8>, Packing)> {
    vec![
        (
            files(&[("etc/", b""), ("etc/a", b"lowest"), ("app", b"#!")]),
            Packing::Gzip,
        ),
        (
            files(&[("etc/", b""), ("etc/b", &noise(1, 300_000))]),
            Packing::Zstd,
        ),
        (files(&[("etc/c", &noise(2, 200_000))]), Packing::ZstdChunked),
        (
            files(&[("etc/a", b"topmost"), ("etc/.wh.b", b"")]),
            Packing::Plain,
        ),
    ]
}

#[test]
fn an_image_is_pulled_by_tag_by_digest_and_for_this_machine() {
    need_root!();
    need_program!("docker-registry");
    let lab = Lab::new();
    let registry = Registry::start(&Auth::Nobody);
    let proxy = Proxy::start(registry.port, |_| Fault::None);
    let (image, other) = (
        Image::new(&mixed()),
        Image::with(
            &[(files(&[("x", b"y")]), Packing::Gzip)],
            &json!({}),
            "s390x",
            false,
        ),
    );
    image.push(registry.port, "team/app", "single");
    other.push(registry.port, "team/app", "other");
    let list = index(&[other.descriptor("s390x"), image.descriptor(architecture())]);
    put_manifest(registry.port, "team/app", "1", OCI_INDEX, &list);

    let name = format!("{}/team/app:1", proxy.host());
    let first = lab.pull(&name);
    assert!(
        first.contains(&image.digest()) && first.contains("pulled"),
        "{first}"
    );
    assert_eq!(lab.content(&name, "etc/a"), b"topmost");
    assert_eq!(lab.content(&name, "etc/c"), noise(2, 200_000));
    let shown = lab.inspect(&name);
    assert_eq!(shown["id"], digest(&image.config));
    // Known by the index's digest and by the manifest's, as pods may name it.
    for wanted in [digest(&list), image.digest()] {
        let by_digest = format!("{}/team/app@{wanted}", proxy.host());
        assert_eq!(lab.inspect(&by_digest)["id"], digest(&image.config));
    }
    lab.assert_clean();

    // Again: only documents are asked for.
    proxy.forget();
    let again = lab.pull(&name);
    assert!(again.contains("is up to date"), "{again}");
    assert_eq!(proxy.blobs().len(), 0, "{:?}", proxy.asked());
    // By digest, under no tag.
    let by_digest = format!("{}/team/app@{}", proxy.host(), digest(&list));
    lab.node.ctl(&["image", "rm", &name]).ok();
    lab.assert_empty();
    lab.pull(&by_digest);
    assert!(lab.node.ctl(&["image", "ls"]).ok().contains(&digest(&list)));
    lab.node.ctl(&["image", "rm", &by_digest]).ok();
    lab.assert_empty();

    let message = lab.refused(&format!("{}/team/app:other", proxy.host()));
    assert!(message.contains("linux/s390x"), "{message}");
    let message = lab.refused(&format!("{}/team/app:none", proxy.host()));
    assert!(
        message.contains("404") && message.contains("MANIFEST_UNKNOWN"),
        "{message}"
    );
    let message = lab.refused("127.0.0.1:1/a");
    assert!(message.contains("cannot connect to 127.0.0.1:1"), "{message}");
    lab.assert_empty();
}

#[test]
fn docker_s_media_types_and_a_shared_base_are_understood() {
    need_root!();
    need_program!("docker-registry");
    let lab = Lab::new();
    let registry = Registry::start(&Auth::Nobody);
    let proxy = Proxy::start(registry.port, |_| Fault::None);
    let base = (files(&[("base", &noise(7, 2_000_000))]), Packing::Gzip);
    let own = |text: &str| (files(&[("own", text.as_bytes())]), Packing::Gzip);
    for (tag, text) in [("1", "one"), ("2", "two")] {
        Image::with(&[base.clone(), own(text)], &json!({}), architecture(), true).push(
            registry.port,
            "app",
            tag,
        );
    }
    lab.pull(&format!("{}/app:1", proxy.host()));
    proxy.forget();
    let second = lab.pull(&format!("{}/app:2", proxy.host()));
    // The config and the one layer that is new.
    assert_eq!(proxy.blobs().len(), 2, "{:?}", proxy.blobs());
    assert!(second.contains("B transferred"), "{second}");
    assert_eq!(lab.content(&format!("{}/app:2", proxy.host()), "own"), b"two");
    assert_eq!(lab.files("layers").len(), 3);
    let history = lab
        .node
        .ctl(&["image", "history", &format!("{}/app:2", proxy.host())])
        .ok();
    assert_eq!(history.matches("a test").count(), 2, "{history}");
    let usage = lab.node.ctl(&["image", "df"]).ok();
    assert!(usage.contains("Layers (unpacked)"), "{usage}");
    let pruned = lab.node.ctl(&["image", "prune", "--all"]).ok();
    assert!(pruned.contains("Deleted 2 images, 3 layers"), "{pruned}");
    lab.assert_empty();
}

#[test]
fn passwords_and_tokens_open_a_registry() {
    need_root!();
    need_program!("docker-registry");
    need_program!("openssl");
    let lab = Lab::new();
    let open = Registry::start(&Auth::Nobody);
    let image = Image::new(&mixed());
    image.push(open.port, "app", "1");
    // Who may push to the others? berthd, with the same credentials.
    let source = format!("{}/app:1", open.host());
    lab.pull(&source);

    let tokens = TokenServer::start();
    let guarded = [
        Registry::start(&Auth::Password),
        Registry::start(&Auth::Token(tokens.port, tokens.certificate.clone())),
    ];
    for registry in &guarded {
        let name = format!("{}/team/app:1", registry.host());
        let push = |more: &[&str]| lab.node.ctl(&[&["image", "push", &source, &name], more].concat());
        let message = push(&[]).err();
        assert!(message.contains("pull secret, or log in"), "{message}");
        let message = push(&["--creds", "tester:wrong"]).err();
        assert!(message.contains("credentials for it were refused"), "{message}");
        push(&["--creds", "tester:secret"]).ok();

        let message = lab.refused(&name);
        assert!(message.contains("refuses access to team/app"), "{message}");
        let wrong = lab
            .node
            .ctl(&["image", "pull", &name, "--creds", "tester:wrong"])
            .err();
        assert!(wrong.contains("were refused"), "{wrong}");
        lab.node
            .ctl(&["image", "pull", &name, "--creds", "tester:secret"])
            .ok();
        lab.node.ctl(&["image", "rm", &name]).ok();

        // Where docker login leaves them.
        let entry = json!({ "auths": { registry.host(): { "auth": "dGVzdGVyOnNlY3JldA==" } } });
        lab.write("auth.json", &entry.to_string());
        let file = lab.setting("auth.json");
        let file = file.to_str().expect("a path of text");
        lab.node.ctl(&["image", "pull", &name, "--authfile", file]).ok();
        lab.node.ctl(&["image", "rm", &name]).ok();
        // The node's own.
        std::fs::copy(file, lab.node.data_dir().join("config.json")).expect("copy");
        lab.pull(&name);
        lab.node.ctl(&["image", "rm", &name]).ok();
        std::fs::remove_file(lab.node.data_dir().join("config.json")).expect("remove");
    }
    // A refresh token is exchanged for an access token.
    let host = guarded[1].host();
    lab.write(
        "auth.json",
        &json!({ "auths": { host.clone(): { "identitytoken": "refresh" } } }).to_string(),
    );
    let file = lab.setting("auth.json");
    let name = format!("{host}/team/app:1");
    lab.node
        .ctl(&["image", "pull", &name, "--authfile", file.to_str().expect("text")])
        .ok();
    assert!(
        tokens.given().contains(&"repository:team/app:pull".to_owned()),
        "{:?}",
        tokens.given()
    );
    assert!(
        tokens
            .given()
            .contains(&"repository:team/app:pull,push".to_owned())
    );
    let malformed = lab.node.ctl(&["image", "pull", &name, "--creds", "tester"]).err();
    assert!(malformed.contains("USER:PASSWORD"), "{malformed}");
}

#[test]
fn mirrors_come_first_and_blocked_registries_never() {
    need_root!();
    need_program!("docker-registry");
    let lab = Lab::new();
    let (origin, mirror) = (Registry::start(&Auth::Nobody), Registry::start(&Auth::Nobody));
    let behind = Proxy::start(mirror.port, |_| Fault::None);
    let before = Proxy::start(origin.port, |_| Fault::None);
    let image = Image::new(&mixed());
    image.push(origin.port, "team/app", "1");
    image.push(mirror.port, "copy/app", "1");
    let conf = |more: &str| {
        lab.write(
            "registries.conf",
            &format!(
                "[[registry]]\nprefix = 'r.example/team'\nlocation = '{}/team'\ninsecure = true\n\
                 [[registry.mirror]]\nlocation = '{}/copy'\ninsecure = true\n{more}",
                before.host(),
                behind.host()
            ),
        );
    };
    conf("");
    lab.pull("r.example/team/app:1");
    assert_eq!(
        (before.asked().len(), behind.blobs().len()),
        (0, 5),
        "{:?}",
        before.asked()
    );
    lab.node.ctl(&["image", "rm", "r.example/team/app:1"]).ok();
    // For names by tag, this mirror is not asked.
    conf("pull-from-mirror = 'digest-only'\n");
    behind.forget();
    lab.pull("r.example/team/app:1");
    assert_eq!((before.blobs().len(), behind.asked().len()), (5, 0));
    lab.node.ctl(&["image", "rm", "r.example/team/app:1"]).ok();
    // A mirror that is down, or has not got it, costs nothing but the look.
    image.push(origin.port, "team/only", "1");
    conf("");
    lab.pull("r.example/team/only:1");
    drop(mirror);
    lab.node.ctl(&["image", "rm", "r.example/team/only:1"]).ok();
    lab.pull("r.example/team/app:1");
    let message = lab.refused("r.example/team/none:1");
    assert!(
        message.contains("from any of its places") && message.contains(&behind.host()),
        "{message}"
    );

    conf("[[registry]]\nlocation = 'evil.example'\nblocked = true\n");
    assert!(lab.refused("evil.example/x").contains("is blocked by"));
    lab.write("registries.conf", "[[registry]]\nlocatoin = 'x'\n");
    let message = lab.refused("r.example/team/app:1");
    assert!(
        message.contains("registries.conf") && message.contains("locatoin"),
        "{message}"
    );
}

#[test]
fn certificates_are_verified_unless_the_configuration_says_otherwise() {
    need_root!();
    need_program!("docker-registry");
    need_program!("openssl");
    let lab = Lab::new();
    let (key, certificate) = key_and_certificate(lab.node.path(), "registry");
    let registry = Registry::start_with(&Auth::Nobody, Some((&certificate, &key)));
    let open = Registry::start(&Auth::Nobody);
    Image::new(&mixed()).push(open.port, "app", "1");
    let source = format!("{}/app:1", open.host());
    lab.pull(&source);
    let name = format!("{}/app:1", registry.host());
    let refused = lab.node.ctl(&["image", "push", &source, &name]).err();
    assert!(refused.contains("certs.d"), "{refused}");

    let folder = lab.setting("certs.d").join(registry.host());
    std::fs::create_dir_all(&folder).expect("make the folder");
    std::fs::copy(&certificate, folder.join("ca.crt")).expect("copy");
    lab.node.ctl(&["image", "push", &source, &name]).ok();
    std::fs::remove_dir_all(&folder).expect("remove");

    assert!(lab.refused(&name).contains("cannot agree on TLS"));
    lab.write(
        "registries.conf",
        &format!(
            "[[registry]]\nlocation = '{}'\ninsecure = true\n",
            registry.host()
        ),
    );
    lab.pull(&name);
}

#[test]
fn what_is_no_image_is_refused_with_the_reason() {
    need_root!();
    let lab = Lab::new();
    let fake = Fake::start();
    let image = Image::new(&[(files(&[("a", b"b")]), Packing::Gzip)]);
    let blob = |bytes: &[u8]| {
        fake.set(
            &format!("/v2/x/blobs/{}", digest(bytes)),
            "application/octet-stream",
            bytes,
        )
    };
    blob(&image.config);
    blob(&image.layers[0]);
    let manifest = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut value: serde_json::Value = serde_json::from_slice(&image.manifest).expect("JSON");
        change(&mut value);
        value.to_string().into_bytes()
    };
    let big = noise(3, 9 << 20);
    let cases: Vec<(&str, &str, Vec<u8>)> = vec![
        (
            "foreign layer",
            OCI_MANIFEST,
            manifest(&|m| {
                m["layers"][0]["mediaType"] =
                    json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
                m["layers"][0]["urls"] = json!(["https://elsewhere.example/x"]);
            }),
        ),
        (
            "is encrypted",
            OCI_MANIFEST,
            manifest(&|m| {
                m["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+gzip+encrypted");
            }),
        ),
        (
            "no layer of a container image",
            OCI_MANIFEST,
            manifest(&|m| {
                m["layers"][0]["mediaType"] = json!("text/plain");
            }),
        ),
        (
            "is an artifact",
            OCI_MANIFEST,
            manifest(&|m| {
                m["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json");
            }),
        ),
        (
            "gave up in 2019",
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
            manifest(&|m| {
                m["schemaVersion"] = json!(1);
            }),
        ),
        (
            "read as an index and as a manifest",
            OCI_MANIFEST,
            manifest(&|m| m["manifests"] = json!([])),
        ),
        ("says something else", OCI_INDEX, image.manifest.clone()),
        (
            "has 2 layers, but its config 1",
            OCI_MANIFEST,
            manifest(&|m| {
                let layer = m["layers"][0].clone();
                m["layers"].as_array_mut().expect("a list").push(layer);
            }),
        ),
        (
            "bytes, not 7",
            OCI_MANIFEST,
            manifest(&|m| m["layers"][0]["size"] = json!(7)),
        ),
        (
            "not 9999999999 as its descriptor says",
            OCI_MANIFEST,
            manifest(&|m| m["config"]["size"] = json!(9_999_999_999_u64)),
        ),
        (
            "is malformed",
            OCI_MANIFEST,
            manifest(&|m| m["layers"][0]["digest"] = json!("sha256:../../../etc/passwd")),
        ),
        (
            "404",
            OCI_MANIFEST,
            manifest(&|m| m["layers"][0]["digest"] = json!(digest(b"nothing"))),
        ),
        ("malformed", OCI_MANIFEST, b"{".to_vec()),
        ("no platform", OCI_INDEX, index(&[])),
        ("more than 8388608 bytes", OCI_MANIFEST, big),
    ];
    for (number, (expected, media_type, body)) in cases.iter().enumerate() {
        fake.set(&format!("/v2/x/manifests/{number}"), media_type, body);
        let message = lab.refused(&format!("{}/x:{number}", fake.host()));
        assert!(
            message.contains(expected)
                && message
                    .lines()
                    .last()
                    .is_some_and(|line| line.starts_with("error: ")),
            "{expected}: {message}"
        );
        lab.assert_empty();
    }
    // Named by a digest that the content does not have.
    let wanted = digest(b"something else");
    fake.set(
        &format!("/v2/x/manifests/{wanted}"),
        OCI_MANIFEST,
        &image.manifest,
    );
    let message = lab.refused(&format!("{}/x@{wanted}", fake.host()));
    assert!(message.contains("refused"), "{message}");
    // A layer that is not what the config says it is uncompressed.
    let mut config: serde_json::Value = serde_json::from_slice(&image.config).expect("JSON");
    config["rootfs"]["diff_ids"][0] = json!(digest(b"other content"));
    let config = config.to_string().into_bytes();
    blob(&config);
    fake.set(
        "/v2/x/manifests/diff",
        OCI_MANIFEST,
        &manifest(&|m| {
            m["config"]["digest"] = json!(digest(&config));
            m["config"]["size"] = json!(config.len());
        }),
    );
    let message = lab.refused(&format!("{}/x:diff", fake.host()));
    assert!(message.contains("uncompressed content"), "{message}");
    // A registry that wants us to talk to somebody else in the clear gets no password.
    fake.answer("/v2/x/manifests/token", 401, "application/json", b"");
    let message = lab.refused(&format!("{}/x:token", fake.host()));
    assert!(message.contains("refuses access"), "{message}");
    assert_eq!(lab.files("layers").len(), 0);
    lab.assert_clean();
}

#[test]
fn a_terminal_gets_bars_and_a_file_gets_lines() {
    need_root!();
    need_program!("docker-registry");
    let script = need_program!("script");
    let lab = Lab::new();
    let registry = Registry::start(&Auth::Nobody);
    let layer = (files(&[("noise", &noise(77, 6_000_000))]), Packing::Gzip);
    Image::new(&[layer]).push(registry.port, "app", "1");
    let proxy = Proxy::start(registry.port, |asked| {
        if asked.is_blob() {
            Fault::Slow(5)
        } else {
            Fault::None
        }
    });
    let name = format!("{}/app:1", proxy.host());
    let plain = lab.node.ctl(&["image", "pull", &name]);
    assert!(
        plain.stderr.contains("Resolved") && plain.stderr.contains(": complete"),
        "{plain:?}"
    );
    assert!(
        !plain.stderr.contains('\x1b') && !plain.stderr.contains('█'),
        "{plain:?}"
    );
    lab.node.ctl(&["image", "rm", &name]).ok();
    let line = format!("{} image pull {name}", harness::bin("berthctl").display());
    let drawn = run(Command::new(script)
        .env("KUBECONFIG", lab.node.kubeconfig())
        .args(["-qec", &line, "/dev/null"]))
    .ok();
    // Drawn over itself: partly full at first, and full at the end.
    assert!(drawn.contains("█░") && drawn.contains("\x1b["), "{drawn:?}");
    assert!(drawn.contains("complete"), "{drawn:?}");
}

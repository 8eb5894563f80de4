//! Images that buildah, podman, skopeo and docker save write, and what they read of ours.

use super::Lab;
use super::server::{Auth, Registry};
use crate::application::feed;
use harness::{Outcome, bin, need_program, need_root, run, wait_for};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A containers/storage of the test's own, on the plainest driver.
struct Tools {
    dir: tempfile::TempDir,
}

impl Tools {
    fn new() -> Self {
        let dir = tempfile::TempDir::with_prefix("berth-tools-").expect("temporary directory");
        let root = dir.path().display();
        let conf = format!("[storage]\ndriver = 'vfs'\ngraphroot = '{root}/graph'\nrunroot = '{root}/run'\n");
        std::fs::write(dir.path().join("storage.conf"), conf).expect("write");
        std::fs::write(
            dir.path().join("policy.json"),
            r#"{"default":[{"type":"insecureAcceptAnything"}]}"#,
        )
        .expect("write");
        std::fs::write(dir.path().join("registries.conf"), "").expect("write");
        Self { dir }
    }

    fn run(&self, program: &Path, arguments: &[&str]) -> Outcome {
        run(Command::new(program)
            .current_dir(self.dir.path())
            .env("CONTAINERS_STORAGE_CONF", self.dir.path().join("storage.conf"))
            .env(
                "CONTAINERS_REGISTRIES_CONF",
                self.dir.path().join("registries.conf"),
            )
            .env("TMPDIR", self.dir.path())
            .env("HOME", self.dir.path())
            .args(arguments))
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_string_lossy().into_owned()
    }

    /// Builds the example application with buildah as it would be built anywhere.
    fn build(&self, buildah: &Path, name: &str, format: &str) {
        let context = self.dir.path().join("context");
        std::fs::create_dir_all(&context).expect("make the context");
        std::fs::copy(bin("user-service"), context.join("user-service")).expect("copy the application");
        let file = "FROM scratch\nCOPY user-service /user-service\nENV VERSION=built DATABASE_URL=x\nENTRYPOINT [\"/user-service\"]\n";
        std::fs::write(context.join("Containerfile"), file).expect("write");
        self.run(
            buildah,
            &[
                "--signature-policy",
                &self.path("policy.json"),
                "build",
                "--isolation",
                "chroot",
                "--signature-policy",
                &self.path("policy.json"),
                "--format",
                format,
                "--layers=false",
                "--network",
                "host",
                "-t",
                name,
                "context",
            ],
        )
        .ok();
    }
}

/// The program runs from this image.
#[track_caller]
fn runs(lab: &Lab, pod: &str, image: &str) {
    let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod}, "spec": {
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": image, "imagePullPolicy": "Never",
            "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8080}, "periodSeconds": 1}}]}});
    feed(&lab.node, &["apply", "-f", "-"], &object.to_string()).ok();
    wait_for(&format!("{image} to be ready"), Duration::from_secs(90), || {
        let text = lab.node.ctl(&["get", "pod", pod, "-o", "json"]).ok();
        let value: Value = serde_json::from_str(&text).expect("JSON");
        if value["status"]["containerStatuses"][0]["ready"] == true {
            Ok(())
        } else {
            Err(value["status"].to_string())
        }
    });
    lab.node.ctl(&["delete", "pod", pod]).ok();
}

#[test]
fn what_buildah_builds_loads_and_runs() {
    need_root!();
    let buildah: PathBuf = need_program!("buildah");
    let lab = Lab::new();
    let tools = Tools::new();
    for format in ["oci", "docker"] {
        let name = format!("localhost/built:{format}");
        tools.build(&buildah, &name, format);
        for (number, transport) in ["docker-archive", "oci-archive", "oci"].iter().enumerate() {
            let path = tools.path(&format!("{format}-{number}"));
            let target = match *transport {
                "docker-archive" => format!("{transport}:{path}:{name}"),
                _ => format!("{transport}:{path}"),
            };
            tools
                .run(
                    &buildah,
                    &[
                        "--signature-policy",
                        &tools.path("policy.json"),
                        "push",
                        "--signature-policy",
                        &tools.path("policy.json"),
                        &name,
                        &target,
                    ],
                )
                .ok();
            let own = format!("loaded:{format}-{number}");
            lab.node.ctl(&["image", "load", &path, "--name", &own]).ok();
            runs(&lab, &format!("p-{format}-{number}"), &own);
        }
    }
    lab.assert_clean();
}

#[test]
fn podman_and_skopeo_write_what_we_read_and_read_what_we_write() {
    need_root!();
    need_program!("docker-registry");
    let buildah: PathBuf = need_program!("buildah");
    let podman: PathBuf = need_program!("podman");
    let skopeo: PathBuf = need_program!("skopeo");
    let lab = Lab::new();
    let tools = Tools::new();
    let registry = Registry::start(&Auth::Nobody);
    tools.build(&buildah, "localhost/built:1", "oci");
    let policy = tools.path("policy.json");

    // docker save's form and OCI's, by podman save.
    for format in ["docker-archive", "oci-archive"] {
        let path = tools.path(&format!("podman-{format}"));
        tools
            .run(
                &podman,
                &["save", "--format", format, "-o", &path, "localhost/built:1"],
            )
            .ok();
        let loaded = lab.node.ctl(&["image", "load", &path]).ok();
        assert!(loaded.contains("localhost/built:1"), "{format}: {loaded}");
        runs(&lab, &format!("podman-{format}"), "localhost/built:1");
        lab.node.ctl(&["image", "rm", "localhost/built:1"]).ok();
    }
    // By a registry: buildah's push and skopeo's copy in zstd, our pull.
    let target = format!("docker://{}/built:gzip", registry.host());
    tools
        .run(
            &buildah,
            &[
                "push",
                "--signature-policy",
                &policy,
                "--tls-verify=false",
                "localhost/built:1",
                &target,
            ],
        )
        .ok();
    let zstd = format!("docker://{}/built:zstd", registry.host());
    tools
        .run(
            &skopeo,
            &[
                "--policy",
                &policy,
                "copy",
                "--src-tls-verify=false",
                "--dest-tls-verify=false",
                "--dest-compress-format",
                "zstd",
                "--format",
                "oci",
                &target,
                &zstd,
            ],
        )
        .ok();
    for tag in ["gzip", "zstd"] {
        let name = format!("{}/built:{tag}", registry.host());
        lab.pull(&name);
        runs(&lab, tag, &name);
    }
    // What we push and save, they read, and verify.
    let name = format!("{}/built:gzip", registry.host());
    let ours = format!("{}/ours:1", registry.host());
    lab.node.ctl(&["image", "push", &name, &ours]).ok();
    let inspected = tools
        .run(
            &skopeo,
            &[
                "--policy",
                &policy,
                "inspect",
                "--tls-verify=false",
                &format!("docker://{ours}"),
            ],
        )
        .ok();
    let id = lab.inspect(&name)["digest"].clone();
    let inspected: Value = serde_json::from_str(&inspected).expect("JSON");
    assert_eq!(inspected["Digest"], id);
    lab.node.ctl(&["image", "tag", &name, "back.example/app:1"]).ok();
    for (format, transport) in [
        ("docker-archive", "docker-archive"),
        ("oci-archive", "oci-archive"),
        ("oci-dir", "oci"),
    ] {
        let path = tools.path(&format!("ours-{format}"));
        lab.node
            .ctl(&[
                "image",
                "save",
                "back.example/app:1",
                "--format",
                format,
                "-o",
                &path,
            ])
            .ok();
        let copy = tools.path(&format!("copied-{format}"));
        tools
            .run(
                &skopeo,
                &[
                    "--policy",
                    &policy,
                    "copy",
                    &format!("{transport}:{path}"),
                    &format!("dir:{copy}"),
                ],
            )
            .ok();
        if format != "oci-dir" {
            let loaded = tools
                .run(&podman, &["--log-level", "error", "load", "-i", &path])
                .ok();
            assert!(loaded.contains("back.example/app:1"), "{format}: {loaded}");
        }
    }
    lab.node.clear();
}

/// A Docker daemon in a lab, with nothing but images: no network, no runtime of ours.
struct Docker {
    lab: harness::Lab,
    daemon: std::process::Child,
}

impl Docker {
    fn new() -> Self {
        let lab = harness::Lab::new();
        let dir = lab.path().display().to_string();
        let config = json!({
            "data-root": format!("{dir}/data"),
            "exec-root": format!("{dir}/exec"),
            "pidfile": format!("{dir}/docker.pid"),
            "hosts": [format!("unix://{dir}/d.sock")],
            "storage-driver": "overlay2",
            "iptables": false,
            "bridge": "none",
        });
        std::fs::write(lab.path().join("daemon.json"), config.to_string()).expect("write");
        let daemon = lab.daemon("dockerd", "dockerd --config-file daemon.json");
        let docker = Self { lab, daemon };
        docker.sh("wait_until quietly docker version");
        docker
    }

    #[track_caller]
    fn sh(&self, script: &str) -> String {
        self.lab
            .sh(&format!(
                "export DOCKER_HOST=unix://$LAB/d.sock DOCKER_BUILDKIT=0 HOME=$LAB\n{script}"
            ))
            .ok()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

#[test]
fn what_docker_saves_loads_and_runs_and_it_loads_what_we_save() {
    need_root!();
    need_program!("docker");
    need_program!("dockerd");
    let docker = Docker::new();
    let lab = Lab::new();
    let dir = docker.lab.path();
    std::fs::create_dir(dir.join("context")).expect("make the context");
    std::fs::copy(bin("user-service"), dir.join("context/user-service")).expect("copy the application");
    std::fs::write(dir.join("context/gone"), "x").expect("write");
    let file = "FROM scratch\nCOPY user-service gone /\nCOPY user-service /second/user-service\n\
        ENV VERSION=docker DATABASE_URL=x\nENTRYPOINT [\"/second/user-service\"]\n";
    std::fs::write(dir.join("context/Dockerfile"), file).expect("write");
    docker.sh("docker build -q -t shop:1 -t other.example/shop:2 context; docker save -o two.tar shop:1 other.example/shop:2");
    let archive = dir.join("two.tar");
    let loaded = lab
        .node
        .ctl(&["image", "load", archive.to_str().expect("text")])
        .ok();
    for name in ["shop:1", "other.example/shop:2"] {
        assert!(loaded.contains(name), "{loaded}");
        runs(&lab, &format!("docker-{}", &name[name.len() - 1..]), name);
    }
    // The image is the same one for both.
    let id = docker.sh("docker image inspect -f '{{.Id}}' shop:1");
    assert_eq!(lab.inspect("shop:1")["id"], id.trim());
    // Through a pipe, and back.
    lab.node
        .ctl(&["image", "rm", "shop:1", "other.example/shop:2"])
        .ok();
    let piped = std::fs::File::create(dir.join("piped.tar")).expect("create");
    drop(piped);
    docker.sh("docker save shop:1 >piped.tar");
    let bytes = std::fs::read(dir.join("piped.tar")).expect("read");
    let mut command = Command::new(bin("berthctl"));
    command
        .env("KUBECONFIG", lab.node.kubeconfig())
        .args(["image", "load"]);
    let loaded = harness::run_with_input(&mut command, &bytes).ok();
    assert!(loaded.contains("shop:1"), "{loaded}");
    lab.node
        .ctl(&["image", "tag", "shop:1", "back.example/shop:3"])
        .ok();
    let back = dir.join("back.tar");
    lab.node
        .ctl(&[
            "image",
            "save",
            "back.example/shop:3",
            "-o",
            back.to_str().expect("text"),
        ])
        .ok();
    let answer = docker.sh("docker rmi -f $(docker images -q | sort -u) >/dev/null; docker load -i back.tar");
    assert!(answer.contains("back.example/shop:3"), "{answer}");
    assert_eq!(
        docker.sh("docker image inspect -f '{{.Id}}' back.example/shop:3"),
        id
    );
    lab.assert_clean();
    lab.node.clear();
}

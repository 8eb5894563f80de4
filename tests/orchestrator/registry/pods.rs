//! Pods whose images come from registries: policies, secrets, events, back-off, room on the disk.

use super::Lab;
use super::image::{Image, Packing, files, noise};
use super::server::{Auth, Fake, Fault, Proxy, Registry};
use crate::application::feed;
use harness::{bin, need_program, need_root, wait_for};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// The example application as an image; `version` is what it answers with.
fn application(version: &str) -> Image {
    let program = std::fs::read(bin("user-service")).expect("read the application");
    let settings =
        json!({ "Entrypoint": ["/user-service"], "Env": [format!("VERSION={version}"), "DATABASE_URL=x"] });
    let layers = [
        (files(&[("user-service", &program)]), Packing::Gzip),
        (files(&[("version", version.as_bytes())]), Packing::Gzip),
    ];
    Image::with(&layers, &settings, super::image::architecture(), false)
}

fn pod(lab: &Lab, name: &str, image: &str, policy: &str, more: &Value) {
    let mut spec = json!({
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": image, "imagePullPolicy": policy}],
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
    feed(&lab.node, &["apply", "-f", "-"], &object.to_string()).ok();
}

fn get(lab: &Lab, name: &str) -> Value {
    let text = lab.node.ctl(&["get", "pod", name, "-o", "json"]).ok();
    serde_json::from_str(&text).expect("JSON")
}

#[track_caller]
fn runs(lab: &Lab, name: &str) {
    wait_for(&format!("{name} to run"), PATIENCE, || {
        let status = get(lab, name)["status"].clone();
        if status["containerStatuses"][0]["state"]["running"].is_object() {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
}

#[track_caller]
fn waits(lab: &Lab, name: &str, reason: &str) -> String {
    wait_for(&format!("{name}: {reason}"), PATIENCE, || {
        let status = get(lab, name)["status"].clone();
        let waiting = &status["containerStatuses"][0]["state"]["waiting"];
        if waiting["reason"] == reason {
            Ok(waiting["message"].as_str().unwrap_or_default().to_owned())
        } else {
            Err(status.to_string())
        }
    })
}

/// Reasons and messages of a pod's events.
fn events(lab: &Lab, name: &str) -> Vec<(String, String)> {
    let text = lab.node.ctl(&["get", "events", "-o", "json"]).ok();
    let list: Value = serde_json::from_str(&text).expect("JSON");
    let items = list["items"].as_array().expect("a list");
    items
        .iter()
        .filter(|event| event["involvedObject"]["name"] == name)
        .map(|event| {
            let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
            (text("reason"), text("message"))
        })
        .collect()
}

#[track_caller]
fn event(lab: &Lab, name: &str, reason: &str, part: &str) {
    wait_for(&format!("{name}: event {reason} {part}"), PATIENCE, || {
        let all = events(lab, name);
        if all
            .iter()
            .any(|(r, message)| r == reason && message.contains(part))
        {
            Ok(())
        } else {
            Err(format!("{all:?}"))
        }
    });
}

#[test]
fn the_pull_policy_decides_when_the_registry_is_asked() {
    need_root!();
    need_program!("docker-registry");
    let lab = Lab::new();
    let registry = Registry::start(&Auth::Nobody);
    let proxy = Proxy::start(registry.port, |_| Fault::None);
    let name = format!("{}/shop:v1", proxy.host());
    application("one").push(registry.port, "shop", "v1");

    pod(&lab, "never", &name, "Never", &json!({}));
    assert!(waits(&lab, "never", "ErrImageNeverPull").contains("Never"));
    pod(&lab, "absent", &name, "IfNotPresent", &json!({}));
    runs(&lab, "absent");
    event(&lab, "absent", "Pulling", &format!("Pulling image {name:?}"));
    event(&lab, "absent", "Pulled", "Successfully pulled image");
    // The image is here now: what waited for it, starts.
    runs(&lab, "never");
    let first = get(&lab, "absent")["status"]["containerStatuses"][0]["imageID"].clone();

    // The tag moves. IfNotPresent does not look, Always does.
    application("two").push(registry.port, "shop", "v1");
    proxy.forget();
    pod(&lab, "present", &name, "IfNotPresent", &json!({}));
    runs(&lab, "present");
    event(&lab, "present", "Pulled", "already present on machine");
    assert_eq!(proxy.asked().len(), 0);
    pod(&lab, "always", &name, "Always", &json!({}));
    runs(&lab, "always");
    event(&lab, "always", "Pulled", "Successfully pulled image");
    let second = get(&lab, "always")["status"]["containerStatuses"][0]["imageID"].clone();
    assert_ne!(first, second);
    // The old image has no name any more, but pods that use it.
    assert!(
        lab.node
            .ctl(&["image", "prune", "--all"])
            .ok()
            .contains("Deleted 0 images")
    );
    lab.node.clear();
}

#[test]
fn a_pull_that_fails_says_why_and_backs_off() {
    need_root!();
    need_program!("docker-registry");
    let lab = Lab::new();
    let registry = Registry::start(&Auth::Nobody);
    let name = format!("{}/shop:v1", registry.host());
    pod(&lab, "early", &name, "Always", &json!({}));
    let message = waits(&lab, "early", "ImagePullBackOff");
    assert!(
        message.contains("Back-off pulling image") && message.contains("MANIFEST_UNKNOWN"),
        "{message}"
    );
    event(
        &lab,
        "early",
        "Failed",
        &format!("Failed to pull image {name:?}: "),
    );
    event(&lab, "early", "Failed", "Error: ErrImagePull");
    event(&lab, "early", "BackOff", "Back-off pulling image");
    event(&lab, "early", "Failed", "Error: ImagePullBackOff");
    pod(&lab, "named-wrongly", "a//b", "Always", &json!({}));
    waits(&lab, "named-wrongly", "InvalidImageName");
    // It is tried again by itself.
    application("one").push(registry.port, "shop", "v1");
    runs(&lab, "early");
    lab.node.clear();
}

#[test]
fn pull_secrets_of_pod_and_service_account_are_used() {
    need_root!();
    need_program!("docker-registry");
    need_program!("openssl");
    let lab = Lab::new();
    let open = Registry::start(&Auth::Nobody);
    application("one").push(open.port, "shop", "v1");
    let registry = Registry::start(&Auth::Password);
    let source = format!("{}/shop:v1", open.host());
    let names: Vec<String> = (0..2)
        .map(|n| format!("{}/shop{n}:v1", registry.host()))
        .collect();
    lab.pull(&source);
    for name in &names {
        lab.node
            .ctl(&["image", "push", &source, name, "--creds", "tester:secret"])
            .ok();
    }
    let secret = |name: &str, password: &str| {
        let config = json!({"auths": {registry.host(): {"username": "tester", "password": password}}});
        let object = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
            "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": config.to_string()},
        });
        feed(&lab.node, &["apply", "-f", "-"], &object.to_string()).ok();
    };
    pod(&lab, "nobody", &names[0], "IfNotPresent", &json!({}));
    assert!(waits(&lab, "nobody", "ImagePullBackOff").contains("pull secret"));
    let wants = json!({"imagePullSecrets": [{"name": "absent"}, {"name": "registry"}]});
    secret("registry", "wrong");
    pod(&lab, "member", &names[0], "IfNotPresent", &wants);
    assert!(waits(&lab, "member", "ImagePullBackOff").contains("were refused"));
    event(&lab, "member", "FailedToRetrieveImagePullSecret", "absent");
    // The secret is put right: the pod need not wait for the end of its back-off.
    secret("registry", "secret");
    runs(&lab, "member");
    // A pod without secrets of its own has those of its service account.
    secret("account", "secret");
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "shop"},
        "imagePullSecrets": [{"name": "account"}]});
    feed(&lab.node, &["apply", "-f", "-"], &account.to_string()).ok();
    pod(
        &lab,
        "accounted",
        &names[1],
        "Always",
        &json!({"serviceAccountName": "shop"}),
    );
    runs(&lab, "accounted");
    lab.node.clear();
}

#[test]
fn a_registry_that_hangs_holds_up_nobody() {
    need_root!();
    need_program!("docker-registry");
    let lab = Lab::new();
    let registry = Registry::start(&Auth::Nobody);
    application("one").push(registry.port, "shop", "v1");
    let hanging = Fake::start();
    hanging.answer("/v2/x/manifests/1", 0, "", b"");
    for number in 0..5 {
        pod(
            &lab,
            &format!("stuck{number}"),
            &format!("{}/x:1", hanging.host()),
            "Always",
            &json!({}),
        );
    }
    wait_for("the registry to be asked", PATIENCE, || {
        let count = hanging
            .asked()
            .iter()
            .filter(|asked| asked.path.ends_with("/manifests/1"))
            .count();
        if count == 5 { Ok(()) } else { Err(count) }
    });
    pod(
        &lab,
        "free",
        &format!("{}/shop:v1", registry.host()),
        "Always",
        &json!({}),
    );
    runs(&lab, "free");
    assert!(waits(&lab, "stuck0", "ContainerCreating").is_empty());
    // A pod that waits for its image can be deleted at once: the limit of an answer is a minute.
    let before = Instant::now();
    lab.node.ctl(&["delete", "pod", "stuck0"]).ok();
    wait_for("the pod to be gone", PATIENCE, || {
        let outcome = lab.node.ctl(&["get", "pod", "stuck0"]);
        if outcome.status.success() {
            Err(outcome.stdout)
        } else {
            Ok(())
        }
    });
    assert!(
        before.elapsed() < Duration::from_secs(50),
        "{:?}",
        before.elapsed()
    );
    lab.node.clear();
}

#[test]
fn unused_images_make_room_when_the_disk_is_full() {
    need_root!();
    need_program!("docker-registry");
    // Pods and images on a disk of 64 MiB; half of it in use is too much.
    let lab = Lab::with(&[
        "--image-gc-high-threshold",
        "60",
        "--image-gc-low-threshold",
        "40",
        "--image-minimum-gc-age",
        "0",
    ]);
    let mut lab = lab;
    lab.node.kill_daemon();
    let images = lab.store();
    std::fs::remove_dir_all(&images).expect("a new store");
    std::fs::create_dir(&images).expect("a new store");
    nix::mount::mount(
        Some("tmpfs"),
        &images,
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        Some("size=64m"),
    )
    .expect("mount a small disk");
    lab.node.spawn();
    let registry = Registry::start(&Auth::Nobody);
    // Each is 6 MiB as a blob, and as much unpacked.
    let settings = json!({ "Entrypoint": ["/user-service"], "Env": ["VERSION=1", "DATABASE_URL=x"] });
    let program = std::fs::read(bin("user-service")).expect("read the application");
    for number in 0..3 {
        let layers = [
            (files(&[("noise", &noise(50 + number, 6 << 20))]), Packing::Gzip),
            (files(&[("user-service", &program)]), Packing::Gzip),
        ];
        Image::with(&layers, &settings, super::image::architecture(), false).push(
            registry.port,
            "app",
            &number.to_string(),
        );
    }
    let name = |number: u64| format!("{}/app:{number}", registry.host());
    pod(&lab, "user", &name(0), "IfNotPresent", &json!({}));
    runs(&lab, "user");
    lab.pull(&name(1));
    lab.pull(&name(2));
    // The one in use stays; of the others at least the older one goes.
    wait_for("the unused image to go", PATIENCE, || {
        let list = lab.node.ctl(&["image", "ls", "-o", "name"]).ok();
        if list.contains(&name(1)) {
            Err(list)
        } else {
            Ok(())
        }
    });
    assert!(
        lab.node
            .ctl(&["image", "ls", "-o", "name"])
            .ok()
            .contains(&name(0))
    );
    lab.assert_clean();
    lab.node.clear();
    // The disk goes with the test's mount namespace.
}

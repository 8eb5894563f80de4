//! Transfers that break: cut, corrupt, slow, shared, killed.

use super::Lab;
use super::image::{Image, Packing, files, noise};
use super::server::{Auth, Fault, Proxy, Registry};
use harness::{bin, need_program, need_root, wait_for};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Three layers of a megabyte and more, which do not compress.
fn big() -> Image {
    let layer = |seed: u64, size| (files(&[(&format!("f{seed}"), &noise(seed, size))]), Packing::Gzip);
    Image::new(&[layer(11, 1_500_000), layer(12, 1_000_000), layer(13, 700_000)])
}

#[test]
fn cut_downloads_are_gone_on_with_by_range() {
    need_root!();
    need_program!("docker-registry");
    let lab = Lab::new();
    let registry = Registry::start(&Auth::Nobody);
    big().push(registry.port, "app", "1");
    // Every answer is cut after 300 kB.
    let proxy = Proxy::start(registry.port, |asked| {
        if asked.is_blob() {
            Fault::CutAfter(300_000)
        } else {
            Fault::None
        }
    });
    let name = format!("{}/app:1", proxy.host());
    let outcome = lab.node.ctl(&["image", "pull", &name]);
    assert!(outcome.stderr.contains("interrupted"), "{}", outcome.stderr);
    outcome.ok();
    for (seed, size) in [(11, 1_500_000), (12, 1_000_000), (13, 700_000)] {
        assert_eq!(lab.content(&name, &format!("f{seed}")), noise(seed, size));
    }
    // No byte twice: each range begins where the one before was cut.
    let mut by_blob: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for asked in proxy.blobs() {
        by_blob
            .entry(asked.path.clone())
            .or_default()
            .push(asked.header("range").to_owned());
    }
    let resumed: Vec<&String> = by_blob
        .values()
        .flatten()
        .filter(|range| !range.is_empty())
        .collect();
    assert!(resumed.len() >= 7, "{by_blob:?}");
    assert!(
        by_blob
            .values()
            .any(|ranges| ranges.get(1).is_some_and(|range| range == "bytes=300000-")),
        "{by_blob:?}"
    );
    assert_eq!(lab.files("partial").len(), 0);
    lab.assert_clean();
}

#[test]
fn a_registry_that_is_busy_or_gone_for_a_moment_is_asked_again() {
    need_root!();
    need_program!("docker-registry");
    let lab = Lab::new();
    let registry = Registry::start(&Auth::Nobody);
    big().push(registry.port, "app", "1");
    let count = AtomicUsize::new(0);
    // Every second request fails, of whatever kind.
    let proxy = Proxy::start(registry.port, move |asked| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        match (number % 2, asked.is_blob()) {
            (0, _) => Fault::Status(503),
            _ => Fault::None,
        }
    });
    lab.pull(&format!("{}/app:1", proxy.host()));
    lab.assert_clean();
    // One that refuses the blobs is given up at once.
    lab.node.ctl(&["image", "prune", "--all"]).ok();
    let closed = Proxy::start(registry.port, |asked| {
        if asked.is_blob() {
            Fault::Status(451)
        } else {
            Fault::None
        }
    });
    let message = lab.refused(&format!("{}/app:1", closed.host()));
    assert!(message.contains("451"), "{message}");
    assert_eq!(closed.blobs().len(), 1, "the config is asked for first, and once");
    lab.assert_empty();
}

#[test]
fn a_corrupt_byte_is_found_and_nothing_of_it_stays() {
    need_root!();
    need_program!("docker-registry");
    let lab = Lab::new();
    let registry = Registry::start(&Auth::Nobody);
    let image = big();
    image.push(registry.port, "app", "1");
    let broken = Arc::new(AtomicBool::new(true));
    let (flag, target) = (Arc::clone(&broken), super::image::digest(&image.layers[1]));
    let proxy = Proxy::start(registry.port, move |asked| {
        if asked.path.contains(&target) && flag.load(Ordering::Relaxed) {
            Fault::Flip(500_000)
        } else {
            Fault::None
        }
    });
    let name = format!("{}/app:1", proxy.host());
    let message = lab.refused(&name);
    let layer = super::image::digest(&image.layers[1]);
    assert!(
        message.contains("refused") && message.contains(&layer),
        "{message}"
    );
    assert!(
        lab.node
            .ctl(&["image", "inspect", &name])
            .err()
            .contains("NotFound")
    );
    let hex = layer.trim_start_matches("sha256:");
    for folder in ["blobs/sha256", "partial"] {
        assert!(!lab.store().join(folder).join(hex).exists(), "{folder}");
    }
    lab.assert_clean();
    broken.store(false, Ordering::Relaxed);
    lab.pull(&name);
    assert_eq!(lab.content(&name, "f12"), noise(12, 1_000_000));
    lab.assert_clean();

    // The same with a config and with a manifest.
    let config = super::image::digest(&image.config);
    for what in [config, "manifests".to_owned()] {
        lab.node.ctl(&["image", "prune", "--all"]).ok();
        let proxy = Proxy::start(registry.port, move |asked| {
            if asked.path.contains(&what) {
                Fault::Flip(30)
            } else {
                Fault::None
            }
        });
        let message = lab.refused(&format!("{}/app:1", proxy.host()));
        assert!(
            message.contains("digest") || message.contains("malformed"),
            "{message}"
        );
        lab.assert_empty();
    }
}

#[test]
fn pulls_of_one_image_at_once_share_the_work() {
    need_root!();
    need_program!("docker-registry");
    let lab = Lab::new();
    let registry = Registry::start(&Auth::Nobody);
    big().push(registry.port, "app", "1");
    let proxy = Proxy::start(registry.port, |asked| {
        if asked.is_blob() {
            Fault::Slow(5)
        } else {
            Fault::None
        }
    });
    let name = format!("{}/app:1", proxy.host());
    let children: Vec<_> = (0..5)
        .map(|_| {
            Command::new(bin("berthctl"))
                .env("KUBECONFIG", lab.node.kubeconfig())
                .args(["image", "pull", "--quiet", &name])
                .stdout(Stdio::piped())
                .spawn()
                .expect("start berthctl")
        })
        .collect();
    let mut ids: Vec<String> = children
        .into_iter()
        .map(|child| {
            let output = child.wait_with_output().expect("berthctl ends");
            assert!(output.status.success());
            String::from_utf8_lossy(&output.stdout).into_owned()
        })
        .collect();
    ids.dedup();
    assert_eq!(ids.len(), 1);
    let image = big();
    for layer in &image.layers {
        let path = format!("/v2/app/blobs/{}", super::image::digest(layer));
        let count = proxy.blobs().iter().filter(|asked| asked.path == path).count();
        assert_eq!(count, 1, "{path}");
    }
    lab.assert_clean();
}

#[test]
fn a_client_that_goes_ends_its_pull_and_the_next_goes_on() {
    need_root!();
    need_program!("docker-registry");
    let lab = Lab::new();
    let registry = Registry::start(&Auth::Nobody);
    big().push(registry.port, "app", "1");
    let slow = Arc::new(AtomicBool::new(true));
    let flag = Arc::clone(&slow);
    let proxy = Proxy::start(registry.port, move |asked| {
        if asked.is_blob() && flag.load(Ordering::Relaxed) {
            Fault::Slow(20)
        } else {
            Fault::None
        }
    });
    let name = format!("{}/app:1", proxy.host());
    let mut child = Command::new(bin("berthctl"))
        .env("KUBECONFIG", lab.node.kubeconfig())
        .args(["image", "pull", &name])
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("start berthctl");
    wait_for("something to be here", Duration::from_secs(60), || {
        let sizes: u64 = lab
            .files("partial")
            .iter()
            .filter_map(|path| path.metadata().ok())
            .map(|m| m.len())
            .sum();
        if sizes > 200_000 { Ok(()) } else { Err(sizes) }
    });
    child.kill().expect("kill berthctl");
    child.wait().expect("reap berthctl");
    let asked = wait_for("the pull to end", Duration::from_secs(60), || {
        let checked = lab.node.ctl(&["image", "check"]).ok();
        // Downloads that are under way are not counted.
        if checked.contains(" 0 partial") {
            Err(checked)
        } else {
            Ok(proxy.blobs().len())
        }
    });
    slow.store(false, Ordering::Relaxed);
    lab.pull(&name);
    let after: Vec<String> = proxy.blobs()[asked..]
        .iter()
        .map(|asked| asked.header("range").to_owned())
        .collect();
    assert!(after.iter().any(|range| range.starts_with("bytes=")), "{after:?}");
    lab.assert_clean();
}

/// How often berthd is killed.
const KILLS: u32 = 200;

#[test]
fn killed_at_any_point_the_store_is_clean_and_goes_on() {
    need_root!();
    need_program!("docker-registry");
    let mut lab = Lab::new();
    let registry = Registry::start(&Auth::Nobody);
    // Small enough to be whole in a moment, slow enough to be killed at every point of it.
    let layer = |seed: u64| {
        let content = noise(seed, 150_000);
        let mut entries: Vec<(String, &[u8])> = vec![("d/".to_owned(), b"")];
        entries.extend((0..20).map(|n| (format!("d/f{seed}-{n}"), &content[n * 7000..(n + 1) * 7000])));
        let entries: Vec<(&str, &[u8])> = entries
            .iter()
            .map(|(name, bytes)| (name.as_str(), *bytes))
            .collect();
        (files(&entries), Packing::Gzip)
    };
    let layers: Vec<_> = (30..36).map(layer).collect();
    Image::new(&layers).push(registry.port, "app", "1");
    let ranges = Arc::new(Mutex::new(0));
    let seen = Arc::clone(&ranges);
    let proxy = Proxy::start(registry.port, move |asked| {
        if asked.is_blob() && !asked.header("range").is_empty() {
            *seen.lock().expect("no panic") += 1;
        }
        if asked.is_blob() {
            Fault::Slow(10)
        } else {
            Fault::None
        }
    });
    let name = format!("{}/app:1", proxy.host());
    let mut state = 0x1234_5678_u64;
    let mut whole = 0;
    for round in 0..KILLS {
        let held = || -> Vec<(PathBuf, u64)> {
            let files = [lab.files("partial"), lab.files("blobs/sha256")].concat();
            let size = |file: &PathBuf| file.metadata().map_or(0, |metadata| metadata.len());
            files.iter().map(|file| (file.clone(), size(file))).collect()
        };
        let before = held();
        let mut child = Command::new(bin("berthctl"))
            .env("KUBECONFIG", lab.node.kubeconfig())
            .args(["image", "pull", "--quiet", &name])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start berthctl");
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // Now and then at the very beginning, or after the end; else from the first byte that comes.
        let end = Instant::now() + Duration::from_secs(30);
        let ended = |child: &mut std::process::Child| !matches!(child.try_wait(), Ok(None));
        let come = |round: u32, child: &mut std::process::Child| match round % 8 {
            0 => true,
            1 => ended(child),
            _ => ended(child) || held() != before,
        };
        while !come(round, &mut child) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        // A point in time: nothing is waited for.
        std::thread::sleep(Duration::from_millis(state / 7 % 250));
        lab.node.kill_daemon();
        child.wait().expect("reap berthctl");
        lab.node.spawn();
        lab.assert_clean();
        if lab.node.ctl(&["image", "inspect", &name]).status.success() {
            whole += 1;
            assert_eq!(
                lab.content(&name, "d/f35-3"),
                noise(35, 150_000)[21_000..28_000],
                "round {round}"
            );
            lab.node.ctl(&["image", "rm", &name]).ok();
            lab.assert_empty();
        }
    }
    lab.pull(&name);
    lab.assert_clean();
    let ranges = *ranges.lock().expect("no panic");
    eprintln!("{KILLS} kills: {whole} pulls were whole before, {ranges} downloads went on by range");
    assert!(ranges > 0 && whole > 0 && whole < KILLS, "{ranges} {whole}");
}

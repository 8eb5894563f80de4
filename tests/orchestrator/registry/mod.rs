//! Images from and to registries: the real `berthd`, `berthctl` and Debian's registry on the
//! test's own loopback.

mod broken;
mod image;
mod pods;
mod pull;
mod push;
mod server;
mod tools;
mod trust;

use harness::{Node, NodeOptions, isolate};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use tempfile::TempDir;

/// A node with settings for registries of the test's own.
pub struct Lab {
    pub node: Node,
    settings: TempDir,
}

impl Lab {
    /// In namespaces of the test's own; servers are started after this, by the same thread.
    pub fn new() -> Self {
        Self::with(&[])
    }

    pub fn with(arguments: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        isolate();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let settings = TempDir::with_prefix("berth-settings-").expect("temporary directory");
        let path = |name: &str| settings.path().join(name).to_string_lossy().into_owned();
        let mut all = vec![
            "--cgroup-parent".to_owned(),
            format!("berth-registry-{}-{number}", std::process::id()),
            "--registries-conf".to_owned(),
            path("registries.conf"),
            "--image-policy".to_owned(),
            path("policy.json"),
            "--registry-certs".to_owned(),
            path("certs.d"),
        ];
        all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let node = Node::start(NodeOptions {
            arguments: all,
            ..NodeOptions::default()
        });
        Self { node, settings }
    }

    /// A file among the node's settings.
    pub fn setting(&self, name: &str) -> PathBuf {
        self.settings.path().join(name)
    }

    pub fn write(&self, name: &str, content: &str) {
        let path = self.setting(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("make the folder");
        std::fs::write(path, content).expect("write the setting");
    }

    #[track_caller]
    pub fn pull(&self, name: &str) -> String {
        self.node.ctl(&["image", "pull", name]).ok()
    }

    #[track_caller]
    pub fn refused(&self, name: &str) -> String {
        self.node.ctl(&["image", "pull", name]).err()
    }

    #[track_caller]
    pub fn inspect(&self, name: &str) -> Value {
        let text = self.node.ctl(&["image", "inspect", name]).ok();
        serde_json::from_str(&text).expect("JSON")
    }

    pub fn store(&self) -> PathBuf {
        self.node.data_dir().join("images")
    }

    /// Files in a folder of the store.
    pub fn files(&self, folder: &str) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = std::fs::read_dir(self.store().join(folder))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        found.sort();
        found
    }

    /// Nothing of any image is left but partial downloads.
    #[track_caller]
    pub fn assert_empty(&self) {
        for folder in ["blobs/sha256", "layers", "l", "tmp"] {
            assert_eq!(self.files(folder), Vec::<PathBuf>::new(), "{folder}");
        }
    }

    /// The content of a file in the topmost layer that has it.
    #[track_caller]
    pub fn content(&self, name: &str, file: &str) -> Vec<u8> {
        let image = self.inspect(name);
        let layers = image["layers"].as_array().expect("layers");
        for layer in layers.iter().rev() {
            let chain = layer["chainId"].as_str().expect("a chain id");
            let hex = chain.trim_start_matches("sha256:");
            let path = self.store().join("layers").join(hex).join("fs").join(file);
            if let Ok(content) = std::fs::read(path) {
                return content;
            }
        }
        panic!("{name} has no {file}");
    }

    #[track_caller]
    pub fn assert_clean(&self) {
        let checked = self.node.ctl(&["image", "check"]).ok();
        assert!(checked.contains("The store is clean"), "{checked}");
    }
}

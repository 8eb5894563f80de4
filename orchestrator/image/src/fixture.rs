//! Archives and images for the tests, hostile ones too.

use serde_json::json;

use crate::digest::Digest;

/// Builds a tar archive entry by entry, without any checks.
#[derive(Default, Clone)]
pub(crate) struct Tar(Vec<u8>);

impl Tar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Any entry: type byte, path, link target, mode, owner, contents, device.
    #[expect(clippy::too_many_arguments, reason = "the fields of a tar header")]
    pub(crate) fn raw(
        mut self,
        kind: u8,
        path: &str,
        link: &str,
        mode: u32,
        owner: (u64, u64),
        data: &[u8],
        device: (u32, u32),
    ) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::new(kind));
        assert!(path.len() <= 100 && link.len() <= 100);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_mode(mode);
        header.set_uid(owner.0);
        header.set_gid(owner.1);
        header.set_mtime(1_000_000_007);
        header.set_size(data.len() as u64);
        header.set_device_major(device.0).unwrap();
        header.set_device_minor(device.1).unwrap();
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, path: &str, data: &[u8]) -> Self {
        self.raw(b'0', path, "", 0o644, (0, 0), data, (0, 0))
    }

    pub(crate) fn directory(self, path: &str, mode: u32) -> Self {
        self.raw(b'5', path, "", mode, (0, 0), b"", (0, 0))
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.raw(b'2', path, target, 0o777, (0, 0), b"", (0, 0))
    }

    pub(crate) fn hard_link(self, path: &str, target: &str) -> Self {
        self.raw(b'1', path, target, 0o644, (0, 0), b"", (0, 0))
    }

    pub(crate) fn device(self, path: &str, device: (u32, u32)) -> Self {
        self.raw(b'3', path, "", 0o600, (0, 0), b"", device)
    }

    /// A pax header for the entry that follows.
    pub(crate) fn pax(self, records: &[(&str, &str)]) -> Self {
        let mut bytes = Vec::new();
        for (key, value) in records {
            let rest = format!(" {key}={value}\n");
            let mut length = rest.len() + 1;
            while format!("{length}{rest}").len() > length {
                length += 1;
            }
            bytes.extend_from_slice(format!("{length}{rest}").as_bytes());
        }
        self.raw(b'x', "pax", "", 0o644, (0, 0), &bytes, (0, 0))
    }

    /// The archive with its end marks.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The config of an image with these uncompressed layers, for this machine.
pub(crate) fn config(layers: &[Vec<u8>]) -> Vec<u8> {
    let architecture = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    json!({
        "architecture": architecture,
        "os": "linux",
        "config": { "Entrypoint": ["/bin/app"], "Env": ["A=b"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
    .to_string()
    .into_bytes()
}

/// A `docker save` archive, each layer as `<n>/layer.tar`.
pub(crate) fn docker_archive(tags: &[&str], layers: &[Vec<u8>]) -> Vec<u8> {
    let config = config(layers);
    let name = format!("{}.json", Digest::of(&config).hex());
    let paths: Vec<String> = (0..layers.len())
        .map(|index| format!("{index}/layer.tar"))
        .collect();
    let manifest = json!([{ "Config": name, "RepoTags": tags, "Layers": paths }]).to_string();
    let mut tar = Tar::new();
    for (path, layer) in paths.iter().zip(layers) {
        tar = tar.file(path, layer);
    }
    tar.file(&name, &config)
        .file("manifest.json", manifest.as_bytes())
        .finish()
}

/// The members of an OCI layout: blobs by content, and an index over one image.
pub(crate) struct Layout {
    pub(crate) blobs: Vec<Vec<u8>>,
    pub(crate) index: serde_json::Value,
}

impl Layout {
    /// An image of layers that may be compressed; `plain` are their uncompressed forms.
    pub(crate) fn new(name: &str, layers: &[Vec<u8>], plain: &[Vec<u8>]) -> Self {
        let config = config(plain);
        let describe = |kind: &str, blob: &[u8]| {
            json!({
                "mediaType": format!("application/vnd.oci.image.{kind}"),
                "digest": Digest::of(blob).to_string(),
                "size": blob.len(),
            })
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": describe("config.v1+json", &config),
            "layers": layers.iter().map(|layer| describe("layer.v1.tar", layer)).collect::<Vec<_>>(),
        })
        .to_string()
        .into_bytes();
        let mut descriptor = describe("manifest.v1+json", &manifest);
        descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        let mut blobs = layers.to_vec();
        blobs.extend([config, manifest]);
        Self {
            blobs,
            index: json!({ "schemaVersion": 2, "manifests": [descriptor] }),
        }
    }

    pub(crate) fn archive(&self) -> Vec<u8> {
        let mut tar = Tar::new().file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        for blob in &self.blobs {
            tar = tar.file(&format!("blobs/sha256/{}", Digest::of(blob).hex()), blob);
        }
        tar.file("./index.json", self.index.to_string().as_bytes())
            .finish()
    }
}

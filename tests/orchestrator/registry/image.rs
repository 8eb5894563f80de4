//! Images for tests, made byte by byte, and put into a registry without any program's help.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// `sha256:…`.
pub fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// This machine's architecture, as images name it.
pub fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    }
}

/// A layer's plain archive of files.
pub fn files(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in entries {
        let mut header = tar::Header::new_gnu();
        let directory = path.ends_with('/');
        header.set_entry_type(if directory {
            tar::EntryType::Directory
        } else {
            tar::EntryType::Regular
        });
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        builder
            .append_data(&mut header, path, *content)
            .expect("write the archive");
    }
    builder.into_inner().expect("finish the archive")
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// How a layer's archive is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    Plain,
    Gzip,
    Zstd,
    /// As containers/storage writes it: data frames, then a skippable frame with a table.
    ZstdChunked,
}

pub fn pack(plain: &[u8], packing: Packing) -> Vec<u8> {
    match packing {
        Packing::Plain => plain.to_vec(),
        Packing::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(plain).expect("compress");
            encoder.finish().expect("compress")
        }
        Packing::Zstd => zstd::encode_all(plain, 1).expect("compress"),
        Packing::ZstdChunked => {
            let middle = plain.len() / 2;
            let mut bytes = zstd::encode_all(&plain[..middle], 1).expect("compress");
            bytes.extend(zstd::encode_all(&plain[middle..], 1).expect("compress"));
            let table = b"GNUlInUx table of contents";
            bytes.extend(0x184d_2a50_u32.to_le_bytes());
            bytes.extend((table.len() as u32).to_le_bytes());
            bytes.extend(table);
            bytes
        }
    }
}

/// An image: its blobs and its manifest.
#[derive(Debug, Clone)]
pub struct Image {
    pub config: Vec<u8>,
    pub layers: Vec<Vec<u8>>,
    pub manifest: Vec<u8>,
    pub media_type: String,
}

impl Image {
    /// An OCI image of these plain layers.
    pub fn new(layers: &[(Vec<u8>, Packing)]) -> Self {
        Self::with(layers, &json!({ "Entrypoint": ["/app"] }), architecture(), false)
    }

    pub fn with(layers: &[(Vec<u8>, Packing)], settings: &Value, architecture: &str, docker: bool) -> Self {
        let diff_ids: Vec<String> = layers.iter().map(|(plain, _)| digest(plain)).collect();
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": settings,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": layers.iter().map(|_| json!({ "created_by": "a test" })).collect::<Vec<_>>(),
        })
        .to_string()
        .into_bytes();
        let packed: Vec<(Vec<u8>, Packing)> = layers
            .iter()
            .map(|(plain, packing)| (pack(plain, *packing), *packing))
            .collect();
        let layer_type = |packing: Packing| {
            let (base, dot) = if docker {
                ("application/vnd.docker.image.rootfs.diff.tar", ".")
            } else {
                ("application/vnd.oci.image.layer.v1.tar", "+")
            };
            match packing {
                Packing::Plain => base.to_owned(),
                Packing::Gzip => format!("{base}{dot}gzip"),
                Packing::Zstd | Packing::ZstdChunked => format!("{base}{dot}zstd"),
            }
        };
        let media_type = if docker {
            "application/vnd.docker.distribution.manifest.v2+json"
        } else {
            OCI_MANIFEST
        };
        let config_type = if docker {
            "application/vnd.docker.container.image.v1+json"
        } else {
            "application/vnd.oci.image.config.v1+json"
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": { "mediaType": config_type, "digest": digest(&config), "size": config.len() },
            "layers": packed.iter().map(|(blob, packing)| json!({
                "mediaType": layer_type(*packing), "digest": digest(blob), "size": blob.len(),
            })).collect::<Vec<_>>(),
        })
        .to_string()
        .into_bytes();
        Self {
            config,
            layers: packed.into_iter().map(|(blob, _)| blob).collect(),
            manifest,
            media_type: media_type.to_owned(),
        }
    }

    pub fn digest(&self) -> String {
        digest(&self.manifest)
    }

    /// Its descriptor in an index.
    pub fn descriptor(&self, architecture: &str) -> Value {
        json!({
            "mediaType": self.media_type,
            "digest": self.digest(),
            "size": self.manifest.len(),
            "platform": { "os": "linux", "architecture": architecture },
        })
    }

    /// Puts it into a registry on this machine.
    pub fn push(&self, port: u16, repository: &str, tag: &str) {
        for blob in self.layers.iter().chain([&self.config]) {
            put_blob(port, repository, blob);
        }
        put_manifest(port, repository, tag, &self.media_type, &self.manifest);
    }
}

/// An index over manifests.
pub fn index(descriptors: &[Value]) -> Vec<u8> {
    json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": descriptors })
        .to_string()
        .into_bytes()
}

fn exchange(port: u16, head: &str, body: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connect to the registry");
    let request = format!(
        "{head}\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("send");
    stream.write_all(body).expect("send");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("receive");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .expect("a status");
    (status, answer)
}

pub fn put_blob(port: u16, repository: &str, blob: &[u8]) {
    let (status, answer) = exchange(
        port,
        &format!("POST /v2/{repository}/blobs/uploads/ HTTP/1.1"),
        b"",
    );
    assert_eq!(status, 202, "{answer}");
    let location = answer
        .lines()
        .find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("location")
                .then(|| value.trim().to_owned())
        })
        .expect("a location");
    let path = location.split_once("//").map_or(location.as_str(), |(_, rest)| {
        &rest[rest.find('/').expect("a path")..]
    });
    let head = format!(
        "PUT {path}&digest={} HTTP/1.1\r\nContent-Type: application/octet-stream",
        digest(blob)
    );
    let (status, answer) = exchange(port, &head, blob);
    assert_eq!(status, 201, "{answer}");
}

pub fn put_manifest(port: u16, repository: &str, tag: &str, media_type: &str, manifest: &[u8]) {
    let head = format!("PUT /v2/{repository}/manifests/{tag} HTTP/1.1\r\nContent-Type: {media_type}");
    let (status, answer) = exchange(port, &head, manifest);
    assert_eq!(status, 201, "{answer}");
}

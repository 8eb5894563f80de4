//! What the runtime remembers of an ADD, in libcni's own format, so that a node can change over:
//! `<cache dir>/results/<network>-<container>-<interface>`.

use std::{
    collections::BTreeMap,
    fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::ExecError;

const KIND: &str = "cniCacheV1";

/// One remembered attachment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cached {
    /// Always `cniCacheV1`.
    pub kind: String,
    /// The container's ID.
    pub container_id: String,
    /// The list, base64.
    pub config: String,
    /// The interface's name.
    pub if_name: String,
    /// The network's name.
    pub network_name: String,
    /// The network namespace's path.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub netns: String,
    /// CNI_ARGS, a pair each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cni_args: Vec<(String, String)>,
    /// What the runtime provided for the plugins' capabilities.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub capability_args: BTreeMap<String, Box<RawValue>>,
    /// The final result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Box<RawValue>>,
}

impl Cached {
    /// The list's bytes.
    pub fn config_bytes(&self) -> Option<Vec<u8>> {
        decode_base64(&self.config)
    }

    pub(super) fn kind() -> String {
        KIND.to_owned()
    }
}

/// The directory of results.
#[derive(Debug, Clone)]
pub(super) struct Cache {
    dir: PathBuf,
}

impl Cache {
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.join("results"),
        }
    }

    fn file(&self, network: &str, container: &str, ifname: &str) -> PathBuf {
        self.dir.join(format!("{network}-{container}-{ifname}"))
    }

    /// Creates the directory, so that a cache that cannot be written fails before any plugin ran.
    pub fn prepare(&self) -> Result<(), ExecError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .map_err(|source| ExecError::Io {
                what: "create the CNI result cache",
                path: self.dir.clone(),
                source,
            })
    }

    /// Remembers an attachment, atomically.
    pub fn store(&self, cached: &Cached) -> Result<(), ExecError> {
        let path = self.file(&cached.network_name, &cached.container_id, &cached.if_name);
        let failed = |source| ExecError::Io {
            what: "write the CNI result cache",
            path: path.clone(),
            source,
        };
        let bytes = serde_json::to_vec(cached).map_err(|e| failed(e.into()))?;
        let mut name = path.clone().into_os_string();
        name.push(".tmp");
        let temporary = PathBuf::from(name);
        let write = || -> io::Result<()> {
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(&bytes)?;
            fs::rename(&temporary, &path)
        };
        write().map_err(failed)
    }

    /// The attachment, if it is remembered and its file can be read; a broken file must not block DEL.
    pub fn find(&self, network: &str, container: &str, ifname: &str) -> Option<Cached> {
        let bytes = fs::read(self.file(network, container, ifname)).ok()?;
        serde_json::from_slice::<Cached>(&bytes)
            .ok()
            .filter(|c| c.kind == KIND)
    }

    /// Forgets an attachment.
    pub fn remove(&self, network: &str, container: &str, ifname: &str) -> Result<(), ExecError> {
        let path = self.file(network, container, ifname);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(ExecError::Io {
                what: "remove from the CNI result cache",
                path,
                source,
            }),
            _ => Ok(()),
        }
    }

    /// All attachments that can be read.
    pub fn all(&self) -> Vec<Cached> {
        let Ok(entries) = fs::read_dir(&self.dir) else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter_map(|entry| serde_json::from_slice::<Cached>(&fs::read(entry.path()).ok()?).ok())
            .filter(|c| c.kind == KIND)
            .collect()
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// RFC 4648 base64 with padding, which Go writes for bytes in JSON.
pub(super) fn encode_base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let part = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let group = part(0) << 16 | part(1) << 8 | part(2);
        for at in 0..4 {
            let digit = ALPHABET[(group >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut group, mut bits) = (0u32, 0);
    for c in text.trim_end_matches('=').bytes() {
        let digit = ALPHABET.iter().position(|a| *a == c)?;
        group = group << 6 | digit as u32;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((group >> bits) as u8);
            group &= (1 << bits) - 1;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode_base64(plain.as_bytes()), coded);
            assert_eq!(decode_base64(coded).unwrap(), plain.as_bytes());
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode_base64(&encode_base64(&all)).unwrap(), all);
        assert!(decode_base64("!!").is_none());
    }

    #[test]
    fn what_libcni_wrote_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path());
        cache.prepare().unwrap();
        let text = r#"{"kind":"cniCacheV1","containerId":"c1","config":"e30=","ifName":"eth0","networkName":"net","netns":"/run/netns/x","cniArgs":[["IgnoreUnknown","1"]],"capabilityArgs":{"portMappings":[{"hostPort":80}]},"result":{"cniVersion":"1.0.0","ips":[]}}"#;
        fs::write(dir.path().join("results/net-c1-eth0"), text).unwrap();
        let cached = cache.find("net", "c1", "eth0").unwrap();
        assert_eq!(cached.config_bytes().unwrap(), b"{}");
        cache.store(&cached).unwrap();
        assert_eq!(
            fs::read_to_string(dir.path().join("results/net-c1-eth0")).unwrap(),
            text
        );
        fs::write(dir.path().join("results/net-c2-eth0"), "{broken").unwrap();
        assert!(cache.find("net", "c2", "eth0").is_none());
        assert_eq!(cache.all().len(), 1);
        cache.remove("net", "c1", "eth0").unwrap();
        cache.remove("net", "c1", "eth0").unwrap();
        assert!(cache.all().is_empty());
    }
}

//! A root file system: its tar becomes an image's one layer, its options the image's config.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};

use serde_json::{Map, Value, json};

use crate::blob::{Stage, Staged, failed};
use crate::decompress::{Compression, decompress};
use crate::digest::{Digest, Hashing};
use crate::error::ImportError;

use super::docker::compression;
use super::{CONFIG_TYPE, Candidate, Layer, MANIFEST_TYPE, RootOptions, host_platform, stage_document};

/// Stages the layer and makes its documents. There is no creation time in them, so the same
/// folder and options give the same image id.
pub(super) fn candidate(
    reader: impl Read,
    options: &RootOptions,
    stage: &mut Stage,
) -> Result<Candidate, ImportError> {
    let settings = settings(options)?;
    let layer = stage.write(reader)?.map_err(ImportError::read)?;
    let compression = compression(&layer)?;
    let diff_id = diff_id(&layer, compression)?;
    let platform = host_platform();
    let (os, architecture) = platform.split_once('/').unwrap_or(("linux", &platform));
    let config = json!({
        "architecture": architecture,
        "os": os,
        "config": settings,
        "rootfs": { "type": "layers", "diff_ids": [diff_id.to_string()] },
        "history": [{ "created_by": "berthctl image import --root" }],
    });
    let config = stage_document(&config, stage)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {
            "mediaType": CONFIG_TYPE,
            "digest": config.staged.digest.to_string(),
            "size": config.staged.size,
        },
        "layers": [{
            "mediaType": compression.layer_media_type(),
            "digest": layer.digest.to_string(),
            "size": layer.size,
        }],
    });
    Ok(Candidate {
        manifest: stage_document(&manifest, stage)?,
        media_type: MANIFEST_TYPE.to_owned(),
        config,
        layers: vec![Layer {
            digest: layer.digest,
            staged: Some(layer),
        }],
        names: Vec::new(),
    })
}

/// The digest of the uncompressed layer.
fn diff_id(layer: &Staged, compression: Compression) -> Result<Digest, ImportError> {
    if compression == Compression::None {
        return Ok(layer.digest);
    }
    let file = File::open(&layer.path).map_err(failed("open", &layer.path))?;
    let mut plain = Hashing::new(decompress(file).map_err(ImportError::read)?);
    io::copy(&mut plain, &mut io::sink()).map_err(ImportError::read)?;
    Ok(plain.finish().1)
}

fn settings(options: &RootOptions) -> Result<Value, ImportError> {
    let mut settings = Map::new();
    let mut put = |name: &str, value: Value| {
        settings.insert(name.to_owned(), value);
    };
    for (name, list) in [("Entrypoint", &options.entrypoint), ("Cmd", &options.cmd)] {
        if !list.is_empty() {
            put(name, json!(list));
        }
    }
    for variable in &options.env {
        pair("--env", variable)?;
    }
    if !options.env.is_empty() {
        put("Env", json!(options.env));
    }
    if let Some(folder) = &options.working_dir {
        if !folder.starts_with('/') {
            return Err(malformed("--workdir", folder, "an absolute path"));
        }
        put("WorkingDir", json!(folder));
    }
    if let Some(user) = &options.user {
        put("User", json!(user));
    }
    let ports = options
        .ports
        .iter()
        .map(|port| exposed(port))
        .collect::<Result<BTreeMap<_, _>, _>>()?;
    if !ports.is_empty() {
        put("ExposedPorts", json!(ports));
    }
    let labels = options
        .labels
        .iter()
        .map(|label| pair("--label", label))
        .collect::<Result<BTreeMap<_, _>, _>>()?;
    if !labels.is_empty() {
        put("Labels", json!(labels));
    }
    if let Some(signal) = &options.stop_signal {
        put("StopSignal", json!(signal));
    }
    Ok(Value::Object(settings))
}

fn malformed(option: &'static str, value: &str, expected: &'static str) -> ImportError {
    ImportError::Option {
        option,
        value: value.to_owned(),
        expected,
    }
}

fn pair<'a>(option: &'static str, text: &'a str) -> Result<(&'a str, &'a str), ImportError> {
    text.split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| malformed(option, text, "NAME=value"))
}

fn exposed(port: &str) -> Result<(String, Value), ImportError> {
    let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    let valid = number.parse::<u16>().is_ok_and(|number| number > 0);
    if !valid || !matches!(protocol, "tcp" | "udp" | "sctp") {
        return Err(malformed(
            "--port",
            port,
            "a port from 1 to 65535, with /tcp, /udp or /sctp",
        ));
    }
    Ok((format!("{number}/{protocol}"), json!({})))
}

//! The caller's credentials for a registry, from where `docker login` and `podman login` leave them
//! (containers-auth.json(5), Docker's config.json), credential helpers asked. Only what is for the
//! one registry is sent to the node.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Map, Value, json};

use crate::cli::Access;
use crate::error::CtlError;

/// What Docker calls its own registry.
const HUB: &str = "https://index.docker.io/v1/";

/// A config.json with what is for the registry of `name`; nothing if there is none.
pub(super) fn of(name: &str, access: &Access) -> Result<Option<Value>, CtlError> {
    let registry = registry(name);
    if let Some(creds) = &access.creds {
        let (user, password) = creds
            .split_once(':')
            .ok_or_else(|| CtlError::Usage("--creds must be USER:PASSWORD".to_owned()))?;
        let entry = json!({ "username": user, "password": password });
        return Ok(Some(json!({ "auths": { registry: entry } })));
    }
    let mut auths = Map::new();
    for path in files(access.authfile.as_deref()) {
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && access.authfile.is_none() => {
                continue;
            }
            Err(source) => return Err(CtlError::File { path, source }),
        };
        let file: Value = serde_json::from_slice(&text)
            .map_err(|error| CtlError::Usage(format!("{} is no JSON: {error}", path.display())))?;
        take(&file, registry, &mut auths)?;
    }
    Ok((!auths.is_empty()).then(|| json!({ "auths": auths })))
}

/// The registry part of an image name.
fn registry(name: &str) -> &str {
    match name.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => match first {
            "index.docker.io" => "docker.io",
            first => first,
        },
        _ => "docker.io",
    }
}

/// Where credentials may be, the most particular first.
fn files(given: Option<&Path>) -> Vec<PathBuf> {
    if let Some(path) = given {
        return vec![path.to_owned()];
    }
    if let Some(path) = std::env::var_os("REGISTRY_AUTH_FILE") {
        return vec![path.into()];
    }
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let home = variable("HOME").unwrap_or_default();
    let mut found = Vec::new();
    found.extend(variable("XDG_RUNTIME_DIR").map(|folder| folder.join("containers/auth.json")));
    if is_root() {
        found.push("/run/containers/0/auth.json".into());
    }
    found.push(
        variable("XDG_CONFIG_HOME")
            .unwrap_or_else(|| home.join(".config"))
            .join("containers/auth.json"),
    );
    found.push(
        variable("DOCKER_CONFIG")
            .unwrap_or_else(|| home.join(".docker"))
            .join("config.json"),
    );
    found
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    // The owner of a process' own entry is its user (proc(5)).
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// Takes what a file has for a registry.
fn take(file: &Value, registry: &str, auths: &mut Map<String, Value>) -> Result<(), CtlError> {
    let is_hub = registry == "docker.io";
    let host = |key: &str| -> String {
        let key = key.split_once("://").map_or(key, |(_, rest)| rest);
        key.split('/').next().unwrap_or_default().to_owned()
    };
    for (key, entry) in file["auths"].as_object().into_iter().flatten() {
        let key_host = host(key);
        let fits = key_host == registry || (is_hub && key_host == "index.docker.io");
        // An entry without content only says that a helper has it.
        if fits && entry.as_object().is_some_and(|entry| !entry.is_empty()) {
            auths.entry(key.clone()).or_insert_with(|| entry.clone());
        }
    }
    let server = if is_hub { HUB } else { registry };
    let helper = file["credHelpers"][registry]
        .as_str()
        .or_else(|| file["credHelpers"][server].as_str())
        .or_else(|| file["credsStore"].as_str());
    if let Some(helper) = helper
        && let Some(entry) = ask(helper, server)?
    {
        auths.insert(server.to_owned(), entry);
    }
    Ok(())
}

/// Asks a credential helper (docker-credential-helpers' protocol).
fn ask(helper: &str, server: &str) -> Result<Option<Value>, CtlError> {
    let program = format!("docker-credential-{helper}");
    let failed = |error: std::io::Error| CtlError::Usage(format!("cannot run {program}: {error}"));
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(server.as_bytes()).map_err(failed)?;
    }
    let answer = child.wait_with_output().map_err(failed)?;
    if !answer.status.success() {
        // It says so where it has none for this registry.
        return Ok(None);
    }
    let value: Value = serde_json::from_slice(&answer.stdout)
        .map_err(|error| CtlError::Usage(format!("{program} answered with no JSON: {error}")))?;
    let (user, secret) = (value["Username"].as_str(), value["Secret"].as_str());
    Ok(match (user, secret) {
        (Some("<token>"), Some(secret)) => Some(json!({ "identitytoken": secret })),
        (Some(user), Some(secret)) => Some(json!({ "username": user, "password": secret })),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_registry_s_own_credentials_are_taken() {
        let file = json!({ "auths": {
            "https://index.docker.io/v1/": { "auth": "hub" },
            "r.example": { "auth": "r" },
            "r.example/team": { "auth": "team" },
            "other.example": { "auth": "other" },
            "empty.example": {},
        }});
        for (name, expected) in [
            ("busybox", &["https://index.docker.io/v1/"][..]),
            ("r.example/team/app:1", &["r.example", "r.example/team"]),
            ("localhost:5000/a", &[]),
            ("empty.example/a", &[]),
        ] {
            let mut auths = Map::new();
            take(&file, registry(name), &mut auths).unwrap();
            assert_eq!(auths.keys().collect::<Vec<_>>(), expected, "{name}");
        }
    }
}

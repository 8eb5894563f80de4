//! kubeconfig files (Kubernetes documentation, "Organizing Cluster Access Using kubeconfig Files").

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::error::CtlError;

/// Where berthd writes the administrator's.
const DEFAULT: &str = "/var/lib/berth/admin.kubeconfig";

/// How to reach the node, and as whom.
#[derive(Debug)]
pub(crate) struct Access {
    /// `https://host:port`
    pub(crate) server: String,
    /// Name in the node's certificate, where that is not the host's.
    pub(crate) tls_server_name: Option<String>,
    /// Certificates of the authority that the node's is checked with, PEM.
    pub(crate) authority: Vec<u8>,
    /// Own certificate and key, PEM.
    pub(crate) certificate: Option<(Vec<u8>, Vec<u8>)>,
    pub(crate) token: Option<String>,
    /// Namespace of the context.
    pub(crate) namespace: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct File {
    current_context: Option<String>,
    contexts: Vec<Named<Context>>,
    clusters: Vec<Named<Cluster>>,
    users: Vec<Named<User>>,
}

#[derive(Debug, Deserialize)]
struct Named<T> {
    name: String,
    #[serde(alias = "context", alias = "cluster", alias = "user")]
    value: T,
}

#[derive(Debug, Deserialize)]
struct Context {
    cluster: String,
    #[serde(default)]
    user: String,
    namespace: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    tls_server_name: Option<String>,
    #[serde(default)]
    insecure_skip_tls_verify: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
}

/// The files in use: the one given, else those of KUBECONFIG, else berthd's.
pub(crate) fn paths(given: Option<&Path>) -> Vec<PathBuf> {
    if let Some(path) = given {
        return vec![path.to_owned()];
    }
    let listed: Vec<PathBuf> = std::env::var_os("KUBECONFIG")
        .map(|list| {
            std::env::split_paths(&list)
                .filter(|path| !path.as_os_str().is_empty())
                .collect()
        })
        .unwrap_or_default();
    if listed.is_empty() {
        vec![PathBuf::from(DEFAULT)]
    } else {
        listed
    }
}

/// Reads the files and picks a context. Of several files with an entry of one name, the first wins.
pub(crate) fn load(given: Option<&Path>, context: Option<&str>) -> Result<Access, CtlError> {
    let mut files = Vec::new();
    for path in paths(given) {
        let bytes = fs::read(&path).map_err(|source| CtlError::KubeconfigFile {
            path: path.clone(),
            source,
        })?;
        let file: File = serde_yaml_ng::from_slice(&bytes).map_err(|source| CtlError::KubeconfigSyntax {
            path: path.clone(),
            source,
        })?;
        files.push((path, file));
    }
    choose(&files, context)
}

fn choose(files: &[(PathBuf, File)], context: Option<&str>) -> Result<Access, CtlError> {
    let current = || {
        files
            .iter()
            .find_map(|(_, file)| file.current_context.as_deref().filter(|name| !name.is_empty()))
    };
    let name = context
        .or_else(current)
        .ok_or_else(|| CtlError::KubeconfigEntry {
            what: "current-context",
            name: String::new(),
        })?;
    let (_, context) = find(files, |file| &file.contexts, "context", name)?;
    let (cluster_file, cluster) = find(files, |file| &file.clusters, "cluster", &context.cluster)?;
    let anonymous = User::default();
    let (user_file, user) = if context.user.is_empty() {
        (cluster_file, &anonymous)
    } else {
        find(files, |file| &file.users, "user", &context.user)?
    };
    if cluster.insecure_skip_tls_verify {
        return Err(CtlError::KubeconfigValue {
            what: "insecure-skip-tls-verify",
            why: "berthctl always checks the node's certificate: give its authority instead".to_owned(),
        });
    }
    let authority = material(
        "certificate-authority",
        cluster_file,
        cluster.certificate_authority.as_deref(),
        cluster.certificate_authority_data.as_deref(),
    )?;
    let certificate = material(
        "client-certificate",
        user_file,
        user.client_certificate.as_deref(),
        user.client_certificate_data.as_deref(),
    )?;
    let key = material(
        "client-key",
        user_file,
        user.client_key.as_deref(),
        user.client_key_data.as_deref(),
    )?;
    Ok(Access {
        server: cluster.server.clone(),
        tls_server_name: cluster.tls_server_name.clone(),
        authority: authority.unwrap_or_default(),
        certificate: certificate.zip(key),
        token: user.token.clone(),
        namespace: context
            .namespace
            .clone()
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "default".into()),
    })
}

fn find<'a, T>(
    files: &'a [(PathBuf, File)],
    list: impl Fn(&'a File) -> &'a Vec<Named<T>>,
    what: &'static str,
    name: &str,
) -> Result<(&'a Path, &'a T), CtlError> {
    files
        .iter()
        .find_map(|(path, file)| {
            let entry = list(file).iter().find(|entry| entry.name == name)?;
            Some((path.as_path(), &entry.value))
        })
        .ok_or_else(|| CtlError::KubeconfigEntry {
            what,
            name: name.to_owned(),
        })
}

/// PEM from the file itself, or from another one, whose path is relative to this one's.
fn material(
    what: &'static str,
    kubeconfig: &Path,
    path: Option<&Path>,
    data: Option<&str>,
) -> Result<Option<Vec<u8>>, CtlError> {
    if let Some(data) = data.filter(|data| !data.is_empty()) {
        return STANDARD
            .decode(data)
            .map(Some)
            .map_err(|error| CtlError::KubeconfigValue {
                what,
                why: error.to_string(),
            });
    }
    let Some(path) = path.filter(|path| !path.as_os_str().is_empty()) else {
        return Ok(None);
    };
    let path = kubeconfig.parent().unwrap_or(Path::new("")).join(path);
    fs::read(&path)
        .map(Some)
        .map_err(|source| CtlError::File { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (PathBuf, File) {
        (
            PathBuf::from("/nowhere/config"),
            serde_yaml_ng::from_str(text).unwrap(),
        )
    }

    const FIRST: &str = "
apiVersion: v1
kind: Config
current-context: a
contexts:
- {name: a, context: {cluster: c, user: u, namespace: team}}
- {name: b, context: {cluster: other}}
users:
- {name: u, user: {client-certificate-data: Q0VSVA==, client-key-data: S0VZ}}
";
    const SECOND: &str = "
current-context: b
clusters:
- {name: c, cluster: {server: 'https://127.0.0.1:6443', certificate-authority-data: Q0E=}}
- {name: other, cluster: {server: 'https://h', insecure-skip-tls-verify: true}}
";

    #[test]
    fn files_are_merged_and_a_context_is_chosen() {
        let files = [parse(FIRST), parse(SECOND)];
        let access = choose(&files, None).unwrap();
        assert_eq!(
            (access.server.as_str(), access.namespace.as_str()),
            ("https://127.0.0.1:6443", "team")
        );
        assert_eq!(access.authority, b"CA");
        assert_eq!(access.certificate, Some((b"CERT".to_vec(), b"KEY".to_vec())));
    }

    #[test]
    fn what_is_missing_is_named() {
        let files = [parse(FIRST)];
        let message = |result: Result<Access, CtlError>| result.unwrap_err().to_string();
        assert!(message(choose(&files, None)).contains("no cluster \"c\""));
        assert!(message(choose(&files, Some("z"))).contains("no context \"z\""));
        assert!(message(choose(&[], None)).contains("current-context"));
        assert!(message(choose(&[parse(FIRST), parse(SECOND)], Some("b"))).contains("insecure"));
    }
}
